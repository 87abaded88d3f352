"""A stack whose lanes cost five bits, not forty-eight: they come one by one, and start with bits that are there anyway.

A lane of `likely.coding.ans.Stack` begins at 2^32, which says nothing in 32 bits, and ends in 64 bits of which some 16
are unused. Here a new lane begins with a word off the stack below its top bit, 2^32 | word: nothing is lost. It is
popped as it was pushed, backwards, so that it stands at 2^32 | word when the lane goes, and the word is put back. After
n symbols there are

    lanes(n) = min(most, 1 + n // 32)

so a stack of 2 bits a symbol has the words that its lanes begin with; where it has not, zeros below its bottom stand
for them. At the end a state s, of b = floor(log2 s) - 32 bits above the lowest word, is written as b in 5 bits and the
32 + b bits below its top one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from likely.coding import plain
from likely.coding.ans import EMPTY, MOST_LANES, Words, listing, pop_row, push_row
from likely.coding.plain import LOW, Underflow
from likely.coding.tables import Ints, Table

EACH = 32
"""Symbols that a lane waits for."""
COST = 5
"""Bits that a lane costs."""
SHARE = 0.0015
"""The share of a stack that lanes may cost."""
_DOWN = np.arange(63, -1, -1).astype(np.uint64)
_U32, _LOW, _WORD = np.uint64(32), np.uint64(LOW), np.uint64(LOW - 1)


class Growing:
    """At most `most` lanes over one stack of 32-bit words; `symbols` are on it."""

    def __init__(self, most: int = 1) -> None:
        if not 1 <= most <= MOST_LANES:
            raise ValueError(f"most is {most}; accepts 1 .. {MOST_LANES} lanes")
        self.most, self.symbols = most, 0
        self._state = np.full(1, _LOW)
        self._words = Words()

    def push(self, start: Ints, frequency: Ints) -> None:
        """Put symbols, given by their intervals (N,), on top: the first of them will be popped first."""
        for low, high, lanes in self._rows(self.symbols, len(start)):
            self._grow(lanes)
            push_row(self._state[: high - low], start[low:high], frequency[low:high], self._words)
        self.symbols += len(start)

    def pop(self, table: Table) -> Ints:
        """Take as many symbols off the top as the table has rows, (N,). Raises `Underflow` where there are none."""
        symbols = np.empty(len(table), np.int64)
        if len(table) > self.symbols:
            raise Underflow(EMPTY)
        self.symbols -= len(table)
        block, begin = None, 0  # some rows of the table, listed
        for low, high, lanes in reversed(list(self._rows(self.symbols, len(table)))):
            self._shrink(lanes)
            if step := listing(lanes, table):
                if block is None or high > begin + len(block):
                    block, begin = table.rows(slice(low, low + step)).in_full(), low
                symbols[low:high] = self._pop_few(block.cumulative[low - begin : high - begin])
            else:
                part = table if high - low == len(table) else table.rows(slice(low, high))
                symbols[low:high] = pop_row(self._state[: high - low], part, self._take)
        return symbols

    def _pop_few(self, cumulative: Ints) -> list[int]:
        """A row of few lanes, in plain integers."""
        states, words = self._state.tolist(), self._words.take(len(cumulative)).tolist()
        symbols = plain.pop(states, words, cumulative.tolist())
        self._state[:] = states
        self._words.extend(np.array(words, np.uint32))
        return symbols

    def is_empty(self) -> bool:
        """Whether it is as it was when made."""
        self._shrink(self._lanes(self.symbols))
        return not self.symbols and self._state[0] == _LOW and not self._words.below().any()

    def to_bytes(self) -> bytes:
        """Little endian: the most lanes (u16), the states' lengths (5 bits each) and bits, the words (u32)."""
        self._grow(self._lanes(self.symbols))
        return struct.pack("<H", self.most) + _packed(self._state) + self._words.below().astype("<u4").tobytes()

    @classmethod
    def of(cls, bits: float) -> Growing:
        """One with as many lanes as so many bits pay for."""
        return cls(max(1, min(MOST_LANES, int(bits * SHARE / COST))))

    @classmethod
    def from_bytes(cls, data: bytes, symbols: int) -> Growing:
        """What `to_bytes` wrote of so many symbols. Raises `ValueError` for bytes that it cannot have written."""
        most = int.from_bytes(data[:2], "little")
        if len(data) < 2 or not 1 <= most <= MOST_LANES:
            raise ValueError(f"{len(data)} bytes hold no stack of {most} lanes")
        stack = cls(most)
        stack.symbols = symbols
        stack._state, used = _unpacked(data[2:], stack._lanes(symbols))
        if (len(data) - 2 - used) % 4:
            raise ValueError(f"{len(data)} bytes hold no stack of {most} lanes")
        stack._words = Words(np.frombuffer(data, "<u4", offset=2 + used).astype(np.uint32))
        return stack

    def _lanes(self, symbols: int) -> int:
        return min(self.most, 1 + symbols // EACH)

    def _rows(self, symbols: int, count: int) -> Iterator[tuple[int, int, int]]:
        """The slices in which `count` symbols are pushed, from the end on, and how many lanes there are then."""
        high = count
        while high:
            lanes = self._lanes(symbols + count - high)
            low = max(high - lanes, 0)
            yield low, high, lanes
            high = low

    def _grow(self, lanes: int) -> None:
        """Add lanes that begin with the words on top, or with zeros where these are too few."""
        more = lanes - len(self._state)
        if more > 0:
            words = self._words.take(more)
            new = np.concatenate([np.zeros(more - len(words), np.uint32), words])
            self._state = np.concatenate([self._state, new | _LOW])

    def _shrink(self, lanes: int) -> None:
        """Take the lanes away that came later than this, and put the words back that they began with."""
        if lanes < len(self._state):
            gone = self._state[lanes:]
            if ((gone >> _U32) != 1).any():
                raise ValueError("a lane does not end where it began")
            self._words.extend((gone & _WORD).astype(np.uint32))
            self._state = self._state[:lanes].copy()

    def _take(self, count: int) -> NDArray[np.uint32]:
        words = self._words.take(count)
        if len(words) < count:
            raise Underflow(EMPTY)
        return words


def _packed(state: NDArray[np.uint64]) -> bytes:
    """States in [2^32, 2^64), with no bit that says nothing."""
    above = np.frexp((state >> _U32).astype(np.float64))[1] - 1  # b: exact, these are integers below 2^32
    lengths = above[:, None] >> np.arange(4, -1, -1) & 1
    bits = state[:, None] >> _DOWN & np.uint64(1)
    return np.packbits(np.concatenate([lengths.ravel(), bits[_used(above)]]).astype(bool)).tobytes()


def _unpacked(data: bytes, lanes: int) -> tuple[NDArray[np.uint64], int]:
    """So many states, and how many bytes they took. Raises `ValueError` where there are fewer, or bits are left."""
    bits = np.unpackbits(np.frombuffer(data[: 9 * lanes], np.uint8))
    if len(bits) < 5 * lanes:
        raise ValueError(f"{len(data)} bytes hold no {lanes} lanes")
    above = (bits[: 5 * lanes].reshape(lanes, 5) << np.arange(4, -1, -1)).sum(1)
    used = _used(above)
    count = 5 * lanes + int(used.sum())
    size = -(-count // 8)
    if len(data) < size or bits[count : 8 * size].any():
        raise ValueError(f"{len(data)} bytes hold no {lanes} lanes")
    each = np.zeros((lanes, 64), np.uint64)
    each[used] = bits[5 * lanes : count]
    top = np.uint64(1) << (above.astype(np.uint64) + _U32)
    return (each << _DOWN).sum(1, dtype=np.uint64) | top, size


def _used(above: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of a state's 64 bits, the highest first, lie below its top one."""
    return _DOWN[None] < (above + 32).astype(np.uint64)[:, None]
