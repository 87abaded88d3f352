"""All of a small space: its states, or the nodes of an adaptive quadrature over its real numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from likely.noise import Noise
from likely.space import Integers, Reals, Rows, Space, Table

STATES = 4096
"""Spaces of at most so many states are enumerated."""
REAL_DIMS = 3
"""Densities over at most so many real numbers are integrated."""


def states(space: Space, limit: int = STATES) -> Any | None:
    """Every state of a discrete space, the last site changing fastest; None when there are more than `limit`."""
    if isinstance(space, Table):
        if any(column.categories is None for column in space.columns):
            return None
        sizes = [len(column.categories or ()) for column in space.columns]
    elif isinstance(space, Integers):
        sizes = [space.levels] * space.dims
    else:
        return None
    if math.log(max(sizes, default=1)) * len(sizes) > 60 or math.prod(sizes) > limit:
        return None
    grid = torch.tensor(list(itertools.product(*map(range, sizes))), dtype=torch.int64)
    if isinstance(space, Table):
        return Rows(grid.double(), torch.ones_like(grid, dtype=torch.bool))
    return grid.reshape(-1, *space.shape)


def index_of(space: Space, x: Any) -> Tensor:
    """The position of each row of x in `states(space)`."""
    if isinstance(space, Table):
        sizes, cells = [len(column.categories or ()) for column in space.columns], x.cells.long()
    else:
        sizes, cells = [space.levels] * space.dims, x.reshape(x.shape[0], -1).long()  # ty: ignore[unresolved-attribute]
    place = torch.tensor([math.prod(sizes[i + 1 :]) for i in range(len(sizes))], dtype=torch.int64)
    return (cells * place).sum(1)


def real_dims(space: Space) -> int:
    """How many real numbers one value has."""
    if isinstance(space, Table):
        return sum(column.categories is None for column in space.columns)
    return space.dims if isinstance(space, Reals) else 0


def assemble(space: Space, real: Tensor, codes: Tensor) -> Any:
    """Values from their real numbers (n, r) and, in a table, the codes (n, c) of their categories."""
    if isinstance(space, Reals):
        return real.reshape(-1, *space.shape)
    cells = real.new_zeros(real.shape[0], space.dims)
    is_real = torch.tensor([column.categories is None for column in space.columns])  # ty: ignore[unresolved-attribute]
    cells[:, is_real], cells[:, ~is_real] = real, codes.to(real.dtype)
    return Rows(cells, torch.ones_like(cells, dtype=torch.bool))


def category_codes(space: Space) -> Tensor:
    """Every combination of a table's categories (m, c); a single empty one for `Reals`."""
    columns = space.columns if isinstance(space, Table) else ()
    sizes = [len(column.categories) for column in columns if column.categories is not None]
    return torch.tensor(list(itertools.product(*map(range, sizes))), dtype=torch.int64).reshape(
        math.prod(sizes), len(sizes)
    )


CROWD = {1: 32, 2: 32, 3: 128}
"""Draws in a box of a quadrature, in so many dimensions, among which a peak could hide."""


class Nodes(NamedTuple):
    """Nodes of a quadrature with the mass each stands for; the masses of a density add up to about 1."""

    mass: Tensor  # (n,), weight times density
    log_p: Tensor  # (n,)
    x: Tensor  # (n, d)
    error: float  # estimated error of the sum of masses


def integrate(
    log_p: Callable[[Tensor], Tensor],
    centre: Tensor,
    scale: Tensor,
    *,
    tolerance: float = 1e-7,
    budget: int = 1_500_000,
    draws: Tensor | None = None,
    of: int = 1,
) -> Nodes:
    """Integrate exp(log_p) over R^d, d <= 3, by adaptive tensor Gauss-Legendre rules.

    x = centre + scale sinh(u), scale (d, d) lower triangular: the box |u| <= 5.3 reaches 100 scales and puts most
    nodes in the middle. A box is split in 2^d while parent and children differ; the difference is the error. So is a
    box that more of the density's `draws` (n, d), from among `of`, fall into than its mass explains, for between its
    nodes there must be a peak, or so many that one could hide among them.
    """
    d = centre.shape[0]
    order, start = {1: (12, 16), 2: (8, 8), 3: (6, 4)}[d]
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(order))
    corner = torch.cartesian_prod(*[nodes] * d).reshape(-1, d)
    weight = torch.cartesian_prod(*[weights] * d).reshape(-1, d).prod(1)
    reach = 5.3

    def rule(low: Tensor, side: float) -> tuple[Tensor, Tensor, Tensor]:
        u = low[:, None] + (corner + 1) * (side / 2)
        x = centre + u.sinh() @ scale.T
        value = log_p(x.reshape(-1, d)).reshape(x.shape[:2]).double()
        jacobian = u.cosh().log().sum(-1) + scale.diagonal().log().sum() + d * math.log(side / 2)
        return (value + jacobian).exp() * weight, value, x

    side = 2 * reach / start
    low = torch.cartesian_prod(*[torch.arange(start, dtype=torch.float64) * side - reach] * d).reshape(-1, d)
    parent = rule(low, side)[0].sum(1)
    half = torch.cartesian_prod(*[torch.tensor([0.0, 0.5], dtype=torch.float64)] * d).reshape(-1, d)
    drawn = centre.new_empty(0, d) if draws is None else (draws - centre).mT
    drawn = torch.linalg.solve_triangular(scale, drawn, upper=False).T.asinh() if draws is not None else drawn
    done: list[tuple[Tensor, Tensor, Tensor]] = []
    error, used = 0.0, len(parent) * len(weight)
    while len(low):
        side /= 2
        below = (low[:, None] + half * (2 * side)).reshape(-1, d)
        mass, value, x = rule(below, side)
        used += mass.numel()
        child = mass.sum(1)
        gap = (child.reshape(len(low), -1).sum(1) - parent).abs().nan_to_num(math.inf)
        full = used + mass.numel() > budget
        # a box may be wrong by its share of the tolerance, or by a part in 1e8 of its own mass
        split = (gap > tolerance / 1000 + 1e-8 * parent.abs()) & (not full) & (side > 1e-4)
        count, expected = counted(drawn, below, side), of * child.nan_to_num(0)
        lost = (count > expected + 3 * expected.sqrt() + 1) | (count > CROWD[d])
        split |= lost.reshape(len(low), -1).any(1) & (not full) & (side > 1e-4)
        error += float(gap[~split].sum())
        again = split.repeat_interleave(len(half))
        done.append((mass[~again].flatten(), value[~again].flatten(), x[~again].flatten(0, 1)))
        low, parent = below[again], child[again]
    return Nodes(*(torch.cat(part) for part in zip(*done, strict=True)), error)


def counted(points: Tensor, low: Tensor, side: float) -> Tensor:
    """How many points (n, d) are in each of the boxes (m,) with their lowest corners at `low` (m, d), all of one side.

    The boxes are cells of one grid, no two of them the same.
    """
    if not len(points) or not len(low):
        return low.new_zeros(len(low))
    origin = low[0]
    place = ((low - origin) / side).round().long()
    cell = ((points - origin) / side).floor().long()
    both, which = torch.cat([place, cell]).unique(dim=0, return_inverse=True)
    return torch.bincount(which[len(low) :], minlength=len(both))[which[: len(low)]].to(low.dtype)


def stratify(
    log_p: Callable[[Tensor], Tensor], centre: Tensor, scale: Tensor, count: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Points (n, d) and masses (n,) for probabilities of regions: one uniform point in each cell of a grid in u.

    x = centre + scale sinh(u), |u| <= 3 (10 scales), about `count` cells. Unlike a quadrature's nodes these are
    unbiased for every region, whatever its edges: a region's error is that of the cells on its edge alone.
    """
    d, reach = centre.shape[0], 3.0
    m = round(count ** (1 / d))
    cell = torch.cartesian_prod(*[torch.arange(m, dtype=torch.float64)] * d).reshape(-1, d)
    side = 2 * reach / m
    u = (cell + Noise(seed, 1).uniform(cell.shape, dtype=torch.float64)[0]) * side - reach
    jacobian = u.cosh().log().sum(1) + scale.diagonal().log().sum() + d * math.log(side)
    points = centre + u.sinh() @ scale.T
    return points, (log_p(points).double() + jacobian).exp()
