"""Codes: what a model says of x is what x costs, and x comes back."""

from __future__ import annotations

import math
from typing import Any

import torch

from likely.coding.ans import Stack
from likely.coding.choice import coded, scheme_for, schemes_of
from likely.coding.classes import Classes
from likely.coding.schemes import Scheme, Sequential
from likely.conformance.report import Failed, Skip, promise
from likely.conformance.subject import Subject, inputs
from likely.logprob import scoring
from likely.noise import Noise
from likely.verbs import Exact, Samples, has

ROWS, GROUP = 30, 7


@promise
def round_trip(subject: Subject) -> str:
    """C1 What is compressed comes back exactly, and costs what the model says.

    30 rows, half of them draws and half anything of the space, are compressed by every scheme that serves the model,
    in groups of 7, and decoded in groups of another size; all must be there bit for bit. Where the density is exact,
    the integer tables charge each row at most 0.03 bits a number more or less than -log2 p(x), which is many times
    what the grid of 2^-8 can move it; rows of more than 16 bits are not looked at, as no symbol costs more than 24.
    A joint's rows are compressed with their labels, which costs -log2 p(x, y), and without, which costs -log2 p(x).
    """
    try:
        schemes = schemes_of(subject.model)
    except TypeError as error:
        raise Skip(str(error)) from error
    worst: float | None = None
    for state, whole in subject.variants().items():
        model = coded(whole)
        x, given = _rows(subject, model)
        for y in (given, None) if isinstance(model, Classes) else (given,):
            for scheme in schemes:
                with scoring(model):
                    made = scheme_for(model, ROWS, GROUP, scheme.name, y is not None)
                    _back(made, x, y, f"{scheme.name}, {state}{', without labels' * (y is not given)}")
            if Sequential in schemes and has(model, Exact):
                worst = max(worst or 0.0, _gap(model, x, y))
                if not worst <= 0.03:
                    told = f"the tables charge {worst:.3f} bits a number more or less than log_prob says"
                    raise Failed(f"{told} ({state}{', without labels' * (y is not given)})")
    cost = "" if worst is None else f"; the tables' cost within {worst:.1e} bits a number of log_prob"
    return f"{ROWS} rows by {', '.join(scheme.name for scheme in schemes)}{cost}"


def _rows(subject: Subject, model: Any) -> tuple[Any, Any]:
    x, y = inputs(subject.space, ROWS, subject.seed), None
    if subject.takes_y:
        y = inputs(subject.condition, ROWS, subject.seed + 1)
        y = y.float() if y.is_floating_point() else y  # as files hold it
    if has(model, Samples):
        with scoring(model):
            draws = model.sample(ROWS, y, noise=Noise(subject.seed + 2, ROWS))
        x = torch.where((torch.arange(ROWS) % 2 == 0).reshape(-1, *[1] * len(subject.space.shape)), draws, x)
    return x, y


def _back(scheme: Scheme, x: Any, y: Any, what: str) -> None:
    data = scheme.encode(x, y).to_bytes()
    for size in (GROUP, GROUP + 1):
        try:
            stack = Stack.from_bytes(data, scheme.borrowing)
            found, labels = scheme.sized(size).decode(stack, len(x))
        except ValueError as error:
            raise Failed(f"what was compressed cannot be decoded in batches of {size} ({what}): {error}") from error
        if not torch.equal(found.long(), x.long()) or not (labels is y is None or torch.equal(labels, y)):
            raise Failed(f"what was compressed comes back as something else in batches of {size} ({what})")
        if not stack.is_empty():
            raise Failed(f"in batches of {size} the coder does not end where it began ({what})")


def _gap(model: Any, x: Any, y: Any) -> float:
    with scoring(model):
        nats = model.log_prob(x, y).double()
        if y is not None and isinstance(model, Classes):
            nats = nats + model.log_prior()[y]
        says = -nats / math.log(2)
        charged = scheme_for(model, len(x), GROUP, labelled=y is not None).bits(x, y)  # ty: ignore[unresolved-attribute]
    near = says <= 16
    return float((charged - says)[near].abs().max()) / model.space.dims if near.any() else 0.0
