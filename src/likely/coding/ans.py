"""One stack coder: interleaved range asymmetric numeral systems, with integer tables only.

"Asymmetric numeral systems" (Duda, 2014); interleaving as in "Interleaved entropy coders" (Giesen, 2014). A stack is
one big integer: `push` makes it log2(2^24 / frequency) bits longer, `pop` is the exact inverse, so what is pushed last
is popped first. A lane has a state s in [2^32, 2^64):

    push    if s >= frequency 2^40: move its low 32 bits to the words;
            s = (s // frequency) 2^24 + s mod frequency + start
    pop     c = s mod 2^24, the symbol whose interval holds c;   s = frequency (s // 2^24) + c - start;
            if s < 2^32: take a word in below its bits

Symbol i of a vector belongs to lane i mod L; the lanes share the words. All L lanes move in one step of NumPy.

A stack that is popped empty where it was made with `borrowing` goes on with pseudorandom bits: what a bits-back coder
starts from. They are the same for every file, so they need not stand in it, and who decodes checks that they came
back. Decoding is encoding undone, step by step, and needs none below those that it was given: a stack from a file lends
nothing, so that it ends where its bytes do, whatever the file says of the rows that are on it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from likely.coding import plain
from likely.coding.plain import LOW, Underflow
from likely.coding.tables import PRECISION, TOTAL, Chosen, Ints, Listed, Table, Uniform, Weighed

States = NDArray[np.uint64]
MOST_LANES = 4096
EMPTY = "the stack is empty, and more was asked of it"
FEW = 32
"""Up to so many lanes plain integers are faster, for tables that are listed;"""
LIST = 8
"""up to so many they are faster even if small tables have to be listed first, so many at once:"""
LISTED = 1 << 12
"""numbers, of tables of at most 1024 symbols."""
_U32, _U24 = np.uint64(32), np.uint64(PRECISION)
_UPPER = np.uint64(64 - PRECISION)
_WORD, _SLOT = np.uint64(LOW - 1), np.uint64(TOTAL - 1)


class Words:
    """32-bit words, of which the last is on top."""

    def __init__(self, words: NDArray[np.uint32] | None = None) -> None:
        self._all = np.empty(1024, np.uint32) if words is None else words
        self.count = 0 if words is None else len(words)

    def below(self) -> NDArray[np.uint32]:
        """All of them, from the bottom on."""
        return self._all[: self.count]

    def extend(self, words: NDArray[np.uint32]) -> None:
        """Put some on top."""
        end = self.count + len(words)
        if end > len(self._all):
            longer = np.empty(2 * end, np.uint32)
            longer[: self.count] = self.below()
            self._all = longer
        self._all[self.count : end] = words
        self.count = end

    def take(self, count: int) -> NDArray[np.uint32]:
        """The topmost, in the order in which they were put there: fewer where there are fewer."""
        have = min(count, self.count)
        self.count -= have
        return self._all[self.count : self.count + have]


def push_row(s: States, start: Ints, frequency: Ints, words: Words) -> None:
    """One step of as many lanes as there are symbols; s is changed in place."""
    f = frequency.astype(np.uint64)
    full = (s >> _UPPER) >= f
    if full.any():
        words.extend((s[full] & _WORD).astype(np.uint32))
        s[full] >>= _U32
    whole, rest = np.divmod(s, f)
    s[:] = (whole << _U24) + rest + start.astype(np.uint64)


def pop_row(s: States, table: Table, take: Callable[[int], NDArray[np.uint32]]) -> Ints:
    """The inverse: the symbols; s is changed in place, `take` gives words."""
    c = (s & _SLOT).astype(np.int64)
    symbol = table.find(c)
    start, frequency = table.interval(symbol)
    s[:] = frequency.astype(np.uint64) * (s >> _U24) + (c - start).astype(np.uint64)
    short = s < np.uint64(LOW)
    if short.any():
        s[short] = (s[short] << _U32) | take(int(short.sum()))
    return symbol


def listing(lanes: int, table: Table) -> int:
    """How many rows of a table to list at a time, a multiple of the lanes; 0 where it should stay as it is."""
    few = lanes <= LIST and table.size <= 1024
    return max(LISTED // (table.size * lanes), 1) * lanes if few else 0


class Stack:
    """L lanes over one stack of 32-bit words. `borrowing` names the pseudorandom bits below the bottom, if any."""

    def __init__(self, lanes: int = 1, borrowing: str | None = None) -> None:
        if not 1 <= lanes <= MOST_LANES:
            raise ValueError(f"lanes is {lanes}; accepts 1 .. {MOST_LANES}")
        self.lanes, self.borrowing, self.borrowed = lanes, borrowing, 0
        self._lends, self._lent = borrowing is not None, np.empty(0, np.uint32)
        self._state = self._first()
        self._words = Words()

    @property
    def bits(self) -> int:
        """The length of `to_bytes`, in bits."""
        return 16 + 64 * self.lanes + 32 * self._words.count

    def push(self, start: Ints, frequency: Ints) -> None:
        """Put symbols, given by their intervals (N,), on top: the first of them will be popped first."""
        if self.lanes <= FEW:
            states, words = self._state.tolist(), []
            plain.push(states, words, start.tolist(), frequency.tolist())
            self._state[:] = states
            return self._words.extend(np.array(words, np.uint32))
        for low in range((len(start) - 1) // self.lanes * self.lanes, -1, -self.lanes):
            f = frequency[low : low + self.lanes]
            push_row(self._state[: len(f)], start[low : low + self.lanes], f, self._words)

    def pop(self, table: Table) -> Ints:
        """Take as many symbols off the top as the table has rows, (N,). Raises `Underflow` where there are none."""
        if self.lanes <= FEW and isinstance(table, Listed | Chosen | Weighed | Uniform):
            return self._pop_few(table)
        n, size = len(table), self.lanes
        symbols = np.empty(n, np.int64)
        if block := listing(size, table):
            for low in range(0, n, block):
                symbols[low : low + block] = self._pop_few(table.rows(slice(low, low + block)).in_full())
            return symbols
        for low in range(0, n, size):
            part = table if n <= size else table.rows(slice(low, low + size))
            symbols[low : low + size] = pop_row(self._state[: len(part)], part, self._take)
        return symbols

    def _pop_few(self, table: Listed | Chosen | Weighed | Uniform) -> Ints:
        """`pop` in plain integers, given as many words as there could be use for: one a symbol."""
        words, spare = self._words.take(len(table)).tolist(), 0
        if self._lends:
            spare = len(table) - len(words)
            words = self._borrow(self.borrowed, self.borrowed + spare).tolist() + words
        states = self._state.tolist()
        symbols = plain.pop(states, words, table.lists())
        self._state[:] = states
        unused = min(spare, len(words))
        self.borrowed += spare - unused
        self._words.extend(np.array(words[unused:], np.uint32))
        return np.array(symbols, np.int64)

    def stir(self, key: int) -> None:
        """Exclusive-or the low words of all lanes with pseudorandom ones: done twice, it is undone.

        What was pushed under one distribution and is popped under another comes out uniform only if the first was
        right; stirred, it comes out uniform in any case.
        """
        words = hashlib.shake_128(f"{self.borrowing}/stir/{key}".encode()).digest(4 * self.lanes)
        self._state ^= np.frombuffer(words, "<u4").astype(np.uint64)

    def is_empty(self) -> bool:
        """Whether it is as it was when made: nothing on it, and every borrowed bit given back."""
        back = self._words.below()
        return bool(
            np.array_equal(self._state, self._first())
            and (len(back) == 0 or self.borrowing is not None)
            and np.array_equal(back, self._borrow(0, len(back)))
        )

    def to_bytes(self) -> bytes:
        """Little endian: the number of lanes (u16), their states (u64), the words from the bottom on (u32)."""
        words = self._words.below()
        return struct.pack("<H", self.lanes) + self._state.astype("<u8").tobytes() + words.astype("<u4").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, borrowing: str | None = None) -> Stack:
        """What `to_bytes` wrote; it lends nothing. Raises `ValueError` for bytes that it cannot have written."""
        lanes = int.from_bytes(data[:2], "little")
        body = len(data) - 2 - 8 * lanes
        if len(data) < 2 or not 1 <= lanes <= MOST_LANES or body < 0 or body % 4:
            raise ValueError(f"{len(data)} bytes hold no stack of {lanes} lanes")
        stack = cls(lanes, borrowing)
        stack._lends = False
        stack._state = np.frombuffer(data, "<u8", lanes, 2).astype(np.uint64)
        if (stack._state < np.uint64(LOW)).any():
            raise ValueError("a lane has a state below 2^32")
        stack._words = Words(np.frombuffer(data, "<u4", offset=2 + 8 * lanes).astype(np.uint32))
        return stack

    def _first(self) -> NDArray[np.uint64]:
        """The states that lanes start from: 2^32, with random bits below it where the stack borrows."""
        low = (
            np.zeros(self.lanes, np.uint64)
            if self.borrowing is None
            else pseudorandom(self.borrowing + "/lanes", self.lanes)
        )
        return low.astype(np.uint64) | np.uint64(LOW)

    def _take(self, count: int) -> NDArray[np.uint32]:
        """The topmost words, in the order in which they were put there."""
        words = self._words.take(count)
        lacking = count - len(words)
        if not lacking:
            return words
        if not self._lends:
            raise Underflow(EMPTY)
        self.borrowed += lacking
        return np.concatenate([self._borrow(self.borrowed - lacking, self.borrowed), words])

    def _borrow(self, low: int, high: int) -> NDArray[np.uint32]:
        """The words at depths low .. high - 1 below the bottom, the deepest first."""
        if high > len(self._lent):
            self._lent = pseudorandom(str(self.borrowing), max(high, 2 * len(self._lent)))
        return self._lent[low:high][::-1]


def pseudorandom(name: str, count: int) -> NDArray[np.uint32]:
    """The first `count` words of the endless sequence `name`: SHAKE-128, the same everywhere."""
    return np.frombuffer(hashlib.shake_128(name.encode()).digest(4 * count), "<u4").astype(np.uint32)
