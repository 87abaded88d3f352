"""Codecs as small programs over the stack: how rows of a model's space become pushes and pops.

A scheme encodes rows to a stack and decodes a stack to rows. It works through them in groups of `group` rows and runs
the model on batches of `size` >= `group` rows, filled up with the first; what comes out does not depend on `size` but
for the last bits of floats, which is what checking in another shape is for.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from likely.coding.ans import MOST_LANES, Stack
from likely.coding.header import Coding
from likely.coding.programs import Interval, Program, intervals, ordered, padded, popped
from likely.coding.tables import PRECISION, Uniform
from likely.space import Reals
from likely.verbs import Ordered, has

Progress = Callable[[int], None]
_WASTE = 48
"""Bits that a lane costs: the 32 below which its state may not sink, and 16 of the 64 that are unused on average."""
_SHARE = 0.001
"""The share of a stack that lanes may cost."""


class Scheme(ABC):
    """Rows to a stack and back. Abstract."""

    name: str
    borrowing: str | None = None
    exact: bool = False
    """Whether `encode` works out log p(x given y) on its way."""

    def __init__(self, model: Any, group: int) -> None:
        self.model, self.group, self.size = model, group, group

    @property
    def coding(self) -> Coding:
        """What the header says of it."""
        return Coding(scheme=self.name, group=self.group)

    @property
    def chunk(self) -> int:
        """Rows of a chunk, where nothing else was asked for: enough of them to pay for a lane a row of a group."""
        return 16 * self.group

    def sized(self, size: int) -> Self:
        """The same scheme, running the model on batches of another size."""
        other = copy.copy(self)
        other.size = size
        return other

    @abstractmethod
    def encode(self, x: Any, y: Any, progress: Progress | None = None, nats: Tensor | None = None) -> Stack:
        """A stack that holds all rows; `progress` is called with the rows done.

        An exact scheme adds log p(x given y) to `nats` (n,): asking the model for it would take as long again.
        """

    @abstractmethod
    def push(self, stack: Stack, x: Any, y: Any, key: int, nats: Tensor | None = None) -> None:
        """Put the x of a group on a stack, given labels that are known to whoever decodes; `key` is the group's own."""

    @abstractmethod
    def pop(self, stack: Stack, rows: int, y: Any, key: int) -> Any:
        """Take the x of a group off again."""

    def decode(self, stack: Stack, n: int, progress: Progress | None = None) -> tuple[Any, Any]:
        """The n rows (x, y) that a stack holds, which is empty afterwards unless something was wrong."""
        xs, ys = [], []
        for part in self.groups(n):
            rows = part.stop - part.start
            ys.append(self.popped_labels(stack, rows))
            xs.append(self.pop(stack, rows, ys[-1], part.start))
            if progress is not None:
                progress(part.stop)
        return torch.cat(xs), None if self.model.condition is None else torch.cat(ys)

    def groups(self, n: int) -> list[slice]:
        """The rows of every group."""
        return [slice(low, min(low + self.group, n)) for low in range(0, n, self.group)]

    def labels(self, y: Any) -> list[Interval]:
        """What y takes: each of K labels as many bits as the others, and float32 the two halves of their 32 bits."""
        if y is None:
            return []
        values = y.numpy().astype("<f4").view("<u2") if isinstance(self.model.condition, Reals) else y.numpy()
        return [self._uniform(len(y)).interval(values.astype(np.int64).reshape(-1))]

    def popped_labels(self, stack: Stack, n: int) -> Any:
        """The labels, or other y, of n rows, where the model has a condition."""
        condition = self.model.condition
        if condition is None:
            return None
        values = stack.pop(self._uniform(n))
        if isinstance(condition, Reals):
            values = values.astype("<u2").view("<f4").astype(np.float32)
        return torch.from_numpy(values.reshape(n, *condition.shape))

    def _uniform(self, n: int) -> Uniform:
        condition = self.model.condition
        real = isinstance(condition, Reals)
        return Uniform(n * condition.dims * (2 if real else 1), 1 << 16 if real else condition.levels)

    def full(self, rows: Any) -> Any:
        """Rows (or None) filled up to the size of the batches that the model sees."""
        return None if rows is None else padded(rows, self.size)


class Sequential(Scheme):
    """One group of numbers after the other, each given those before: autoregressive models, mixtures, integer flows.

    The encoder walks in the decoder's steps, with the same cached states, so that both have the same tables.
    """

    name = "sequential"
    exact = True

    def encode(self, x: Any, y: Any, progress: Progress | None = None, nats: Tensor | None = None) -> Stack:
        found: list[Interval] = []
        for part in self.groups(len(x)):
            labels = None if y is None else y[part]
            found += [*self.labels(labels), *self._intervals(x[part], labels, None if nats is None else nats[part])]
            if progress is not None:
                progress(part.stop)
        return pushed(found)

    def push(self, stack: Stack, x: Any, y: Any, key: int, nats: Tensor | None = None) -> None:
        for interval in reversed(self._intervals(x, y, nats)):
            stack.push(*interval)

    def pop(self, stack: Stack, rows: int, y: Any, key: int) -> Any:
        return popped(self._program(self.full(y)), stack, rows, self.size)

    def bits(self, x: Any, y: Any = None) -> Tensor:
        """What the tables charge for each row, (n,) bits; the labels are not counted."""
        rows = []
        for part in self.groups(len(x)):
            found = self._intervals(x[part], None if y is None else y[part])
            each = [PRECISION - np.log2(frequency.reshape(part.stop - part.start, -1)) for _, frequency in found]
            rows.append(torch.from_numpy(np.concatenate(each, 1).sum(1)))
        return torch.cat(rows)

    def _intervals(self, x: Any, y: Any, nats: Tensor | None = None) -> list[Interval]:
        """The intervals of all numbers of a group's rows, in the order of decoding."""
        condition = self.full(y)
        return intervals(self._program(condition), self._values(self.full(x), condition), len(x), nats)

    def _program(self, y: Any) -> Program:
        if has(self.model, Ordered):
            return ordered(self.model, self.size, y)
        return self.model.factors(self.size, y)

    def _values(self, x: Any, y: Any) -> list[Tensor]:
        if has(self.model, Ordered):
            return list(self.model.to_sites(x).split(1, 2))
        return self.model.factor_values(x, y)


def pushed(found: list[Interval]) -> Stack:
    """A stack that pops these intervals in their order."""
    stack = Stack(lanes_for(bits_of(found), max(len(start) for start, _ in found)))
    for interval in reversed(found):
        stack.push(*interval)
    return stack


def lanes_for(bits: float, most: int) -> int:
    """As many lanes as a stack of so many bits pays for, at most `most`, the longest vector that is pushed at once.

    Where the vector takes several steps of all lanes, no more than make these steps alike.
    """
    paid = max(1, min(MOST_LANES, most, int(bits * _SHARE / _WASTE)))
    return -(-most // -(-most // paid))


def bits_of(found: list[Interval]) -> float:
    """What it takes to push them."""
    return sum(float((PRECISION - np.log2(frequency)).sum()) for _, frequency in found)
