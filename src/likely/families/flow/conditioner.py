"""The network inside a coupling: from the half that is kept (and a context) to the numbers that move the other half."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from likely.families.flow.transforms import ActNorm

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu_, "silu": F.silu}


class Conditioner(nn.Module):
    """(B, inputs, ...) and a context (B, context, ...) to (B, outputs, ...); zero at the start.

    On vectors an MLP; on images convolutions 3x3, 1x1, ..., 3x3. The context is added to the first hidden layer. On
    images the last layer has a learned log-gain, three times as quick as its weights, and `norm` puts an ActNorm
    behind every hidden layer: both as in Glow's code.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int,
        hidden: int,
        activation: str,
        context: int = 0,
        image: bool = False,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]

        def layer(before: int, after: int, kernel: int) -> nn.Module:
            return nn.Conv2d(before, after, kernel, padding=kernel // 2) if image else nn.Linear(before, after)

        sizes = [inputs, *[width] * hidden]
        self.layers = nn.ModuleList(layer(a, b, 3 if i == 0 else 1) for i, (a, b) in enumerate(pairwise(sizes)))
        self.norms = nn.ModuleList(ActNorm(width) for _ in range(hidden if norm else 0))
        self.inject = layer(context, width, 1) if context else None
        self.last = layer(width, outputs, 3)
        nn.init.zeros_(self.last.weight)  # ty: ignore
        nn.init.zeros_(self.last.bias)  # ty: ignore
        self.log_gain = nn.Parameter(torch.zeros(outputs, 1, 1)) if image else None

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i == 0 and self.inject is not None and y is not None:
                x = x + self.inject(y)
            if len(self.norms):
                x = self.norms[i](x)[0]
            x = self.activation(x)
        x = self.last(x)
        return x if self.log_gain is None else x * (3 * self.log_gain).exp()
