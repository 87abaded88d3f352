"""Pieces of what a card says: cells, sections, and numbers as people write them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from likely.tasks.card.figure import Fig


@dataclass(frozen=True)
class Cell:
    """A piece of text, the numbers of the ledger's lines that it comes from, and its tone: good, bad, soft or none."""

    text: str
    lines: tuple[int, ...] = ()
    tone: str = ""


@dataclass(frozen=True)
class Section:
    """A question with its answer. `special` asks the writer for what is no text: samples or curves."""

    name: str
    title: str
    lead: str = ""
    tiles: list[tuple[Cell, str]] = field(default_factory=list)
    head: list[str] = field(default_factory=list)
    rows: list[list[Cell]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    special: str = ""


class Teller:
    """Turns the figures of one card into cells."""

    def __init__(self, card: dict[str, Any]) -> None:
        self.card = card
        self.numbers = {line["sha256"]: line["line"] for line in card["lines"]}

    def cell(self, figure: Fig, show: Any = None, tone: str = "") -> Cell:
        """A figure's value as `show` writes it, with its lines; or why there is none."""
        if "cannot" in figure:
            return Cell(f"cannot, because {figure['cannot']}", self.lines(figure), "soft")
        if "value" not in figure:
            return Cell(f"not applicable: {figure['not_applicable']}", (), "soft")
        return Cell((show or plain)(figure["value"]), self.lines(figure), tone)

    def lines(self, figure: Fig) -> tuple[int, ...]:
        """Numbers of the lines that a figure comes from."""
        source = figure["from"]
        return tuple(self.numbers[each] for each in ([source] if isinstance(source, str) else source))


def plain(value: Any) -> str:
    """A value as text: integers with thousands, floats with four digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def amount(count: int) -> str:
    """Bytes."""
    for unit, size in (("GB", 2**30), ("MB", 2**20), ("kB", 2**10)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} bytes"


def seconds(time: float) -> str:
    """Seconds as people say them."""
    if time < 60:
        return f"{time:.3g} s"
    minutes, hours = time / 60, time / 3600
    return f"{minutes:.1f} min" if minutes < 90 else f"{hours:.1f} h"
