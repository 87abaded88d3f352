"""x and y as the networks of this family see them: scaled, and embedded."""

from __future__ import annotations

import copy
from abc import ABC
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from likely.config.diffusion import Network as Config
from likely.families.diffusion.conditioning import Embedding
from likely.families.diffusion.decoder import Cells, Standardised
from likely.nets.embedding import Condition
from likely.noise import Noise
from likely.space import Integers, Reals, Space

Model = TypeVar("Model", bound=nn.Module)


def drawn_with(model: Model, settings: dict[str, Any], accepted: str) -> Model:
    """The same model, weights shared, with another value in the one field of its config that is about draws."""
    for name in settings:
        if name != accepted:
            raise ValueError(f"{name} is no setting of {model.config.family}'s draws; accepts {accepted}")
    other: Any = copy.copy(model)
    other.config = type(other.config).model_validate(model.config.model_dump() | settings)
    return other


class Inside(nn.Module, ABC):
    """A model of x in a space, given y or not, that works on scaled x. Abstract."""

    def __init__(self, config: Config, space: Integers | Reals, condition: Space | None) -> None:
        super().__init__()
        self.config, self.space, self.condition = config, space, condition
        self.embedding = None if condition is None else Embedding(condition, config.width)
        self.scaling = Cells(space) if isinstance(space, Integers) else Standardised(space, config.sigma_data)

    def scaled(self, x: Tensor) -> Tensor:
        """Raw rows as the process noises them: cell centres on [-1, 1], or reals with standard deviation sigma_data."""
        return self.scaling.scaled(x, self._dtype)

    def unscaled(self, x: Tensor) -> Tensor:
        """Scaled rows in raw units, real-valued."""
        return self.scaling.unscaled(x)

    def within(self, x_hat: Tensor) -> Tensor:
        """A posterior mean, brought back to where it can be: between the first and the last level."""
        edge = 1 - 1 / self.space.levels if isinstance(self.space, Integers) else None
        return x_hat if edge is None else x_hat.clamp(-edge, edge)

    @torch.no_grad()
    def prepare(self, x: Tensor, y: Tensor | None = None, *, noise: Noise) -> None:
        """Centre and scale of reals, from data."""
        self.scaling.prepare(x)

    def _condition(self, y: Tensor | None, n: int, hide: Tensor | None = None) -> Condition | None:
        if self.embedding is None:
            return None
        if y is None and not self.config.drop:
            raise ValueError(f"y is None, but this model was trained with drop=0 and so needs y in {self.condition}")
        return self.embedding(y, n, hide)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype
