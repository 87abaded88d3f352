"""Codecs for latent models: bits-back over many rows, and the two-part code for few.

    bits-back   encode: pop z ~ q(z given x), push x given z, push z under p(z); decode: the inverse, step by step.
                What it costs is log q(z given x) - log p(x, z), the negative bound, once the bits that q popped have
                come back; the first group's have to come from somewhere ("initial bits").
    two-part    encode: push x given z = round(mean of q), push z under p(z). No bits are borrowed, and none come back.

"Bits-back with ANS" (Townsend, Bird, Barber, 2019: "Practical lossless compression with latent variables using bits
back coding"). q and p are cut to one grid of step 2^-fine on [-reach, reach]; the step cancels between them.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from likely.coding.ans import Stack
from likely.coding.header import Coding
from likely.coding.local import Movable
from likely.coding.programs import Interval, Walk, looked_up, pop_into, tables
from likely.coding.schemes import Progress, Scheme, bits_of, lanes_for, pushed
from likely.coding.tables import GRID, MOST, Ints, Located, on_grid
from likely.observation import Conditional
from likely.verbs import name_of

LEAST_REACH = 8
FEW_ROWS = 20
"""Below so many rows the two-part code is the smaller one, as a rule."""


@runtime_checkable
class Normals(Protocol):
    """Diagonal normals: q(z given x) has one a row, p(z) one in all or, with `logits` (M,), a mixture of M."""

    mean: Tensor
    log_var: Tensor


class Lattice(NamedTuple):
    """The values that a latent number may have: k 2^-fine - reach, for k = 0 .. size-1."""

    fine: int
    reach: int

    @property
    def size(self) -> int:
        """How many there are."""
        return (self.reach << self.fine + 1) + 1

    def value(self, k: Ints) -> Tensor:
        """The values of places k, float64 and exact."""
        return torch.from_numpy((k - (self.reach << self.fine)) / (1 << self.fine))

    def nearest(self, z: Tensor) -> Ints:
        """The places next to z."""
        k = np.rint(z.numpy() * (1 << self.fine)) + (self.reach << self.fine)
        return k.clip(0, self.size - 1).astype(np.int64)

    def table(self, mean: Tensor, log_var: Tensor, logits: Ints | None = None) -> Located:
        """Normals (N, M), or mixtures of them, cut to the lattice."""
        centre = on_grid(mean, 2.0**-self.fine) + (self.reach << self.fine) * GRID
        scale = on_grid(log_var / 2 + self.fine * math.log(2))
        return Located(self.size, np.zeros_like(centre) if logits is None else logits, centre, scale, "normal")


def prior_tables(prior: Any, lattice: Lattice, known: Ints) -> Walk:
    """The tables of latents (B, L): all at once under one normal; under a mixture one after the other, each given the
    ones before, which are read from `known` when the next table is asked for."""
    rows, latents = known.shape
    mean, log_var = prior.mean.double(), prior.log_var.double()  # (M, L)
    if len(mean) == 1:
        flat = (part.expand(rows, -1).reshape(-1, 1) for part in (mean, log_var))
        yield slice(None), lattice.table(*flat)
        return
    log_weight = (
        prior.logits.double().log_softmax(0).expand(rows, -1)
    )  # (B, M): log p(component given the latents so far)
    for i in range(latents):
        parts = (part[:, i].expand(rows, -1) for part in (mean, log_var))
        yield slice(i, i + 1), lattice.table(*parts, on_grid(log_weight))
        away = lattice.value(known[:, i])[:, None] - mean[:, i]
        log_weight = log_weight - 0.5 * (away.square() * (-log_var[:, i]).exp() + log_var[:, i])


class LatentScheme(Scheme):
    """What both codes share. Abstract."""

    fine: int

    def __init__(self, model: Any, group: int, lattice: Lattice | None = None) -> None:
        super().__init__(model, group)
        self.lattice = lattice or Lattice(self.fine, self._reach())

    @property
    def coding(self) -> Coding:
        return Coding(scheme=self.name, group=self.group, fine=self.lattice.fine, reach=self.lattice.reach)

    @property
    def chunk(self) -> int:
        """Many rows: a chain of borrowed bits does not go over from one chunk to the next."""
        return 1 << 14

    def _reach(self) -> int:
        """The prior's mass lies within six standard deviations of a mean; at least 8, and the lattice in a table."""
        prior = self.model.prior()
        far = float((prior.mean.abs() + 6 * (prior.log_var / 2).exp()).max())
        return min(max(LEAST_REACH, math.ceil(far)), (MOST - 1) >> self.fine + 1)

    def _posterior(self, x: Tensor, y: Any, rows: int) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q, (rows, L)."""
        q = self.model.posterior(self.full(x), self.full(y))
        return q.mean[:rows].double(), q.log_var[:rows].double()

    def _given(self, k: Ints, y: Any) -> Conditional:
        """p(x given z) at places k (rows, L) of the lattice, all sites in a row."""
        p = self.model.likelihood(self.full(self.lattice.value(k)), self.full(y))
        return Conditional(p.observation, p.parameters[: len(k)].reshape(len(k), p.parameters.shape[1], -1))

    def _latents(self, k: Ints) -> list[Interval]:
        """What to push for latents at places k under the prior."""
        return looked_up(prior_tables(self.model.prior(), self.lattice, k), k)

    def _pop_latents(self, stack: Stack, rows: int) -> Ints:
        prior = self.model.prior()
        k = np.zeros((rows, prior.mean.shape[1]), np.int64)
        pop_into(k, prior_tables(prior, self.lattice, k), stack)
        return k

    def _values(self, x: Tensor, y: Any, k: Ints) -> list[Interval]:
        """What to push for rows given their latents."""
        each = self._given(k, y)
        known = each.observation.arrange(x).reshape(len(x), each.observation.channels, -1).numpy().astype(np.int64)
        return looked_up(tables(each, known), known)

    def _pop_values(self, stack: Stack, k: Ints, y: Any) -> Tensor:
        each = self._given(k, y)
        known = np.zeros((len(k), each.observation.channels, each.parameters.shape[2]), np.int64)
        pop_into(known, tables(each, known), stack)
        x = torch.from_numpy(known).reshape(len(k), each.observation.channels, *each.observation.sites)
        return each.observation.restore(x)

    def _nearest(self, x: Tensor, y: Any) -> Ints:
        """The places next to the means of q."""
        return self.lattice.nearest(self._posterior(x, y, len(x))[0])


class TwoPart(LatentScheme):
    """z = round(mean of q) under the prior, and x given it."""

    name = "two-part"
    fine = 1

    def encode(self, x: Any, y: Any, progress: Progress | None = None, nats: Tensor | None = None) -> Stack:
        found: list[Interval] = []
        for part in self.groups(len(x)):
            labels = _rows(y, part)
            found += [*self.labels(labels), *self._rounded(x[part], labels)]
            if progress is not None:
                progress(part.stop)
        return pushed(found)

    def push(self, stack: Stack, x: Any, y: Any, key: int, nats: Tensor | None = None) -> None:
        for interval in reversed(self._rounded(x, y)):
            stack.push(*interval)

    def pop(self, stack: Stack, rows: int, y: Any, key: int) -> Any:
        return self._pop_values(stack, self._pop_latents(stack, rows), y)

    def _rounded(self, x: Tensor, y: Any) -> list[Interval]:
        """What to push for rows, in the order of popping: z, then x."""
        k = self._nearest(x, y)
        return [*self._latents(k), *self._values(x, y, k)]


class Chained(LatentScheme):
    """z popped from q(z given x), so that its bits come back: groups of rows are chained within a chunk. Abstract.

    A group's z lies on top, pushed under the prior, when the next one is popped. Where rows' z are not spread as the
    prior says, these bits are not uniform, and z popped from them would not be a draw of q: they are stirred before.
    """

    borrowing = "likely/bits-back"
    fine = 4

    @abstractmethod
    def put(self, stack: Stack, k: Ints, key: int) -> None:
        """Push latents at places k (rows, L) under the prior."""

    @abstractmethod
    def take(self, stack: Stack, rows: int, key: int) -> Ints:
        """Pop them."""

    def encode(self, x: Any, y: Any, progress: Progress | None = None, nats: Tensor | None = None) -> Stack:
        first, *_ = parts = self.groups(len(x))
        labels = _rows(y, first)
        pilot = [*self.labels(labels), *self._pilot(x[first], labels, self._nearest(x[first], labels))]
        bits = bits_of(pilot) * len(x) / first.stop
        stack = Stack(lanes_for(bits, max(len(start) for start, _ in pilot)), self.borrowing)
        for number, part in enumerate(reversed(parts), 1):
            labels = _rows(y, part)
            self.push(stack, x[part], labels, part.start)
            for interval in self.labels(labels):
                stack.push(*interval)
            if progress is not None:
                progress(min(number * self.group, len(x)))
        return stack

    def push(self, stack: Stack, x: Any, y: Any, key: int, nats: Tensor | None = None) -> None:
        mean, log_var = self._posterior(x, y, len(x))
        stack.stir(key)
        k = stack.pop(self.lattice.table(mean.reshape(-1, 1), log_var.reshape(-1, 1))).reshape(len(x), -1)
        for interval in reversed(self._values(x, y, k)):
            stack.push(*interval)
        self.put(stack, k, key)

    def pop(self, stack: Stack, rows: int, y: Any, key: int) -> Any:
        k = self.take(stack, rows, key)
        x = self._pop_values(stack, k, y)
        mean, log_var = self._posterior(x, y, rows)
        stack.push(*self.lattice.table(mean.reshape(-1, 1), log_var.reshape(-1, 1)).interval(k.reshape(-1)))
        stack.stir(key)
        return x

    def _pilot(self, x: Tensor, y: Any, k: Ints) -> list[Interval]:
        """What a group takes, or most of it."""
        return self._values(x, y, k)


class BitsBack(Chained):
    """Under a normal prior, or a mixture of normals."""

    name = "bits-back"

    def put(self, stack: Stack, k: Ints, key: int) -> None:
        for interval in reversed(self._latents(k)):
            stack.push(*interval)

    def take(self, stack: Stack, rows: int, key: int) -> Ints:
        return self._pop_latents(stack, rows)

    def _pilot(self, x: Tensor, y: Any, k: Ints) -> list[Interval]:
        return [*self._latents(k), *self._values(x, y, k)]


def why_not(model: Any) -> str:
    """Why a `Latent` model cannot be coded, or nothing where it can: its posterior must be `Normals`, and so
    must its prior, or `Movable`. Raises `TypeError` for a prior of transforms without moves."""
    prior = model.prior()
    latents = prior.moves().dims if isinstance(prior, Movable) else None
    if latents is None:
        if not isinstance(prior, Normals) or prior.mean.ndim != 2:
            return f"its prior is {type(prior).__name__}; accepts a normal, a mixture of normals or a flow"
        if len(prior.mean) > 1 and not hasattr(prior, "logits"):
            return f"its prior {type(prior).__name__} has {len(prior.mean)} rows and no logits"
        latents = prior.mean.shape[1]
    x = torch.zeros(1, *model.space.shape, dtype=torch.int64)
    y = None if model.condition is None else torch.zeros(1, dtype=torch.int64)
    q = model.posterior(x, y)
    if not isinstance(q, Normals) or q.mean.shape != (1, latents):
        return f"its posterior is {type(q).__name__}; accepts diagonal normals"
    p = model.likelihood(q.mean, y)
    if not (hasattr(p, "observation") and hasattr(p, "parameters")):
        return f"its likelihood is {name_of(p)}; accepts an observation with parameters"
    return ""


def _rows(y: Any, part: slice) -> Any:
    return None if y is None else y[part]
