"""log |det(I + J)| of z = x + g(x) with J = dg/dx and |J| < 1: exactly, or by one draw of an unbiased estimate.

    log det(I + J) = sum_{k>=1} (-1)^(k+1) / k tr(J^k),   tr(J^k) = E[v^T J^k v] with E[v v^T] = I.

The first n0 terms are always taken, the others up to n0 + N with a random N ("Russian roulette"), each divided by the
probability that it is reached, so that the expectation is the whole series. v is +-1: no other v has less variance.

For training the gradient is another estimate, of E[v^T dJ (I + J)^-1 v] (the trace of a product may be turned round):

    r = sum_{k>=0} (-1)^k w_k J^k v without a graph, and the gradient of v^T J r with one,

so that what the backward pass keeps does not grow with the number of terms. Both come from the same products J^k v.

"Residual flows for invertible generative modeling" (Chen, Behrmann, Duvenaud, Jacobsen, 2019), theorems 1 and 2;
"A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines" (Hutchinson, 1990).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from likely.families.flow.transforms import Answer, Volume
from likely.noise import Noise

SMALLEST = 2.0**-53
"""A term that is reached with less probability is never reached: uniform numbers have 52 bits."""


class Exact(Volume):
    """The determinant of the whole Jacobian: D products, in one batch."""

    def __call__(self, g: Any, x: Tensor) -> Answer:
        value, push = g.linearise(x)
        rows, shape = x.shape[0], x.shape[1:]
        d = math.prod(shape)
        eye = torch.eye(d, dtype=x.dtype, device=x.device)
        columns = push(eye.reshape(d, 1, *shape).expand(d, rows, *shape))  # (D, B, *shape): J e_j
        matrix = columns.reshape(d, rows, d).transpose(0, 1) + eye  # the transpose of I + J
        return value, _log_abs_det(matrix)


def _log_abs_det(m: Tensor) -> Tensor:
    """log |det| of matrices (B, D, D); by hand up to 2, where LAPACK is all overhead."""
    if m.shape[1] == 1:
        return m[:, 0, 0].abs().log()
    if m.shape[1] == 2:
        return (m[:, 0, 0] * m[:, 1, 1] - m[:, 0, 1] * m[:, 1, 0]).abs().log()
    return torch.linalg.slogdet(m).logabsdet


class Roulette(Volume, ABC):
    """The randomly cut series. Abstract; `terms` is n0, and every row has a v and an N of its own.

    `tail` is the distribution of N, with the parameters that the map carries, `g.law`: see `reached`.
    """

    def __init__(self, noise: Noise, terms: int, tail: str) -> None:
        self.noise, self.terms, self.tail = noise, terms, tail

    @abstractmethod
    def __call__(self, g: Any, x: Tensor) -> Answer: ...

    def _drawn(self, g: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """v (B, *shape) and the weights w_k of terms k = 1 .. n0 + max N, (terms, B, 1, ...); 0 where not reached."""
        v = self.noise.integers(2, x.shape[1:]).to(x.dtype).mul_(2).sub_(1)
        u = self.noise.uniform(dtype=torch.float64)
        reach = torch.tensor(reached(self.tail, *g.law.tolist()), dtype=torch.float64, device=x.device)
        longest = int((u.amin(0, keepdim=True) < reach).sum()) if len(u) else 0
        reach = reach[:longest, None]
        weights = torch.where(u < reach, 1 / reach, 0.0)  # N >= j, for j = 1, 2, ...
        weights = torch.cat([weights.new_ones(self.terms, len(v)), weights]).to(x.dtype)
        return v, weights.reshape(*weights.shape, *[1] * (x.ndim - 1))


class Scored(Roulette):
    """The estimate as it is, every row of the batch taken as far as the longest."""

    def __call__(self, g: Any, x: Tensor) -> Answer:
        value, push = g.linearise(x)
        v, weights = self._drawn(g, x)
        series, power = torch.zeros_like(v), v
        for k, w in enumerate(weights, 1):
            power = push(power)
            series = torch.addcmul(series, w, power, value=_coefficient(k))
        return value, _dot(v, series)


class Trained(Roulette):
    """The estimate's value, with the gradient of another: right in expectation, its memory the same for any N.

    Rows are taken in the order of their N, and each is pushed no further than it needs.
    """

    def __call__(self, g: Any, x: Tensor) -> Answer:
        v, weights = self._drawn(g, x)
        there = (weights > 0).reshape(len(weights), len(v))
        order = there.sum(0).argsort(descending=True)
        back = order.argsort()
        v, weights = v.index_select(0, order), weights.index_select(1, order)
        value, push = g.linearise(x.index_select(0, order))
        with torch.no_grad():
            series, r, power = torch.zeros_like(v), v.clone(), v
            for k, rows in enumerate(there.sum(1).tolist(), 1):
                power, w = push(power[:rows]), weights[k - 1, :rows]
                series[:rows].addcmul_(w, power, value=_coefficient(k))
                r[:rows].addcmul_(w, power, value=(-1) ** k)
        slope = _dot(v, push(r))
        log_det = _dot(v, series) + (slope - slope.detach())
        return value.index_select(0, back), log_det.index_select(0, back)


def _coefficient(k: int) -> float:
    """Of tr(J^k) in log det(I + J)."""
    return (-1) ** (k + 1) / k


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of rows."""
    return (a * b).flatten(1).sum(1)


@cache
def reached(tail: str, rate: float, logit: float) -> tuple[float, ...]:
    """P(N >= j) for j = 1, 2, ..., as far as that is at least `SMALLEST`.

    N is Poisson with this rate, or geometric from 1 on with success probability sigmoid(logit).
    """
    if tail == "geometric":
        stay = 1 / (1 + math.exp(logit))
        return tuple(stay**j for j in range(1 + int(math.log(SMALLEST) / math.log(stay))))
    mass = [math.exp(i * math.log(rate) - rate - math.lgamma(i + 1)) for i in range(int(rate) + 200)]
    above = list(accumulate(reversed(mass)))[::-1]  # the small ones first, so that none is lost
    return tuple(p for p in above[1:] if p >= SMALLEST)
