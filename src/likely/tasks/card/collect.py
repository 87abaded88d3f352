"""What a card says, measured and written to the run's ledger: lines of kind "evaluation".

Such a line holds the SHA-256 of the weights, the hashes of the splits, the number of rows, the seed, the code and the
machine, and either `figures`, or `refused`, the sentence with which the model said that it has no such verb, or
`left_out`, why nothing was measured. What the ledger says already of weights, rows and seed is not measured again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch

from likely.data import Data
from likely.data.splits import sha256_of
from likely.tasks.card import shown
from likely.tasks.card.figure import FORMAT, chosen
from likely.tasks.card.figures import figures_of
from likely.tasks.card.measures import MEASURES, ROWS, Asked, NotHere
from likely.tasks.card.opened import Tell, Weights, checked, data_of, weights_of
from likely.tasks.samples import proof_seed
from likely.train import Ledger
from likely.train.clock import Clock
from likely.train.progress import memory
from likely.train.record import surroundings

ASKABLE = (*MEASURES, "samples")
"""What `only` and `skip` may name."""
REFUSALS = (
    "needs a model",
    "needs a Denoiser",
    "one positive scale for all",
    "cannot be had",
    "in an order that it does not tell",
    "accepts what is seen in front",
)
"""How sentences go with which a task refuses a model or its data; any other error is one, and called one."""
LICENCE = re.compile(r"[a-z0-9][a-z0-9.\-]{0,63}")


def card(
    run: str | Path,
    *,
    rows: int = ROWS,
    seed: int = 0,
    only: Collection[str] = (),
    skip: Collection[str] = (),
    licence: str | None = None,
    again: bool = False,
    data: Data | None = None,
    check: Callable[..., Any] | None = None,
    progress: Tell | None = None,
) -> dict[str, Any]:
    """The card of a run as JSON values; what it lacks is measured on the first `rows` test rows, into the ledger.

    `only` and `skip` name measures (`ASKABLE`); what is left out is on the card if the ledger knows it already.
    `again` measures anew. `data` are those of a run that was made from Python. `check` is `likely.conformance.check`,
    which this layer does not know. `licence` is what the owner of the weights allows, a name as the model hub has them.
    `progress` gets (measure, done, of how much).

    Raises `ValueError` for a folder that holds no good run, and for names or numbers that are none.
    """
    run = Path(run)
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
        raise ValueError(f"rows is {rows!r}; accepts 1 or more")
    for argument, names in (("only", only), ("skip", skip)):
        for name in names:
            if name not in ASKABLE:
                raise ValueError(f"{argument} names {name!r}; accepts {', '.join(ASKABLE)}")
    if licence is not None and not LICENCE.fullmatch(licence):
        raise ValueError(f"licence is {licence!r}; accepts a name as the model hub has them, such as mit or cc-by-4.0")
    weights, ledger = weights_of(run), Ledger(run)
    lines = ledger.lines()
    model = weights.model()
    found, why = data_of(run) if data is None else checked(run, data)
    title = {"name": run.resolve().name, "licence": licence or _known(lines, "licence") or "unknown"}
    if {key: _known(lines, key) for key in title} != title:
        ledger.append("card", **title)
    where = surroundings(torch.device("cpu"), 1)
    for name, measure in MEASURES.items():
        key = {"format": FORMAT, "what": name, "weights": weights.sha256, "step": weights.step, "seed": seed}
        key |= {"splits": _splits(found, measure.splits, rows)}
        wanted = name not in skip and (not only or name in only or name == "size")
        old = chosen(lines, name, weights.sha256)
        known = old is not None and "left_out" not in old and not (again and wanted)
        if known and (not wanted or (old["code"]["version"] == where["code"]["version"] and _same(old, key))):
            continue
        tell = (lambda done, of, name=name: progress(name, done, of)) if progress else (lambda done, of: None)
        asked = Asked(model, found, rows, seed, len(weights.data), check, tell, why)
        clock = Clock({})
        outcome = (
            _outcome(measure.ask, asked) if wanted else {"left_out": f"not asked for (`likely card --only {name}`)"}
        )
        if old is None or "left_out" not in outcome:
            timing = {**clock.read(), "memory": memory(torch.device("cpu"))}
            ledger.append("evaluation", **key, **outcome, **where, timing=timing)
    drawn = _samples(ledger, weights, model, where, "samples" not in skip, again and (not only or "samples" in only))
    return {**figures_of(ledger.lines()), "shown": drawn}


def _known(lines: list[dict[str, Any]], key: str) -> str | None:
    return next((line[key] for line in reversed(lines) if line["kind"] == "card"), None)


def _same(old: dict[str, Any], key: dict[str, Any]) -> bool:
    return all(old[name] == key[name] for name in ("seed", "splits"))


def _splits(data: Data | None, names: tuple[str, ...], rows: int) -> dict[str, Any]:
    """Hash and size of the splits that a measure looks at, and how many of their rows it does."""
    if data is None:
        return {}
    known = data.record.get("sha256", {})
    record = {}
    for name in names:
        split = getattr(data, name)
        used = len(split) if name == "train" else min(rows, len(split))
        record[name] = {"sha256": known.get(name) or sha256_of(split.x, split.y), "rows": len(split), "used": used}
    return record


def _outcome(ask: Callable[[Asked], dict[str, Any]], asked: Asked) -> dict[str, Any]:
    try:
        return {"figures": _plain(ask(asked))}
    except NotHere as error:
        return {"left_out": str(error)}
    except (TypeError, ValueError) as error:
        if any(mark in str(error) for mark in REFUSALS):
            return {"refused": str(error)}
        return {"left_out": f"measuring it failed: {type(error).__name__}: {error}"}
    except (RuntimeError, ArithmeticError, LookupError) as error:  # one measure must not take the others with it
        return {"left_out": f"measuring it failed: {type(error).__name__}: {error}"}


def _plain(value: Any) -> Any:
    """JSON values without NaN and infinity, which become None."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value


def _samples(
    ledger: Ledger, weights: Weights, model: Any, where: dict[str, Any], wanted: bool, again: bool
) -> dict[str, Any] | None:
    """The first samples of the seed that follows from the weights: hashes into the ledger, what is shown returned."""
    lines = ledger.lines()
    old = chosen(lines, "samples", weights.sha256)
    if not wanted and (old is None or "figures" not in old):
        if old is None:
            left = "not asked for (`likely card --only samples`)"
            key = {"format": FORMAT, "what": "samples", "weights": weights.sha256, "step": weights.step, "seed": 0}
            key |= {"splits": {}}
            ledger.append("evaluation", **key, left_out=left, **where)
        return None
    settings = shown.settings_of(model)
    seed = proof_seed(weights.sha256, settings, lines[0]["nonce"])
    key = {"format": FORMAT, "what": "samples", "weights": weights.sha256, "step": weights.step, "seed": seed}
    key |= {"splits": {}}
    clock, began = Clock({}), time.process_time()
    try:
        x = shown.draw(model, settings, seed)
    except TypeError as error:
        if old is None:
            ledger.append("evaluation", **key, refused=str(error), **where)
        return None
    each = shown.hashes(x, model.space)
    figures = {"settings": settings, "sha256": each, "sha256_all": shown.together(each), "curated": False}
    if old is None or again or old.get("figures") != figures:
        timing = {**clock.read(), "cpu": round(time.process_time() - began, 3)}
        ledger.append("evaluation", **key, figures=figures, **where, timing=timing)
    return shown.encode(x, model.space)
