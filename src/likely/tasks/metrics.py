"""How well a score tells inside from outside, with intervals.

Scores are higher for rows that are more inside. In AUROC and FPR95 *inside is the positive class*; OpenOOD and
others take the outside as positive, which leaves AUROC as it is, swaps the two AUPR and gives another FPR95.

    AUROC     P(inside > outside) + P(equal) / 2
    AUPR in   average precision of "score >= t says inside": sum over thresholds of precision x gain of recall; AUPR out
              the same for "score <= t says outside"
    FPR95     share of outside rows that are accepted by the highest threshold t that accepts ("score >= t") at least
              95 % of the inside rows

Intervals come from the stratified bootstrap (percentiles; inside and outside rows are drawn with replacement apart
from each other, their numbers as they were), with counter-based draws. A bootstrap of scores that hardly overlap has
hardly any spread. So where fewer than one trial in N is expected to fail, the interval reaches at least as far as
Clopper and Pearson's for no failure among N: for AUROC N = min(n, m), disjoint pairs being independent trials, for
FPR95 the m outside rows.

Several scores of one data set are compared on the same resampled rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from likely.noise import Noise

RESAMPLES = 400
"""Bootstrap replicates."""


@dataclass(frozen=True)
class Figure:
    """A number and its interval, two-sided at the level asked for (95 % unless told)."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """value, low and high."""
        return {"value": self.value, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Separation:
    """How well inside and outside are told apart; the conventions are those of the module."""

    auroc: Figure
    aupr_in: Figure
    aupr_out: Figure
    fpr95: Figure
    inside: int
    outside: int

    def to_json(self) -> dict[str, Any]:
        """The four figures, and how many rows they are from."""
        figures = {name: getattr(self, name).to_json() for name in ("auroc", "aupr_in", "aupr_out", "fpr95")}
        return {**figures, "inside": self.inside, "outside": self.outside}


def separation(
    inside: Any, outside: Any, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Separation:
    """AUROC, AUPR (in and out) and FPR95 of scores (n,) and (m,), each with its bootstrap interval.

    Raises `ValueError` for NaN and for a class without rows.
    """
    inside, outside = _scores(inside, "inside"), _scores(outside, "outside")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; accepts a share between 0 and 1")
    grades, rank = torch.cat([inside, outside]).unique(return_inverse=True)
    ranks, n, m = (rank[: len(inside)], rank[len(inside) :]), len(inside), len(outside)
    values = _figures(*(torch.bincount(r, minlength=len(grades)).double()[None] for r in ranks))
    parts, size = [], max(1, 2**22 // max(n, m))
    for start in range(0, resamples, size):
        noise = Noise(seed, torch.arange(start, min(start + size, resamples)))
        parts.append(_figures(*(_counts(r[noise.integers(len(r), (len(r),))], len(grades)) for r in ranks)))
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    figures = {}
    for name, value in values.items():
        low, high = torch.cat([part[name] for part in parts]).quantile(ends).tolist() if parts else (float(value),) * 2
        figures[name] = [float(value), low, high]
    tail, pairs = (1 - level) / 2, min(n, m)
    for name, trials in (("auroc", pairs), ("fpr95", m)):
        value, low, high = figures[name]
        edge = 1 - tail ** (1 / trials)
        if value * trials < 1:
            figures[name][2] = max(high, edge)
        if (1 - value) * trials < 1:
            figures[name][1] = min(low, 1 - edge)
    return Separation(**{name: Figure(*three) for name, three in figures.items()}, inside=n, outside=m)


def auroc(inside: Any, outside: Any) -> float:
    """Probability that an inside score beats an outside one, ties counting half; 0 .. 1."""
    from sklearn.metrics import roc_auc_score

    inside, outside = _scores(inside, "inside"), _scores(outside, "outside")
    truth = torch.cat([torch.ones(len(inside)), torch.zeros(len(outside))])
    # ranks stand in for the scores: scikit-learn refuses infinities, which rank like any other number
    rank = torch.cat([inside, outside]).unique(return_inverse=True)[1]
    return float(roc_auc_score(truth.numpy(), rank.numpy()))


def _figures(inside: Tensor, outside: Tensor) -> dict[str, Tensor]:
    """The four numbers from counts (R, grades) of rows at each grade of score, lowest first; each (R,).

    Counts because a replicate of the bootstrap is nothing else: one sort then serves all of them.
    """
    n, m = inside.sum(1), outside.sum(1)
    below = outside.cumsum(1) - outside
    area = (inside * (below + outside / 2)).sum(1) / (n * m)
    accepted_in, accepted_out = (c.flip(1).cumsum(1).flip(1) for c in (inside, outside))  # score >= this grade
    # rows are counted, so that comparing with 0.95 n needs half a row's leeway and no more
    enough = accepted_in >= 0.95 * n[:, None] - 1e-6
    edge = enough.long().cumsum(1).argmax(1)  # the last grade at which enough are accepted
    false = accepted_out.gather(1, edge[:, None])[:, 0] / m
    return {
        "auroc": area,
        "aupr_in": _precision(inside, accepted_in, accepted_out),
        "aupr_out": _precision(outside, outside.cumsum(1), inside.cumsum(1)),
        "fpr95": false,
    }


def _precision(gain: Tensor, hits: Tensor, misses: Tensor) -> Tensor:
    """Average precision: sum over thresholds of precision times the recall gained there; (R,)."""
    return (gain * hits / (hits + misses).clamp(min=1)).sum(1) / gain.sum(1)


def _counts(rank: Tensor, grades: int) -> Tensor:
    """How often each grade stands in every row of rank (R, n); (R, grades)."""
    zeros = torch.zeros(len(rank), grades, dtype=torch.float64)
    return zeros.scatter_add_(1, rank, torch.ones_like(rank, dtype=torch.float64))


def _scores(values: Any, name: str) -> Tensor:
    """Scores as (n,) float64 on the CPU, n >= 1, without NaN."""
    values = torch.as_tensor(values).detach().double().cpu()
    if values.ndim != 1 or not len(values):
        raise ValueError(f"{name} has shape {tuple(values.shape)}; accepts (n,) scores with n of at least 1")
    if values.isnan().any():
        raise ValueError(f"{name} holds NaN in row {int(values.isnan().nonzero()[0])}; accepts numbers")
    return values
