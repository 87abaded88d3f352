"""Monotone rational-quadratic splines: one flexible, exactly invertible map of every number.

Inside [-bound, bound] a number runs through `bins` pieces, each a ratio of two quadratics, that meet at knots with
the same slope; outside it stays what it is, so that data in the far tails have a proper density as well. Widths and
heights of the bins are softmaxes, slopes at the inner knots softplus, at the outer ones 1: 3 * bins - 1 free numbers.
At zero all of them say the identity.

"Neural spline flows" (Durkan, Bekasov, Murray, Papamakarios, 2019), equations 4 to 8 and 29.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from likely.families.flow.transforms import Answer, Elementwise, Transform, Volume

FLOOR = 1e-3
"""Least width and height of a bin, as a share of the interval, and least slope at a knot."""


class Spline(Elementwise):
    """The spline of every number of x (...), by theta (3 * bins - 1, ...): widths, heights, slopes of inner knots.

    The parameters come first so that everything runs along the numbers. Raises `ValueError` for fewer than two bins,
    more than the floor leaves room for, or a bound that is not positive.
    """

    def __init__(self, bins: int, bound: float) -> None:
        if not 2 <= bins <= 256:
            raise ValueError(f"bins is {bins}; a spline accepts 2 to 256")
        if not 0 < bound < math.inf:
            raise ValueError(f"bound is {bound}; a spline accepts a positive number")
        self.bins, self.bound = bins, bound
        self.parameters = 3 * bins - 1
        self.room = 1 - bins * FLOOR  # what the softmax shares out

    def forward(self, x: Tensor, theta: Tensor) -> Answer:
        t = (x.clamp(-self.bound, self.bound) + self.bound) / (2 * self.bound)  # in [0, 1], as widths and heights are
        x0, w, y0, h, d0, d1 = self._bin(t, theta, along=0)
        s, xi = h / w, (t - x0) / w
        q = xi * (1 - xi)
        z = y0 + h * (s * xi.square() + d0 * q) / (s + (d0 + d1 - 2 * s) * q)  # eq. 4
        inside = x.abs() < self.bound
        log_slope = torch.where(inside, _log_slope(xi, q, s, d0, d1), 0.0)
        return torch.where(inside, (2 * z - 1) * self.bound, x), log_slope

    def inverse(self, z: Tensor, theta: Tensor) -> Tensor:
        t = (z.clamp(-self.bound, self.bound) + self.bound) / (2 * self.bound)
        x0, w, y0, h, d0, d1 = self._bin(t, theta, along=1)
        s, u = h / w, (t - y0) / h
        # eq. 6 to 8 divided by h; of the two forms of the root the one that never cancels
        b = d0 - u * (d0 + d1 - 2 * s)
        su = s * u
        discriminant = (b.square() + 4 * su * (s - b)).clamp(min=1e-30)  # above 0 but for rounding
        xi = 2 * su / (b + discriminant.sqrt())
        inside = z.abs() < self.bound
        return torch.where(inside, (2 * (x0 + xi * w) - 1) * self.bound, z)

    def knots(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x and z of all knots, and the slopes there: (bins + 1, ...) each."""
        shares = theta[: 2 * self.bins].unflatten(0, (2, self.bins)).softmax(1)
        ends = (shares * self.room + FLOOR).cumsum(1)
        ends = torch.cat([torch.zeros_like(ends[:, :1]), ends[:, :-1], torch.ones_like(ends[:, :1])], 1)
        x, z = (2 * ends - 1) * self.bound
        slopes = _slope(theta[2 * self.bins :])
        one = torch.ones_like(slopes[:1])
        return x, z, torch.cat([one, slopes, one])

    def _bin(self, t: Tensor, theta: Tensor, *, along: int) -> list[Tensor]:
        """x0, w, y0, h, d0, d1 of the bin that t falls in: corner, sizes, and the slopes at both ends.

        `along` 0 looks t up among the widths, 1 among the heights. Only what the bin needs is looked at: edges serve
        the search alone, and slopes are worked out at two knots, not at all.
        """
        k, beyond = self.bins, [1] * t.ndim
        sizes, slopes = theta.to(t.dtype).split([2 * k, k - 1])  # a network under autocast may answer in half
        shares = sizes.unflatten(0, (2, k)).softmax(1)  # (2, K, ...)
        with torch.no_grad():
            floors = torch.arange(1, k + 1, dtype=t.dtype, device=t.device).reshape(-1, *beyond) * FLOOR
            # 1 for bins that end at t or before, (K, ...); the last one never does
            below = (shares[along].cumsum(0) <= (t - floors) / self.room).to(t.dtype)
            below[-1] = 0
            steps = below.sum(0, keepdim=True)
            place = steps.long()
        starts = (shares * below).sum(1) * self.room + FLOOR * steps
        lengths = shares.gather(1, place.expand(2, *place.shape)).squeeze(1) * self.room + FLOOR
        knots = torch.cat([place - 1, place])  # among the inner ones
        d = torch.where((knots < 0) | (knots == k - 1), 1.0, _slope(slopes.gather(0, knots.clamp(0, k - 2))))
        return [starts[0], lengths[0], starts[1], lengths[1], d[0], d[1]]


def _slope(raw: Tensor) -> Tensor:
    """Softplus with its zero moved so that a parameter of 0 is a slope of 1."""
    return F.softplus(raw + math.log(math.expm1(1 - FLOOR))) + FLOOR


def _log_slope(xi: Tensor, q: Tensor, s: Tensor, d0: Tensor, d1: Tensor) -> Tensor:
    """log dz/dx inside a bin, eq. 5."""
    above = d1 * xi.square() + 2 * s * q + d0 * (1 - xi).square()
    return (above * (s / (s + (d0 + d1 - 2 * s) * q)).square()).log()


class SplineCoupling(Transform):
    """z1 = x1, z2 = spline(x2; net(x1, y)). The net's outputs are 3 * bins - 1 for each channel of x2, together."""

    def __init__(self, kept: int, net: nn.Module, spline: Spline) -> None:
        super().__init__()
        self.kept, self.net, self.spline = kept, net, spline

    def forward(self, x: Tensor, y: Tensor | None = None, volume: Volume | None = None) -> Answer:
        x1, x2 = x[:, : self.kept], x[:, self.kept :]
        z2, log_slope = self.spline.forward(x2, self._theta(x1, y))
        return torch.cat([x1, z2], 1), log_slope.flatten(1).sum(1)

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        z1, z2 = z[:, : self.kept], z[:, self.kept :]
        return torch.cat([z1, self.spline.inverse(z2, self._theta(z1, y))], 1)

    def _theta(self, x1: Tensor, y: Tensor | None) -> Tensor:
        """(3 * bins - 1, B, channels, ...)."""
        return self.net(x1, y).unflatten(1, (-1, self.spline.parameters)).movedim(2, 0).contiguous()
