"""The transforms of a flow as moves on a lattice, for `likely.coding.local`: each exactly undone by its inverse.

What a network or a parameter says is rounded to a grid before anything is moved by it: shifts to the lattice,
logarithms of scales to 2^-12, knots of splines to 2^-16, matrices to 2^-16. What follows is integers, or sums,
products, quotients and square roots in float64, which are the same everywhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from likely.coding.local import FAR, LOGS, Scaled, Unmovable, Walker, cell_of, kept_near, rounded
from likely.coding.tables import Ints
from likely.families.flow.masked import LIMIT, Affine, MaskedAutoregressive, Shift
from likely.families.flow.multiscale import Multiscale, Squeeze
from likely.families.flow.spline import Spline, SplineCoupling
from likely.families.flow.transforms import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    Answer,
    Chain,
    Elementwise,
    GaussianSplit,
    LearnedNormal,
    Linear,
    Permutation,
    Reversal,
    Standardise,
    Transform,
    Volume,
    no_change,
)

WEIGHTS = 1 << 16
"""Matrices are integers in units of 2^-16."""
KNOTS = 1 << 16
"""So are knots of splines, and their slopes."""
SPLINE_BITS = 12
"""Digits that a spline pops: its slope is at least 1e-3, and mostly below 10."""


class Given(NamedTuple):
    """What stands in the place of y on the lattice."""

    y: Tensor | None
    walker: Walker


def on_lattice(transform: Any) -> Transform:
    """The same transform on places of the lattice, int64; y is a `Given`. Raises `TypeError` for one without moves."""
    match transform:
        case Chain():
            return Chain([on_lattice(part) for part in transform.parts])
        case Multiscale():
            return Multiscale(
                [on_lattice(level) for level in transform.levels], transform.shapes, factor=transform.factor
            )
        case Reversal() | Permutation() | Squeeze():
            return transform
        case AffineCoupling():
            return Coupled(transform.kept, transform.net, lambda said, walker: _scaled(walker, *_coupling(said)))
        case GaussianSplit():
            return Coupled(transform.kept, transform.net, lambda said, walker: _scaled(walker, *(-said).chunk(2, 1)))
        case AdditiveCoupling():
            return Coupled(transform.kept, transform.net, _scaled_alone)
        case SplineCoupling():
            theta = lambda said: said.unflatten(1, (-1, transform.spline.parameters)).movedim(2, 0)  # noqa: E731
            return Coupled(
                transform.kept, transform.net, lambda said, walker: Splined(transform.spline, theta(said), walker)
            )
        case MaskedAutoregressive():
            return Masked(transform)
        case Linear():
            return Mixed(transform)
        case ActNorm():
            return Fixed(lambda _y: torch.stack([transform.shift, transform.log_scale])[None])
        case Standardise():
            return Fixed(lambda _y: -torch.stack([transform.mean, transform.deviation.log()])[None])
        case LearnedNormal():
            return Fixed(lambda y: -torch.stack(transform._moments(y), 1))
    raise TypeError(f"its {type(transform).__name__} has no move on a lattice")


# Monotone maps of single numbers ------------------------------------------------------------------------------------


class Monotone(Protocol):
    """A map of every number of i (n, ...)."""

    def forward(self, i: Ints, walker: Walker) -> Ints:
        """i to j."""
        ...

    def inverse(self, j: Ints, walker: Walker) -> Ints:
        """j to i."""
        ...


class Shifted:
    """j = (i + shift) scale, the scale 1 unless given."""

    def __init__(self, shift: Ints, scale: Scaled | None = None) -> None:
        self.shift, self.scale = shift, scale

    def forward(self, i: Ints, walker: Walker) -> Ints:
        i = kept_near(i + self.shift)
        return i if self.scale is None else self.scale.forward(i, walker)

    def inverse(self, j: Ints, walker: Walker) -> Ints:
        i = j if self.scale is None else self.scale.inverse(j, walker)
        return (i - self.shift).clip(-FAR, FAR)


class Splined:
    """j = the spline of i by theta (parameters, n, ...): between knots that are integers, as the quadratics say."""

    def __init__(self, spline: Spline, theta: Tensor, walker: Walker) -> None:
        self.spline, self.theta, self.unit = spline, theta, KNOTS >> walker.fine
        self.x, self.z, self.slope = (rounded(each.flatten(1), KNOTS) for each in spline.knots(theta))  # (K + 1, N)

    def forward(self, i: Ints, walker: Walker) -> Ints:
        flat = i.reshape(-1)
        part = (flat << SPLINE_BITS) + walker.pop(np.full(len(flat), 1 << SPLINE_BITS))
        guess = self.spline.forward(walker.value(torch.from_numpy(i)), self.theta)[0]
        bound = int(self.z[-1, 0]) // self.unit + 1 if len(flat) else 0
        low, high = np.minimum(flat, -bound) - 1, np.maximum(flat, bound) + 1
        j = cell_of(part, walker.places(guess).reshape(-1), low, high, self._edge)
        start, end = self._edges(j)
        walker.push(part - start, end - start)
        return kept_near(j.reshape(i.shape))

    def inverse(self, j: Ints, walker: Walker) -> Ints:
        start, end = self._edges(j.reshape(-1))
        size = np.maximum(end - start, 1)
        part = start + walker.pop(size)
        walker.push(part & ((1 << SPLINE_BITS) - 1), np.full(len(part), 1 << SPLINE_BITS))
        return (part >> SPLINE_BITS).clip(-FAR, FAR).reshape(j.shape)

    def _edges(self, j: Ints) -> tuple[Ints, Ints]:
        """Where the parts that go to j begin and end."""
        index = np.arange(len(j))
        return self._edge(j, index), self._edge(j + 1, index)

    def _edge(self, j: Ints, index: Ints) -> Ints:
        """The inverse at places j: in parts of a cell."""
        t, z = j * self.unit, self.z[:, index]
        inside = (t > z[0]) & (t < z[-1])
        k = np.where(inside, (z[1:-1] <= t).sum(0), 0)
        x0, x1, z0, z1 = self.x[k, index], self.x[k + 1, index], self.z[k, index], self.z[k + 1, index]
        d0, d1 = self.slope[k, index] / KNOTS, self.slope[k + 1, index] / KNOTS
        width, height = np.maximum(x1 - x0, 1), np.maximum(z1 - z0, 1)
        s, u = height / width, (t - z0) / height
        b = d0 - u * (d0 + d1 - 2 * s)  # as in `Spline.inverse`
        su = s * u
        discriminant = np.where(inside, b * b + 4 * su * (s - b), 1.0)
        xi = 2 * su / np.where(inside, b + np.sqrt(np.maximum(discriminant, 1e-30)), 1.0)
        x = np.where(inside, x0 + xi * width, t)
        return np.rint(x * ((1 << SPLINE_BITS) / self.unit)).astype(np.int64)


def _scaled(walker: Walker, shift: Tensor, log_scale: Tensor) -> Shifted:
    return Shifted(walker.places(shift), Scaled(rounded(log_scale, LOGS)))


def _scaled_alone(said: Tensor, walker: Walker) -> Shifted:
    return Shifted(walker.places(said))


def _coupling(said: Tensor) -> tuple[Tensor, Tensor]:
    """Shift and log-scale of an affine coupling."""
    t, r = said.chunk(2, 1)
    return t, F.logsigmoid(r + 2)


def _elementwise(each: Elementwise, theta: Tensor, walker: Walker) -> Monotone:
    """What an autoregressive step does to its numbers (n,), theta (parameters, n)."""
    match each:
        case Affine():
            mu, r = theta
            return _scaled(walker, -mu, -LIMIT * (r / LIMIT).tanh())
        case Shift():
            return _scaled_alone(-theta[0], walker)
        case Spline():
            return Splined(each, theta, walker)
    raise TypeError(f"its {type(each).__name__} has no move on a lattice")


# Moves ----------------------------------------------------------------------------------------------------------------


class Move(Transform, ABC):
    """A bijection of places on the lattice, (n, ...) int64, and of what is on the stack. Abstract."""

    def forward(self, x: Tensor, y: Any = None, volume: Volume | None = None) -> Answer:
        return self.there(x, y.y, y.walker), no_change(x)

    def inverse(self, z: Tensor, y: Any = None) -> Tensor:
        return self.back(z, y.y, y.walker)

    @abstractmethod
    def there(self, i: Tensor, y: Tensor | None, walker: Walker) -> Tensor:
        """i to j, taking the digits that it needs off the stack and pushing those that it has left."""

    @abstractmethod
    def back(self, j: Tensor, y: Tensor | None, walker: Walker) -> Tensor:
        """j to i, undoing all that `there` did to the stack."""


class Coupled(Move):
    """The numbers after the first `kept` of axis 1, by what a network says of those."""

    def __init__(self, kept: int, net: Any, each: Callable[[Tensor, Walker], Monotone]) -> None:
        super().__init__()
        self.kept, self.net, self.each = kept, net, each

    def there(self, i: Tensor, y: Tensor | None, walker: Walker) -> Tensor:
        i1, i2 = i[:, : self.kept], i[:, self.kept :]
        return torch.cat([i1, torch.from_numpy(self._map(i1, y, walker).forward(i2.numpy(), walker))], 1)

    def back(self, j: Tensor, y: Tensor | None, walker: Walker) -> Tensor:
        j1, j2 = j[:, : self.kept], j[:, self.kept :]
        return torch.cat([j1, torch.from_numpy(self._map(j1, y, walker).inverse(j2.numpy(), walker))], 1)

    def _map(self, i1: Tensor, y: Tensor | None, walker: Walker) -> Monotone:
        return self.each(walker.ask(self.net, walker.value(i1), y), walker)


class Fixed(Move):
    """All numbers, by shifts and log-scales (1 or n, 2, ...) that depend on y alone: of axis 1, or of every number."""

    def __init__(self, numbers: Callable[[Tensor | None], Tensor]) -> None:
        super().__init__()
        self.numbers = numbers

    def there(self, i: Tensor, y: Tensor | None, walker: Walker) -> Tensor:
        return torch.from_numpy(self._map(i, y, walker).forward(i.numpy(), walker))

    def back(self, j: Tensor, y: Tensor | None, walker: Walker) -> Tensor:
        return torch.from_numpy(self._map(j, y, walker).inverse(j.numpy(), walker))

    def _map(self, i: Tensor, y: Tensor | None, walker: Walker) -> Shifted:
        said = self.numbers(None) if y is None else walker.ask(self.numbers, y)
        said = said.reshape(*said.shape, *[1] * (i.ndim + 1 - said.ndim))
        return _scaled(walker, said[:, 0], said[:, 1])


class Mixed(Move):
    """z = P L (diag(s) + U) x along axis 1, U and L strictly triangular up to L's unit diagonal: with V = U / s, first
    x + V x, then a scale, then x + L x, then the order."""

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        with torch.no_grad():
            upper = linear.upper.triu(1) / (linear.sign * linear.log_s.exp())[:, None]
            self.upper = torch.from_numpy(rounded(upper, WEIGHTS)).double()
            self.lower = torch.from_numpy(rounded(linear.lower.tril(-1), WEIGHTS)).double()
            self.order = linear.permutation.argmax(1)
            self.log_s, self.sign = rounded(linear.log_s, LOGS), linear.sign.long()

    def there(self, i: Tensor, y: Tensor | None, walker: Walker) -> Tensor:
        i = i + _mixed(self.upper, _exact(self.upper, i))
        i = torch.from_numpy(Scaled(_along(self.log_s, i)).forward(kept_near(i.numpy()), walker))
        i = i * _along(self.sign, i)
        i = i + _mixed(self.lower, _exact(self.lower, i))
        kept_near(i.numpy())
        return i[:, self.order]

    def back(self, j: Tensor, y: Tensor | None, walker: Walker) -> Tensor:
        i, most = j[:, self.order.argsort()], _most(self.lower)
        for a in range(i.shape[1]):
            i[:, a] = (i[:, a] - _mixed(self.lower[a : a + 1, :a], i[:, :a])[:, 0]).clamp(-most, most)
        i = i * _along(self.sign, i)
        i = torch.from_numpy(Scaled(_along(self.log_s, i)).inverse(i.numpy(), walker))
        most = _most(self.upper)
        for a in range(i.shape[1] - 1, -1, -1):
            i[:, a] = (i[:, a] - _mixed(self.upper[a : a + 1, a + 1 :], i[:, a + 1 :])[:, 0]).clamp(-most, most)
        return i


def _mixed(matrix: Tensor, i: Tensor) -> Tensor:
    """matrix @ i, rounded: integers that float64 holds exactly, in whatever order they are added, up to `_most`."""
    total = F.linear(i.double().movedim(1, -1), matrix).movedim(-1, 1)
    return (total.long() + WEIGHTS // 2) // WEIGHTS


def _most(matrix: Tensor) -> int:
    """Places within +- this have sums that are exact."""
    return min(FAR, int(2.0**52 // max(float(matrix.abs().sum(1).max()), 1.0)))


def _exact(matrix: Tensor, i: Tensor) -> Tensor:
    """i, where its sums are exact; raises `Unmovable` where they are not."""
    if i.numel() and int(i.abs().max()) > _most(matrix):
        raise Unmovable("a linear map has weights too large for sums that are exact")
    return i


class Masked(Move):
    """One dimension after the other, each by those before; both ways in the steps of the decoder."""

    def __init__(self, transform: MaskedAutoregressive) -> None:
        super().__init__()
        self.net, self.kind = transform.net, transform.each

    def there(self, i: Tensor, y: Tensor | None, walker: Walker) -> Tensor:
        maps, cache = self._start(i, y, walker)
        for a in range(i.shape[1] - 1):
            maps.append(self._step(cache, i[:, a], walker))
        j = [each.forward(i[:, a].numpy(), walker) for a, each in reversed(list(enumerate(maps)))]
        return torch.from_numpy(np.stack(j[::-1], 1))

    def back(self, j: Tensor, y: Tensor | None, walker: Walker) -> Tensor:
        i, (maps, cache) = j.clone(), self._start(j, y, walker)
        for a in range(i.shape[1]):
            i[:, a] = torch.from_numpy(maps[-1].inverse(j[:, a].numpy(), walker))
            if a + 1 < i.shape[1]:
                maps.append(self._step(cache, i[:, a], walker))
        return i

    def _start(self, i: Tensor, y: Tensor | None, walker: Walker) -> tuple[list[Monotone], Any]:
        cache, theta = self.net.start(walker.size, None if y is None else walker.full(y))
        return [_elementwise(self.kind, theta[: len(i)].T, walker)], cache

    def _step(self, cache: Any, i: Tensor, walker: Walker) -> Monotone:
        theta = self.net.step(cache, walker.full(walker.value(i)[:, None]))
        return _elementwise(self.kind, theta[: len(i)].T, walker)


def _along(values: Any, i: Tensor) -> Any:
    """A vector shaped so that it broadcasts along axis 1 of i."""
    return values.reshape(-1, *[1] * (i.ndim - 2))


# Whole flows ----------------------------------------------------------------------------------------------------------


class FlowMoves:
    """A `FlowModel` over the reals: x (n, *shape) on the lattice to z (n, D) and back."""

    def __init__(self, flow: Any) -> None:
        self.flow, self.transform, self.dims = flow, on_lattice(flow.transform), flow.space.dims

    def forward(self, x: Tensor, y: Any, walker: Walker) -> Tensor:
        """x to z."""
        return self.transform(x.reshape(-1, *self.flow.shape), self._given(y, walker))[0].flatten(1)

    def inverse(self, z: Tensor, y: Any, walker: Walker) -> Tensor:
        """z to x."""
        return self.transform.inverse(z, self._given(y, walker)).reshape(-1, *self.flow.space.shape)

    def _given(self, y: Any, walker: Walker) -> Given:
        return Given(self.flow._context(y), walker)
