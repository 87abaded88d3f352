"""p-values against rows known to be inside, and how to choose among many of them.

With n held-out scores of which r are as low as this one's, (1 + r) / (n + 1) is super-uniform for a row exchangeable
with the held-out ones, whatever the score ("Testing for outliers with conformal p-values", Bates, Candes, Lei, Romano
and Sesia, 2023). The p-values of many rows share the held-out ones; they are still positively dependent enough for
Benjamini and Hochberg's choice to keep its rate (the same paper, theorem 2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from likely.noise import Noise


def conformal(score: Tensor, held_out: Tensor, noise: Noise | None = None) -> Tensor:
    """p-values (1 + #{held-out <= score}) / (n + 1): small where a score is lower than the held-out ones; (m,).

    With `noise` of m rows ties are broken at random, (#{held-out < score} + u (1 + #{held-out = score})) / (n + 1), and
    the p-values of rows like the held-out ones are exactly uniform instead of super-uniform. NaN is a `ValueError`.
    """
    for values, name in ((score, "score"), (held_out, "held_out")):
        if values.isnan().any():
            raise ValueError(f"{name} holds NaN in row {int(values.isnan().nonzero()[0])}; accepts numbers")
    ordered = held_out.sort().values
    within = torch.searchsorted(ordered, score, right=True).double()
    if noise is None:
        return (1 + within) / (len(ordered) + 1)
    below = torch.searchsorted(ordered, score).double()
    return (below + noise.uniform(dtype=torch.float64) * (1 + within - below)) / (len(ordered) + 1)


def benjamini_hochberg(p_value: Tensor, rate: float) -> Tensor:
    """Which rows to call outside so that among these at most the share `rate` is inside, in expectation; (m,) bool.

    "Controlling the false discovery rate" (Benjamini and Hochberg, 1995): the rows of the k smallest p-values, for the
    largest k whose k-th p-value is at most rate k / m.
    """
    if not 0 < rate < 1:
        raise ValueError(f"rate is {rate}; accepts a share above 0 and below 1")
    m = len(p_value)
    ordered = p_value.double().sort().values
    under = (ordered <= rate * torch.arange(1, m + 1, dtype=torch.float64) / m).nonzero()[:, 0]
    if not len(under):
        return torch.zeros(m, dtype=torch.bool)
    return p_value.double() <= ordered[under[-1]]
