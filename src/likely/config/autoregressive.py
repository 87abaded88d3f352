"""What can be chosen about autoregressive models."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from likely.config.base import FamilyConfig

Count = Annotated[int, Field(ge=1)]


class Autoregressive(FamilyConfig):
    """p(x) as a product of conditionals, site after site, all of them from one masked network."""

    family: Literal["autoregressive"] = "autoregressive"

    network: Literal["made", "causal", "pixelcnn"] = "causal"
    """made: a masked multi-layer perceptron, for any shape. causal: dilated convolutions along the sequence of all
    numbers, for any shape. pixelcnn: gated convolutions over a grid, for images (C, H, W) and grids (H, W), all
    channels of a pixel being one site."""

    observation: Literal["categorical", "logistic", "bernoulli"] = "categorical"
    """p(site given what came before). categorical: any integers, channels of a pixel independent. logistic: a mixture
    of discretised logistics, for ordered integers; colours are chained. bernoulli: two levels."""

    components: Count = 10
    """Components of the logistic mixture."""

    inputs: Literal["real", "one-hot"] = "real"
    """How the network sees a number: scaled to [-1, 1], or as one input a level (for few levels, and for codes
    without order)."""

    width: Count = 64
    """Hidden units (made) or channels (causal, pixelcnn) of a layer."""

    layers: Count = 3
    """Layers after the first convolution (causal, pixelcnn); hidden layers (made)."""

    kernel: Annotated[int, Field(ge=2)] = 7
    """Size of the first convolution. causal: so many numbers before its own; pixelcnn: of the square, odd."""

    inner_kernel: Annotated[int, Field(ge=2)] = 7
    """Size of the later convolutions; odd for pixelcnn."""

    dilations: Annotated[tuple[Count, ...], Field(min_length=1)] = (1,)
    """Dilations of the later convolutions, used in turn."""

    residual: bool = True
    """Whether a layer adds to what it was given, instead of replacing it."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a layer's features dropped in training."""


PRESETS: dict[str, Autoregressive] = {
    "default": Autoregressive(),
    "digits": Autoregressive(dilations=(1, 8, 1), dropout=0.1),
    "made": Autoregressive(network="made", width=500, layers=2, dropout=0.2),
    "small": Autoregressive(
        network="pixelcnn",
        observation="logistic",
        components=5,
        width=32,
        layers=4,
        kernel=7,
        inner_kernel=3,
        dilations=(1, 2),
    ),
    "colour": Autoregressive(
        network="pixelcnn", observation="logistic", width=96, layers=8, kernel=7, inner_kernel=3, dilations=(1, 2)
    ),
}
"""default: any integers. digits: 8x8 images of few levels; dilation 8 looks straight up. made: vectors of bits or
categories. small: grey images on a laptop's core. colour: 32x32 colour images on an accelerator."""
