"""Choices of the joint p(x, y) = p(y) p(x given y)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from likely.config import autoregressive, flow, mixture, vae
from likely.config.base import FamilyConfig
from likely.config.parts import Part

PARTS = {
    "autoregressive": autoregressive.PRESETS,
    "flow": flow.PRESETS,
    "mixture": mixture.PRESETS,
    "vae": vae.PRESETS,
}


class Joint(FamilyConfig):
    """A density for every class, and how likely each class is."""

    learns_labels: ClassVar[bool] = True

    family: Literal["joint"] = "joint"
    part: Annotated[FamilyConfig, Part("part", PARTS)]
    """The family of p(x given y): a config, or "family" or "family:preset" by name."""
    separate: bool = False
    """A model of its own for every class, which sees the rows of that class alone, instead of one that is told y."""


PRESETS: dict[str, Joint] = {
    "default": Joint.model_validate({"part": "autoregressive"}),
    "autoregressive": Joint.model_validate({"part": "autoregressive"}),
    "flow": Joint.model_validate({"part": "flow"}),
    "mixture": Joint.model_validate({"part": "mixture"}),
    "vae": Joint.model_validate({"part": "vae"}),
}
