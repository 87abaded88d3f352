"""Networks with a bounded Lipschitz constant that know their own derivative.

Every part can `linearise(x)`: its value and the map t -> J(x) t, which serves the fixed-point series, the whole
Jacobian and (with its graph) the gradient of either, without a pass of automatic differentiation for each product.

A linear layer is W with a spectral norm of at most c: after every update W <- W / max(1, sigma(W) / c), never scaled
up, with sigma found by power iteration on the operator as it acts: a 3x3 convolution at its real size, borders
included. The singular vectors are buffers, so that iteration goes on from where it was. What is projected is a convex
set: the average of projected weights lies in it again.

"Regularisation of neural networks by enforcing Lipschitz continuity" (Gouk, Frank, Pfahringer, Cree, 2021);
"Invertible residual networks" (Behrmann et al., 2019); "Residual flows for invertible generative modeling" (Chen,
Behrmann, Duvenaud, Jacobsen, 2019), LipSwish; "Invertible DenseNets with concatenated LipSwish" (Perugachi-Diaz,
Tomczak, Bhulai, 2021).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import cache
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Push = Callable[[Tensor], Tensor]
"""t -> J(x) t for t (..., B, *shape), or for the first rows alone of x: (b, *shape) with b < B."""


class Smooth(nn.Module, ABC):
    """A differentiable map of rows. Abstract."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Its value, (B, ...)."""

    @abstractmethod
    def linearise(self, x: Tensor) -> tuple[Tensor, Push]:
        """Its value, and its derivative there as a linear map."""


class Sequence(Smooth):
    """One map after the other."""

    def __init__(self, parts: Iterable[Smooth]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x

    def linearise(self, x: Tensor) -> tuple[Tensor, Push]:
        pushes: list[Push] = []
        for part in self.parts:
            x, push = part.linearise(x)  # ty: ignore
            pushes.append(push)

        def through(t: Tensor) -> Tensor:
            for push in pushes:
                t = push(t)
            return t

        return x, through


class Spectral(Smooth, ABC):
    """x -> W x + b with the norm of W at most `coefficient`. Abstract; `normalise` keeps the promise."""

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor, coefficient: float, left: tuple[int, ...], right: tuple[int, ...]) -> None:
        super().__init__()
        outputs, inputs = weight.shape[:2]
        # the norm of a matrix of independent entries of variance s^2 is about s (sqrt(rows) + sqrt(columns))
        deviation = 0.8 * coefficient / (math.sqrt(outputs) + math.sqrt(inputs)) / math.sqrt(weight[0, 0].numel())
        self.weight = nn.Parameter(deviation * weight)
        self.bias = nn.Parameter(torch.zeros(outputs).uniform_(-1, 1) / math.sqrt(weight[0].numel()))
        self.coefficient = coefficient
        self.register_buffer("u", F.normalize(torch.randn(left).flatten(), dim=0).reshape(left))
        self.register_buffer("v", F.normalize(torch.randn(right).flatten(), dim=0).reshape(right))

    @abstractmethod
    def along(self, t: Tensor) -> Tensor:
        """W t."""

    def linearise(self, x: Tensor) -> tuple[Tensor, Push]:
        return self(x), self.along

    @property
    def cost(self) -> int:
        """Multiply-adds of one product with W."""
        return self.weight[0].numel() * self.u.numel()


class Linear(Spectral):
    """x (..., inputs) to (..., outputs)."""

    def __init__(self, inputs: int, outputs: int, coefficient: float) -> None:
        super().__init__(torch.randn(outputs, inputs), coefficient, (outputs,), (inputs,))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def along(self, t: Tensor) -> Tensor:
        return F.linear(t, self.weight)


class Conv2d(Spectral):
    """x (..., inputs, H, W) to (..., outputs, H, W): a square kernel of odd size, the border filled with zeros."""

    def __init__(self, inputs: int, outputs: int, kernel: int, size: tuple[int, int], coefficient: float) -> None:
        self.padding = kernel // 2
        at = size if kernel > 1 else ()  # a 1x1 kernel is the same matrix everywhere
        weight = torch.randn(outputs, inputs, kernel, kernel)
        super().__init__(weight, coefficient, (outputs, *at), (inputs, *at))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, padding=self.padding)

    def along(self, t: Tensor) -> Tensor:
        y = F.conv2d(t.reshape(-1, *t.shape[-3:]), self.weight, padding=self.padding)
        return y.reshape(*t.shape[:-3], *y.shape[-3:])


class LipSwish(Smooth):
    """x -> x sigmoid(beta x) / c with beta = softplus(b) learned, c the largest slope, whatever beta is.

    `concatenated`: x -> [x sigmoid(beta x), -x sigmoid(-beta x)] / c side by side along `axis`, where the two slopes
    p and p - 1 make a Jacobian of norm sqrt(p^2 + (p - 1)^2), and c is the largest of these.
    """

    def __init__(self, *, concatenated: bool, axis: int) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.full((1,), 0.5))
        self.concatenated, self.axis = concatenated, axis
        self.bound = concatenated_bound() if concatenated else swish_bound()

    def forward(self, x: Tensor) -> Tensor:
        y = x * torch.sigmoid(F.softplus(self.b) * x)
        return (torch.cat([y, y - x], self.axis) if self.concatenated else y) / self.bound

    def linearise(self, x: Tensor) -> tuple[Tensor, Push]:
        y, slope = _Swish.apply(x, F.softplus(self.b), 1 / self.bound)
        if self.concatenated:  # -x sigmoid(-beta x) = x sigmoid(beta x) - x
            y, slope = (torch.cat([a, a - b / self.bound], self.axis) for a, b in ((y, x), (slope, 1.0)))

        def push(t: Tensor) -> Tensor:
            t = torch.cat([t, t], self.axis) if self.concatenated else t
            return t * first_rows(slope, t)

        return y, push


class _Swish(torch.autograd.Function):
    """y = c x s and its slope c (s + beta x s (1 - s)) with s = sigmoid(beta x), and the derivatives of both by hand.

    What autograd would do with these formulas in four times as many passes over memory.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, beta: Tensor, c: float) -> tuple[Tensor, Tensor]:
        scaled = beta * x
        s = torch.sigmoid(scaled)
        slope = torch.addcmul(s, scaled, s - s * s)
        return (x * s).mul_(c), slope.mul_(c)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[0], inputs[1], output[1])
        ctx.c = inputs[2]

    @staticmethod
    def backward(ctx: Any, of_y: Tensor, of_slope: Tensor) -> tuple[Tensor, Tensor, None]:  # ty: ignore
        x, beta, slope = ctx.saved_tensors
        scaled = beta * x
        s = torch.sigmoid(scaled)
        curve = (s - s * s) * ctx.c  # c s (1 - s)
        bend = curve * (2 + scaled * (1 - 2 * s)) * of_slope  # d slope / d scaled
        of_x = torch.addcmul(of_y * slope, bend, beta)
        of_beta = (x * (x * curve * of_y + bend)).sum().reshape(1)
        return of_x, of_beta, None


def first_rows(values: Tensor, t: Tensor) -> Tensor:
    """As many rows of values (B, ...) as t (..., b, ...) has."""
    rows = t.shape[-values.ndim]
    return values if rows == values.shape[0] else values[:rows]


@cache
def swish_bound() -> float:
    """sup |d/dx x sigmoid(x)|: by beta x for x it is the same for every beta."""
    return _largest(_swish_slope)


@cache
def concatenated_bound() -> float:
    """sup sqrt(p^2 + (p - 1)^2) with p the slope of x sigmoid(x)."""
    return _largest(lambda x: math.hypot(_swish_slope(x), _swish_slope(x) - 1))


def _swish_slope(x: float) -> float:
    s = 1 / (1 + math.exp(-x))
    return s * (1 + x * (1 - s))


def _largest(f: Callable[[float], float]) -> float:
    """The maximum of f over [-20, 20]: a grid, then golden sections around its best point; rounded up a little."""
    best = max((i / 100 for i in range(-2000, 2001)), key=f)
    low, high, golden = best - 0.01, best + 0.01, (math.sqrt(5) - 1) / 2
    while high - low > 1e-9:
        a, b = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, b) if f(a) > f(b) else (a, high)
    return f((low + high) / 2) * (1 + 1e-12)


@torch.no_grad()
def normalise(model: nn.Module, *, tolerance: float, rounds: int) -> None:
    """Power iteration on every `Spectral` layer, then W <- W / max(1, sigma(W) / c) where sigma is above c.

    At most `rounds` rounds, until sigma grows by less than `tolerance` in half a round. Layers of one shape iterate
    together.
    """
    layers = [part for part in model.modules() if isinstance(part, Spectral)]
    if any(layer.weight.is_meta for layer in layers):
        return
    key = lambda layer: (tuple(layer.weight.shape), tuple(layer.u.shape))  # noqa: E731
    for (_, left), group in groupby(sorted(layers, key=key), key):
        if len(left) == 1:
            _matrices(list(group), tolerance, rounds)
        else:
            for layer in group:
                _convolution(layer, tolerance, rounds)  # ty: ignore


def _matrices(layers: list[Spectral], tolerance: float, rounds: int) -> None:
    w = torch.stack([layer.weight.flatten(1) for layer in layers])  # (n, outputs, inputs)
    u = torch.stack([layer.u for layer in layers])[:, None]  # (n, 1, outputs)
    v, sigma = u, u
    for _ in range(rounds):
        v = u @ w
        half = v.norm(dim=2, keepdim=True)
        v = v / half.clamp(min=1e-30)
        u = v @ w.mT
        sigma = u.norm(dim=2, keepdim=True)
        u = u / sigma.clamp(min=1e-30)
        if bool((sigma <= half * (1 + tolerance)).all()):
            break
    for layer, u_i, v_i, sigma_i in zip(layers, u[:, 0], v[:, 0], sigma.flatten(), strict=True):
        _scale(layer, u_i, v_i, sigma_i)


def _convolution(layer: Conv2d, tolerance: float, rounds: int) -> None:
    weight, padding, u = layer.weight, layer.padding, layer.u[None]
    v, sigma = u, u
    for _ in range(rounds):
        v = F.conv_transpose2d(u, weight, padding=padding)
        half = v.norm()
        v = v / half.clamp(min=1e-30)
        u = F.conv2d(v, weight, padding=padding)
        sigma = u.norm()
        u = u / sigma.clamp(min=1e-30)
        if bool(sigma <= half * (1 + tolerance)):
            break
    _scale(layer, u[0], v[0], sigma)


def _scale(layer: Spectral, u: Tensor, v: Tensor, sigma: Tensor) -> None:
    layer.u.copy_(u)
    layer.v.copy_(v)
    layer.weight.div_((sigma / layer.coefficient).clamp(min=1))
