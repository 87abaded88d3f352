"""Integer frequency tables: where floats stop.

A coder needs, for N symbols at once, N distributions over 0 .. size-1 in integers that add up to exactly 2^24. Here
they are made from parameters on a grid of 2^-8 (`on_grid`, the last float operation) with integer arithmetic alone:
exponentials and distribution functions are read off frozen integer tables, which are themselves worked out with
integers. So two machines that agree on the rounded parameters agree on every table, whatever their maths library.
Numbers that agree within 1e-13, as float64 does from batch to batch and from processor to processor, round to the same
grid point but in some cases in 10^11.

Every symbol keeps a frequency of at least 1: a distribution function F is stretched to
    below(x) = x + floor(F(x) (2^24 - size)),
which rises by at least one a symbol, so that whatever a model says of it, everything can be written down.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]
PRECISION = 24
"""Bits of a table: its frequencies add up to 2^24. With states of 2^32 to 2^64 that costs some 1e-4 bits a symbol."""
TOTAL = 1 << PRECISION
GRID = 256
"""Parameters are integers, in units of 1/256."""
MOST = 1 << 16
"""The largest size of a table."""
MOST_PARTS = 1 << 10
"""The most components of a mixture."""
_AT_ONCE = 512
_BLOCK = 1 << 16  # numbers worked on at a time, where memory would have to be fetched anew for more
_ONE = 1 << 30  # 1.0 in the frozen tables
_REACH = 24  # distribution functions are tabulated on [-24, 24]; beyond they are 0 or 1 to 2^-30
_FINEST, _COARSEST = -6, 18  # log-scales in nats, in units of a cell


def on_grid(values: Tensor, unit: float = 1.0) -> Ints:
    """`values / unit` in units of 1/256, rounded to integers; infinities become very large.

    Raises `ValueError` where the model gives NaN.
    """
    numbers = values.detach().cpu().numpy().astype(np.float64, copy=False)
    if np.isnan(numbers).any():
        raise ValueError("the model gives NaN as a parameter of its distribution; nothing can be coded with it")
    return np.rint(np.clip(numbers * (GRID / unit), -(2.0**40), 2.0**40)).astype(np.int64)


class Table(ABC):
    """N distributions over 0 .. size-1. Abstract."""

    size: int

    @abstractmethod
    def __len__(self) -> int:
        """N."""

    @abstractmethod
    def rows(self, part: slice) -> Self:
        """Some of the N."""

    @abstractmethod
    def below(self, symbol: Ints) -> Ints:
        """The frequencies of all smaller symbols together, (N, k), for k symbols of each in 0 .. size: 0 .. 2^24."""

    def interval(self, symbol: Ints) -> tuple[Ints, Ints]:
        """Start and frequency of a symbol in each distribution, (N,) each."""
        start, end = self.below(np.stack([symbol, symbol + 1], 1)).T
        return start, end - start

    def in_full(self) -> Listed:
        """The same, with every frequency written down."""
        return Listed(self.below(np.broadcast_to(np.arange(self.size + 1), (len(self), self.size + 1))))

    def find(self, c: Ints) -> Ints:
        """The symbols with start <= c < start + frequency, (N,), for c in 0 .. 2^24 - 1.

        By cutting the range that is left into equal parts: into two of them for many symbols at once, into more for
        few, where a look at a distribution costs no more than a look at several.
        """
        ways = min(64, max(2, _AT_ONCE // max(len(c), 1)))
        cuts, low, width = np.arange(1, ways), np.zeros_like(c), self.size  # below(low) <= c < below(low + width)
        while width > 1:
            width = -(-width // ways)
            knots = np.minimum(low[:, None] + width * cuts, self.size)
            low = low + width * (self.below(knots) <= c[:, None]).sum(1)
        return low


class Listed(Table):
    """Every frequency written down, as cumulative sums (N, size + 1): 0 .. 2^24."""

    def __init__(self, cumulative: Ints) -> None:
        self.cumulative, self.size = cumulative, cumulative.shape[1] - 1

    def __len__(self) -> int:
        return len(self.cumulative)

    def rows(self, part: slice) -> Listed:
        return Listed(self.cumulative[part])

    def below(self, symbol: Ints) -> Ints:
        return np.take_along_axis(self.cumulative, symbol, 1)

    def find(self, c: Ints) -> Ints:
        return (self.cumulative[:, 1:-1] <= c[:, None]).sum(1)

    def lists(self) -> list[list[int]]:
        """The cumulative sums as plain integers."""
        return self.cumulative.tolist()


class Weighed(Table):
    """A weight for every symbol: for few symbols, or such without order. Made from the weights' sums (N, size + 1).

    The sums are below 2^38, so that times 2^24 they stay below 2^62. They are brought to 2^24 only where that is asked
    for, as nothing costs as much here as a division.
    """

    def __init__(self, mass: Ints) -> None:
        self.mass, self.size = mass, mass.shape[1] - 1

    @classmethod
    def from_logits(cls, logits: Ints) -> Weighed:
        """Probabilities in proportion to exp(logits / 256), (N, size)."""
        size = logits.shape[1]
        _check_size(size)
        mass, bits = np.empty((len(logits), size + 1), np.int64), min(30, 38 - size.bit_length())
        mass[:, 0], block = 0, max(1, _BLOCK // size)
        for low in range(0, len(logits), block):
            np.cumsum(_weights(logits[low : low + block], bits), 1, out=mass[low : low + block, 1:])
        return cls(mass)

    def __len__(self) -> int:
        return len(self.mass)

    def rows(self, part: slice) -> Weighed:
        return Weighed(self.mass[part])

    def below(self, symbol: Ints) -> Ints:
        return symbol + np.take_along_axis(self.mass, symbol, 1) * (TOTAL - self.size) // self.mass[:, -1:]

    def find(self, c: Ints) -> Ints:
        # x + floor(mass (2^24 - size) / total) <= c without the division: mass (2^24 - size) < (c - x + 1) total
        room = (c[:, None] + 1 - np.arange(1, self.size)) * self.mass[:, -1:]
        return (self.mass[:, 1:-1] * (TOTAL - self.size) < room).sum(1)

    def lists(self) -> list[list[int]]:
        """The cumulative sums as plain integers."""
        return self.in_full().lists()


class Chosen(Table):
    """Rows `index` (N,) of a `Listed` table that was made once: for many symbols from few distributions."""

    def __init__(self, source: Listed, index: Ints, plain: dict[int, list[int]] | None = None) -> None:
        self.source, self.index, self.size = source, index, source.size
        self._plain = {} if plain is None else plain

    def __len__(self) -> int:
        return len(self.index)

    def rows(self, part: slice) -> Chosen:
        return Chosen(self.source, self.index[part], self._plain)

    def below(self, symbol: Ints) -> Ints:
        return self.source.cumulative[self.index[:, None], symbol]

    def lists(self) -> list[list[int]]:
        """The cumulative sums as plain integers; the lists are shared, and kept in the dictionary `plain`."""
        rows = self.index.tolist()
        for row in set(rows).difference(self._plain):
            self._plain[row] = self.source.cumulative[row].tolist()
        return [self._plain[row] for row in rows]


class Uniform(Table):
    """All symbols alike: `size` of them, or in each of the N so many as `size` (N,) says."""

    def __init__(self, n: int, size: int | Ints) -> None:
        self.n, self.sizes = n, np.broadcast_to(np.asarray(size, np.int64), n)
        self.size = int(self.sizes.max(initial=1)) if isinstance(size, np.ndarray) else size
        _check_size(self.size)

    def __len__(self) -> int:
        return self.n

    def rows(self, part: slice) -> Uniform:
        some = self.sizes[part]
        return Uniform(len(some), some)

    def below(self, symbol: Ints) -> Ints:
        return symbol * TOTAL // self.sizes[:, None]

    def find(self, c: Ints) -> Ints:
        return ((c + 1) * self.sizes - 1) >> PRECISION  # the largest x with x 2^24 // size <= c

    def lists(self) -> list[int]:
        """Only the sizes: that is all there is to know."""
        return self.sizes.tolist()


class Located(Table):
    """Mixtures of M shifted and scaled copies of one distribution function, cut into cells [x - 1/2, x + 1/2).

    Open tails: what lies below the first cell or above the last belongs to it. `logits`, `centre` (in cells) and
    `log_scale` (of the scale in cells) are (N, M), all in units of 1/256; `function` is "logistic", "laplace" or
    "normal". The distribution functions are worked out where they are asked for: no list of all cells is ever made.
    """

    def __init__(self, size: int, logits: Ints, centre: Ints, log_scale: Ints, function: str) -> None:
        _check_size(size)
        if logits.shape[1] > MOST_PARTS:
            raise ValueError(f"logits has {logits.shape[1]} parts; a mixture accepts at most {MOST_PARTS}")
        self.size, self.function = size, function
        self.weight = _weights(logits, 22)  # sums up to 2^32: times 2^30 they stay below 2^63
        self.total = self.weight.sum(1)
        self.centre = np.clip(centre, -64 * GRID * MOST, 64 * GRID * MOST)
        scale = np.clip(log_scale, _FINEST * GRID, _COARSEST * GRID) - _FINEST * GRID
        self.inverse, self.limit = (each.take(scale) for each in _scales())

    def __len__(self) -> int:
        return len(self.total)

    def rows(self, part: slice) -> Located:
        some = object.__new__(Located)
        some.size, some.function = self.size, self.function
        some.weight, some.total = self.weight[part], self.total[part]
        some.centre, some.inverse, some.limit = self.centre[part], self.inverse[part], self.limit[part]
        return some

    def below(self, symbol: Ints) -> Ints:
        away = (symbol * GRID - GRID // 2)[:, :, None] - self.centre[:, None]  # (N, k, M): 1/256 of a cell
        # t = away / scale in units of 2^-16, within [-24, 24]: the product stays below 2^55
        t = np.clip(away, -self.limit[:, None], self.limit[:, None], out=away)
        t *= self.inverse[:, None]
        t >>= 32
        t += _REACH << 16
        step, rest = t >> 8, t & 255
        value, slope = _function(self.function)
        each = slope.take(step, mode="clip")  # F(t) in units of 2^-30, linear between its knots
        each *= rest
        each >>= 8
        each += value[:-1].take(step, mode="clip")
        mass = np.einsum("nkm,nm->nk", each, self.weight) // self.total[:, None]
        mass[symbol <= 0], mass[symbol >= self.size] = 0, _ONE
        return symbol + (mass * (TOTAL - self.size) >> 30)


def _check_size(size: int) -> None:
    if not 1 <= size <= MOST:
        raise ValueError(f"size is {size}; a table accepts 1 .. {MOST} symbols")


def _weights(logits: Ints, bits: int) -> Ints:
    """exp(logits / 256) over its largest in each row, in units of 2^-bits: the largest is 2^bits itself."""
    table = _exponentials()
    down = np.minimum(logits.max(1, keepdims=True) - logits, len(table) - 1)
    return table.take(down) >> (30 - bits)


# Frozen tables, all from integers ------------------------------------------------------------------------------------

_FINE = 160  # bits of the fixed point in which they are worked out


def _exp(numerator: int, denominator: int) -> int:
    """exp(-numerator / denominator) in units of 2^-160, for 0 <= numerator <= denominator."""
    term = total = 1 << _FINE
    for k in range(1, 60):
        term = -term * numerator // (denominator * k)
        total += term
    return total


def _powers(start: int, factor: int, count: int) -> list[int]:
    """start, start * factor, start * factor^2, ..., in units of 2^-160."""
    found = [start]
    while len(found) < count:
        found.append(found[-1] * factor >> _FINE)
    return found


@cache
def _exponentials() -> Ints:
    """exp(-d / 256) in units of 2^-30, for d = 0, 1, ... until it is zero."""
    powers = _powers(1 << _FINE, _exp(1, GRID), 22 * GRID)
    return np.array([*(p >> (_FINE - 30) for p in powers), 0])


@cache
def _scales() -> tuple[Ints, Ints]:
    """For log-scales from the finest on, in steps of 1/256: 2^40 / scale, and scale * 24 in units of 1/256."""
    count, one = (_COARSEST - _FINEST) * GRID + 1, 1 << _FINE
    largest = (one << _FINE) // _powers(one, _exp(1, 1), 1 - _FINEST)[-1]  # exp(-_FINEST)
    inverse = _powers(largest, _exp(1, GRID), count)
    limit = [-(-(_REACH * GRID << _FINE) // power) for power in inverse]
    return np.array([power >> (_FINE - 40) for power in inverse]), np.array(limit)


@cache
def _function(name: str) -> tuple[Ints, Ints]:
    """A distribution function at t = -24, -24 + 1/256, .., 24 in units of 2^-30, and its rise from each to the next."""
    half, one = _REACH * GRID, 1 << _FINE
    if name == "logistic":  # 1 / (1 + exp(-t))
        upper = [(one << _FINE) // (one + power) for power in _powers(one, _exp(1, GRID), half + 1)]
    elif name == "laplace":  # 1 - exp(-t) / 2 for t >= 0
        upper = [one - power // 2 for power in _powers(one, _exp(1, GRID), half + 1)]
    elif name == "normal":  # the integral of exp(-t^2 / 2) by Simpson's rule over cells of 1/256
        density, ratio, step = [one], _exp(1, 8 * GRID**2), _exp(2, 8 * GRID**2)
        for _ in range(2 * half):  # at t = k / 512: exp(-(k + 1)^2 / 2^19) = exp(-k^2 / 2^19) exp(-(2 k + 1) / 2^19)
            density.append(density[-1] * ratio >> _FINE)
            ratio = ratio * step >> _FINE
        area = [0]
        for k in range(0, 2 * half, 2):
            area.append(area[-1] + density[k] + 4 * density[k + 1] + density[k + 2])
        upper = [(one + (part << _FINE) // area[-1]) // 2 for part in area]
    else:
        raise ValueError(f"function is {name!r}; accepts logistic, laplace, normal")
    above = [value >> (_FINE - 30) for value in upper]
    value = np.array([*(_ONE - v for v in reversed(above)), *above[1:]])
    return value, np.diff(value)
