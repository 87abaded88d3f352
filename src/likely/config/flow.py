"""What can be chosen about a flow: the architecture, how y enters, how integers become reals. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from likely.config.base import FamilyConfig

Count = Annotated[int, Field(ge=1)]


class Flow(FamilyConfig):
    """A chain of invertible transforms over real vectors or images; over integers, dequantised."""

    family: Literal["flow"] = "flow"

    architecture: Literal["realnvp", "glow", "autoregressive"] = "realnvp"
    """`realnvp`: couplings with a fixed mixing between them, halves factored out as they are. `glow`: ActNorm before
    every mixing and inside the networks, halves factored out under a Gaussian that the kept half predicts.
    `autoregressive`: every dimension is moved by the ones before it (masked autoregressive flow); images are taken as
    vectors."""

    coupling: Literal["affine", "additive", "spline"] = "affine"
    """How one half of the dimensions moves the other, or the ones before move the next: shift and scale, shift alone
    (volume kept), or a monotone rational-quadratic spline."""

    bins: Annotated[int, Field(ge=2, le=256)] = 8
    """Splines only: pieces of each."""

    bound: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0
    """Splines only: they act between -bound and bound, in deviations of the data at the first one; beyond, numbers
    stay as they are."""

    mixing: Literal["reversal", "permutation", "linear"] = "reversal"
    """What stands between couplings or autoregressive steps: reversed order, one fixed random permutation each, or a
    learned invertible linear map in LU form (on images a 1x1 convolution)."""

    depth: Count = 8
    """Couplings in a level, or autoregressive steps."""

    levels: Annotated[int, Field(ge=0)] = 2
    """Images only: a level squeezes 2x2 pixels into channels, and all but the last factor half of the channels out.
    A level whose height or width is odd does not squeeze and is the last one. 0 takes the image as a vector."""

    width: Count = 64
    """Hidden units (channels, on images) of each coupling's network."""

    hidden: Count = 2
    """Hidden layers of each coupling's network, on vectors; on images it is 3x3, 1x1, 3x3 as in Glow."""

    activation: Literal["relu", "silu"] = "silu"
    """Non-linearity of the networks."""

    prior: Literal["normal", "learned"] = "learned"
    """Density of the last z: a standard normal, or a normal whose means and scales are learned."""

    conditioning: Literal["prior", "coupling", "both"] = "both"
    """Where y enters when there is one. In the prior it moves the mean and scale of the last z."""

    squash: Literal["marginal", "logit"] = "marginal"
    """Integers only: the monotone map from the unit cells of the integers onto the reals. `marginal` makes every
    number normal by its own histogram; `logit` is the same for all."""

    dequantisation: Literal["uniform", "variational"] = "uniform"
    """Integers only: the noise that fills a cell, uniform or a conditional flow that learns with the model."""

    noise_depth: Count = 4
    """Couplings of the variational noise."""


PRESETS: dict[str, Flow] = {
    "default": Flow(),
    "realnvp": Flow(),
    "glow": Flow(architecture="glow", mixing="linear", activation="relu", depth=8, levels=3, width=128),
    "small": Flow(architecture="glow", mixing="linear", activation="relu", depth=2, levels=2, width=64),
    "digits": Flow(levels=0, width=128),
    "spline": Flow(coupling="spline", mixing="linear", width=128, levels=0),
    "maf": Flow(architecture="autoregressive", width=128),
    "spline-ar": Flow(architecture="autoregressive", coupling="spline", mixing="linear", depth=5, width=128),
    "toys2d": Flow(depth=12, width=64, architecture="glow", mixing="linear"),
}
