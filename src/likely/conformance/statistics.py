"""Statistical tests with a false-fail probability of 1e-6 each, and the sample sizes that give them power.

A check may make many comparisons: each gets an equal part of 1e-6 (Bonferroni). Sizes follow from the smallest effect
that a test is meant to see, at a power of 0.999.
"""

from __future__ import annotations

import math

import torch
from scipy import stats
from torch import Tensor

FALSE_FAIL = 1e-6
"""Probability, over seeds, that a statistical check fails a model that keeps its promise."""
POWER = 0.999
BLOCKS = 64


def t_scores(values: Tensor, expected: Tensor | float = 0.0) -> Tensor:
    """Student's t of the mean of `values` (n, ...) against `expected`, (...), from the means of 64 blocks.

    Block means are nearly normal where single values are skewed, as importance weights are.
    """
    n = values.shape[0] // BLOCKS * BLOCKS
    means = values[:n].double().reshape(BLOCKS, -1, *values.shape[1:]).mean(1)
    error = means.std(0) / math.sqrt(BLOCKS)
    gap = means.mean(0) - expected
    exact = gap.abs() <= 1e-9 * (1 + means.abs().amax(0))  # a constant that is right has no spread to judge it by
    return torch.where(exact, 0.0, gap / error.clamp(min=1e-300))


def t_limit(comparisons: int = 1, sides: int = 2) -> float:
    """The |t| of `t_scores` that one of so many right comparisons exceeds with probability 1e-6."""
    return float(stats.t.isf(FALSE_FAIL / (comparisons * sides), BLOCKS - 1))


def smallest_gap(values: Tensor, comparisons: int = 1) -> float:
    """The shift of the mean that `t_scores` on these values sees with power 0.999, in their units (the largest)."""
    n = values.shape[0] // BLOCKS * BLOCKS
    means = values[:n].double().reshape(BLOCKS, -1, *values.shape[1:]).mean(1)
    error = float((means.std(0) / math.sqrt(BLOCKS)).max())
    return error * (t_limit(comparisons) + float(stats.t.isf(1 - POWER, BLOCKS - 1)))


def g_test(counts: Tensor, probability: Tensor, least: float = 10.0) -> tuple[float, int]:
    """p-value and degrees of freedom of the G-test of `counts` (S,) against `probability` (S,).

    Cells with an expected count below `least` are pooled. A count in a cell of probability 0 gives a p-value of 0.
    """
    counts, probability = counts.double(), probability.double()
    n = float(counts.sum())
    if bool((counts[probability <= 0] > 0).any()):
        return 0.0, 0
    expected = n * probability
    large = expected >= least
    observed = torch.cat([counts[large], counts[~large].sum()[None]])
    expected = torch.cat([expected[large], expected[~large].sum()[None]])
    if expected[-1] < least:  # too little even together: leave to the largest cell
        rest = int(expected[:-1].argmax()) if len(expected) > 1 else 0
        observed[rest] += observed[-1] if len(expected) > 1 else 0
        expected[rest] += expected[-1] if len(expected) > 1 else 0
        observed, expected = observed[:-1], expected[:-1]
    freedom = max(len(expected) - 1, 0)
    if freedom == 0:
        return 1.0, 0
    statistic = 2 * float(torch.special.xlogy(observed, observed / expected).sum())
    return float(stats.chi2.sf(statistic, freedom)), freedom


def draws_needed(cells: int, effect: float = 0.1, comparisons: int = 1) -> int:
    """Draws with which a G-test over so many cells sees an effect w = sqrt(sum (q - p)^2 / p) with power 0.999.

    w = 0.1 is, for instance, 10 % more of one half of a fair split and less of the other; at most 200,000.
    """
    freedom = max(cells - 1, 1)
    critical = stats.chi2.isf(FALSE_FAIL / comparisons, freedom)
    low, high = 1e3, 2e5
    if stats.ncx2.sf(critical, freedom, high * effect**2) < POWER:
        return int(high)
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if stats.ncx2.sf(critical, freedom, middle * effect**2) >= POWER else (middle, high)
    return math.ceil(high)


def dkw_limit(n: int, comparisons: int = 1) -> float:
    """The distance between an empirical and a true distribution function that n draws exceed with probability 1e-6.

    Massart's constant in the inequality of Dvoretzky, Kiefer and Wolfowitz. A sampler whose distribution function is
    off by twice this somewhere is caught with probability above 1 - 1e-6.
    """
    return math.sqrt(math.log(2 * comparisons / FALSE_FAIL) / (2 * n))


def dominated(values: Tensor) -> bool:
    """Whether some column of `values` (n, ...) is too heavy-tailed for a t-test of its mean.

    Either a few draws carry its spread (the largest excess is over a fifth of all squared excess), or its upper tail
    falls like x^(-1/k) with k above one half, so that it has no variance ("Pareto smoothed importance sampling",
    Vehtari, Simpson, Gelman, Yao, Gabry, 2024). k is Hill's estimate from the largest 3 sqrt(n) values.
    """
    values = values.double().reshape(values.shape[0], -1)
    excess = (values - values.mean(0)).square()
    few = (excess.amax(0) > 0.2 * excess.sum(0).clamp(min=1e-300)).any()
    top = values.topk(min(len(values), math.ceil(3 * math.sqrt(len(values)))), 0).values.clamp(min=1e-300).log()
    heavy = ((top - top[-1]).mean(0) > 0.5).any()
    return bool(few | heavy) or not bool(values.isfinite().all())
