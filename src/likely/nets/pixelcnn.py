"""Gated convolutions over a grid in which output (r, c) depends on inputs before (r, c) in raster order alone.

"Conditional Image Generation with PixelCNN Decoders" (van den Oord and others, 2016), section 2.2: a vertical stack
sees all rows above, a horizontal stack the pixels to the left and, through the vertical one, everything above; so
there is no blind spot. Both are gated, tanh(a) * sigmoid(b). A vertical feature at row r depends on rows before r
only, so the horizontal stack may read it where it stands.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def gate(u: Tensor) -> Tensor:
    """tanh(a) * sigmoid(b) of the two halves of the channels."""
    a, b = u.chunk(2, 1)
    return a.tanh() * b.sigmoid()


class Layer(nn.Module):
    """One layer of both stacks; the first reads pixels and leaves its own row or pixel out (type A)."""

    def __init__(self, inputs: int, width: int, kernel: int, dilation: int, classes: int, first: bool) -> None:
        super().__init__()
        self.first, self.dilation = first, dilation
        self.side = kernel // 2  # columns to either side, kernel odd
        self.rows = self.side if first else self.side + 1  # rows above, and in later layers the row itself
        self.cols = self.side if first else self.side + 1  # likewise the pixels to the left
        self.vertical = nn.Conv2d(inputs, 2 * width, (self.rows, 2 * self.side + 1), dilation=dilation)
        self.horizontal = nn.Conv2d(inputs, 2 * width, (1, self.cols), dilation=dilation)
        self.down = nn.Conv2d(2 * width, 2 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        self.classes = nn.Embedding(classes, 4 * width) if classes else None

    def forward(self, v: Tensor, h: Tensor, y: Tensor | None, dropout: float) -> tuple[Tensor, Tensor]:
        """What the layer adds to v and h, both (B, width, H, W)."""
        above, left, side = (self.rows - 1) * self.dilation, (self.cols - 1) * self.dilation, self.side * self.dilation
        shift = int(self.first)  # type A: one more row (pixel) of zeros in front, the last one off
        u = self.vertical(F.pad(v, (side, side, above + shift, -shift)))
        w = self.horizontal(F.pad(h, (left + shift, -shift))) + self.down(u)
        if self.classes is not None:
            for_v, for_h = self.classes(y)[:, :, None, None].chunk(2, 1)
            u, w = u + for_v, w + for_h
        w = gate(w)
        return gate(u), self.out(F.dropout(w, dropout) if dropout else w)


class LayerCache:
    """The rows and pixels that one layer still needs, and its weights laid out for a pixel at a time.

    `pixels` holds a row of inputs behind `span - 1` zeros, so that the taps of column c begin at c and end with the
    newest input. What is left there of the row above is overwritten before it is read.
    """

    def __init__(self, layer: Layer, n: int, width: int, y: Tensor | None) -> None:
        self.layer, weight = layer, layer.horizontal.weight
        self.rows = [weight.new_zeros(n, weight.shape[1], 1, width)] * ((layer.rows - 1) * layer.dilation + 1)
        self.span = (layer.cols - 1) * layer.dilation + 1
        self.pixels = weight.new_zeros(n, self.span - 1 + width, weight.shape[1])
        self.weight = weight[:, :, 0].permute(2, 1, 0).flatten(0, 1).contiguous()  # (cols * in, 2 * width)
        self.out = layer.out.weight[:, :, 0, 0].T.contiguous()
        self.classes = None if y is None else layer.classes(y)[:, :, None, None].chunk(2, 1)
        self.down: tuple[Tensor, ...] = ()  # what the vertical stack and the bias give each pixel of the row

    def row(self, v: Tensor) -> Tensor:
        """Put in the newest row of vertical inputs (B, in, 1, W); the vertical features of the current row."""
        self.rows = [*self.rows[1:], v]
        side, conv = self.layer.side * self.layer.dilation, self.layer.vertical
        window = F.pad(torch.cat(self.rows[:: self.layer.dilation], 2), (side, side))
        u = F.conv2d(window, conv.weight, conv.bias, dilation=(1, self.layer.dilation))
        down = self.layer.down(u) + self.layer.horizontal.bias[:, None, None]
        if self.classes is not None:
            u, down = u + self.classes[0], down + self.classes[1]
        self.down = down[:, :, 0].unbind(2)
        return gate(u)

    def pixel(self, column: int, h: Tensor | None) -> Tensor:
        """Put in the newest horizontal input (B, in), None for the zeros in front of a row; this column's features."""
        end = column + self.span
        if h is not None:
            self.pixels[:, end - 1] = h
        taps = self.pixels[:, column : end : self.layer.dilation].flatten(1)
        return torch.addmm(self.layer.out.bias, gate(torch.addmm(self.down[column], taps, self.weight)), self.out)


@dataclass
class PixelCache:
    """What a walk over the pixels keeps."""

    layers: list[LayerCache]
    row: Tensor  # (B, features, 1, W), pixels of the current row as they come
    known: int = 0


class PixelCNN(nn.Module):
    """(B, features, H, W) to (B, outputs, H, W) by a layer of type A and `layers` of type B, `width` channels.

    With `classes` > 0 both stacks of every layer add an embedding of the class. Dilations are used in turn by the
    later layers. Kernels are odd and at least 3.
    """

    def __init__(
        self,
        size: tuple[int, int],
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
        self.size, self.features, self.residual = size, features, residual
        later = [
            Layer(width, width, inner_kernel, dilations[i % len(dilations)], classes, False) for i in range(layers)
        ]
        self.layers = nn.ModuleList([Layer(features, width, kernel, 1, classes, True), *later])
        self.middle = nn.Conv2d(width, width, 1)
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor, y: Tensor | None = None, dropout: float = 0.0) -> Tensor:
        v = h = x.movedim(1, 3).contiguous().movedim(3, 1)  # channels last: a quarter faster on a CPU
        for layer in self.layers:
            v_next, h_next = layer(v, h, y, dropout)
            joined = self.residual and not layer.first
            v, h = (v + v_next, h + h_next) if joined else (v_next, h_next)
        return self.head(F.silu(self.middle(F.silu(h))))

    def start(self, n: int, y: Tensor | None = None) -> tuple[PixelCache, Tensor]:
        """The cache before the first pixel, and that pixel's outputs (n, outputs)."""
        width = self.size[1]
        layers = [LayerCache(layer, n, width, y) for layer in self.layers]
        cache = PixelCache(layers, self.head.weight.new_zeros(n, self.features, 1, width))
        return cache, self._outputs(cache, None)

    def step(self, cache: PixelCache, x_i: Tensor) -> Tensor | None:
        """Put in a pixel's features (B, features); the next pixel's outputs, None after the last."""
        height, width = self.size
        cache.row[:, :, 0, cache.known % width] = x_i
        cache.known += 1
        return None if cache.known == height * width else self._outputs(cache, x_i)

    def _outputs(self, cache: PixelCache, newest: Tensor | None) -> Tensor:
        column = cache.known % self.size[1]
        if column == 0:  # a new row: all vertical features of it, from the row that has just been completed
            v, newest = cache.row.clone(), None
            for layer in cache.layers:
                v_next = layer.row(v)
                v = v + v_next if self.residual and not layer.layer.first else v_next
        h = cache.layers[0].pixel(column, newest)
        for layer in cache.layers[1:]:
            h_next = layer.pixel(column, h)
            h = h + h_next if self.residual else h_next
        h = F.silu(F.linear(F.silu(h), self.middle.weight[:, :, 0, 0], self.middle.bias))
        return F.linear(h, self.head.weight[:, :, 0, 0], self.head.bias)
