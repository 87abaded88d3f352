"""The stack coder once more, in plain Python integers: what the stream *is*. Slow; a reference, and a fall-back.

It reads and writes the same bytes as `likely.coding.ans.Stack` without borrowing, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

from likely.coding.ans import Underflow
from likely.coding.tables import PRECISION, TOTAL

_LOW = 1 << 32


class PlainStack:
    """L lanes over one stack of 32-bit words."""

    def __init__(self, lanes: int = 1) -> None:
        self.states, self.words = [_LOW] * lanes, []

    def push(self, intervals: Sequence[tuple[int, int]]) -> None:
        """Put symbols, given by start and frequency, on top: the first of them will be popped first."""
        lanes = len(self.states)
        for low in range((len(intervals) - 1) // lanes * lanes, -1, -lanes):
            part = intervals[low : low + lanes]
            for lane, (_, frequency) in enumerate(part):  # all lanes move their words before any takes a symbol in
                if self.states[lane] >= frequency << (64 - PRECISION):
                    self.words.append(self.states[lane] % _LOW)
                    self.states[lane] >>= 32
            for lane, (start, frequency) in enumerate(part):
                whole, rest = divmod(self.states[lane], frequency)
                self.states[lane] = whole * TOTAL + rest + start

    def pop(self, tables: Sequence[Sequence[int]]) -> list[int]:
        """Symbols off the top, one for each table of cumulative sums 0 .. 2^24."""
        symbols, lanes = [], len(self.states)
        for low in range(0, len(tables), lanes):
            short = []
            for lane, cumulative in enumerate(tables[low : low + lanes]):
                whole, c = divmod(self.states[lane], TOTAL)
                symbol = next(k for k in range(len(cumulative) - 1) if c < cumulative[k + 1])
                frequency = cumulative[symbol + 1] - cumulative[symbol]
                self.states[lane] = frequency * whole + c - cumulative[symbol]
                symbols.append(symbol)
                if self.states[lane] < _LOW:
                    short.append(lane)
            for lane in reversed(short):  # the last lane's word lies on top
                if not self.words:
                    raise Underflow("the stack is empty, and more was asked of it")
                self.states[lane] = self.states[lane] << 32 | self.words.pop()
        return symbols

    def is_empty(self) -> bool:
        """Whether nothing is on it."""
        return not self.words and all(state == _LOW for state in self.states)

    def to_bytes(self) -> bytes:
        """As `Stack.to_bytes`."""
        numbers = [(len(self.states), 2), *((state, 8) for state in self.states), *((word, 4) for word in self.words)]
        return b"".join(number.to_bytes(size, "little") for number, size in numbers)

    @classmethod
    def from_bytes(cls, data: bytes) -> PlainStack:
        """What `to_bytes` of either wrote."""
        lanes = int.from_bytes(data[:2], "little")
        stack, end = cls(lanes), 2 + 8 * lanes
        stack.states = [int.from_bytes(data[at : at + 8], "little") for at in range(2, end, 8)]
        stack.words = [int.from_bytes(data[at : at + 4], "little") for at in range(end, len(data), 4)]
        return stack
