"""Runs: which there are, what each was asked for, how its training went; a run in training is followed live."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gradio as gr

from likely.conformance import check
from likely.logprob import Kind
from likely.studio import look, pieces
from likely.studio.desk import QUEUE, Desk
from likely.studio.errors import sentence
from likely.studio.shelf import Loaded, Shelf, Told
from likely.tasks.card import card as measured
from likely.tasks.card import verify, write_card
from likely.tasks.card.drawing import curves_svg
from likely.tasks.card.origin import curves
from likely.train import Ledger

LIVE = 90.0
"""Seconds after its last line within which an unfinished run counts as in training."""
SECONDS = 3.0
"""Between two looks."""
ROWS = 100
"""Test rows that a card is measured on."""
CARD = 8 << 20
"""Bytes of the largest card that is shown."""


def overview(shelf: Shelf) -> str:
    """A table of the runs; each name is a button that chooses it."""
    names = shelf.names()
    if not names:
        where = ", ".join(map(str, shelf.roots))
        return pieces.hint(f"No runs in {where} yet. Train one in the tab Train, or with `likely tour`.")
    rows = []
    for name in names:
        try:
            start, last, state = _summary(shelf.path(name))
            recipe = start["asked"].get("recipe", {})
            cells = [
                recipe.get("family", start["model"]["family"] if "model" in start else "?"),
                str(recipe.get("data", {}).get("source", "?")),
                f"{start.get('parameters', 0):,}",
                last,
                state,
            ]
        except (ValueError, OSError, KeyError) as error:
            cells = [sentence(error), "", "", "", "cannot be read"]
        button = pieces.buttons("runs-pick", [(name, f"choose {name}", pieces.escape(name))], "lk-chips")
        rows.append(f"<tr><td>{button}</td>" + "".join(f"<td>{pieces.escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("run", "family", "data", "parameters", "bits/dim, held out", ""))
    return f'<div class="lk-scroll"><table class="lk-table"><tr>{head}</tr>{"".join(rows)}</table></div>'


def portrait(run: Path) -> str:
    """One run: figures, curves, what it was asked for."""
    entries = Ledger(run).read()
    start = entries[0]
    recipe = start["asked"].get("recipe", {})
    stop = next((e for e in reversed(entries) if e["kind"] == "stop"), None)
    valid = [e for e in entries if e["kind"] == "valid" and e.get("bits_per_dim") is not None]
    steps = [e for e in entries if e["kind"] == "step"]
    total = int(start.get("train", {}).get("steps", 0) or 0)
    done = max((e["step"] for e in steps), default=stop["step"] if stop else 0)
    seconds = max((e["timing"].get("seconds", 0.0) for e in entries), default=0.0)
    restarts = sum(e["kind"] == "restart" for e in entries)
    memory = max((e["timing"].get("memory", 0) for e in entries), default=0)
    state = _state(run, stop)
    each = [
        pieces.tile(state, "state", _remaining(done, total, seconds) if state == "in training" else _ended(stop)),
        pieces.tile(
            f"{done:,}", "steps", f"Of {total:,} asked for; {restarts} restarts." if total else "None asked for."
        ),
        pieces.tile(
            f"{start.get('parameters', 0):,}", "parameters", f"{start.get('bytes', 0) / 2**20:.2f} MB of weights."
        ),
        pieces.tile(_lasted(seconds), "training", f"At most {memory / 2**20:,.0f} MB of memory." if memory else ""),
    ]
    if valid:
        each.insert(
            1,
            pieces.tile(_bits(valid[-1]), "bits/dim, held out", "As training ended; less is better within one kind."),
        )
    parts = [pieces.tiles(each)]
    if drawn := curves_svg(curves(entries)):
        parts.append(pieces.section("How it learned", f'<div class="lk-chart">{drawn}</div>'))
    fields = {
        "family": recipe.get("family"),
        "preset": recipe.get("preset"),
        "data": recipe.get("data", {}).get("source"),
    }
    fields |= {f"model.{key}": value for key, value in recipe.get("model", {}).items()}
    fields |= {key: start.get("train", {}).get(key) for key in ("steps", "batch", "lr", "seed", "ema")}
    fields |= start.get("versions", {}) | {key: start.get("machine", {}).get(key) for key in ("processor", "device")}
    told = {key: value for key, value in fields.items() if value is not None}
    parts.append(
        pieces.section(
            "What it was asked for", pieces.facts(told), f"From {run.name}/ledger.jsonl, whose chain was checked."
        )
    )
    return "".join(parts) + card(run)


def card(run: Path) -> str:
    """The run's card in a frame that runs no scripts, where there is one."""
    path = run / "card.html"
    if not path.is_file() or path.is_symlink() or path.stat().st_size > CARD:
        return ""
    text = pieces.escape(path.read_text(encoding="utf-8", errors="replace"))
    frame = f'<iframe class="lk-frame" sandbox title="the card of {pieces.escape(run.name)}" srcdoc="{text}"></iframe>'
    return pieces.section(
        "Its card", frame, "How big, cherry-picked or not, how long, and what else: `likely verify` checks it."
    )


def made(loaded: Loaded, told: Told) -> str:
    """Write the card of a run, what it lacks being measured first."""
    tell = lambda what, done, of: told(done / max(1, of), f"measuring {what}")  # noqa: E731
    write_card(loaded.run, measured(loaded.run, rows=ROWS, check=check, progress=tell))
    return pieces.hint(f"The card of {loaded.name} is written; it stands below.")


def proved(loaded: Loaded, told: Told) -> str:
    """Check the card of a run against the run."""
    report = verify(loaded.run, progress=lambda what: told(0.5, what))
    kind = "good" if report.passed else "bad"
    return f'<pre class="lk-said {kind}">{pieces.escape(str(report))}</pre>'


def _bits(entry: dict[str, Any]) -> str:
    """Bits per dimension with their kind: exact, a bound or an estimate."""
    return f"{Kind(entry['measure']).of_bits} {entry['bits_per_dim']:.3f}"


def _summary(run: Path) -> tuple[dict[str, Any], str, str]:
    entries = Ledger(run).read("start", "valid", "stop")
    valid = [e for e in entries if e["kind"] == "valid" and e.get("bits_per_dim") is not None]
    stop = next((e for e in reversed(entries) if e["kind"] == "stop"), None)
    return entries[0], _bits(valid[-1]) if valid else "", _state(run, stop)


def _state(run: Path, stop: dict[str, Any] | None) -> str:
    if stop is not None:
        return "stopped" if stop["reason"].startswith("SIG") else "trained"
    fresh = time.time() - (run / "ledger.jsonl").stat().st_mtime < LIVE
    return "in training" if fresh else "unfinished"


def _ended(stop: dict[str, Any] | None) -> str:
    if stop is None:
        return "No end is written down; `likely resume` goes on with it."
    ends = {"steps": "All steps were made.", "converged": "It converged.", "patience": "It got no better any more."}
    return ends.get(stop["reason"], "Somebody stopped it; `likely resume` goes on with it.")


def _remaining(done: int, total: int, seconds: float) -> str:
    if not done or not total:
        return "It begins."
    return f"About {_lasted(seconds / done * (total - done))} to go."


def _lasted(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# The tab ------------------------------------------------------------------------------------------------------------


def tab(desk: Desk) -> None:
    """Build the tab and say what its events do."""
    pick = look.field("runs-pick")
    with gr.Row():
        make = gr.Button("Make the chosen run's card", elem_id="runs-card")
        prove = gr.Button("Verify its card", elem_id="runs-verify")
        stop = gr.Button("Stop", elem_id="runs-stop")
    said = look.html(elem_id="runs-said")
    table, chosen = look.html(elem_id="runs-table"), look.html(elem_id="runs-one")

    def shown(name: str | None) -> Any:
        names = desk.shelf.names()
        try:
            picture = portrait(desk.shelf.path(name or (names[0] if names else None)))
        except (ValueError, OSError, KeyError) as error:
            picture = pieces.problem(sentence(error))
        return overview(desk.shelf), picture

    def followed(name: str | None, before: list[str]) -> Any:
        names = desk.shelf.names()
        lively = names != before or any(_fresh(desk.shelf.path(each)) for each in names)
        choices = gr.Dropdown(choices=names) if names != before else gr.skip()  # an open list would close
        return (*(shown(name) if lively else (gr.skip(), gr.skip())), choices, names)

    def picked(name: str) -> Any:
        return gr.Dropdown(value=name) if name in desk.shelf.names() else gr.skip()

    how: dict[str, Any] = {"show_progress_on": [said], **QUEUE}
    make.click(desk.asks(made), [desk.model], [said], **how).then(shown, [desk.model], [table, chosen], **how)
    prove.click(desk.asks(proved), [desk.model], [said], **how)
    stop.click(desk.stop, api_visibility="private")
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": 2}
    desk.load(shown, [desk.model], [table, chosen], **quiet)
    desk.model.change(shown, [desk.model], [table, chosen], **quiet)
    pick.input(picked, [pick], [desk.model], **quiet)
    known = gr.State(desk.shelf.names())
    look_again = [table, chosen, desk.model, known]
    gr.Timer(SECONDS).tick(followed, [desk.model, known], look_again, trigger_mode="once", **quiet)


def _fresh(run: Path) -> bool:
    return time.time() - (run / "ledger.jsonl").stat().st_mtime < 2 * SECONDS + 1
