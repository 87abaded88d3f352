"""What can be chosen about a pyramid. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from likely.config.base import FamilyConfig

Count = Annotated[int, Field(ge=1)]


class Pyramid(FamilyConfig):
    """Images of any size, coarse to fine: three groups of pixels a level, each given all before by integer networks."""

    family: Literal["pyramid"] = "pyramid"

    width: Annotated[int, Field(ge=1, le=128)] = 64
    """Hidden units of each network; up to 128 of them every sum stays exact in float32."""

    hidden: Annotated[int, Field(ge=1, le=8)] = 2
    """Hidden layers of each network."""

    components: Annotated[int, Field(ge=1, le=32)] = 3
    """Logistics in the mixture of each number."""


PRESETS: dict[str, Pyramid] = {
    "default": Pyramid(),
    "small": Pyramid(width=32, hidden=1),
}
