"""What can be chosen about an integer flow. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from likely.config.base import FamilyConfig

Count = Annotated[int, Field(ge=1)]


class IntegerFlow(FamilyConfig):
    """A permutation of all states of a box of integers, made of rounded shifts, under a discretised base."""

    family: Literal["integer-flow"] = "integer-flow"

    depth: Count = 4
    """Couplings in a level; in each of them every part moves once."""

    parts: Annotated[int, Field(ge=2, le=4)] = 4
    """Parts that the dimensions (channels, on images) are divided into: each is shifted by what all others say."""

    mixing: Literal["reversal", "permutation"] = "reversal"
    """What stands between couplings: reversed order, or one fixed random permutation each."""

    levels: Annotated[int, Field(ge=0)] = 2
    """Images only: a level squeezes 2x2 pixels into channels, and all but the last factor half of the channels out,
    under a base whose parameters come from the kept half. A level whose height or width is odd does not squeeze and is
    the last one. 0 takes the image as a vector."""

    width: Count = 64
    """Hidden units (channels, on images) of each network."""

    hidden: Count = 2
    """Hidden layers of each network; on images 3x3, 1x1, ..., 3x3."""

    activation: Literal["relu", "silu"] = "silu"
    """Non-linearity of the networks."""

    components: Count = 5
    """Logistics in the mixture that each number of z has as its base."""

    conditioning: Literal["prior", "coupling", "both"] = "both"
    """Where y enters when there is one: the base's parameters, the networks of the couplings, or both."""


PRESETS: dict[str, IntegerFlow] = {
    "default": IntegerFlow(),
    "digits": IntegerFlow(levels=0, width=128),
    "small": IntegerFlow(depth=2, width=48),
}
