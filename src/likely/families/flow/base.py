"""What every invertible model over the reals has, whatever its transforms: z = f(x) and z standard normal.

log p(x) = log N(z; 0, I) + log |det dz/dx|. Everything that shapes the density is a transform, the data's units
(`Standardise`), the learned prior (`LearnedNormal`) and Glow's Gaussian splits included, so z is standard normal as a
whole.
"""

from __future__ import annotations

import math
from abc import ABC
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from likely.families.flow.multiscale import with_features
from likely.families.flow.transforms import Transform, Volume, start_from
from likely.noise import Noise
from likely.space import Integers, Reals, Space


class FlowModel(nn.Module, ABC):
    """An invertible model over `Reals`. Abstract; verbs here: Samples, Invertible (z is flat, (B, D)).

    `shape` is what the transforms see: (C, H, W), or (D,) where x is taken as a vector. y is a label or a real vector.
    """

    players = ("model",)

    def __init__(
        self, config: Any, space: Reals, condition: Space | None, shape: tuple[int, ...], transform: Transform
    ) -> None:
        super().__init__()
        self.config, self.space, self.condition = config, space, condition
        self.shape, self.transform = shape, transform

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x (B, *shape) to z (B, D)."""
        return self._forward(x, y)[0]

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """z (B, D) to x (B, *shape)."""
        x = self.transform.inverse(z.to(self._dtype), self._context(y))
        return x.reshape(-1, *self.space.shape)

    def sample(self, n: int, y: Tensor | None = None, *, noise: Noise) -> Tensor:
        """n draws, (n, *shape)."""
        return self.decode(noise.normal((self.space.dims,), dtype=self._dtype), y)

    def features(self, x: Tensor, y: Tensor | None = None) -> list[Tensor]:
        """What a classifier may read: what leaves each scale, (B, C, H, W), or [z] (B, D) where there are none."""
        z, seen = with_features(self, lambda: self.encode(x, y))
        return seen or [z]

    def prepare(self, x: Tensor, y: Tensor | None = None, *, noise: Noise) -> None:
        """Takes the data's mean and scale, and ActNorm's start, from x; what has been started before stays."""
        start_from(self, lambda: self._forward(x, y))

    def _forward(self, x: Tensor, y: Tensor | None, volume: Volume | None = None) -> tuple[Tensor, Tensor]:
        """z (B, D) and log |det dz/dx|, (B,)."""
        z, log_det = self.transform(x.to(self._dtype).reshape(-1, *self.shape), self._context(y), volume)
        return z.flatten(1), log_det

    def _context(self, y: Tensor | None) -> Tensor | None:
        return as_context(self.condition, y, self._dtype, image=len(self.shape) == 3)

    @property
    def _dtype(self) -> Any:
        return next(self.parameters()).dtype


def log_normal(z: Tensor) -> Tensor:
    """log N(z; 0, I) of z (B, D), (B,) in nats."""
    return -0.5 * z.square().sum(1) - 0.5 * math.log(2 * math.pi) * z.shape[1]


def context_size(condition: Space | None) -> int:
    """Numbers that y becomes: 0 without a condition; raises `ValueError` for one that no flow can take."""
    if condition is None:
        return 0
    if isinstance(condition, Integers) and condition.shape == ():
        return condition.levels
    if isinstance(condition, Reals):
        return condition.dims
    raise ValueError(f"condition is {condition}; a flow accepts a label, Integers((), classes), or Reals")


def as_context(condition: Space | None, y: Tensor | None, dtype: torch.dtype, *, image: bool) -> Tensor | None:
    """y as numbers (B, F), or (B, F, 1, 1) beside images; labels are one-hot. A y that is wanting is a `ValueError`."""
    if condition is None:
        return None
    if y is None:
        raise ValueError(f"y is None, but this flow models p(x given y); give y in {condition}")
    y = F.one_hot(y.long(), condition.levels) if isinstance(condition, Integers) else y
    y = y.to(dtype).flatten(1)
    return y[:, :, None, None] if image else y
