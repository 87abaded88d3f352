"""Choices of the joint p(x, y) = p(y) p(x given y)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator

from likely.config import autoregressive, flow, mixture, vae
from likely.config.base import FamilyConfig

_PARTS: dict[str, Any] = {
    "autoregressive": autoregressive.PRESETS,
    "flow": flow.PRESETS,
    "mixture": mixture.PRESETS,
    "vae": vae.PRESETS,
}


def _named(part: Any) -> Any:
    """A part given as "family" or "family:preset" stands for that preset."""
    if not isinstance(part, str):
        return part
    family, _, preset = part.partition(":")
    if family not in _PARTS or (preset or "default") not in _PARTS[family]:
        known = [f"{name}:{p}" for name, configs in _PARTS.items() for p in configs]
        raise ValueError(f"part is {part!r}; accepts a family with its preset: {', '.join(known)}")
    return _PARTS[family][preset or "default"]


Part = Annotated[
    autoregressive.Autoregressive | flow.Flow | mixture.Mixture | vae.VAE,
    Discriminator("family"),
]


class Joint(FamilyConfig):
    """A density for every class, and how likely each class is."""

    family: Literal["joint"] = "joint"
    part: Annotated[Part, BeforeValidator(_named)]
    """The family of p(x given y): a config, or "family" or "family:preset" by name."""


PRESETS: dict[str, Joint] = {
    "default": Joint.model_validate({"part": "autoregressive"}),
    "autoregressive": Joint.model_validate({"part": "autoregressive"}),
    "flow": Joint.model_validate({"part": "flow"}),
    "mixture": Joint.model_validate({"part": "mixture"}),
    "vae": Joint.model_validate({"part": "vae"}),
}
