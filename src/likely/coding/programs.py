"""From a model to tables: the program that encoder and decoder both run.

A program is a generator that yields the `Conditional` of one group of numbers after the other, is sent the group's
values, and returns x. The encoder sends what it knows, the decoder what it has just popped; since both run the same
program, step by step and on batches of one size, both see the same tables.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from likely.coding.ans import Stack
from likely.coding.growing import Growing
from likely.coding.tables import GRID, Ints, Located, Table, Weighed, on_grid
from likely.observation import (
    Bernoulli,
    Categorical,
    Conditional,
    DiscretisedLogisticMixture,
    LogisticsOnGrid,
)
from likely.space import Integers
from likely.verbs import name_of

Program = Generator[Conditional, Tensor, Tensor]
Interval = tuple[Ints, Ints]
Walk = Iterator[tuple[slice, Table]]
"""Slices of numbers (B, C, ...) along C, in the order of coding, and the table of each laid out flat."""


@runtime_checkable
class Factored(Protocol):
    """A bijection of x to groups of integers, each with its distribution given the groups before: an integer flow."""

    def factors(self, n: int, y: Any = None) -> Program:
        """For n rows: yields each group's `Conditional`, parameters (n, P, S), takes values (n, C, S); returns x."""
        ...

    def factor_values(self, x: Any, y: Any = None) -> list[Tensor]:
        """The values of all groups of x, (B, C, S) each, in the order in which `factors` takes them."""
        ...


@runtime_checkable
class AnySize(Protocol):
    """A model of pictures of any size."""

    def at(self, space: Integers) -> Factored:
        """The same model over pictures of another shape (C, H, W). Raises `ValueError` for one that it has not."""
        ...


def ordered(model: Any, n: int, y: Any = None) -> Program:
    """The program of an `Ordered` model: a site is a group."""
    state, conditional = model.start(n, y)
    # one tensor for all: a small one kept at each step would leave holes too small for the next step's large ones
    x = torch.empty(n, conditional.observation.channels, model.sites, dtype=torch.int64)
    for site in range(model.sites):
        x[..., site] = (yield Conditional(conditional.observation, conditional.parameters[..., None]))[..., 0]
        state, conditional = model.step(state, x[..., site])
    return model.from_sites(x)


def tables(conditional: Conditional, known: Ints) -> Walk:
    """The tables of a group's values (B, C, S).

    Where a channel's distribution depends on earlier ones, these are read from `known` (B, C, S) when the next table
    is asked for. Raises `ValueError` for an observation of numbers that have no code length.
    """
    each, parameters = conditional.observation, conditional.parameters
    rows, channels, sites = known.shape
    match each:
        case Bernoulli():
            logit = on_grid(parameters).reshape(-1)
            yield slice(None), Weighed.from_logits(np.stack([np.zeros_like(logit), logit], 1))
        case Categorical():
            logits = on_grid(parameters).reshape(rows, channels, each.levels, sites)
            yield slice(None), Weighed.from_logits(logits.swapaxes(2, 3).reshape(-1, each.levels))
        case DiscretisedLogisticMixture():
            for c in range(channels):
                mixture = each.given(parameters, torch.from_numpy(known), c)
                logits, mean, log_scale = (on_grid(part).swapaxes(1, 2).reshape(rows * sites, -1) for part in mixture)
                yield slice(c, c + 1), Located(each.levels, logits, mean, log_scale, "logistic")
        case LogisticsOnGrid():  # integers as they are: nothing is rounded here, nothing can round otherwise elsewhere
            numbers = on_grid(parameters, GRID).swapaxes(1, 2).reshape(rows * sites, -1)
            yield slice(None), Located(each.levels, *np.split(numbers, 3, 1), "logistic")
        case _:
            raise ValueError(f"{name_of(each)} gives densities; only integers have code lengths")


def intervals(program: Program, values: list[Tensor], rows: int, nats: Tensor | None = None) -> list[Interval]:
    """Start and frequency of every number of the first `rows` rows, group after group: pushed last to first.

    log p of each row, by the distributions themselves, is added to `nats` (rows,).
    """
    found: list[Interval] = []
    conditional = next(program)
    for number, each in enumerate(values, 1):
        known, here = each[:rows].numpy().astype(np.int64), _first(conditional, rows)
        found += looked_up(tables(here, known), known)
        if nats is not None:
            nats += here.observation.log_prob(here.parameters, each[:rows]).sum(1)
        if number < len(values):
            conditional = program.send(each)
    return found


def popped(program: Program, stack: Stack | Growing, rows: int, size: int) -> Tensor:
    """What a program returns for values popped off a stack, its first `rows` rows of `size`."""
    conditional = next(program)
    while True:
        each = _first(conditional, rows)
        known = np.zeros((rows, each.observation.channels, each.parameters.shape[2]), np.int64)
        pop_into(known, tables(each, known), stack)
        try:
            conditional = program.send(padded(torch.from_numpy(known), size))
        except StopIteration as end:
            return end.value[:rows]


def abreast(programs: list[Program], sizes: list[int]) -> Program:
    """Programs of so many rows each as one of all their rows: the model is asked of each by itself."""
    each = [next(program) for program in programs]
    while True:
        parameters = torch.cat([conditional.parameters for conditional in each])
        values, ends = (yield Conditional(each[0].observation, parameters)), list[Tensor]()
        for i, rows in enumerate(values.split(sizes)):
            try:
                each[i] = programs[i].send(rows)
            except StopIteration as end:
                ends.append(end.value)
        if ends:
            return torch.cat(ends)


def looked_up(walk: Walk, known: Ints) -> list[Interval]:
    """The intervals of known numbers (B, C, ...) in the tables of a walk over their second axis."""
    return [table.interval(known[:, part].reshape(-1)) for part, table in walk]


def pop_into(known: Ints, walk: Walk, stack: Stack | Growing) -> None:
    """Fill `known` (B, C, ...), which the walk reads as it goes, with what is popped off a stack."""
    for part, table in walk:
        known[:, part] = stack.pop(table).reshape(len(known), -1, *known.shape[2:])


def padded(x: Tensor, size: int) -> Tensor:
    """x with its first row repeated until there are `size` rows."""
    return torch.cat([x, x[:1].expand(size - len(x), *x.shape[1:])]) if len(x) < size else x


def _first(conditional: Conditional, rows: int) -> Conditional:
    return Conditional(conditional.observation, conditional.parameters[:rows])
