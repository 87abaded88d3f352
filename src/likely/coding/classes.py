"""Codes of joints p(x, y) = p(y) p(x given y), made of the codes of their parts p(x given y).

    rows with labels     encode: push x given y, push y under p(y). What it costs is -log p(x, y).
    rows without         encode: pop y ~ q(y given x), push x given y, push y under p(y); decode: the inverse. What it
                         costs is log q(y given x) - log p(x, y): where q is p(y given x), -log p(x) whatever y came up.

The second is bits-back with the class as the latent (`likely.coding.latent` has the reference). It takes one walk
through the sites, and K classes in a pass of their own for q, where a mixture of the classes' conditionals would take K
walks. The bits that choose the first group's y have to come from somewhere, and are lost: log2 K a row at most, and
next to nothing where x tells its class.

Parts that are a model a class get the rows of their class in a group, in their order, one class after the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from likely.coding.ans import Stack
from likely.coding.header import Coding
from likely.coding.latent import BitsBack
from likely.coding.programs import padded
from likely.coding.schemes import Progress, Scheme, Sequential, lanes_for
from likely.coding.tables import PRECISION, Ints, Weighed, on_grid
from likely.noise import Noise
from likely.verbs import Exact, has

PIECE = 16
"""Rows whose every class goes through a model in one call, fewer where there are more than 16 classes."""
DRAWS = 8
"""Draws of a bound that q is made of, where p(y given x) is not exact: the same ones for every row, both ways."""


@runtime_checkable
class Classes(Protocol):
    """A joint of one conditional part, or of a part without condition for every class; `likely.logprob.log_joint` says
    what its `log_joint` is."""

    parts: Sequence[Any]

    def log_prior(self) -> Tensor:
        """log p(y), (K,) nats."""
        ...

    def log_joint(self, x: Any, *, noise: Noise) -> tuple[Tensor, Tensor]:
        """log p(x) and log p(y given x); or log-weights of p(x) and p(x, y)."""
        ...


class OfClasses(Scheme):
    """A joint's rows by the schemes of its parts, with or without labels."""

    def __init__(self, model: Any, parts: Sequence[Scheme], labelled: bool) -> None:
        super().__init__(model, parts[0].group)
        self.parts, self.labelled, self.name = parts, labelled, parts[0].name
        self.borrowing = parts[0].borrowing if labelled else BitsBack.borrowing
        self.exact = has(model, Exact) and all(part.exact for part in parts)

    @property
    def coding(self) -> Coding:
        return self.parts[0].coding.model_copy(update={"labels": self.labelled})

    @property
    def chunk(self) -> int:
        return min(self.parts[0].chunk, 1 << 14) if self.labelled else 1 << 14

    def groups(self, n: int) -> list[slice]:
        return self.parts[0].groups(n)

    def encode(self, x: Any, y: Any, progress: Progress | None = None, nats: Tensor | None = None) -> Stack:
        parts = self.groups(len(x))
        bits = -float(self._classes(x[:PIECE])[1].mean()) / math.log(2) * len(x)
        stack = Stack(lanes_for(bits, max(part.stop - part.start for part in parts)), self.borrowing)
        for part in reversed(parts):
            own = torch.zeros(part.stop - part.start, dtype=torch.float64)
            if self.labelled:
                label = y[part].numpy().astype(np.int64)
                self.push(stack, x[part], y[part], part.start, own if self.exact else None)
                own += self.model.log_prior()[y[part]]
            else:
                q, own = self._classes(x[part])
                stack.stir(~part.start)
                label = stack.pop(q)
                self.push(stack, x[part], torch.from_numpy(label), part.start)
            stack.push(*self._prior(len(label)).interval(label))
            if nats is not None:
                nats[part] += own
            if progress is not None:
                progress(len(x) - part.start)
        return stack

    def decode(self, stack: Stack, n: int, progress: Progress | None = None) -> tuple[Any, Any]:
        xs, ys = [], []
        for part in self.groups(n):
            label = stack.pop(self._prior(part.stop - part.start))
            ys.append(torch.from_numpy(label))
            xs.append(self.pop(stack, len(label), ys[-1], part.start))
            if not self.labelled:
                stack.push(*self._classes(xs[-1])[0].interval(label))
                stack.stir(~part.start)
            if progress is not None:
                progress(part.stop)
        return torch.cat(xs), torch.cat(ys) if self.labelled else None

    def push(self, stack: Stack, x: Any, y: Any, key: int, nats: Tensor | None = None) -> None:
        for scheme, rows, given in reversed(self._routed(y)):
            own = torch.zeros(len(rows), dtype=torch.float64)
            scheme.push(stack, x[rows], given, key, None if nats is None else own)
            if nats is not None:
                nats[rows] += own

    def pop(self, stack: Stack, rows: int, y: Any, key: int) -> Any:
        routed = self._routed(y)
        xs = [scheme.pop(stack, len(own), given, key) for scheme, own, given in routed]
        return torch.cat(xs)[torch.cat([own for _, own, _ in routed]).argsort()]

    def bits(self, x: Any, y: Any = None) -> Tensor:
        """What the tables charge for each row and its label, (n,) bits; without labels for the class that q prefers."""
        out = torch.zeros(len(x), dtype=torch.float64)
        for part in self.groups(len(x)):
            q = None if self.labelled else self._classes(x[part])[0]
            label = y[part].numpy() if q is None else np.diff(q.mass).argmax(1)
            charged = _bits(self._prior(len(label)), label) - (0 if q is None else _bits(q, label))
            for scheme, rows, given in self._routed(torch.from_numpy(label)):
                assert isinstance(scheme, Sequential)
                charged[rows] += scheme.bits(x[part][rows], given)
            out[part] = charged
        return out

    def _prior(self, n: int) -> Weighed:
        """p(y), for n rows."""
        return Weighed.from_logits(np.broadcast_to(on_grid(self.model.log_prior()), (n, self.model.condition.levels)))

    def _classes(self, x: Any) -> tuple[Weighed, Tensor]:
        """q(y given x), and log p(x) or its bound, (rows,) nats."""
        most = min(PIECE, self.group, max(1, 16 * PIECE // self.model.condition.levels))
        size, logits, nats = most + self._spare, [], []
        for piece in x.split(most):
            noise = Noise(0, torch.zeros(size, dtype=torch.int64), 1 if has(self.model, Exact) else DRAWS)
            of_x, of_y = self.model.log_joint(padded(piece, size), noise=noise)
            nats.append(of_x.reshape(size, -1).mean(1)[: len(piece)])
            logits.append(of_y.reshape(size, -1, of_y.shape[1]).mean(1)[: len(piece)])
        return Weighed.from_logits(on_grid(torch.cat(logits).log_softmax(1))), torch.cat(nats).double()

    def _routed(self, y: Tensor) -> list[tuple[Scheme, Tensor, Any]]:
        """Which scheme codes which rows of a group, given which labels; many of one class in pieces."""
        if len(self.parts) == 1:
            return [(self.parts[0].sized(self.size), torch.arange(len(y)), y)]
        rows = [(y == label).nonzero()[:, 0] for label in range(len(self.parts))]
        most = max(PIECE, -(-self.group // len(self.parts)))
        return [
            (self._fitted(part, len(piece)), piece, None)
            for part, own in zip(self.parts, rows, strict=True)
            for piece in own.split(most)
            if len(piece)
        ]

    def _fitted(self, part: Scheme, rows: int) -> Scheme:
        """The scheme of a part for a group of so many rows."""
        fitted = part.sized(rows + self._spare)
        fitted.group = rows
        return fitted

    @property
    def _spare(self) -> int:
        """By how many rows batches are larger than they need be."""
        return max(0, self.size - self.group)


def _bits(table: Weighed, symbol: Ints) -> Tensor:
    return torch.from_numpy(PRECISION - np.log2(table.interval(symbol)[1]))
