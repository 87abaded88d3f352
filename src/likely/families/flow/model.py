"""RealNVP, Glow, spline and autoregressive flows: which transforms stand in which order, and the density of it."""

from __future__ import annotations

from torch import Tensor, nn

from likely.config.flow import Flow as FlowConfig
from likely.families.flow.base import FlowModel, context_size, log_normal
from likely.families.flow.conditioner import ACTIVATIONS, Conditioner
from likely.families.flow.masked import Affine, MaskedAutoregressive, Shift
from likely.families.flow.moves import FlowMoves
from likely.families.flow.multiscale import Level, pyramid, with_features
from likely.families.flow.spline import Spline, SplineCoupling
from likely.families.flow.transforms import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    Chain,
    Elementwise,
    GaussianSplit,
    LearnedNormal,
    Linear,
    Permutation,
    Reversal,
    Standardise,
    Transform,
)
from likely.nets.masked import MaskedMLP
from likely.noise import Noise
from likely.space import Reals, Space


class Flow(FlowModel):
    """A normalised, invertible density over `Reals`.

    Three axes (C, H, W) are an image unless `config.levels` is 0 or the architecture autoregressive, all other shapes
    a vector; so is an image of one channel whose height or width is odd, for nothing in it can be coupled. y is a
    label or a real vector. Verbs: Trainable, Samples, Exact, Invertible (z is flat, (B, D)).
    """

    def __init__(self, config: FlowConfig, space: Reals, condition: Space | None = None) -> None:
        context = context_size(condition)
        if is_image(config, space.shape):
            super().__init__(config, space, condition, space.shape, images(config, space.shape, context))
        else:
            super().__init__(config, space, condition, (space.dims,), vectors(config, space.dims, context))

    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """log p(x), or log p(x given y), of the raw x, (B,) in nats."""
        z, log_det = self._forward(x, y)
        return log_det + log_normal(z)

    def loss(self, x: Tensor, y: Tensor | None = None, *, player: str = "model", noise: Noise) -> Tensor:
        """-log p(x given y), the mean over rows, in nats."""
        return -self.log_prob(x, y).mean()

    def loss_and_features(self, x: Tensor, y: Tensor | None = None, *, noise: Noise) -> tuple[Tensor, list[Tensor]]:
        """`loss` and `features` in one pass."""
        log_prob, features = self.log_prob_and_features(x, y)
        return -log_prob.mean(), features

    def log_prob_and_features(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """`log_prob` and `features` in one pass."""
        (z, log_det), seen = with_features(self, lambda: self._forward(x, y))
        return log_det + log_normal(z), seen or [z]

    def moves(self) -> FlowMoves:
        """x to a normal z on a lattice, for `likely.coding.local`."""
        return FlowMoves(self)


def is_image(config: FlowConfig, shape: tuple[int, ...]) -> bool:
    """Whether convolutions see this shape, or it is taken as a vector."""
    return config.architecture != "autoregressive" and has_channels(shape, config.levels)


def has_channels(shape: tuple[int, ...], levels: int) -> bool:
    """Whether a `pyramid` of so many levels finds channels to couple: not in an odd image of one channel."""
    return len(shape) == 3 and levels > 0 and (shape[0] > 1 or not (shape[1] % 2 or shape[2] % 2))


def vectors(config: FlowConfig, dims: int, context: int) -> Transform:
    """The flow of a vector: (B, D) to (B, D). One dimension has nothing to couple: it is scaled and shifted."""
    if config.architecture == "autoregressive":
        steps = [part for _ in range(config.depth) for part in autoregressive_step(config, dims, context)]
    else:
        steps = [part for _ in range(config.depth) for part in step(config, dims, context)] if dims > 1 else []
    return Chain([Standardise(dims), *steps, *prior(config, (dims,), context)])


def images(config: FlowConfig, shape: tuple[int, ...], context: int) -> Transform:
    """The flow of an image: (B, C, H, W) to (B, D), squeezed and split as far as its size allows."""

    def parts(level: Level) -> list[Transform]:
        channels = level.shape[0]
        steps = [part for _ in range(config.depth) for part in step(config, channels, context, image=True)]
        if level.last:
            return steps + prior(config, level.shape, context)
        if config.architecture != "glow":
            return steps
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
        return [*steps, GaussianSplit(kept, net)]

    return pyramid(shape, config.levels, parts, before=[Standardise(shape[0])])


def step(config: FlowConfig, channels: int, context: int, *, image: bool = False) -> list[Transform]:
    """One coupling with what goes before or after it."""
    kept, glow = channels // 2, config.architecture == "glow"
    spline = Spline(config.bins, config.bound) if config.coupling == "spline" else None
    affine = config.coupling == "affine"
    net = Conditioner(
        kept,
        (channels - kept) * (spline.parameters if spline else 2 if affine else 1),
        width=config.width,
        hidden=2 if image else config.hidden,
        activation=config.activation,
        context=context if config.conditioning != "prior" else 0,
        image=image,
        norm=image and glow,
    )
    coupling: Transform = AffineCoupling(kept, net) if affine else AdditiveCoupling(kept, net)
    if spline:
        coupling = SplineCoupling(kept, net, spline)
    between = mixing(config, channels)
    return [ActNorm(channels), between, coupling] if glow else [coupling, between]


def autoregressive_step(config: FlowConfig, dims: int, context: int) -> list[Transform]:
    """One masked autoregressive transform, the identity at the start, with what goes after it."""
    each: Elementwise = Affine() if config.coupling == "affine" else Shift()
    if config.coupling == "spline":
        each = Spline(config.bins, config.bound)
    net = MaskedMLP(
        dims,
        features=1,
        outputs=each.parameters,
        width=config.width,
        layers=config.hidden,
        classes=context if config.conditioning != "prior" else 0,
        residual=False,
        activation=ACTIVATIONS[config.activation],
    )
    nn.init.zeros_(net.head.weight)
    nn.init.zeros_(net.head.bias)
    if dims == 1:  # nothing stands before the only dimension: a weight on it would never get a gradient
        net.hidden[0].weight.requires_grad_(False)  # ty: ignore
    return [MaskedAutoregressive(net, each), mixing(config, dims)]


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
