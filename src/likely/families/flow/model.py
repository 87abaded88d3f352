"""RealNVP and Glow: which transforms stand in which order, and the density that they make.

log p(x) = log N(z; 0, I) + log |det dz/dx| with z = f(x). Everything that shapes the density is a transform, the
data's units (`Standardise`), the learned prior (`LearnedNormal`) and Glow's Gaussian splits included, so z is
standard normal as a whole.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from likely.config.flow import Flow as FlowConfig
from likely.families.flow.conditioner import Conditioner
from likely.families.flow.transforms import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    Chain,
    GaussianSplit,
    LearnedNormal,
    Linear,
    Multiscale,
    Permutation,
    Reversal,
    Squeeze,
    Standardise,
    Transform,
    start_from,
)
from likely.noise import Noise
from likely.space import Integers, Reals, Space


class Flow(nn.Module):
    """A normalised, invertible density over `Reals`.

    Three axes (C, H, W) are an image unless `config.levels` is 0, all other shapes a vector; so is an image of one
    channel whose height or width is odd, for nothing in it can be coupled. y is a label or a real vector. Verbs:
    Trainable, Samples, Exact, Invertible (z is flat, (B, D)).
    """

    players = ("model",)

    def __init__(self, config: FlowConfig, space: Reals, condition: Space | None = None) -> None:
        super().__init__()
        self.config, self.space, self.condition = config, space, condition
        self.image = is_image(config, space.shape)
        self.shape = space.shape if self.image else (space.dims,)  # what the transforms see
        context = context_size(condition)
        self.transform = images(config, self.shape, context) if self.image else vectors(config, space.dims, context)

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x (B, *shape) to z (B, D)."""
        return self._forward(x, y)[0]

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """z (B, D) to x (B, *shape)."""
        x, _ = self.transform.inverse(z.to(self._dtype), self._context(y))
        return x.reshape(-1, *self.space.shape)

    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """log p(x), or log p(x given y), of the raw x, (B,) in nats."""
        z, log_det = self._forward(x, y)
        return log_det - 0.5 * z.square().sum(1) - 0.5 * math.log(2 * math.pi) * z.shape[1]

    def sample(self, n: int, y: Tensor | None = None, *, noise: Noise) -> Tensor:
        """n draws, (n, *shape)."""
        return self.decode(noise.normal((self.space.dims,), dtype=self._dtype), y)

    def loss(self, x: Tensor, y: Tensor | None = None, *, player: str = "model", noise: Noise) -> Tensor:
        """-log p(x given y), the mean over rows, in nats."""
        return -self.log_prob(x, y).mean()

    def prepare(self, x: Tensor, y: Tensor | None = None, *, noise: Noise) -> None:
        """Takes the data's mean and scale, and ActNorm's start, from x; what has been started before stays."""
        start_from(self, lambda: self._forward(x, y))

    def _forward(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        z, log_det = self.transform(x.to(self._dtype).reshape(-1, *self.shape), self._context(y))
        return z, log_det

    def _context(self, y: Tensor | None) -> Tensor | None:
        """y as numbers (B, F), or (B, F, 1, 1) beside images; labels are one-hot."""
        if self.condition is None:
            return None
        if y is None:
            raise ValueError(f"y is None, but this flow models p(x given y); give y in {self.condition}")
        y = F.one_hot(y.long(), self.condition.levels) if isinstance(self.condition, Integers) else y
        y = y.to(self._dtype).flatten(1)
        return y[:, :, None, None] if self.image else y

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


def is_image(config: FlowConfig, shape: tuple[int, ...]) -> bool:
    """Whether convolutions see this shape, or it is taken as a vector."""
    return len(shape) == 3 and config.levels > 0 and (shape[0] > 1 or not (shape[1] % 2 or shape[2] % 2))


def vectors(config: FlowConfig, dims: int, context: int) -> Transform:
    """The flow of a vector: (B, D) to (B, D). One dimension has nothing to couple: it is scaled and shifted."""
    steps = [part for _ in range(config.depth) for part in step(config, dims, context)] if dims > 1 else []
    return Chain([Standardise(dims), *steps, *prior(config, (dims,), context)])


def images(config: FlowConfig, shape: tuple[int, ...], context: int) -> Transform:
    """The flow of an image: (B, C, H, W) to (B, D), squeezed and split as far as its size allows."""
    channels, height, width = shape
    levels: list[Transform] = []
    shapes: list[tuple[int, int, int]] = []
    last = False
    while not last:
        parts: list[Transform] = [] if levels else [Standardise(channels)]
        if not (height % 2 or width % 2):
            parts.append(Squeeze())
            channels, height, width = 4 * channels, height // 2, width // 2
        last = len(levels) + 1 == config.levels or bool(height % 2 or width % 2)
        for _ in range(config.depth):
            parts += step(config, channels, context, image=True)
        if last:
            parts += prior(config, (channels, height, width), context)
        elif config.architecture == "glow":
            kept = channels // 2
            net = Conditioner(
                kept,
                2 * (channels - kept),
                width=config.width,
                hidden=1,
                activation=config.activation,
                context=context if config.conditioning != "prior" else 0,
                image=True,
            )
            parts.append(GaussianSplit(kept, net))
        levels.append(Chain(parts))
        shapes.append((channels, height, width))
        channels = channels // 2
    return Multiscale(levels, shapes)


def step(config: FlowConfig, channels: int, context: int, *, image: bool = False) -> list[Transform]:
    """One coupling with what goes before or after it."""
    kept, glow = channels // 2, config.architecture == "glow"
    affine = config.coupling == "affine"
    net = Conditioner(
        kept,
        (channels - kept) * (2 if affine else 1),
        width=config.width,
        hidden=2 if image else config.hidden,
        activation=config.activation,
        context=context if config.conditioning != "prior" else 0,
        image=image,
        norm=image and glow,
    )
    coupling = AffineCoupling(kept, net) if affine else AdditiveCoupling(kept, net)
    between = mixing(config, channels)
    return [ActNorm(channels), between, coupling] if glow else [coupling, between]


def mixing(config: FlowConfig, channels: int) -> Transform:
    """What brings other dimensions into the kept half."""
    if config.mixing == "linear":
        return Linear(channels)
    return Permutation(channels) if config.mixing == "permutation" else Reversal()


def prior(config: FlowConfig, shape: tuple[int, ...], context: int) -> list[Transform]:
    """The density of the last z, as the map that makes it standard normal."""
    if config.conditioning == "coupling":
        context = 0
    return [LearnedNormal(shape, context)] if config.prior == "learned" or context else []


def context_size(condition: Space | None) -> int:
    """Numbers that y becomes: 0 without a condition; raises `ValueError` for one that no coupling can take."""
    if condition is None:
        return 0
    if isinstance(condition, Integers) and condition.shape == ():
        return condition.levels
    if isinstance(condition, Reals):
        return condition.dims
    raise ValueError(f"condition is {condition}; a flow accepts a label, Integers((), classes), or Reals")
