"""The families: one file each, with its definition, its model and its tiny instances."""

from __future__ import annotations

from typing import Any, NamedTuple

from likely.space import Space


class Tiny(NamedTuple):
    """An instance so small that the conformance suite can enumerate or integrate it."""

    config: Any
    space: Space
    condition: Space | None = None
