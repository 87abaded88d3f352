"""Integers in their cells, on the lattice: what `Dequantised` does as moves, for `likely.coding.local`.

A cell [x, x + 1) is cut into 2^bits parts. Uniform noise is that many digits off the stack; a noise that learns is a
normal number off the stack, moved by its flow. h = T(x + u) = G^-1(F(x + u)) is a monotone map of parts to the lattice:
G is tabulated once, between its knots all is integers.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from likely.coding.local import Moves, Unmovable, Walker, cell_of
from likely.coding.tables import Ints
from likely.families.flow.moves import Given, on_lattice

BITS, NOISE_BITS = 20, 28
"""A cell has 2^20 parts; 2^28 where noise learns, so that each of the places in `_NOISE_REACH` can keep one."""
_REACH, _NOISE_REACH = 24, 16
_KNOTS = 8  # G is linear on steps of 2^-8
_ONE = 30  # and in units of 2^-30


class Fill(Protocol):
    """How cells are filled."""

    bits: int

    def forward(self, x: Tensor, walker: Walker) -> Ints:
        """x (n, *shape) to parts of its cells, x 2^bits and more."""
        ...

    def inverse(self, part: Ints, walker: Walker) -> Tensor:
        """Parts to x."""
        ...


class UniformFill:
    """By digits."""

    bits = BITS

    def forward(self, x: Tensor, walker: Walker) -> Ints:
        return (x.numpy() << self.bits) | walker.pop_noise(tuple(x.shape), self.bits)

    def inverse(self, part: Ints, walker: Walker) -> Tensor:
        walker.push_noise(part & ((1 << self.bits) - 1), self.bits)
        return torch.from_numpy(part >> self.bits)


class FlowFill:
    """By a `FlowNoise`: eps off the stack, g from it by moves that see x, and a part of the cell by the normal's G."""

    bits = NOISE_BITS

    def __init__(self, noise: Any) -> None:
        self.noise, self.transform = noise, on_lattice(noise.transform)
        self.knots = Knots(torch.special.ndtr)

    def forward(self, x: Tensor, walker: Walker) -> Ints:
        eps = torch.from_numpy(walker.pop_normal(x.numel())).reshape(-1, *self.noise.latent)
        g = self.noise.arranged(self.transform(eps, self._given(x, walker))[0]).numpy()
        if g.size and max(-int(g.min()), int(g.max()) + 1) >= _NOISE_REACH << walker.fine:
            raise Unmovable(f"the noise reaches beyond {_NOISE_REACH}")
        start, end = self._edge(g, walker), self._edge(g + 1, walker)
        return (x.numpy() << self.bits) | (start + walker.pop(end - start))

    def inverse(self, part: Ints, walker: Walker) -> Tensor:
        x, u = part >> self.bits, (part & ((1 << self.bits) - 1)).reshape(-1)
        far = np.full(len(u), _NOISE_REACH << walker.fine)
        guess = self.knots.place(u << _ONE >> self.bits, walker.fine)
        g = cell_of(u, guess, -far, far, lambda z, _index: self._edge(z, walker))
        start, end = self._edge(g, walker), self._edge(g + 1, walker)
        walker.push(u - start, end - start)
        x = torch.from_numpy(x)
        latent = self.noise.laid_out(torch.from_numpy(g).reshape(x.shape))
        eps = self.transform.inverse(latent, self._given(x, walker))
        walker.push_normal(eps.numpy().reshape(-1))
        return x

    def _given(self, x: Tensor, walker: Walker) -> Given:
        seen = walker.ask(lambda x: self.noise.seen(x, torch.float64), x)
        return Given(seen, walker)

    def _edge(self, g: Ints, walker: Walker) -> Ints:
        """Where the parts of places g begin: every place has one at least."""
        reach = _NOISE_REACH << walker.fine
        return g + reach + (self.knots.below(g, walker.fine) * ((1 << self.bits) - 2 * reach) >> _ONE)


class Knots:
    """A distribution function G on [-24, 24] in integers, linear between steps of 2^-8."""

    def __init__(self, g: Any) -> None:
        t = torch.arange(-_REACH << _KNOTS, (_REACH << _KNOTS) + 1, dtype=torch.float64) / (1 << _KNOTS)
        self.value = np.rint(g(t).numpy() * (1 << _ONE)).astype(np.int64)
        self.value[0], self.value[-1] = 0, 1 << _ONE
        self.rise = np.diff(self.value, append=1 << _ONE)

    def below(self, z: Ints, fine: int) -> Ints:
        """G at places z within +-24, in units of 2^-30."""
        at, step = z + (_REACH << fine), fine - _KNOTS
        k = at >> step
        return self.value[k] + (self.rise[k] * (at & ((1 << step) - 1)) >> step)

    def place(self, t: Ints, fine: int) -> Ints:
        """A place near which G is t."""
        k = (np.searchsorted(self.value, t, "right") - 1).clip(0, len(self.value) - 2)
        return (
            (k << fine - _KNOTS)
            + ((t - self.value[k]) << fine - _KNOTS) // np.maximum(self.rise[k], 1)
            - (_REACH << fine)
        )


class CellMap:
    """Parts of the cells of D numbers to the lattice, h = G^-1(F): `mass` (D, levels) is that of every level."""

    def __init__(self, g: Any, mass: Tensor, bits: int) -> None:
        self.knots, self.bits = Knots(g), bits
        self.dims, self.levels = mass.shape
        edges = np.rint(np.cumsum(mass.numpy(), 1) * (1 << _ONE)).astype(np.int64)
        edges[:, -1] = 1 << _ONE
        edges = np.concatenate([np.zeros_like(edges[:, :1]), edges], 1)
        self.start, self.width = edges[:, :-1].reshape(-1), np.diff(edges, axis=1).reshape(-1)
        # in one order, a dimension after the other
        self.ordered = self.start + (np.arange(self.dims).repeat(self.levels) << _ONE + 1)

    def forward(self, part: Ints, walker: Walker) -> Ints:
        """Parts (n, ...) to places."""
        flat, dim = part.reshape(-1), np.arange(part.size) % self.dims
        cell, rest = dim * self.levels + (flat >> self.bits), flat & ((1 << self.bits) - 1)
        t = self.start[cell] + ((2 * rest + 1) * self.width[cell] >> self.bits + 1)
        far = np.full(len(flat), _REACH << walker.fine)
        edge = lambda z, index: self._edge(z, dim[index], walker.fine)  # noqa: E731
        h = cell_of(flat, self.knots.place(t, walker.fine), -far, far, edge)
        start, end = self._edge(h, dim, walker.fine), self._edge(h + 1, dim, walker.fine)
        walker.push(flat - start, end - start)
        return h.reshape(part.shape)

    def inverse(self, h: Ints, walker: Walker) -> Ints:
        """Places to parts."""
        flat, dim = (
            h.reshape(-1).clip(-_REACH << walker.fine, (_REACH << walker.fine) - 1),
            np.arange(h.size) % self.dims,
        )
        start, end = self._edge(flat, dim, walker.fine), self._edge(flat + 1, dim, walker.fine)
        part = start + walker.pop(np.maximum(end - start, 1))
        return part.clip(0, (self.levels << self.bits) - 1).reshape(h.shape)

    def _edge(self, h: Ints, dim: Ints, fine: int) -> Ints:
        """Where the parts that go to places h begin: the first of them whose middle lies beyond."""
        t = self.knots.below(h, fine)
        cell = np.searchsorted(self.ordered, t + (dim << _ONE + 1), "right") - 1
        width = self.width[cell]
        part = (((t - self.start[cell]) << self.bits) + width // 2) // np.maximum(width, 1)
        return (cell - dim * self.levels << self.bits) + part


class FilledMoves:
    """Integers x to z, by way of their cells."""

    def __init__(self, fill: Fill, cells: CellMap, flow: Moves) -> None:
        self.fill, self.cells, self.flow, self.dims = fill, cells, flow, flow.dims

    def forward(self, x: Tensor, y: Any, walker: Walker) -> Tensor:
        """x (n, *shape) to z (n, D)."""
        h = self.cells.forward(self.fill.forward(x, walker), walker)
        return self.flow.forward(torch.from_numpy(h), y, walker)

    def inverse(self, z: Tensor, y: Any, walker: Walker) -> Tensor:
        """z to x."""
        h = self.flow.inverse(z, y, walker)
        return self.fill.inverse(self.cells.inverse(h.numpy(), walker), walker)
