"""What a figure is, and which line of a ledger it comes from.

A figure is {"value", "from", "at"}: the SHA-256 of the line that it stands in, and where in it. One that is worked out
is {"value", "from": [lines], "by"}, with the rule in words. What there is no figure for is {"not_applicable": why}, or
{"cannot": why, "from"} where the model itself has refused.
"""

from __future__ import annotations

from typing import Any

FORMAT = 1
"""Of evaluations and cards; lines of another one are left alone."""
Line = dict[str, Any]
Fig = dict[str, Any]


def na(why: str) -> Fig:
    """No figure, and the reason."""
    return {"not_applicable": why}


def of(line: Line | None, at: str, why: str) -> Fig:
    """The figure that stands in a line at a path "a/b"; `why` is the reason where there is none."""
    value: Any = line
    for key in at.split("/"):
        value = value.get(key) if isinstance(value, dict) else None
    if value is None or line is None:
        return na(why)
    return {"value": value, "from": line["sha256"], "at": at}


def worked(value: Any, lines: list[Line], by: str) -> Fig:
    """A figure that was worked out from lines, and how."""
    return {"value": value, "from": [line["sha256"] for line in lines], "by": by}


def evaluations(lines: list[Line]) -> list[Line]:
    """The lines that measured something, of today's format."""
    return [line for line in lines if line["kind"] == "evaluation" and line.get("format") == FORMAT]


def chosen(lines: list[Line], what: str, weights: str) -> Line | None:
    """The line that counts for a measure of some weights: the last one that measured or refused, else the last."""
    mine = [line for line in evaluations(lines) if line["what"] == what and line["weights"] == weights]
    said = [line for line in mine if "left_out" not in line]
    return (said or mine or [None])[-1]


def weights_in(lines: list[Line]) -> str:
    """The weights that the last card was about; a `ValueError` where there was none."""
    for line in reversed(evaluations(lines)):
        return line["weights"]
    raise ValueError("the ledger holds no evaluations yet; `likely card RUN` makes them")
