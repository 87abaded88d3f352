"""A network of integers: what it answers does not depend on how its sums are added up.

Weights, activations and biases are small integers held in floating point. Every sum of products stays below 2^24,
which `bound` works out from the shape alone, so it is exact in float32 in any order, with or without fused
multiply-adds, on every processor, in any batch; float64 gives the same numbers. Division is by powers of two, then
floor and clamp: exact too. ("Integer networks for data compression with latent-variable models", Balle, Johnston,
Minnen, 2019; gradients pass straight through the roundings, as in "Estimating or propagating gradients through
stochastic neurons", Bengio, Leonard, Courville, 2013.)

Products of matrices alone, no convolutions: libraries run those by Winograd's or Fourier's transforms as they please,
and these are not exact.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn

ONE = 32
"""Activations are in units of 1/32 and lie in 0 .. TOP; inputs in -TOP .. TOP."""
TOP = 255
_WEIGHT, _MOST = 64, 127  # hidden weights: units of 1/64, |w| <= 127
_LAST, _MOST_LAST = 128, 255  # weights to the outputs: units of 1/128
_MOST_BIAS = 2**20
OUTPUT = 256
"""Outputs are in units of 1/256."""


def bound(inputs: int, width: int) -> int:
    """The largest magnitude that any partial sum of a network can reach."""
    return max(max(inputs, width) * _MOST, (inputs + width) * _MOST_LAST) * TOP + _MOST_BIAS


class IntegerNet(nn.Module):
    """`hidden` layers of `width` units; the outputs see the last of them and the inputs.

    The parameters are real, and rounded to their grid wherever they are used: what is trained is the integer network.
    """

    def __init__(self, inputs: int, width: int, hidden: int, outputs: int) -> None:
        super().__init__()
        if bound(inputs, width) >= 2**24:
            raise ValueError(f"width is {width} with {inputs} inputs: sums may reach 2^24; accepts less")
        sizes = [inputs, *[width] * hidden]
        pairs = list(itertools.pairwise(sizes))
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(b, a) * math.sqrt(2 / a)) for a, b in pairs)
        self.biases = nn.ParameterList(nn.Parameter(0.1 * torch.randn(b)) for _, b in pairs)
        self.last = nn.Parameter(0.05 * torch.randn(outputs, width + inputs) / math.sqrt(width))
        self.offset = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, *, whole: bool = True) -> Tensor:
        """Outputs (P, N) of inputs (F, N), integers both; without `whole` the outputs alone are left unrounded."""
        a = x
        for weight, bias in zip(self.weights, self.biases, strict=True):
            total = torch.addmm(_grid(bias, ONE * _WEIGHT, _MOST_BIAS)[:, None], _grid(weight, _WEIGHT, _MOST), a)
            a = _Activation.apply(total)
        own, skip = _grid(self.last, _LAST, _MOST_LAST).tensor_split([len(a)], 1)
        unit = ONE * _LAST // OUTPUT
        offset = self.offset * (OUTPUT * unit)
        if whole:
            offset = offset.round().clamp(-_MOST_BIAS, _MOST_BIAS)
        total = torch.addmm(offset[:, None], own, a) + skip @ x
        return ((total + unit // 2) / unit).floor() if whole else total / unit

    @torch.no_grad()
    def settle(self) -> None:
        """Put the parameters on their grids: every answer stays what it is."""
        for p in self.weights:
            p.copy_(_grid(p, _WEIGHT, _MOST) / _WEIGHT)
        for p in self.biases:
            p.copy_(_grid(p, ONE * _WEIGHT, _MOST_BIAS) / (ONE * _WEIGHT))
        self.last.copy_(_grid(self.last, _LAST, _MOST_LAST) / _LAST)
        self.offset.copy_(_grid(self.offset, ONE * _LAST, _MOST_BIAS) / (ONE * _LAST))


class _Activation(torch.autograd.Function):
    """A sum of products as an activation: over 64, rounded, clamped to 0 .. TOP. Derivative 1/64 in between."""

    @staticmethod
    def forward(ctx: Any, total: Tensor) -> Tensor:
        a = ((total + _WEIGHT // 2) / _WEIGHT).floor_().clamp_(0, TOP)
        ctx.save_for_backward(a)
        return a

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (a,) = ctx.saved_tensors
        return grads[0] * ((a > 0) & (a < TOP)) / _WEIGHT


def _grid(value: Tensor, units: int, most: int) -> Tensor:
    """A parameter in integers: `value * units`, rounded, at most `most` either way; derivative `units` in between."""
    t = value * units
    return (t + (t.round() - t).detach()).clamp(-most, most)
