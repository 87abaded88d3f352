"""Dilated convolutions over a sequence in which output i depends on inputs before i alone.

"WaveNet: A Generative Model for Raw Audio" (van den Oord and others, 2016); as in "Deep Generative Modeling"
(Tomczak, 2022), chapter 2: the first convolution leaves out its own site (type A), later ones include it (type B).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Ring:
    """The last inputs of one causal convolution, and its weights laid out for one site at a time."""

    def __init__(self, conv: nn.Conv1d, n: int) -> None:
        reach, weight = (conv.kernel_size[0] - 1) * conv.dilation[0] + 1, conv.weight
        self.inputs = weight.new_zeros(n, reach, conv.in_channels)
        at = torch.arange(reach, device=weight.device)[:, None]
        back = torch.arange(reach - 1, -1, -conv.dilation[0], device=weight.device)
        self.taps = ((at - back) % reach).unbind()  # where each tap of the kernel stands when the newest is at `at`
        self.weight = weight.permute(2, 1, 0).flatten(0, 1).contiguous()  # (kernel * in, out)
        self.at = 0

    def push(self, x_i: Tensor, bias: Tensor) -> Tensor:
        """Put in (B, in); the convolution's newest output plus `bias`, (B, out)."""
        self.inputs[:, self.at] = x_i
        taps = self.inputs.index_select(1, self.taps[self.at]).flatten(1)
        self.at = (self.at + 1) % len(self.taps)
        return torch.addmm(bias, taps, self.weight)


@dataclass
class CausalCache:
    """What a walk over the sites keeps: one ring a layer, and each layer's bias with the class's part in it."""

    rings: list[Ring]
    bias: list[Tensor]  # (B, width)
    known: int = 0


class CausalConv(nn.Module):
    """(B, features, sites) to (B, outputs, sites): a convolution of type A and `layers` of type B, `width` channels.

    Every site adds a learned position vector to the first layer; with `classes` > 0 every layer adds an embedding
    of the class. Dilations are used in turn by the later layers.
    """

    def __init__(
        self,
        sites: int,
        features: int,
        outputs: int,
        width: int,
        layers: int,
        classes: int,
        residual: bool,
        kernel: int,
        inner_kernel: int,
        dilations: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.sites, self.residual = sites, residual
        self.first = nn.Conv1d(features, width, kernel)
        self.position = nn.Parameter(torch.randn(width, sites) * 0.1)
        self.inner = nn.ModuleList(
            nn.Conv1d(width, width, inner_kernel, dilation=dilations[i % len(dilations)]) for i in range(layers)
        )
        self.head = nn.Conv1d(width, outputs, 1)
        self.classes = nn.ModuleList(nn.Embedding(classes, width) for _ in range(layers + 1 if classes else 0))

    def forward(self, x: Tensor, y: Tensor | None = None, dropout: float = 0.0) -> Tensor:
        # type A: kernel sites before its own; the padding of k in front leaves one output too many at the end
        h = self.first(F.pad(x, (self.first.kernel_size[0], -1))) + self.position
        h = h if y is None else h + self.classes[0](y)[:, :, None]
        for number, conv in enumerate(self.inner, 1):
            u = conv(F.pad(F.silu(h), ((conv.kernel_size[0] - 1) * conv.dilation[0], 0)))
            u = u if y is None else u + self.classes[number](y)[:, :, None]
            u = F.dropout(u, dropout) if dropout else u
            h = h + u if self.residual else u
        return self.head(F.silu(h))

    def start(self, n: int, y: Tensor | None = None) -> tuple[CausalCache, Tensor]:
        """The cache before the first site, and that site's outputs (n, outputs)."""
        bias = [conv.bias.expand(n, -1) for conv in (self.first, *self.inner)]
        if y is not None:
            bias = [b + embedding(y) for b, embedding in zip(bias, self.classes, strict=True)]
        cache = CausalCache([Ring(conv, n) for conv in (self.first, *self.inner)], bias)
        return cache, self._outputs(cache, bias[0] + self.position[:, 0])

    def step(self, cache: CausalCache, x_i: Tensor) -> Tensor | None:
        """Put in a site's features (B, features); the next site's outputs, None after the last."""
        cache.known += 1
        if cache.known == self.sites:
            return None
        return self._outputs(cache, cache.rings[0].push(x_i, cache.bias[0] + self.position[:, cache.known]))

    def _outputs(self, cache: CausalCache, h: Tensor) -> Tensor:
        for ring, bias in zip(cache.rings[1:], cache.bias[1:], strict=True):
            u = ring.push(F.silu(h), bias)
            h = h + u if self.residual else u
        return F.linear(F.silu(h), self.head.weight[:, :, 0], self.head.bias)
