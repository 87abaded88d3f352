"""Where a row stands among rows that are known: a p-value against held-out ones, and its place in a histogram.

The p-value is conformal (`likely.tasks.conformal`) and looks at both tails, since p(x) is often *higher* on inputs
simpler than any training datum ("Do deep generative models know what they don't know?", Nalisnick et al., 2019):
p = 2 min(low, high), super-uniform for rows like the held-out ones by the union bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likely.logprob import Kind, LogProb, log_joint, log_prob
from likely.tasks.conformal import conformal
from likely.verbs import Joint, JointBound, has


@dataclass(frozen=True)
class Calibration:
    """What held-out rows got, to judge others by, and how they were scored: others are to be scored the same way.

    `log_odds` (n,) are those of the most likely class; None for models without classes.
    """

    log_prob: LogProb
    log_odds: Tensor | None
    k: int | None
    eliminate: float
    seed: int

    def __len__(self) -> int:
        return len(self.log_prob)


def calibrate(
    model: Any,
    held_out: Any,
    y: Any = None,
    *,
    k: int | None = None,
    eliminate: float = 0.0,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Calibration:
    """Score rows that the model was not trained on: once, for as many questions as there will be.

    y (n,) is theirs, for models of p(x given y) only. k and `eliminate` are those of `likely.logprob.log_joint`.
    """
    if has(model, Joint) or has(model, JointBound):
        reading, posterior = log_joint(model, held_out, k, eliminate=eliminate, seed=seed, progress=progress)
        return Calibration(reading, posterior.log_odds, k, eliminate, seed)
    return Calibration(log_prob(model, held_out, y, k, seed=seed, progress=progress), None, k, eliminate, seed)


def two_sided(nats: Tensor, held_out: Tensor) -> Tensor:
    """p-values of log p (n,) against held-out ones, small where it is much lower or much higher; (n,)."""
    low, high = conformal(nats, held_out), conformal(-nats, -held_out)
    return (2 * torch.minimum(low, high)).clamp(max=1)


@dataclass(frozen=True)
class Standings:
    """Rows among the held-out ones: `p_value` (n,), and `novel` (n,) bool, what the chosen rate makes of it."""

    log_prob: LogProb
    p_value: Tensor
    novel: Tensor

    def __len__(self) -> int:
        return len(self.log_prob)

    def verdict(self, i: int) -> str:
        """The verdict on row i as a sentence."""
        what = "not like anything I was trained on" if self.novel[i] else "like what I was trained on"
        return f"{what} (p-value {float(self.p_value[i]):.3f})"


def standing(model: Any, x: Any, known: Calibration, y: Any = None, *, novelty: float = 0.05) -> Standings:
    """Judge rows x (given y, for models of p(x given y) only) by log p alone.

    Of rows like the held-out ones at most the share `novelty` is called novel. Raises `ValueError` where so few
    held-out rows cannot say so.
    """
    resolves(novelty, len(known), 2, "novelty")
    reading = log_prob(model, x, y, known.k, seed=known.seed)
    p_value = two_sided(reading.nats, known.log_prob.nats)
    return Standings(reading, p_value, p_value <= novelty)


def resolves(rate: float, rows: int, tails: int, name: str) -> None:
    """Raise `ValueError` unless `rate` is a rate, and p-values of `tails` tails against so many rows can reach it."""
    if not 0 <= rate < 1:
        raise ValueError(f"{name} is {rate}; accepts a rate of at least 0 and below 1")
    if 0 < rate < tails / (rows + 1):
        raise ValueError(
            f"{name} is {rate}, but {rows} held-out rows resolve rates from {tails / (rows + 1):.3g} only: "
            "accepts such a rate, or more held-out rows"
        )


@dataclass(frozen=True)
class Histogram:
    """Shares of known rows in even bins: `edges` (m + 1,) bits per dimension (or nats below, where bits do not exist),
    `shares` name -> (m,), each adding up to one."""

    edges: np.ndarray
    shares: dict[str, np.ndarray]
    unit: str

    def below(self, value: float, readings: LogProb) -> float:
        """The share of these readings with smaller values than this one."""
        return float((_values(readings)[0] < value).mean())


def histogram(readings: dict[str, LogProb], bins: int = 32) -> Histogram:
    """Where known rows lie, named sets of readings of one kind on one axis; infinite values are left out.

    Raises `ValueError` where the readings do not compare.
    """
    first, *rest = readings.values()
    for other in rest:
        if other.kind is not Kind.UNNORMALISED or first.kind is not Kind.UNNORMALISED:
            first.comparable(other)
    values = {name: _values(reading)[0] for name, reading in readings.items()}
    finite = {name: each[np.isfinite(each)] for name, each in values.items()}
    every = np.concatenate(list(finite.values()))
    if not len(every):
        raise ValueError("readings hold no finite value; accepts some")
    low, high = float(every.min()), float(every.max())
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    shares = {name: np.histogram(each, edges)[0] / max(1, len(each)) for name, each in finite.items()}
    return Histogram(edges, shares, _values(first)[1])


def place(reading: LogProb, i: int = 0) -> float:
    """Where row i stands on the axis of a `histogram`."""
    return float(_values(replace(reading, nats=reading.nats[i : i + 1]))[0][0])


def _values(reading: LogProb) -> tuple[np.ndarray, str]:
    """Values to put on an axis, smaller for likelier rows, and their unit."""
    if reading.kind is Kind.UNNORMALISED:
        return -reading.nats.numpy(), "-log p(x) - c, nats"
    return (-reading.nats / (reading.space.dims * math.log(2))).numpy(), "bits per dimension"
