"""A card as Markdown, with the metadata block that the model hub reads (https://huggingface.co/docs/hub/model-cards)."""

from __future__ import annotations

import json
import re
from typing import Any

from likely.data.named import KNOWN
from likely.tasks.card.cells import Cell, Section
from likely.tasks.card.story import headline, lead, story, title

_MARKS = re.compile(r"([\\`*_\[\]<>|#~&$])")


def markdown(card: dict[str, Any]) -> str:
    """The text of card.md."""
    parts = [f"# {_text(title(card))}", _text(lead(card))]
    parts.append("\n".join(f"- **{_cell(cell)}** {_text(meaning)}" for cell, meaning in headline(card)))
    parts += [_section(section) for section in story(card)]
    parts.append(
        "## How to check it\n\nNo number here was typed. Numbers in brackets name lines of the run's `ledger.jsonl`, "
        "each of which holds the SHA-256 of the one before. `likely verify` checks the chain, the weights, every "
        "figure and every byte of this text, and draws the samples again; they are to be seen in `card.html`."
    )
    rows = [
        f"| {x['line']} | {_text(x['kind'])} {_text(x['what'] or '')} | {_text(x['at'][:19])} "
        f"| `{_text(x['sha256'])}` |"
        for x in card["lines"]
    ]
    parts.append("\n".join(["| line | what | when (UTC) | SHA-256 |", "|---|---|---|---|", *rows]))
    return f"---\n{metadata(card)}---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def metadata(card: dict[str, Any]) -> str:
    """YAML for the hub. Every scalar is JSON, which YAML contains, so that no name can be more than a name."""
    size, uses = card["size"], card["uses"]["likelihood"]
    data = card["provenance"]["data"].get("value")
    known = KNOWN.get(data) if isinstance(data, str) else None
    name = known.home if known is not None and known.home else data
    tags = [
        "likely",
        "generative-model",
        card["family"].get("value"),
        *(v.lower() for v in size["verbs"].get("value", [])),
    ]
    block: dict[str, Any] = {
        "license": card["licence"].get("value", "unknown"),
        "library_name": "likely",
        "tags": [tag for tag in tags if tag],
    }
    if card.get("shown") and card["shown"]["as"] == "png":
        block["pipeline_tag"] = "unconditional-image-generation"
    if name:
        block["datasets"] = [str(name)]
    metrics = []
    if "value" in uses.get("bits_per_dim", {}):
        kind = f"bits per dimension ({uses['bits_kind'].get('value')}, k={uses['k'].get('value')})"
        metrics.append({"type": "bits_per_dim", "name": kind, "value": uses["bits_per_dim"]["value"]})
    if "value" in uses.get("accuracy", {}):
        metrics.append({"type": "accuracy", "name": "accuracy", "value": uses["accuracy"]["value"]})
    if metrics:
        block["metrics"] = [each["type"] for each in metrics]
        task = {"type": block.get("pipeline_tag", "other"), "name": "density estimation"}
        about = {"name": str(data or "own data"), "type": str(name or "own-data"), "split": "test"}
        block["model-index"] = [
            {"name": title(card), "results": [{"task": task, "dataset": about, "metrics": metrics}]}
        ]
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in block.items())


def _section(section: Section) -> str:
    parts = [f"## {_text(section.title)}"]
    parts += [_text(section.lead)] if section.lead else []
    parts += (
        ["\n".join(f"- **{_cell(cell)}** {_text(meaning)}" for cell, meaning in section.tiles)] if section.tiles else []
    )
    if section.name == "failures":
        parts += ["\n".join(f"- {_cell(row[0])}" for row in section.rows)] if section.rows else []
    elif section.rows:
        head = section.head if any(section.head) else ["", ""]
        lines = [f"| {' | '.join(_text(name) for name in head)} |", "|" + "---|" * len(head)]
        lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in section.rows]
        parts.append("\n".join(lines))
    parts += ["\n".join(f"- {_text(note)}" for note in section.notes)] if section.notes else []
    return "\n\n".join(parts)


def _cell(cell: Cell) -> str:
    told = f" (line{'s' * (len(cell.lines) > 1)} {', '.join(map(str, cell.lines[:3]))})" if cell.lines else ""
    return _text(cell.text) + told


def _text(text: str) -> str:
    """Text that Markdown, and the HTML within it, takes as nothing but text."""
    return _MARKS.sub(r"\\\1", " ".join(text.split())).replace("\\<", "&lt;").replace("\\>", "&gt;")
