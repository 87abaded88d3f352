"""Have I seen its kind before? Scores of new rows, with p-values that mean something.

The held-out rows are split in two, row after row: one half fits what a score has to estimate, the other half is what
the p-values are counted against. A row like the held-out ones then gets a p-value of at most a with probability at most
a, and of all rows called outside at most the share `fdr` is inside, in expectation (`likely.tasks.conformal`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from likely.tasks.conformal import benjamini_hochberg, conformal
from likely.tasks.detect.scores import METHODS, Score, Values, plan
from likely.tasks.detect.statistics import Context, measure
from likely.tasks.metrics import Figure

MOSTLY = 0.7
"""A rank correlation of -log p with the code length beyond which the likelihood is called mostly complexity."""


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor found: Spearman's rank correlation of -log p with code length on held-out rows, or why not."""

    rho: Figure | None
    rows: int
    sentence: str

    @property
    def ill(self) -> bool:
        """Whether the likelihood is mostly complexity."""
        return self.rho is not None and abs(self.rho.value) > MOSTLY

    def to_json(self) -> dict[str, Any]:
        """The finding as JSON values."""
        rho = None if self.rho is None else self.rho.to_json()
        return {"rho": rho, "rows": self.rows, "mostly_complexity": self.ill, "sentence": self.sentence}


def doctor(model: Any, held_out: Any, *, k: int | None = None, seed: int = 0) -> Diagnosis:
    """Whether a model's log p says more than how well a row compresses; `held_out` are rows of its own data."""
    context, held_out = Context(k, seed), model.space.check(held_out, "held_out")
    ready = plan(model, _row(model, held_out), ("complexity",), context)
    if ready.refused:
        return Diagnosis(None, 0, f"no diagnosis: {ready.lacks.get('log_p') or ready.lacks['code']}")
    return diagnose(measure(model, held_out, ("log_p", "code"), context))


def diagnose(values: Values) -> Diagnosis:
    """The doctor's finding from the statistics log_p and code of held-out rows.

    The interval is Bonett and Wright's ("Sample size requirements for estimating Pearson, Kendall and Spearman
    correlations", 2000): Fisher's z with variance (1 + rho^2 / 2) / (n - 3).
    """
    from scipy.stats import spearmanr

    n = len(values["log_p"])
    if n < 10:
        return Diagnosis(None, n, f"no diagnosis: {n} held-out rows are too few for a correlation")
    if not float(values["log_p"].std()) or not float(values["code"].std()):
        return Diagnosis(None, n, "no diagnosis: all held-out rows have one log p or one code length")
    rho = float(spearmanr(-values["log_p"].numpy(), values["code"].numpy()).statistic)
    half = 1.96 * math.sqrt((1 + rho**2 / 2) / (n - 3))
    z = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, rho)))
    figure = Figure(rho, math.tanh(z - half), math.tanh(z + half))
    told = f"-log p and code length have rank correlation {figure} on {n} held-out rows"
    if abs(rho) > MOSTLY:
        return Diagnosis(
            figure, n, f"your likelihood is mostly complexity: {told}; do not trust log p to find strangers"
        )
    return Diagnosis(figure, n, f"your likelihood is not mostly complexity: {told}")


@dataclass(frozen=True)
class Detections:
    """A verdict a row by one method.

    `score` (n,) is higher for rows more inside, `p_value` (n,) conformal, `outside` (n,) bool what Benjamini and
    Hochberg's rule makes of all of them at `fdr`. `statistics` are what the score was made of.
    """

    method: str
    score: Tensor
    p_value: Tensor
    outside: Tensor
    fdr: float
    calibrated: int
    """Held-out rows that the p-values are counted against."""
    statistics: Values
    notes: tuple[str, ...]
    """Statistics that `dose` could not have, and why."""
    diagnosis: Diagnosis | None

    def __len__(self) -> int:
        return len(self.score)

    def verdict(self, i: int) -> str:
        """The verdict on row i as a sentence."""
        p = float(self.p_value[i])
        told = (
            f"p-value {p:.3g}" if p > 1 / (self.calibrated + 1) + 1e-12 else f"p-value {p:.3g}, the least there can be"
        )
        name = f"{self.method} {float(self.score[i]):.4g}"
        if self.outside[i]:
            return f"outside: not like the training data ({told}; {name})"
        if p <= self.fdr:
            return f"doubtful: rare among the training data ({told}; {name}), but among {len(self)} rows not enough so"
        return f"inside ({told}; {name})"

    def to_json(self) -> dict[str, Any]:
        """Figures and one object a row."""
        rows = [
            {
                "sentence": self.verdict(i),
                "outside": bool(self.outside[i]),
                "p_value": float(self.p_value[i]),
                "score": _finite(self.score[i]),
                "statistics": {name: _finite(values[i]) for name, values in self.statistics.items()},
            }
            for i in range(len(self))
        ]
        return {
            "method": self.method,
            "fdr": self.fdr,
            "calibrated": self.calibrated,
            "notes": list(self.notes),
            "doctor": None if self.diagnosis is None else self.diagnosis.to_json(),
            "rows": rows,
        }


def detect(
    model: Any,
    x: Any,
    held_out: Any,
    method: str = "dose",
    *,
    fdr: float = 0.05,
    k: int | None = None,
    seed: int = 0,
    background: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> Detections:
    """Score rows x by one of `METHODS`, calibrated on `held_out`: rows of the model's own data it never trained on.

    `background` is the second model of `ratio` (and of `dose`, where given). `progress(done, total)` counts rows times
    statistics. Raises `ValueError` for a method that this model or these data
    cannot give, for empty rows, and for an `fdr` that the held-out rows cannot resolve.
    """
    x, held_out = model.space.check(x, "x"), model.space.check(held_out, "held_out")
    context = Context(k, seed, background)
    fits, calibrates = halves(model, held_out)
    n = model.space.len(calibrates)
    ready = plan(model, _row(model, held_out), (method,), context)
    if ready.refused:
        raise ValueError(ready.refused[method])
    if not 1 / (n + 1) <= fdr < 1:
        raise ValueError(f"fdr is {fdr}; {2 * n} held-out rows resolve shares of at least {1 / (n + 1):.3g}, below 1")
    names, held = ready.uses[method], model.space.len(fits) + n
    rows = model.space.concat([fits, calibrates, x])  # one pass over all, so that no score depends on where a row came
    total = model.space.len(rows) * len(names)
    tell = None if progress is None else lambda done: progress(done, total)
    values = measure(model, rows, names, Context(k, seed, background, tell))
    part = lambda piece: {name: each[piece] for name, each in values.items()}  # noqa: E731
    own, known, new = part(slice(held - n)), part(slice(held - n, held)), part(slice(held, None))
    score: Score = METHODS[method].fit(own)
    inside, found = score(known), score(new)
    p_value = conformal(found, inside)
    diagnosis = diagnose(part(slice(held))) if {"log_p", "code"} <= set(names) else None
    notes = tuple(ready.lacks[name] for name in METHODS[method].takes if name in ready.lacks)
    return Detections(method, found, p_value, benjamini_hochberg(p_value, fdr), fdr, n, new, notes, diagnosis)


def halves(model: Any, held_out: Any) -> tuple[Any, Any]:
    """Every other held-out row: those that fit, and those that calibrate."""
    n = model.space.len(held_out)
    if n < 4:
        raise ValueError(f"held_out has {n} rows; accepts at least 4")
    return tuple(model.space.take(held_out, torch.arange(first, n, 2)) for first in (0, 1))


def _row(model: Any, x: Any) -> Any:
    return model.space.take(x, slice(0, 1))


def _finite(value: Any) -> float | None:
    """JSON has no infinity."""
    return float(value) if math.isfinite(float(value)) else None
