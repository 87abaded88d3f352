"""Vector fields dx/dt = f(x, t, y), and how their divergence is found.

For an MLP the divergence needs no derivative by x at all. With one or two hidden layers, s1 = s(W1 x + ..),
s2 = s(W2 s1 + ..), f = W3 s2, the trace of W3 D2 W2 D1 W1 is

    div f = d2^T M d1,   M = W2 * (W1 W3)^T (entry by entry),   d = s'(..),

one product with a (width, width) matrix that a whole solution shares, whatever the dimension of x. Other fields have
it by tangents (df/dx) e that are carried through the layers beside x: along all axes e at once, or along one random
probe with E[e e^T] = I, for then E[e^T (df/dx) e] = div f ("A stochastic estimator of the trace of the influence
matrix", Hutchinson, 1990).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from likely.families.flow.transforms import Answer, Volume, no_change

FREQUENCIES = 2
"""Sines and cosines of t beside t itself."""
AXES = 64
"""Axes whose derivatives are taken at once."""


def _silu(a: Tensor) -> tuple[Tensor, Tensor]:
    s = a.sigmoid()
    h = a * s
    return h, s + h * (1 - s)


def _tanh(a: Tensor) -> tuple[Tensor, Tensor]:
    h = a.tanh()
    return h, 1 - h * h


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "tanh": torch.tanh}
WITH_SLOPE: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {"silu": _silu, "tanh": _tanh}


class Field(nn.Module, ABC):
    """f(t, x, y): t is (1 or B, 1), x (B, ...), y a context (B, F) or None; zero at the start. Abstract."""

    @abstractmethod
    def forward(self, t: Tensor, x: Tensor, y: Tensor | None) -> Tensor:
        """dx/dt, shaped like x."""

    @abstractmethod
    def with_tangents(self, t: Tensor, x: Tensor, y: Tensor | None, e: Tensor) -> Answer:
        """dx/dt and (df/dx) e, (A, B, ...), along A directions e (A, 1 or B, ...) for every row."""


class MlpField(Field):
    """On vectors (B, D); time and context stand beside x."""

    def __init__(self, dims: int, width: int, hidden: int, activation: str, context: int = 0) -> None:
        super().__init__()
        self.dims, self.activation = dims, activation
        self.first = nn.Linear(dims + 1 + 2 * FREQUENCIES + context, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(hidden - 1))
        self.last = nn.Linear(width, dims)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, t: Tensor, x: Tensor, y: Tensor | None) -> Tensor:
        act = ACTIVATIONS[self.activation]
        h = act(self.first(_beside(x, condition_on(t, y))))
        for layer in self.layers:
            h = act(layer(h))
        return self.last(h)

    def with_tangents(self, t: Tensor, x: Tensor, y: Tensor | None, e: Tensor) -> Answer:
        act = WITH_SLOPE[self.activation]
        h, d = act(self.first(_beside(x, condition_on(t, y))))
        e = F.linear(e, self.first.weight[:, : self.dims]) * d
        for layer in self.layers:
            h, d = act(layer(h))
            e = F.linear(e, layer.weight) * d
        return self.last(h), F.linear(e, self.last.weight)

    @property
    def closed(self) -> bool:
        """Whether `with_divergence` is there for so many layers."""
        return len(self.layers) <= 1

    def mixed(self) -> Tensor:
        """M: (width, width), or with one hidden layer the diagonal of W1 W2, (width,)."""
        first, last = self.first.weight[:, : self.dims], self.last.weight
        if not len(self.layers):
            return (first * last.T).sum(1)
        return self.layers[0].weight * (first @ last).T

    def with_divergence(self, t: Tensor, x: Tensor, y: Tensor | None, mixed: Tensor) -> Answer:
        """f and div f (B,), with `mixed` from `mixed()`."""
        act = WITH_SLOPE[self.activation]
        h, d1 = act(self.first(_beside(x, condition_on(t, y))))
        if not len(self.layers):
            return self.last(h), d1 @ mixed
        h, d2 = act(self.layers[0](h))
        return self.last(h), ((d1 @ mixed.T) * d2).sum(1)


class ConvField(Field):
    """On images (B, C, H, W): 3x3 convolutions, all but the first with a skip; time and context move the channels of
    every hidden layer."""

    def __init__(self, channels: int, width: int, hidden: int, activation: str, context: int = 0) -> None:
        super().__init__()
        self.activation = activation
        self.layers = nn.ModuleList(_conv(width if i else channels, width) for i in range(hidden))
        self.inject = nn.ModuleList(nn.Linear(1 + 2 * FREQUENCIES + context, width) for _ in range(hidden))
        self.last = _conv(width, channels)
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))
        nn.init.zeros_(self.last.weight)

    def forward(self, t: Tensor, x: Tensor, y: Tensor | None) -> Tensor:
        c, act = condition_on(t, y), ACTIVATIONS[self.activation]
        for i, (layer, inject) in enumerate(zip(self.layers, self.inject, strict=True)):
            h = act(layer(x) + inject(c)[:, :, None, None])
            x = x + h if i else h
        return self.last(x) + self.bias

    def with_tangents(self, t: Tensor, x: Tensor, y: Tensor | None, e: Tensor) -> Answer:
        c, act = condition_on(t, y), WITH_SLOPE[self.activation]
        for i, (layer, inject) in enumerate(zip(self.layers, self.inject, strict=True)):
            h, d = act(layer(x) + inject(c)[:, :, None, None])
            along = _over_two(layer, e) * d
            x, e = (x + h, e + along) if i else (h, along)
        return self.last(x) + self.bias, _over_two(self.last, e)


class Rate(NamedTuple):
    """A field at one time and for one context: x to dx/dt."""

    field: Field
    t: Tensor
    y: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return self.field(self.t, x, self.y)


class Divergence(Volume, ABC):
    """The volume of a flow in time: d log |det| / dt = div g for dx/dt = g(x). Abstract; lives for one solution.

    `steps` is the fixed grid that is solved on; None asks for a solution to the tolerance.
    """

    def __init__(self, steps: int | None = None) -> None:
        self.steps = steps

    @abstractmethod
    def __call__(self, g: Any, x: Tensor) -> Answer:
        """g(x) (B, ...) and div g (B,) for a `Rate` g."""

    def row(self, i: int) -> Divergence:
        """The same for row i alone."""
        return self


class Ignored(Divergence):
    """Zero in place of the divergence: for who wants x alone."""

    def __call__(self, g: Any, x: Tensor) -> Answer:
        return g(x), no_change(x)


class ExactDivergence(Divergence):
    """In closed form where the field has it, else by the tangents along every axis."""

    def __init__(self, steps: int | None = None) -> None:
        super().__init__(steps)
        self.mixed: Tensor | None = None

    def __call__(self, g: Any, x: Tensor) -> Answer:
        if isinstance(g.field, MlpField) and g.field.closed:
            if self.mixed is None:
                self.mixed = g.field.mixed()
            return g.field.with_divergence(g.t, x, g.y, self.mixed)
        return along_axes(g, x)


class Hutchinson(Divergence):
    """e^T (df/dx) e along one probe e (B, ...) for each row, the same at all times."""

    def __init__(self, probe: Tensor, steps: int | None = None) -> None:
        super().__init__(steps)
        self.probe = probe

    def __call__(self, g: Any, x: Tensor) -> Answer:
        value, along = g.field.with_tangents(g.t, x, g.y, self.probe[None])
        return value, (along[0] * self.probe).flatten(1).sum(1)

    def row(self, i: int) -> Divergence:
        return Hutchinson(self.probe[i : i + 1], self.steps)


def along_axes(g: Rate, x: Tensor) -> Answer:
    """g(x) and div g (B,) by the tangents along `AXES` axes at once."""
    n, value, total = math.prod(x.shape[1:]), x, no_change(x)
    axes = torch.eye(n, dtype=x.dtype, device=x.device).reshape(n, 1, *x.shape[1:])
    for e in axes.split(AXES):
        value, along = g.field.with_tangents(g.t, x, g.y, e)
        total = total + (along * e).sum((0, *range(2, e.ndim)))
    return value, total


def condition_on(t: Tensor, y: Tensor | None) -> Tensor:
    """What a field is told beside x: t, sines and cosines of it, and y; (1 or B, 1 + 2 FREQUENCIES + F)."""
    angle = 2 * math.pi * t * torch.arange(1, FREQUENCIES + 1, dtype=t.dtype, device=t.device)
    times = torch.cat([t, angle.sin(), angle.cos()], 1)
    return times if y is None else torch.cat([times.expand(y.shape[0], -1), y], 1)


def _beside(x: Tensor, c: Tensor) -> Tensor:
    return torch.cat([x, c.expand(x.shape[0], -1)], 1)


def _conv(before: int, after: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1, bias=False)


def _over_two(layer: nn.Module, e: Tensor) -> Tensor:
    """A layer for images over two leading axes."""
    return layer(e.flatten(0, 1)).unflatten(0, e.shape[:2])
