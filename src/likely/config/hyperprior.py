"""What can be chosen about a lossy picture codec with a hyperprior. No torch here."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from likely.config.base import FamilyConfig

Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(gt=0, le=10)]


class Hyperprior(FamilyConfig):
    """A picture's rounded latents and how to code them: trained on bits + lambda x squared error, for several lambdas
    at once."""

    free: ClassVar[frozenset[str]] = frozenset({"lams", "thrift", "relax"})

    family: Literal["hyperprior"] = "hyperprior"

    lams: tuple[Weight, ...] = (0.001, 0.003, 0.01, 0.03)
    """The weights lambda of the squared error (of numbers scaled to 0 .. 255, a mean over pixels and channels) against
    the bits of a pixel: one for each rate, from the fewest bits to the most."""

    patch: Literal[2, 4, 8, 16] = 8
    """Height and width of the block of pixels that a latent stands for. Pictures are filled up to multiples of four
    blocks inside."""

    latent: Count = 128
    """Latents of a block: those that vary most in a cosine transform to start with. No more than it has numbers,
    channels x patch^2."""

    width: Count = 96
    """Channels inside the blocks of analysis and synthesis."""

    blocks: Annotated[int, Field(ge=0)] = 2
    """Residual blocks of the analysis, and of the synthesis."""

    hyper: Count = 64
    """Hyper-latents of 4 x 4 blocks, and channels of the networks that predict latents."""

    smooth: Count = 24
    """Channels of the network that repairs the decoded picture, at half its height and width."""

    components: Count = 3
    """Logistics in the mixture that each hyper-latent has as its table."""

    latents: Literal["normal", "logistic"] = "normal"
    """The distribution of latents around what is predicted for them."""

    thrift: Annotated[float, Field(ge=0)] = 8.0
    """A latent is rounded towards its prediction where that saves more bits than this times the squared error that it
    adds, in steps; 0 rounds to the nearest."""

    relax: Literal["noise", "round"] = "noise"
    """Whose bits the loss counts: those of latents with uniform noise instead of rounding, which are too many for
    latents that are nearly always 0; or those of the rounded latents, whose gradient passes straight through."""

    @field_validator("lams")
    @classmethod
    def _rising(cls, lams: tuple[float, ...]) -> tuple[float, ...]:
        if not lams or any(b <= a for a, b in pairwise(lams)):
            raise ValueError(f"lams is {lams}; accepts one or more weights, each above the one before")
        return lams


PRESETS: dict[str, Hyperprior] = {
    "default": Hyperprior(),
    "small": Hyperprior(latent=64, width=48, blocks=1, hyper=32, smooth=12),
    "digits": Hyperprior(patch=2, latent=4, width=16, blocks=1, hyper=8, smooth=8),
}
