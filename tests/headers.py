"""What tests of files change in headers and tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def put(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    """A change of a record: the value at a path of keys becomes another."""

    def change(record: dict[str, Any]) -> None:
        for key in path[:-1]:
            record = record[key]
        record[path[-1]] = to

    return change
