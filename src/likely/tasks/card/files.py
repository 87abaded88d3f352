"""The three files of a card, in the run folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from likely.tasks.card.figure import FORMAT
from likely.tasks.card.html import html
from likely.tasks.card.markdown import markdown
from likely.train.files import temporary

CARD, PAGE, TEXT = "card.json", "card.html", "card.md"
LARGEST = 64 * 2**20
"""Bytes of a card.json; a larger one is not read."""


def write_card(run: str | Path, card: dict[str, Any]) -> list[Path]:
    """Write card.json and what is made from it, card.html and card.md; each is there whole or as it was before."""
    run, paths = Path(run), []
    for name, text in ((CARD, json.dumps(card, allow_nan=False) + "\n"), (PAGE, html(card)), (TEXT, markdown(card))):
        path = run / name
        new = temporary(path)
        new.write_text(text, encoding="utf-8")
        os.replace(new, path)
        paths.append(path)
    return paths


def read_card(run: str | Path) -> dict[str, Any]:
    """The card of a run; a `ValueError` says why there is none that can be read."""
    path = Path(run) / CARD
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{path} has more than {LARGEST:,} bytes, which no card has")
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except FileNotFoundError:
        raise ValueError(f"run {run} has no card; `likely card {run}` makes one") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"{path} is no card of format {FORMAT}")
    return found


def _refuse(name: str) -> None:
    raise ValueError(f"it holds {name}")
