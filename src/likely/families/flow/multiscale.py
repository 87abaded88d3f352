"""Flows on images at several scales: one container for every kind of trunk.

A level works at one resolution; between levels 2x2 pixels become four channels. A trunk either factors half of the
channels out after every level but the last (RealNVP, Glow) or keeps them all (residual flows).

"Density estimation using Real NVP" (Dinh, Sohl-Dickstein, Bengio, 2017), section 3.6.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from likely.families.flow.transforms import Answer, Chain, Transform, Volume, no_change

Shape = tuple[int, int, int]
T = TypeVar("T")


class Squeeze(Transform):
    """2x2 pixels become four channels: (B, C, H, W) to (B, 4C, H/2, W/2)."""

    # by reshaping, because torch's pixel_unshuffle leaves a batch of no rows in the wrong shape
    def forward(self, x: Tensor, y: Tensor | None = None, volume: Volume | None = None) -> Answer:
        b, c, h, w = x.shape
        z = x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4)
        return z.reshape(b, 4 * c, h // 2, w // 2), no_change(x)

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        b, c, h, w = z.shape
        x = z.reshape(b, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
        return x.reshape(b, c // 4, 2 * h, 2 * w)


class Multiscale(Transform):
    """Levels of a flow on images; if `factor`, half of the channels leave for z after every level but the last.

    x (B, C, H, W) to one flat z (B, D), the parts that left first coming first.
    """

    def __init__(self, levels: Sequence[Transform], shapes: Sequence[Shape], *, factor: bool = True) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)
        self.shapes = list(shapes)  # of each level's output, (C, H, W)
        self.factor = factor

    def forward(self, x: Tensor, y: Tensor | None = None, volume: Volume | None = None) -> Answer:
        total, left = no_change(x), []
        for level, shape in zip(self.levels, self.shapes, strict=True):
            x, log_det = level(x, y, volume)
            total = total + log_det
            if self.factor and shape is not self.shapes[-1]:
                x, out = x[:, : shape[0] // 2], x[:, shape[0] // 2 :]
                left.append(out.flatten(1))
        return torch.cat([*left, x.flatten(1)], 1), total

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        leaving = [(c - c // 2, h, w) for c, h, w in self.shapes[:-1]] if self.factor else []
        parts = list(z.split([math.prod(shape) for shape in (*leaving, self.shapes[-1])], 1))
        x = parts.pop().reshape(-1, *self.shapes[-1])
        for level in reversed(self.levels):
            if self.factor and level is not self.levels[-1]:
                x = torch.cat([x, parts.pop().reshape(-1, *leaving.pop())], 1)
            x = level.inverse(x, y)  # ty: ignore
        return x


class Level(NamedTuple):
    """Where a level of a `pyramid` stands, for the function that makes its transforms."""

    shape: Shape
    """(C, H, W) inside the level, after any squeeze."""
    first: bool
    last: bool


def pyramid(
    shape: Shape,
    most: int,
    parts: Callable[[Level], list[Transform]],
    *,
    before: Sequence[Transform] = (),
    factor: bool = True,
    squeeze_first: bool = True,
) -> Multiscale:
    """Levels that halve the resolution, at most `most`: `before` the first squeeze, then `parts(level)` in each.

    A level whose height or width is odd does not squeeze and is the last one. Without `squeeze_first` the first level
    works at full resolution, as in residual flows; `factor` as for `Multiscale`.
    """
    channels, height, width = shape
    levels: list[Transform] = []
    shapes: list[Shape] = []
    last = False
    while not last:
        squeeze = (squeeze_first or bool(levels)) and not (height % 2 or width % 2)
        if squeeze:
            channels, height, width = 4 * channels, height // 2, width // 2
        odd = bool(height % 2 or width % 2)
        last = len(levels) + 1 == most or odd
        level = Level((channels, height, width), first=not levels, last=last)
        levels.append(Chain([*(before if not levels else ()), *([Squeeze()] if squeeze else []), *parts(level)]))
        shapes.append(level.shape)
        channels = channels // 2 if factor else channels
    return Multiscale(levels, shapes, factor=factor)


def with_features(model: nn.Module, run: Callable[[], T]) -> tuple[T, list[Tensor]]:
    """run() and what left every level of the model's trunk meanwhile, (B, C, H, W) each; nothing without levels."""
    seen: list[Tensor] = []
    levels = [level for part in model.modules() if isinstance(part, Multiscale) for level in part.levels]
    hooks = [level.register_forward_hook(lambda _level, _x, answer: seen.append(answer[0])) for level in levels]
    try:
        return run(), seen
    finally:
        for hook in hooks:
            hook.remove()
