"""How good is each score? The run's own test rows against sets from elsewhere, near and far."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from likely.space import Integers, Table
from likely.tasks.detect.detector import Diagnosis, diagnose
from likely.tasks.detect.scores import METHODS, Values, plan
from likely.tasks.detect.statistics import Context, measure
from likely.tasks.detect.strangers import adapt, made
from likely.tasks.metrics import Separation, auroc, separation
from likely.verbs import Bounded, Estimated, Exact, Weighted, has

GROUP = 10
"""Rows of a batch in the typicality of batches."""


@dataclass(frozen=True)
class Outside:
    """A set of strangers: how it came to be, its bits per dimension, and each method's separation from the inside."""

    rows: int
    rule: str
    bits: tuple[float, float] | None
    """Mean and standard error; None where the space or the reading has none."""
    by_method: dict[str, Separation]
    batches: float | None
    """AUROC of the typicality of batches of `GROUP` rows; None where there are too few."""
    statistics: Values
    x: Any


@dataclass(frozen=True)
class Comparison:
    """Every method against every set."""

    inside: Outside
    sets: dict[str, Outside]
    uses: dict[str, tuple[str, ...]]
    refused: dict[str, str]
    lacks: dict[str, str]
    diagnosis: Diagnosis
    fitted: int
    """Held-out rows that fitted the scores."""

    def to_json(self) -> dict[str, Any]:
        """Figures as JSON values; not the scores of single rows."""
        table = {
            name: {
                "rows": each.rows,
                "rule": each.rule,
                "bits_per_dim": None if each.bits is None else {"mean": each.bits[0], "stderr": each.bits[1]},
                "methods": {method: found.to_json() for method, found in each.by_method.items()},
                f"typicality_of_batches_of_{GROUP}": each.batches,
            }
            for name, each in self.sets.items()
        }
        bits = self.inside.bits
        return {
            "inside": {
                "rows": self.inside.rows,
                "bits_per_dim": None if bits is None else {"mean": bits[0], "stderr": bits[1]},
            },
            "outside": table,
            "uses": {method: list(names) for method, names in self.uses.items()},
            "refused": self.refused,
            "lacks": self.lacks,
            "fitted": self.fitted,
            "convention": "scores are higher inside; inside is the positive class; FPR95 is the share of the outside "
            "that is accepted where 95 % of the inside is",
            "doctor": self.diagnosis.to_json(),
        }


def compare(
    model: Any,
    inside: Any,
    held_out: Any,
    against: dict[str, tuple[Any, Any]],
    methods: tuple[str, ...] = tuple(METHODS),
    *,
    k: int | None = None,
    seed: int = 0,
    background: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Measure methods on `inside` (test rows of the model's data) against `against`: name -> (rows, their space).

    To those come the sets that are always there, made from the inside rows (`strangers.made`). `held_out` fits what
    the scores estimate; no set of strangers fits anything. Methods that the model cannot give stand in `refused`
    with the reason. `progress(done, total)` counts rows times statistics.
    """
    space = model.space
    inside, held_out = space.check(inside, "inside"), space.check(held_out, "held_out")
    for name, rows in (("inside", inside), ("held_out", held_out)):
        if space.len(rows) < 4:
            raise ValueError(f"{name} has {space.len(rows)} rows; accepts at least 4")
    sets: dict[str, tuple[Any, str]] = {}
    for name, (rows, source) in against.items():
        sets[name] = adapt(source.check(rows, name), source, space, name)
    for name, found in made(inside, space, seed).items():
        sets[name if name not in sets else f"{name} (made)"] = found
    context = Context(k, seed, background)
    ready = plan(model, space.take(held_out, slice(0, 1)), methods, context)
    if not ready.uses:
        raise ValueError("; ".join(ready.refused.values()))
    names = ready.statistics
    if "log_p" in names and "code" not in names and isinstance(space, Integers):
        names = (*names, "code")  # for the doctor
    pools = {"held out": held_out, "inside": inside, **{name: rows for name, (rows, _) in sets.items()}}
    total, done, values = sum(space.len(rows) for rows in pools.values()) * len(names), 0, {}
    for name, rows in pools.items():
        tell = None if progress is None else lambda more, done=done: progress(done + more, total)
        values[name] = measure(model, rows, names, Context(k, seed, background, tell))
        done += space.len(rows) * len(names)
    held, own = values["held out"], values["inside"]
    pick = lambda method, of: {name: of[name] for name in ready.uses[method]}  # noqa: E731
    scores = {method: METHODS[method].fit(pick(method, held)) for method in ready.uses}
    entropy = -held["log_p"].mean() if "log_p" in held else None

    def outside(name: str, rule: str) -> Outside:
        other = values[name]
        found = {m: separation(s(pick(m, own)), s(pick(m, other)), seed=seed) for m, s in scores.items()}
        batches = None if entropy is None else _batches(own["log_p"], other["log_p"], entropy)
        return Outside(space.len(pools[name]), rule, _bits(model, other), found, batches, other, pools[name])

    diagnosis = diagnose(held) if {"log_p", "code"} <= set(held) else Diagnosis(None, 0, "no diagnosis: no code length")
    return Comparison(
        Outside(space.len(inside), "test rows", _bits(model, own), {}, None, own, inside),
        {name: outside(name, rule) for name, (_, rule) in sets.items()},
        ready.uses,
        ready.refused,
        ready.lacks,
        diagnosis,
        space.len(held_out),
    )


def _batches(inside: Tensor, other: Tensor, entropy: Tensor) -> float | None:
    """AUROC of -|mean of -log p over a batch - H| over disjoint batches, which is what typicality is a test for."""
    groups = [
        -(-rows[: len(rows) // GROUP * GROUP].reshape(-1, GROUP).mean(1) - entropy).abs() for rows in (inside, other)
    ]
    return auroc(*groups) if min(len(g) for g in groups) > 1 else None


def _bits(model: Any, values: Values) -> tuple[float, float] | None:
    if "log_p" not in values or isinstance(model.space, Table):
        return None
    if not any(has(model, verb) for verb in (Exact, Weighted, Bounded, Estimated)):
        return None
    bits = -values["log_p"] / (model.space.dims * math.log(2))
    return float(bits.mean()), float(bits.std() / math.sqrt(len(bits)))
