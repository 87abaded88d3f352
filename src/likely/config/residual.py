"""What can be chosen about a residual flow: its blocks, how they are kept contractive, how their volume is found.

No torch here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from likely.config.base import FamilyConfig

Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]


class Residual(FamilyConfig):
    """A chain of maps x + g(x) with Lip(g) < 1: a residual flow, or an i-DenseNet; over integers, dequantised."""

    family: Literal["residual"] = "residual"

    block: Literal["dense", "residual"] = "dense"
    """What g is. `dense`: layers that are concatenated to what they read (i-DenseNet). `residual`: a plain stack of
    layers with a non-linearity before each (residual flow); on images 3x3, 1x1, ..., 3x3."""

    activation: Literal["concatenated", "lipswish"] = "concatenated"
    """LipSwish, or LipSwish of x and of -x side by side, which doubles the channels and loses less of the slope."""

    blocks: Count = 8
    """Blocks in a level (in all, on vectors)."""

    levels: Whole = 3
    """Images only: between levels 2x2 pixels become channels, and nothing is factored out. A level whose height or
    width is odd is the last one. 0 takes the image as a vector."""

    depth: Count = 3
    """Dense blocks: layers before the last one."""

    growth: Count = 32
    """Dense blocks: channels that each layer adds; an even number with `concatenated`."""

    width: Count = 64
    """Residual blocks: hidden units, on images channels; an even number with `concatenated`."""

    hidden: Count = 2
    """Residual blocks: hidden layers."""

    tail_blocks: Whole = 0
    """Images only: fully connected blocks behind the last level."""

    tail_width: Count = 128
    """Their hidden units, where they are residual."""

    tail_growth: Count = 32
    """Their growth, where they are dense; a linear map to 64 units comes first."""

    lipschitz: Annotated[float, Field(gt=0, lt=1)] = 0.98
    """Lipschitz coefficient of every linear layer and every concatenation, below 1."""

    concatenation: Literal["learnable", "fixed"] = "learnable"
    """Dense blocks: whether the weights of what a layer reads and of what it adds learn, or are equal."""

    symmetric_steps: Whole = 0
    """Updates during which learnable weights of concatenation are held equal."""

    jacobian: Literal["estimated", "exact"] = "estimated"
    """log |det(I + J)| by the randomly cut power series, unbiased, or exactly from the whole Jacobian: the better
    choice up to a few dozen dimensions."""

    train_terms: Whole = 2
    """Terms of the series that are always taken in training."""

    score_terms: Whole = 20
    """Terms of the series that are always taken when a row is scored."""

    tail: Literal["poisson", "geometric"] = "poisson"
    """Distribution of the number of terms after these."""

    tail_mean: Annotated[float, Field(gt=0, le=20)] = 2.0
    """Its mean; more than 1 for `geometric`, which begins at 1."""

    tolerance: Annotated[float, Field(gt=0, le=0.01)] = 1e-5
    """Power iteration, warm from the last time, goes on until a layer's norm grows by less than this share."""

    squash: Literal["marginal", "logit"] = "marginal"
    """Integers only: the monotone map from the unit cells of the integers onto the reals. `marginal` makes every
    number normal by its own histogram; `logit` is the same for all."""

    @model_validator(mode="after")
    def _fits(self) -> Residual:
        if self.activation == "concatenated":
            names = ("growth", "tail_growth") if self.block == "dense" else ("width", "tail_width")
            for name in names:
                if getattr(self, name) % 2:
                    raise ValueError(f"{name} is {getattr(self, name)}; accepts an even number with 'concatenated'")
        if self.tail == "geometric" and self.tail_mean <= 1:
            raise ValueError(f"tail_mean is {self.tail_mean}; accepts more than 1 with tail 'geometric'")
        return self


def _published(blocks: int, **fields: object) -> Residual:
    """The image models of the papers: 3 levels, 4 fully connected blocks, concatenations learning after 25 epochs."""
    held = 25 * 50_000 // 64  # updates: CIFAR-10 in batches of 64
    common = {"blocks": blocks, "tail_blocks": 4, "squash": "logit", "symmetric_steps": held}
    return Residual.model_validate(common | fields)


_FLOW = {"block": "residual", "activation": "lipswish", "width": 512}

PRESETS: dict[str, Residual] = {
    "default": Residual(),
    "small": Residual(blocks=2, levels=2),
    "toys2d": Residual(blocks=10, levels=0, jacobian="exact"),
    "toys2d-residual": Residual(block="residual", activation="lipswish", blocks=10, levels=0, jacobian="exact"),
    "digits": Residual(blocks=4, levels=0, growth=64),
    "i-densenet-cifar10": _published(16, growth=172),
    "i-densenet-cifar10-small": _published(4, growth=178),
    "i-densenet-imagenet32": _published(32, growth=172, symmetric_steps=0),
    "residual-flow-cifar10": _published(16, **_FLOW),
    "residual-flow-imagenet32": _published(32, **_FLOW),
}
