"""The stack coder in plain Python integers: what the stream *is*.

Bit for bit the stream of the vectorised coder in `likely.coding.ans`, which comes here where there are too few lanes
for NumPy to pay. A lane's state and the words are Python integers; see there for the steps.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from likely.coding.tables import PRECISION, TOTAL

LOW = 1 << 32
"""The least state of a lane."""


class Underflow(ValueError):
    """More was popped than is there."""


def push(states: list[int], words: list[int], start: Sequence[int], frequency: Sequence[int]) -> None:
    """Put symbols, given by their intervals, on top; the first of them will be popped first."""
    lanes = len(states)
    for low in range((len(start) - 1) // lanes * lanes, -1, -lanes):
        for i in range(low, min(low + lanes, len(start))):
            s, f = states[i - low], frequency[i]
            if s >= f << (64 - PRECISION):
                words.append(s % LOW)
                s >>= 32
            states[i - low] = (s // f << PRECISION) + s % f + start[i]


def pop(states: list[int], words: list[int], tables: Sequence[Sequence[int] | int]) -> list[int]:
    """Symbols off the top, one for each table of cumulative sums 0 .. 2^24, or for so many symbols that are all alike.

    Raises `Underflow` where words lack.
    """
    symbols, lanes = [], len(states)
    for low in range(0, len(tables), lanes):
        short = []
        for lane, cumulative in enumerate(tables[low : low + lanes]):
            s = states[lane]
            c = s % TOTAL
            if isinstance(cumulative, int):
                symbol = ((c + 1) * cumulative - 1) >> PRECISION
                start, end = (symbol << PRECISION) // cumulative, (symbol + 1 << PRECISION) // cumulative
            else:
                symbol = bisect_right(cumulative, c) - 1
                start, end = cumulative[symbol], cumulative[symbol + 1]
            s = (end - start) * (s >> PRECISION) + c - start
            symbols.append(symbol)
            states[lane] = s
            if s < LOW:
                short.append(lane)
        if len(short) > len(words):
            raise Underflow("the stack is empty, and more was asked of it")
        for lane in reversed(short):  # the last lane's word lies on top
            states[lane] = states[lane] << 32 | words.pop()
    return symbols
