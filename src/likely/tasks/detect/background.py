"""The second model of a likelihood ratio: the same family and preset, trained on data with cells mutated at random.

What both models know equally well (how flat, how dark) cancels in log p(x) - log p_0(x), and what only the first one
knows stays ("Likelihood ratios for out-of-distribution detection", Ren et al., 2019). How much to mutate has to be
chosen, and choosing it by the strangers that one wants to find would be cheating. Here it is chosen on held-out rows of
the run's own data: the rate under which the ratio best tells them from simplified copies of themselves (images blurred,
other data with half of the cells at their most common value). How well it then does so is reported: a background
that cannot even find simplified copies is worth nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from likely.data import Data, load
from likely.data.dataset import Split
from likely.data.splits import sha256_of
from likely.logprob import log_prob
from likely.noise import Noise
from likely.space import Integers, Rows, Space
from likely.tasks.detect.strangers import blurred, is_image
from likely.tasks.learn import Stopped, model_of, recipe_of
from likely.tasks.metrics import auroc
from likely.train import Ledger, fit, load_model
from likely.train.checkpoint import WEIGHTS, Checkpoints

RATES = (0.05, 0.1, 0.2, 0.3)
"""Mutation rates that are tried; each for a quarter of the steps."""
TUNING_ROWS = 500
"""Most held-out rows that a rate is judged on."""


def mutate(x: Any, space: Space, rate: float, noise: Noise) -> Any:
    """Each cell with chance `rate` replaced: integers by a uniform value, others by that cell of a random row."""
    if not 0 < rate < 1:
        raise ValueError(f"rate is {rate}; accepts a share above 0 and below 1")
    cells = x.cells if isinstance(x, Rows) else x
    hit = noise.uniform(cells.shape[1:]) < rate
    if isinstance(space, Integers):
        return torch.where(hit, noise.integers(space.levels, cells.shape[1:]), x.long()).to(x.dtype)
    donor = noise.integers(len(cells), cells.shape[1:])
    if isinstance(x, Rows):
        return Rows(
            torch.where(hit, x.cells.gather(0, donor), x.cells), torch.where(hit, x.seen.gather(0, donor), x.seen)
        )
    flat = cells.reshape(len(cells), -1).gather(0, donor.reshape(len(cells), -1)).reshape(cells.shape)
    return torch.where(hit, flat, cells)


def simplified(x: Any, space: Space, seed: int = 0) -> Any:
    """Simpler copies of rows: images blurred, of anything else half of the cells at their median."""
    if is_image(space):
        return blurred(x, space)
    cells = x.cells if isinstance(x, Rows) else x
    usual = cells.median(0).values
    values = torch.where(Noise(seed, len(cells)).uniform(cells.shape[1:]) < 0.5, usual, cells)
    return Rows(values, x.seen) if isinstance(x, Rows) else values


def worth(figures: dict[str, Any]) -> str:
    """What a background is worth, as a sentence, from its record."""
    told = f"the background (mutation rate {figures['rate']:g}) tells {figures['tuned_on'].replace('against', 'from')}"
    told += f" with AUROC {figures['auroc_tuned']:.3f}"
    return told if figures["auroc_tuned"] > 0.8 else f"do not rely on ratio: {told} only"


def cached(run: Path) -> tuple[nn.Module, dict[str, Any]] | None:
    """The background of a run as it stands now and its record, or None where none was trained."""
    record = Ledger(run).last("background")
    if record is None or record["weights"] != _weights(run):
        return None
    return load_model(run / record["folder"]), record["figures"]


def train_background(
    run: Path,
    *,
    rates: tuple[float, ...] = RATES,
    steps: int | None = None,
    progress: Any = None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[nn.Module, dict[str, Any]]:
    """The background of a run: that of the cache, or trained now; with its record.

    The rates are tried for a quarter of the steps each, the best one is then trained in full. `steps` is by default
    what the run itself was trained for. What is trained lies in RUN/background; interrupted, it goes on where it was.
    Raises `Stopped` at a signal.
    """
    recipe, known = recipe_of(run), cached(run)
    whole = recipe.train.steps if steps is None else steps
    if known is not None and known[1]["steps"] == whole:
        return known
    data, model = load(recipe.data), load_model(run)
    fields = recipe.train.model_dump(exclude_unset=True)
    home = Path("background") / _weights(run)[:12]
    second, figures, folder = tuned(
        model,
        lambda: model_of(recipe, data),
        data,
        whole,
        rates=rates,
        fields=fields,
        home=run / home,
        progress=progress,
        say=say,
    )
    Ledger(run).append("background", weights=_weights(run), folder=str(home / folder), figures=figures)
    return second, figures


def tuned(
    model: nn.Module,
    make: Callable[[], nn.Module],
    data: Data,
    steps: int,
    *,
    rates: tuple[float, ...] = RATES,
    fields: dict[str, Any] | None = None,
    home: Path | None = None,
    progress: Any = None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[nn.Module, dict[str, Any], str]:
    """A background for `model`: what `make` makes, trained for `steps` at the best of `rates`; its record and folder.

    `fields` are those of training, `home` a folder for the runs (none are kept without).
    """
    rows = data.space.take(data.valid.x, slice(0, TUNING_ROWS))
    simple = simplified(rows, data.space)
    inside, outside = (log_prob(model, x).nats for x in (rows, simple))

    def separates(second: nn.Module) -> float:
        return auroc(inside - log_prob(second, rows).nats, outside - log_prob(second, simple).nats)

    def at(rate: float, steps: int, folder: str) -> nn.Module:
        return _trained(make(), data, rate, steps, fields or {}, home and home / folder, progress)

    tried = {}
    for rate in rates:
        say(f"background: trying mutation rate {rate:g}")
        tried[rate] = separates(at(rate, max(1, steps // 4), f"try-{rate:g}"))
    best = max(tried, key=lambda rate: tried[rate])
    say(f"background: training with mutation rate {best:g}")
    second = at(best, steps, f"rate-{best:g}")
    figures = {
        "rate": best,
        "steps": steps,
        "tuned_on": f"{data.space.len(rows)} held-out rows against "
        + ("blurred copies" if is_image(data.space) else "copies with half of the cells at their median"),
        "auroc_tried": {f"{rate:g}": value for rate, value in tried.items()},
        "auroc_tuned": separates(second),
    }
    return second, figures, f"rate-{best:g}"


def _trained(
    model: nn.Module, data: Data, rate: float, steps: int, fields: dict[str, Any], folder: Path | None, progress: Any
) -> nn.Module:
    """A model trained on mutated rows, in a run folder of its own."""
    seed = fields.get("seed", 0)
    mutated = {
        part: Split(mutate(own.x, data.space, rate, Noise(seed + i, len(own))), own.y)
        for i, (part, own) in enumerate((("train", data.train), ("valid", data.valid)))
    }
    sha = {part: sha256_of(own.x, own.y) for part, own in mutated.items()}
    record = data.record | {"mutated": rate, "sha256": data.record.get("sha256", {}) | sha}
    fields = fields | {"steps": steps, "valid_every": 0, "patience": None}
    other = replace(data, **mutated, record=record)
    keep = {} if folder is None else {"run": folder, "resume": True, "asked": {"background": {"mutation": rate}}}
    result = fit(model, other, progress=progress, **keep, **fields)
    if result.signal is not None:
        raise Stopped(result.signal)
    return result.model


def _weights(run: Path) -> str:
    """SHA-256 of the run's newest weights."""
    return hashlib.sha256(Checkpoints(run).newest()[1][WEIGHTS]).hexdigest()
