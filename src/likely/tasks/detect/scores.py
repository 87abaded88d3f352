"""Scores of being inside: statistics put together. Higher is more inside, everywhere.

    nll          log p(x). The baseline that fails: simple inputs are *more* likely than the training data ("Do deep
                 generative models know what they don't know?", Nalisnick et al., 2019)
    typicality   -|-log p(x) - H|, H the mean of -log p over held-out rows ("Detecting out-of-distribution inputs to
                 deep generative models using typicality", Nalisnick et al., 2019; for batches of rows, see `compare`)
    complexity   log2 p(x) + bits of the best codec ("Input complexity and out-of-distribution detection with
                 likelihood-based generative models", Serra et al., 2020)
    ratio        log p(x) - log p of a background model ("Likelihood ratios for out-of-distribution detection", Ren et
                 al., 2019)
    gradient     -log |d log p / d parameters|
    dose         log-density of the statistics log p, code, gradient and background, as many as there are, under a
                 kernel estimate from held-out rows ("Density of states estimation for out-of-distribution detection",
                 Morningstar et al., 2021)
    sure         log-odds of the most likely class: what a classifier would say
    energy       -energy(x)

Whatever is estimated (H, the kernel estimate) comes from held-out rows of the model's own data, never from outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from likely.tasks.detect.statistics import STATISTICS, Context

Values = dict[str, Tensor]
Score = Callable[[Values], Tensor]


class Method(NamedTuple):
    """The statistics that a score needs, those it takes where it can, and how it is fitted to held-out rows."""

    needs: tuple[str, ...]
    fit: Callable[[Values], Score]
    takes: tuple[str, ...] = ()


def _typicality(held_out: Values) -> Score:
    entropy = -held_out["log_p"].mean()
    return lambda values: -(-values["log_p"] - entropy).abs()


def density_of_states(held_out: Values) -> Score:
    """Log-density of standardised statistics under Gaussian kernels at the held-out rows.

    The kernels' width is the one under which one half of the held-out rows makes the other half most likely.
    """
    names = tuple(held_out)
    centres = torch.stack([held_out[name] for name in names], 1)
    mean, scale = centres.mean(0), centres.std(0)
    if not bool(scale.isfinite().all()):
        raise ValueError("dose needs finite statistics of at least two held-out rows")
    scale = scale.where(scale > 0, 1)
    centres = (centres - mean) / scale
    widths = torch.logspace(-1.3, 0.5, 19, dtype=torch.float64).tolist()  # .05 .. 3.2 standard deviations
    width = max(widths, key=lambda h: float(_kernels(centres[1::2], centres[::2], h).mean()))
    return lambda values: _kernels((torch.stack([values[name] for name in names], 1) - mean) / scale, centres, width)


def _kernels(at: Tensor, centres: Tensor, width: float) -> Tensor:
    """log of the mean of Gaussian kernels at `centres` (m, d), at points (n, d); (n,) nats."""
    squared = torch.cat([_squared(piece, centres) for piece in at.split(1024)]) if len(at) else at.new_zeros(0, 1)
    constant = math.log(len(centres)) + centres.shape[1] * math.log(width * math.sqrt(2 * math.pi))
    return (-squared / (2 * width**2)).logsumexp(1) - constant


def _squared(x: Tensor, centres: Tensor) -> Tensor:
    # by differences: the way over a matrix product makes NaN of infinite statistics
    return torch.cdist(x, centres, compute_mode="donot_use_mm_for_euclid_dist") ** 2


METHODS: dict[str, Method] = {
    "nll": Method(("log_p",), lambda held: lambda v: v["log_p"]),
    "typicality": Method(("log_p",), _typicality),
    "complexity": Method(("log_p", "code"), lambda held: lambda v: v["log_p"] / math.log(2) + v["code"]),
    "ratio": Method(("log_p", "background"), lambda held: lambda v: v["log_p"] - v["background"]),
    "gradient": Method(("gradient",), lambda held: lambda v: -v["gradient"]),
    "dose": Method(("log_p",), density_of_states, ("code", "gradient", "background")),
    "sure": Method(("odds",), lambda held: lambda v: v["odds"]),
    "energy": Method(("energy",), lambda held: lambda v: v["energy"]),
}


class Plan(NamedTuple):
    """What can be done with a model: for every method the statistics it will use, or why it cannot be had."""

    uses: dict[str, tuple[str, ...]]
    refused: dict[str, str]
    lacks: dict[str, str]
    """Statistics that cannot be had, and why."""

    @property
    def statistics(self) -> tuple[str, ...]:
        """All statistics that are needed."""
        return tuple(name for name in STATISTICS if any(name in used for used in self.uses.values()))


def plan(model: Any, row: Any, methods: tuple[str, ...], context: Context) -> Plan:
    """Which of `methods` this model can answer; raises `ValueError` for a name that is none."""
    for method in methods:
        if method not in METHODS:
            raise ValueError(f"method is {method!r}; accepts {', '.join(METHODS)}")
    wanted = {name for m in methods for name in (*METHODS[m].needs, *METHODS[m].takes)}
    lacks = {
        name: why for name in STATISTICS if name in wanted and (why := STATISTICS[name].lacks(model, row, context))
    }
    uses, refused = {}, {}
    for method in methods:
        needs, _, takes = METHODS[method]
        missing = [lacks[name] for name in needs if name in lacks]
        if missing:
            refused[method] = f"{method} cannot be had: {missing[0]}"
        else:
            uses[method] = (*needs, *(name for name in takes if name not in lacks))
    return Plan(uses, refused, lacks)
