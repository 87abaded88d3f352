"""y as the network sees it: one vector a row, and one more that stands for no y at all."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from likely.nets.embedding import Condition
from likely.noise import Noise
from likely.space import Integers, Reals, Space


class Embedding(nn.Module):
    """Labels by a table, real vectors by an affine map; hidden rows become a learned vector of their own."""

    def __init__(self, condition: Space, size: int) -> None:
        super().__init__()
        if isinstance(condition, Integers) and condition.shape == ():
            self.read: nn.Module = nn.Embedding(condition.levels, size)
        elif isinstance(condition, Reals):
            self.read = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(condition.shape), size))
        else:
            raise ValueError(f"condition is {condition}; diffusion accepts labels, Integers((), classes), or Reals")
        self.hidden = nn.Parameter(torch.randn(size))

    def forward(self, y: Tensor | None, n: int, hide: Tensor | None = None) -> Condition:
        """The condition of n rows; rows marked in `hide` (n,), and all of them where y is None, have none.

        Nor have rows of label -1.
        """
        nothing = self.hidden.expand(n, -1)
        if y is None:
            return Condition(vector=nothing)
        if y.dtype == torch.int64:
            hide = y < 0 if hide is None else hide | (y < 0)
            seen = self.read(y.clamp(min=0))
        else:
            seen = self.read(y.to(self.hidden.dtype))
        return Condition(vector=seen if hide is None else torch.where(hide[:, None], nothing, seen))


def hidden_rows(share: float, noise: Noise) -> Tensor | None:
    """Which rows lose their condition in this step of training; (B * k,) bool, or None where none ever does."""
    return noise.uniform() < share if share else None
