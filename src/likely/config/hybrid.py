"""Choices of the hybrid p(x, y) = p(y given x) p(x). No torch here."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from likely.config import continuous_flow, flow, integer_flow, residual
from likely.config.base import FamilyConfig
from likely.config.parts import Part

TRUNKS = {
    "flow": flow.PRESETS,
    "residual": residual.PRESETS,
    "integer-flow": integer_flow.PRESETS,
    "continuous-flow": continuous_flow.PRESETS,
}


def weight(lam: Any) -> Any:
    """lam as it came; raises `ValueError` unless it is a finite number of at least 0, or "1/D"."""
    number = isinstance(lam, int | float) and not isinstance(lam, bool)
    if lam != "1/D" and not (number and math.isfinite(lam) and lam >= 0):
        raise ValueError(f'lam is {lam!r}; accepts a weight of -log p(x) in the loss: a number of at least 0, or "1/D"')
    return lam


class Hybrid(FamilyConfig):
    """A classifier that reads the features of an invertible density: both are trained together."""

    learns_labels: ClassVar[bool] = True

    family: Literal["hybrid"] = "hybrid"

    trunk: Annotated[FamilyConfig, Part("trunk", TRUNKS)]
    """The invertible family of p(x): a config, or "family" or "family:preset" by name."""

    lam: Annotated[float | Literal["1/D"], BeforeValidator(weight)] = "1/D"
    """Weight of -log p(x) in the training loss, beside -log p(y given x): a number of at least 0, or "1/D", one over
    the dimensions of x. It shapes what is learned; every answer is about p(y given x), p(x) and their product."""

    width: Annotated[int, Field(ge=0)] = 64
    """Channels (hidden units, on vectors) with which the classifier reads each scale of the trunk; 0 reads the
    features as they are, which makes it a generalised linear model."""

    detached: bool = False
    """Whether the classifier leaves the trunk alone: it then reads the features of a density that learns from x."""

    @field_validator("detached")
    @classmethod
    def _something_trains_the_trunk(cls, detached: bool, info: ValidationInfo) -> bool:
        if detached and info.data.get("lam") == 0:
            raise ValueError("detached is True beside lam = 0, so nothing trains the trunk; accepts one of them")
        return detached


PRESETS: dict[str, Hybrid] = {
    "default": Hybrid.model_validate({"trunk": "flow"}),
    "flow": Hybrid.model_validate({"trunk": "flow"}),
    "glow": Hybrid.model_validate({"trunk": "flow:glow", "width": 256}),
}
