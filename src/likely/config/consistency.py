"""What can be chosen of a consistency model. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from likely.config.base import FamilyConfig
from likely.config.diffusion import PRESETS as DIFFUSION
from likely.config.diffusion import Count, Diffusion
from likely.config.parts import Part

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Consistency(FamilyConfig):
    """A diffusion model, tuned until its x_hat is the end of the path: draws in one or two steps. Start it from a
    trained diffusion model."""

    starts: ClassVar[Mapping[str, str]] = {"diffusion": "diffusion"}
    free: ClassVar[frozenset[str]] = frozenset(
        {"again", "q", "k", "b", "stage_steps", "log_sigma_mean", "log_sigma_std", "c"}
    )

    family: Literal["consistency"] = "consistency"

    diffusion: Annotated[Diffusion, Part("diffusion", {"diffusion": DIFFUSION})] = Diffusion()
    """The diffusion model that is tuned: a config, or "diffusion:preset" by name."""

    again: tuple[Positive, ...] = ()
    """sigma / alpha of noise that is put on a draw once more and taken off again, one more step each: (0.8,) makes two
    steps."""

    log_sigma_mean: float = -1.1
    """Mean of the training times' log sigma / alpha, which is normal."""

    log_sigma_std: Positive = 2.0
    """Its standard deviation."""

    q: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 2.0
    """In stage s (from 0) a time t meets the time r = t (1 - q^-(s + 1) (1 + k sigmoid(-b t))), not below 0."""

    k: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 8.0
    """How much further off r is where t is small."""

    b: Positive = 1.0
    """How soon that ends as t grows."""

    stage_steps: Count = 500
    """Updates of a stage. Spread six to eight stages over the training."""

    c: Positive | None = None
    """The distance is sqrt(|difference|^2 + c^2) - c. None: 0.00054 times the root of the dimensions."""

    @field_validator("diffusion")
    @classmethod
    def _ends_in_x(cls, inner: Diffusion) -> Diffusion:
        if inner.prediction == "x":
            raise ValueError(
                "diffusion.prediction is 'x', which does not make x_hat of clean x be x; accepts 'v', 'velocity', "
                "'edm' or 'noise'"
            )
        return inner


PRESETS: dict[str, Any] = {
    "default": Consistency(),
    **{name: Consistency(diffusion=config) for name, config in DIFFUSION.items() if name != "default"},
    "two-step": Consistency(again=(0.8,)),
}
