"""Local bits-back: continuous flows as codes. Experimental.

A flow's numbers are written on a lattice of step 2^-fine, as int64, and every one of its transforms becomes a move that
takes lattice to lattice and can be undone exactly. What keeps volumes (a permutation, a shift by what a network says,
rounded) is such a move already. A monotone map of single numbers is made one by digits off the stack: cut the cell of
i into 2^bits parts, go to one of them by popping, find the cell j that the map takes it to, and push which one it is
of the parts that go to j. On average that costs -log2 of the slope, so a walk from x to the normal z at the end costs
what the flow says. The digits that were popped are those pushed for the rows before, as with bits-back; the first rows
borrow some 20 bits a number.

"Compression with flows via local bits-back coding" (Ho, Lohn, Abbeel, 2019); with noise that is uniform on cells in
place of normal, as in "iFlow: numerically invertible flows for efficient lossless compression via a uniform coder"
(Zhang, Kang, Ryder, Li, 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import count
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from likely.coding.ans import Stack, pseudorandom
from likely.coding.header import Coding
from likely.coding.programs import padded
from likely.coding.schemes import Progress, Scheme, lanes_for
from likely.coding.tables import GRID, Chosen, Ints, Listed, Located, Uniform

FINE = 12
"""The lattice's step is 2^-12, unless a file says otherwise: numbers of a flow are about 1."""
FAR = 1 << 30
"""Places on the lattice lie within +-FAR: sums and products with them stay exact, in float64 as well."""
LOGS = 1 << 12
"""Log-scales are integers in units of 2^-12."""
SCALE_BITS = 12
"""Digits that a change of scale pops, at most; its factor is a ratio of integers up to 2^12."""
_CELL = 5
"""Normal numbers are coded in cells of 2^-5, whose places are all alike."""
_REACH, _NOISE_REACH, _BEYOND = 16, 6, 1 << 26
_GROWTH = 16
"""A group has a sixteenth of the rows coded before it: what is on the stack of these then suffices for its digits."""


class Unmovable(ValueError):
    """Numbers that cannot be moved on the lattice: they are stored as they are."""


class Walker:
    """What a walk works with: digits on a stack, networks asked on batches of `size` rows; `key` is the group's own."""

    def __init__(self, stack: Stack, size: int, fine: int, key: int = 0) -> None:
        self.stack, self.size, self.fine, self.key = stack, size, fine, key

    # digits -------------------------------------------------------------------------------------------------------

    def pop(self, sizes: Ints) -> Ints:
        """Uniform digits 0 .. size-1, in the shape of `sizes`; these are at most 2^40."""
        flat = sizes.reshape(-1)
        shift = _shift(flat)
        found = self.stack.pop(Uniform(len(flat), _upper(flat, shift)))
        wide = np.flatnonzero(shift)
        if len(wide):
            found[wide] = (found[wide] << shift[wide]) | self.pop(1 << shift[wide])
        return found.reshape(sizes.shape)

    def push(self, digits: Ints, sizes: Ints) -> None:
        """The inverse."""
        flat, sizes = digits.reshape(-1), sizes.reshape(-1)
        shift = _shift(sizes)
        wide = np.flatnonzero(shift)
        if len(wide):
            self.push(flat[wide] & ((1 << shift[wide]) - 1), 1 << shift[wide])
        self.stack.push(*Uniform(len(flat), _upper(sizes, shift)).interval(flat >> shift))

    def pop_noise(self, shape: tuple[int, ...], bits: int) -> Ints:
        """Numbers of so many bits that are uniform whatever lies on the stack: pseudorandom ones are added to them."""
        return self.pop(np.full(shape, 1 << bits)) ^ self._key(shape, bits)

    def push_noise(self, noise: Ints, bits: int) -> None:
        """The inverse."""
        self.push(noise ^ self._key(noise.shape, bits), np.full(noise.shape, 1 << bits))

    def _key(self, shape: tuple[int, ...], bits: int) -> Ints:
        words = pseudorandom(f"{self.stack.borrowing}/noise/{self.key}", math.prod(shape))
        return words.reshape(shape).astype(np.int64) >> 32 - bits

    def pop_normal(self, n: int) -> Ints:
        """n standard normal numbers within +-6, on the lattice."""
        return self._below(self.stack.pop(_normals(_NOISE_REACH, n)), _NOISE_REACH)

    def push_normal(self, z: Ints) -> None:
        """The inverse, of z (n,)."""
        self.stack.push(
            *_normals(_NOISE_REACH, len(z)).interval(self._above(z, _NOISE_REACH).clip(0, _last(_NOISE_REACH)))
        )

    def pop_any_normal(self, n: int) -> Ints:
        """n numbers under a standard normal, any numbers: the first and the last cell say that a number follows."""
        high, last = self.stack.pop(_normals(_REACH, n)), _last(_REACH)
        beyond = np.flatnonzero((high == 0) | (high == last))
        if len(beyond):
            far = self.pop(np.full(len(beyond), _BEYOND))
            high[beyond] = np.where(high[beyond] == 0, -far, last + far)
        return self._below(high, _REACH).clip(-FAR, FAR)

    def push_any_normal(self, z: Ints) -> None:
        """The inverse, of z (n,)."""
        high, last = self._above(z, _REACH), _last(_REACH)
        beyond = high[(high <= 0) | (high >= last)]
        if len(beyond):
            self.push(np.where(beyond <= 0, -beyond, beyond - last), np.full(len(beyond), _BEYOND))
        self.stack.push(*_normals(_REACH, len(z)).interval(high.clip(0, last)))

    def _below(self, cell: Ints, reach: int) -> Ints:
        """Places in cells of 2^-5, of which digits off the stack take one."""
        low = self.fine - _CELL
        return (cell - (reach << _CELL) << low) + self.pop(np.full(len(cell), 1 << low))

    def _above(self, z: Ints, reach: int) -> Ints:
        """The inverse: cells, and digits on the stack."""
        low = self.fine - _CELL
        self.push(z & ((1 << low) - 1), np.full(len(z), 1 << low))
        return (z >> low) + (reach << _CELL)

    # numbers ------------------------------------------------------------------------------------------------------

    def value(self, i: Tensor) -> Tensor:
        """What places stand for, float64 and exact."""
        return i.double() / (1 << self.fine)

    def places(self, value: Tensor) -> Ints:
        """The places next to some numbers."""
        return rounded(value, 1 << self.fine)

    def ask(self, net: Callable[..., Tensor], *rows: Tensor | None) -> Tensor:
        """What a network says of rows, asked on a batch of the one size; rows may be None."""
        n = next(len(each) for each in rows if each is not None)
        return net(*(None if each is None else self.full(each) for each in rows))[:n]

    def full(self, rows: Tensor) -> Tensor:
        """Rows, the first of them repeated to fill a batch."""
        return padded(rows, self.size)


def rounded(value: Tensor, unit: int) -> Ints:
    """Numbers in units of 1/unit, within +-FAR. Raises `Unmovable` for NaN."""
    numbers = value.detach().numpy() * unit
    if np.isnan(numbers).any():
        raise Unmovable("the model gives NaN as a parameter of a transform; nothing can be coded with it")
    return np.rint(np.clip(numbers, -FAR, FAR)).astype(np.int64)


def kept_near(i: Ints) -> Ints:
    """Places, if they lie within +-FAR; raises `Unmovable` where they do not."""
    if i.size and max(-int(i.min()), int(i.max())) > FAR:
        raise Unmovable(f"the flow takes a number beyond {FAR}, where sums would not be exact any more")
    return i


# Monotone maps of single numbers ------------------------------------------------------------------------------------


class Scaled:
    """j = i exp(log / 2^12), the log an integer: M of 2^bits parts of a cell, M = 2^bits exp(-log), are a cell then.

    A number i and its part b are one integer i 2^bits + b, whose cell is its quotient by M: nothing is rounded but M.
    """

    def __init__(self, log: Ints) -> None:
        inverse = np.exp(np.clip(-log, -64 * LOGS, 64 * LOGS) / LOGS)
        self.bits = np.clip(SCALE_BITS - np.frexp(inverse)[1], 0, SCALE_BITS)
        most = 1 << SCALE_BITS
        self.parts = np.rint(np.ldexp(inverse, self.bits).clip(1, most)).astype(np.int64)

    def forward(self, i: Ints, walker: Walker) -> Ints:
        """i to j."""
        bits, parts = (np.broadcast_to(each, i.shape) for each in (self.bits, self.parts))
        j, rest = np.divmod((i << bits) + walker.pop(1 << bits), parts)
        walker.push(rest, parts)
        return kept_near(j)

    def inverse(self, j: Ints, walker: Walker) -> Ints:
        """j to i."""
        bits, parts = (np.broadcast_to(each, j.shape) for each in (self.bits, self.parts))
        i = j * parts + walker.pop(parts)
        walker.push(i & ((1 << bits) - 1), 1 << bits)
        return (i >> bits).clip(-FAR, FAR)


def cell_of(part: Ints, guess: Ints, low: Ints, high: Ints, edge: Callable[[Ints, Ints], Ints]) -> Ints:
    """The places z with edge(z) <= part < edge(z + 1), all (N,), by cutting [low, high) down from a guess.

    edge(z, index) is asked at places z for the numbers `index`; edge(low) <= part < edge(high) has to hold. Where it
    does, the place that is found is one, even if rounding should have made the edges fall somewhere.
    """
    low, high, index = low.copy(), high.copy(), np.arange(len(part))
    for step in count():
        if not len(index):
            break
        here, z = guess[index], (low[index] + high[index]) >> 1
        if step == 0:
            z = here
        elif step == 1:  # most are next to their guess
            z = here + np.where(low[index] == here, 1, -1)
        z = z.clip(low[index] + 1, high[index] - 1)
        above = edge(z, index) <= part[index]
        low[index], high[index] = np.where(above, z, low[index]), np.where(above, high[index], z)
        index = index[high[index] - low[index] > 1]
    return low


# Moves, and what a model offers -------------------------------------------------------------------------------------


class Moves(Protocol):
    """A flow on the lattice. On the way back nothing raises, whatever the digits: damage is found at the end."""

    dims: int
    """D."""

    def forward(self, x: Tensor, y: Any, walker: Walker) -> Tensor:
        """x (n, ...) to z (n, D), integers both; raises `Unmovable`."""
        ...

    def inverse(self, z: Tensor, y: Any, walker: Walker) -> Tensor:
        """z to x."""
        ...


@runtime_checkable
class Movable(Protocol):
    """A model that is a walk from x to a standard normal z."""

    def moves(self) -> Moves:
        """The walk, for the parameters as they are. Raises `TypeError` for a transform that has no move."""
        ...


class LocalBitsBack(Scheme):
    """x to z by moves, z under the normal: experimental. Groups of rows are chained as in bits-back.

    Groups begin with a row and grow with what is on the stack, so that the first ones borrow little.
    """

    name = "local-bits-back"
    borrowing = "likely/local"

    def __init__(self, model: Any, group: int, fine: int = FINE) -> None:
        super().__init__(model, group)
        self.fine, self.moves = fine, model.moves()

    @property
    def coding(self) -> Coding:
        return Coding(scheme=self.name, group=self.group, fine=self.fine)

    @property
    def chunk(self) -> int:
        """Many rows: a chain of borrowed bits does not go over from one chunk to the next."""
        return 1 << 14

    def encode(self, x: Any, y: Any, progress: Progress | None = None, nats: Tensor | None = None) -> Stack:
        parts, dims = self.groups(len(x)), self.model.space.dims
        guess = len(x) * dims * math.log2(self.model.space.levels) / 2
        stack = Stack(lanes_for(guess, max(part.stop - part.start for part in parts) * dims), self.borrowing)
        for part in reversed(parts):
            labels = None if y is None else y[part]
            self.push(stack, x[part], labels, part.start)
            for interval in self.labels(labels):
                stack.push(*interval)
            if progress is not None:
                progress(len(x) - part.start)
        return stack

    def push(self, stack: Stack, x: Any, y: Any, key: int, nats: Tensor | None = None) -> None:
        stack.stir(key)
        walker = self._walker(stack, len(x), key)
        walker.push_any_normal(self.moves.forward(x.long(), y, walker).numpy().reshape(-1))

    def pop(self, stack: Stack, rows: int, y: Any, key: int) -> Any:
        walker = self._walker(stack, rows, key)
        z = torch.from_numpy(walker.pop_any_normal(rows * self.model.space.dims)).reshape(rows, -1)
        x = self.moves.inverse(z, y, walker)
        stack.stir(key)
        return x

    def _walker(self, stack: Stack, rows: int, key: int) -> Walker:
        """Batches are as large as the group, or by as much larger as the scheme's are than its groups."""
        return Walker(stack, rows + max(self.size - self.group, 0), self.fine, key)

    def groups(self, n: int) -> list[slice]:
        """The rows of every group, in the order of decoding: the last ones are coded first, and are few."""
        parts, low = [], n
        while low:
            size = min(self.group, max(1, (n - low) // _GROWTH), low)
            parts.append(slice(low - size, low))
            low -= size
        return parts[::-1]


def _shift(sizes: Ints) -> Ints:
    """How many of the lower bits of a number 0 .. size-1 are a digit of their own, and the upper ones a table's."""
    return np.maximum(np.frexp((sizes - 1).astype(np.float64))[1] - 16, 0).astype(np.int64)


def _upper(sizes: Ints, shift: Ints) -> Ints:
    """How many numbers there are without these bits: one part in 2^15 more than there need be, at most."""
    return -(-sizes >> shift)


def _last(reach: int) -> int:
    """The last of the cells within +-reach."""
    return (reach << _CELL + 1) - 1


def _normals(reach: int, n: int) -> Chosen:
    """n times N(0, 1) in cells of 2^-5 within +-reach."""
    return Chosen(_normal(reach), np.zeros(n, np.int64))


@cache
def _normal(reach: int) -> Listed:
    size = reach << _CELL + 1
    centre, log_scale = size * GRID // 2 - GRID // 2, round(_CELL * math.log(2) * GRID)
    one = np.zeros((1, 1), np.int64)
    return Located(size, one, one + centre, one + log_scale, "normal").in_full()
