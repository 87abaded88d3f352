"""Runs side by side. What may be ranked is: numbers of one kind, about one thing, on the same rows. Nothing else.

In such a group the best is marked, and with it every run whose 95 % interval overlaps the best one's: those are told as
not told apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from likely.tasks.card.cells import amount, plain, seconds
from likely.tasks.card.figures import figures_of
from likely.tasks.card.files import CARD, read_card
from likely.tasks.card.story import title
from likely.tasks.page import page
from likely.train import Ledger

_STYLE = """
main { max-width:1100px } td,th { vertical-align:top; text-align:left !important } td:first-child { color:var(--soft) }
.shots { display:grid; grid-template-columns:repeat(4,1fr); gap:4px; max-width:220px } .best { font-weight:700;
  color:var(--good) } .tied { color:var(--good) } th { overflow-wrap:anywhere } .facts { min-width:520px }
"""


def compare(runs: Sequence[str | Path]) -> dict[str, Any]:
    """Size, time and readings of two or more runs, and which of the readings may be ranked; JSON values.

    A run without a card is read from its ledger. Raises `ValueError` for fewer than two runs, or for one that has
    neither.
    """
    if len(runs) < 2:
        raise ValueError(f"compare takes two or more runs; got {len(runs)}")
    cards = [_card(Path(run)) for run in runs]
    rows = [_row(str(run), card) for run, card in zip(runs, cards, strict=True)]
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        if row["group"] is not None:
            groups.setdefault(row["group"], []).append(i)
    for name, members in groups.items():
        _rank(rows, members, name)
    alone = [row["run"] for row in rows if row["group"] is not None and len(groups[row["group"]]) == 1]
    return {"runs": rows, "groups": [_told(rows, name, members) for name, members in groups.items()], "alone": alone}


def _card(run: Path) -> dict[str, Any]:
    if (run / CARD).exists():
        return read_card(run)
    try:
        return figures_of(Ledger(run).lines())
    except ValueError as error:
        raise ValueError(f"run {run} has no card ({error}); `likely card {run}` makes one") from None


def _row(run: str, card: dict[str, Any]) -> dict[str, Any]:
    size, time, use = card["size"], card["time"], card["uses"]["likelihood"]
    value = lambda figure: figure.get("value")  # noqa: E731
    row: dict[str, Any] = {
        "run": run,
        "name": title(card),
        "family": value(card["family"]),
        "data": value(card["provenance"]["data"]),
        "space": value(size["space"]),
        "parameters": value(size["parameters"]),
        "disk_bytes": value(size["disk_bytes"]),
        "score": value(size["score"]),
        "sample": value(size["sample"]),
        "steps": value(time["steps"]),
        "examples": value(time["examples"]),
        "wall": value(time["wall"]),
        "busy": value(time["busy"]),
        "hardware": (value(time["hardware"]) or {}).get("processor"),
        "reading": None,
        "why": use.get("cannot") or use.get("not_applicable"),
        "accuracy": value(use.get("accuracy", {})),
        "group": None,
        "mark": "",
        "shown": card.get("shown"),
    }
    bits = "value" in use.get("bits_per_dim", {})
    if not bits and "value" not in use.get("nats", {}):
        return row
    name, unit = ("bits_per_dim", "bits per dimension") if bits else ("nats", "nats")
    error = value(use[f"{name}_stderr"])
    test = value(use["splits"]).get("test", {})
    kind = value(use["bits_kind"]) if bits else value(use["kind"])
    row["reading"] = {
        "value": value(use[name]),
        "unit": unit,
        "kind": kind,
        "k": value(use["k"]),
        "half": None if error is None else 1.96 * error,
        "about": value(use["about"]),
        "rows": value(use["rows"]),
        "split": test.get("sha256"),
    }
    if kind != "+c":  # one with an unknown constant is in no group
        row["group"] = (
            f"{kind} {unit} of {value(use['about'])} in {row['space']}, {value(use['rows'])} rows of the test "
        )
        row["group"] += f"split {str(test.get('sha256'))[:12]}"
    return row


def _rank(rows: list[dict[str, Any]], members: list[int], name: str) -> None:
    """Mark the best of a group, and what its interval does not tell from it. Fewer bits are better, more nats are."""
    if len(members) < 2:
        return
    sign = 1 if " bits " in name else -1
    low = lambda i: sign * rows[i]["reading"]["value"]  # noqa: E731
    half = lambda i: rows[i]["reading"]["half"] if rows[i]["reading"]["half"] is not None else float("inf")  # noqa: E731
    best = min(members, key=low)
    tied = [i for i in members if i != best and low(i) - half(i) <= low(best) + half(best)]
    rows[best]["mark"] = "best" if not tied else "best, not told apart"
    for i in tied:
        rows[i]["mark"] = "not told apart from the best"


def _told(rows: list[dict[str, Any]], name: str, members: list[int]) -> dict[str, Any]:
    names = [rows[i]["run"] for i in members]
    if len(members) == 1:
        return {"group": name, "runs": names, "sentence": f"{names[0]} stands alone: no other run has {name}"}
    best = next(rows[i] for i in members if rows[i]["mark"].startswith("best"))
    tied = [rows[i]["run"] for i in members if rows[i]["mark"].startswith("not")]
    more = f"; intervals overlap with {', '.join(tied)}" if tied else "; no interval overlaps with its own"
    return {"group": name, "runs": names, "sentence": f"best of {len(members)}: {best['run']}{more} ({name})"}


FACTS: dict[str, tuple[str, Any]] = {
    "family": ("family", plain),
    "data": ("data", plain),
    "parameters": ("parameters", plain),
    "disk_bytes": ("on disk", amount),
    "score": ("multiply-adds, one score", plain),
    "sample": ("multiply-adds, one sample", plain),
    "steps": ("steps", plain),
    "examples": ("examples seen", plain),
    "wall": ("time by the clock", seconds),
    "busy": ("busy processors", seconds),
    "hardware": ("trained on", plain),
    "accuracy": ("accuracy", "{:.1%}".format),
}
"""What stands side by side without being ranked, and how it is written."""


def reading(row: dict[str, Any]) -> str:
    """A run's reading of log p with kind, interval and what it is about; or why there is none."""
    found = row["reading"]
    if found is None:
        return f"none: {row['why'] or 'not measured'}"
    half = "" if found["half"] is None else f" ± {found['half']:.3f}"
    draws = f", k={found['k']}" if found["k"] > 1 else ""
    return (
        f"{found['kind']} {found['value']:.3f}{half} {found['unit']} of {found['about']} ({found['rows']} rows{draws})"
    )


def comparison_page(found: dict[str, Any]) -> str:
    """HTML of a comparison."""
    rows = found["runs"]
    head = "<th></th>" + "".join(f"<th>{escape(row['name'])}</th>" for row in rows)
    body = []
    for key, (name, show) in FACTS.items():
        cells = ("" if row[key] is None else escape(show(row[key])) for row in rows)
        body.append(f"<tr><td>{name}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    marks = {"best": "best", "best, not told apart": "best", "not told apart from the best": "tied", "": ""}
    cells = "".join(
        f'<td><span class="{marks[row["mark"]]}">{escape(reading(row))}</span><br>'
        f"<small>{escape(row['mark'])}</small></td>"
        for row in rows
    )
    body.append(f"<tr><td>how likely test data are</td>{cells}</tr>")
    body.append(f"<tr><td>first samples, none chosen</td>{''.join(f'<td>{_shots(row)}</td>' for row in rows)}</tr>")
    groups = "".join(f"<p>{escape(group['sentence'])}.</p>" for group in found["groups"])
    return page(
        "likely: runs side by side",
        f"""<h1>Side by side</h1>
<p class="lead">Only numbers of one kind, about one thing and on the same rows rank each other; everything else here
just stands beside its neighbour.</p>
<div class="wide"><table class="facts"><tr>{head}</tr>{"".join(body)}</table></div>
<h2>What may be ranked</h2>{groups or "<p>Nothing: no run here has a normalised reading.</p>"}
<p class="note">Intervals are 95 %, of the mean over test rows; overlapping ones do not show that two runs
are equal.</p>""",
        _STYLE,
    )


def _shots(row: dict[str, Any]) -> str:
    told = row["shown"]
    if told is None or told["as"] != "png":
        return ""
    images = "".join(
        f'<img alt="sample {i}" src="data:image/png;base64,{escape(text)}">'
        for i, text in enumerate(told["values"][:16])
    )
    return f'<div class="shots">{images}</div>'
