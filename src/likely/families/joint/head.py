"""The classifier of a hybrid: it reads what leaves every scale of an invertible trunk."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from likely.space import Integers


class Reader(nn.Module):
    """One scale's features as `width` numbers: (B, C, H, W) or (B, D) to (B, width).

    On images a 3x3 convolution, a group norm (every row by itself; no batch norm, for a row's answer must not depend
    on its neighbours), SiLU and the mean over the image; on vectors one hidden layer.
    """

    def __init__(self, shape: torch.Size, width: int) -> None:
        super().__init__()
        self.image = len(shape) == 3
        if self.image:
            self.layer: nn.Module = nn.Conv2d(shape[0], width, 3, padding=1)
            self.norm: nn.Module = nn.GroupNorm(math.gcd(width, max(1, width // 16)), width)
        else:
            self.layer, self.norm = nn.Linear(shape.numel(), width), nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        h = F.silu(self.norm(self.layer(features if self.image else features.flatten(1))))
        return h.mean((2, 3)) if self.image else h


class Pool(nn.Module):
    """One scale's features as they are: the mean over an image, a vector flat."""

    def forward(self, features: Tensor) -> Tensor:
        return features.mean((2, 3)) if features.ndim == 4 else features.flatten(1)


class Head(nn.Module):
    """Logits (B, K) of the labels `condition` from the features of every scale.

    Each scale is read on its own, the readings are joined, and one linear layer makes logits of them. `shapes` are
    those of the features without the batch: (C, H, W) images, everything else taken as vectors. With `width` 0 the
    logits are linear in the features, a generalised linear model ("Hybrid Models with Deep and Invertible Features",
    Nalisnick, Matsukawa, Teh, Gorur, Lakshminarayanan, 2019).
    """

    def __init__(self, shapes: Sequence[torch.Size], condition: Integers, width: int = 64) -> None:
        super().__init__()
        self.condition = condition
        self.readers = nn.ModuleList(Reader(shape, width) if width else Pool() for shape in shapes)
        sizes = [width or (shape[0] if len(shape) == 3 else shape.numel()) for shape in shapes]
        self.last = nn.Linear(sum(sizes), condition.levels)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.last(torch.cat([read(f) for read, f in zip(self.readers, features, strict=True)], 1))
