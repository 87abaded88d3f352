"""Residual flows and i-DenseNets: z = x + g(x) with Lip(g) < 1 is invertible whatever else g is.

What g is, is one choice (`block`): a stack of Lipschitz layers (residual flow), or layers that are concatenated to
what they read (i-DenseNet). On images the blocks stand in levels with 2x2 squeezes between them, nothing is factored
out, an ActNorm stands first and behind every block, and fully connected blocks may follow the last level.

The inverse is the fixed point of x = z - g(x), found by Anderson's acceleration and checked. The log-determinant is
what a `Volume` of `logdet` says: a `ResidualFlow` has an unbiased estimate of log p, `ExactJacobian(flow)` log p
itself.

"Invertible residual networks" (Behrmann, Grathwohl, Chen, Duvenaud, Jacobsen, 2019); "Residual flows for invertible
generative modeling" (Chen, Behrmann, Duvenaud, Jacobsen, 2019); "Invertible DenseNets with concatenated LipSwish"
(Perugachi-Diaz, Tomczak, Bhulai, 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from likely.config.residual import Residual as ResidualConfig
from likely.families import Tiny
from likely.families.flow.base import FlowModel, context_size, log_normal
from likely.families.flow.dequantise import Dequantised, LogitCells, MarginalCells
from likely.families.flow.fixed_point import fixed_point
from likely.families.flow.logdet import Exact, Scored, Trained
from likely.families.flow.multiscale import Level, pyramid, with_features
from likely.families.flow.noise import UniformNoise
from likely.families.flow.transforms import ActNorm, Answer, Chain, LearnedNormal, Transform, Volume
from likely.nets.densenet import Concatenated
from likely.nets.lipschitz import Conv2d, Linear, LipSwish, Sequence, Smooth, Spectral, normalise
from likely.noise import Noise
from likely.space import Integers, Reals, Space

ROUNDS = 1000
"""Rounds of power iteration at most, in `prepare` and after an update: it stops as soon as the norm settles."""
START_COST = 2e8
"""Multiply-adds that power iteration may spend on a model's layers when it is built."""


class Contraction(Sequence):
    """g, and the law of the number of terms of its series: the rate of a Poisson, the logit of a geometric.

    The law is set, never trained. It stands among the parameters as in the reference code, so that sizes compare.
    """

    def __init__(self, parts: list[Smooth], tail_mean: float) -> None:
        super().__init__(parts)
        logit = -math.log(max(tail_mean, 1.001) - 1)
        self.law = nn.Parameter(torch.tensor([tail_mean, logit]), requires_grad=False)


class Block(Transform):
    """z = x + g(x). `name` is what errors call it."""

    def __init__(self, g: Contraction, name: str) -> None:
        super().__init__()
        self.g, self.name = g, name

    def forward(self, x: Tensor, y: Tensor | None = None, volume: Volume | None = None) -> Answer:
        if volume is None:
            return x + self.g(x), x.new_full((x.shape[0],), math.nan)
        value, log_det = volume(self.g, x)
        return x + value, log_det

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return fixed_point(self.g, z, self.name)


class Flat(Transform):
    """A transform of vectors, for arrays."""

    def __init__(self, inner: Transform) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, y: Tensor | None = None, volume: Volume | None = None) -> Answer:
        z, log_det = self.inner(x.flatten(1), y, volume)
        return z.reshape(x.shape), log_det

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.inner.inverse(z.flatten(1), y).reshape(z.shape)


class ResidualFlow(FlowModel):
    """An invertible density over `Reals` whose log p is estimated without bias.

    Three axes (C, H, W) are an image unless `config.levels` is 0, all other shapes a vector. y, a label or a real
    vector, moves the mean and the scale of the last z. Verbs: Trainable, Samples, Estimated, Invertible (z is flat).
    """

    unbiased = True
    gradient_in_expectation = True
    updates: Tensor

    def __init__(self, config: ResidualConfig, space: Reals, condition: Space | None = None) -> None:
        context = context_size(condition)
        if len(space.shape) == 3 and config.levels > 0:
            super().__init__(config, space, condition, space.shape, images(config, space.shape, context))
        else:
            super().__init__(config, space, condition, (space.dims,), vectors(config, space.dims, context))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        cost = 2 * sum(part.cost for part in self.modules() if isinstance(part, Spectral))
        normalise(self, tolerance=config.tolerance, rounds=max(1, min(ROUNDS, int(START_COST / cost))))

    @property
    def views(self) -> dict[str, Callable[[], nn.Module]]:
        """ "exact": the same density without an estimate."""
        return {"exact": lambda: ExactJacobian(self)}

    def log_prob_estimate(self, x: Tensor, y: Tensor | None = None, *, noise: Noise) -> Tensor:
        """One draw of an unbiased estimate of log p(x), or log p(x given y), (B * k,) in nats."""
        x, y = noise.expand(x), None if y is None else noise.expand(y)
        z, log_det = self._forward(x, y, Scored(noise, self.config.score_terms, self.config.tail))
        return log_det + log_normal(z)

    def loss(self, x: Tensor, y: Tensor | None = None, *, player: str = "model", noise: Noise) -> Tensor:
        """-log p(x given y), the mean over rows, in nats: an unbiased estimate, and so is its gradient.

        The gradient is not that of this draw, but has the same expectation: see `logdet`.
        """
        return self.loss_and_features(x, y, noise=noise)[0]

    def loss_and_features(self, x: Tensor, y: Tensor | None = None, *, noise: Noise) -> tuple[Tensor, list[Tensor]]:
        """`loss` and `features` in one pass."""
        x, y = noise.expand(x), None if y is None else noise.expand(y)
        volume = Trained(noise, self.config.train_terms, self.config.tail)
        (z, log_det), seen = with_features(self, lambda: self._forward(x, y, volume))
        return -(log_det + log_normal(z)).mean(), seen or [z]

    def prepare(self, x: Tensor, y: Tensor | None = None, *, noise: Noise) -> None:
        """Brings every layer to its Lipschitz coefficient, then starts ActNorm from x, where that was not done."""
        normalise(self, tolerance=self.config.tolerance / 10, rounds=ROUNDS)
        super().prepare(x, y, noise=noise)

    @torch.no_grad()
    def after_step(self) -> None:
        """Keeps every layer at its Lipschitz coefficient, and concatenations symmetric as long as they are to be."""
        self.updates += 1
        if self.config.symmetric_steps and int(self.updates) <= self.config.symmetric_steps:
            for part in self.modules():
                if isinstance(part, Concatenated):
                    part.make_symmetric()
        normalise(self, tolerance=self.config.tolerance, rounds=ROUNDS)


class ExactJacobian(nn.Module):
    """The same density with its log-determinant from the whole Jacobian. Verbs: Trainable, Samples, Exact, Invertible.

    D products with the Jacobian and a determinant of D x D for each block and row: for dimensions up to some dozens.
    """

    players = ("model",)

    def __init__(self, flow: ResidualFlow) -> None:
        super().__init__()
        if not isinstance(flow, ResidualFlow):
            raise TypeError(f"flow is {type(flow).__name__}; ExactJacobian accepts a ResidualFlow")
        self.flow, self.config, self.space, self.condition = flow, flow.config, flow.space, flow.condition

    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """log p(x), or log p(x given y), (B,) in nats."""
        z, log_det = self.flow._forward(x, y, Exact())
        return log_det + log_normal(z)

    def loss(self, x: Tensor, y: Tensor | None = None, *, player: str = "model", noise: Noise) -> Tensor:
        """-log p(x given y), the mean over rows, in nats."""
        return -self.log_prob(x, y).mean()

    def loss_and_features(self, x: Tensor, y: Tensor | None = None, *, noise: Noise) -> tuple[Tensor, list[Tensor]]:
        """`loss` and `features` in one pass."""
        (z, log_det), seen = with_features(self, lambda: self.flow._forward(x, y, Exact()))
        return -(log_det + log_normal(z)).mean(), seen or [z]

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x (B, *shape) to z (B, D)."""
        return self.flow.encode(x, y)

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """z (B, D) to x (B, *shape)."""
        return self.flow.decode(z, y)

    def sample(self, n: int, y: Tensor | None = None, *, noise: Noise) -> Tensor:
        """n draws, (n, *shape)."""
        return self.flow.sample(n, y, noise=noise)

    def features(self, x: Tensor, y: Tensor | None = None) -> list[Tensor]:
        """The flow's."""
        return self.flow.features(x, y)

    def prepare(self, x: Tensor, y: Tensor | None = None, *, noise: Noise) -> None:
        """The flow's."""
        self.flow.prepare(x, y, noise=noise)

    def after_step(self) -> None:
        """The flow's."""
        self.flow.after_step()


def vectors(config: ResidualConfig, dims: int, context: int) -> Transform:
    """The flow of a vector, (B, D) to (B, D)."""
    parts: list[Transform] = [ActNorm(dims)]
    for i in range(config.blocks):
        g = dense_layers(config, dims) if config.block == "dense" else stacked_layers(config, dims, first=i == 0)
        parts += [Block(Contraction(g, config.tail_mean), f"block {i + 1}"), ActNorm(dims)]
    return Chain([*parts, *([LearnedNormal((dims,), context)] if context else [])])


def images(config: ResidualConfig, shape: tuple[int, ...], context: int) -> Transform:
    """The flow of an image, (B, C, H, W) to (B, D)."""
    count = 0

    def parts(level: Level) -> list[Transform]:
        nonlocal count
        count += 1
        channels, *size = level.shape
        steps: list[Transform] = [ActNorm(channels)] if level.first else []
        for i in range(config.blocks):
            if config.block == "dense":
                g = dense_layers(config, channels, tuple(size))
            else:
                g = stacked_layers(config, channels, tuple(size), first=level.first and i == 0)
            steps += [Block(Contraction(g, config.tail_mean), f"block {i + 1} of level {count}"), ActNorm(channels)]
        if not level.last:
            return steps
        dims, flat = math.prod(level.shape), []
        for i in range(config.tail_blocks):
            g = tail_layers(config, dims)
            flat += [Block(Contraction(g, config.tail_mean), f"block {i + 1} of the tail"), ActNorm(dims)]
        steps += [Flat(Chain(flat))] if flat else []
        return [*steps, LearnedNormal(level.shape, context)] if context else steps

    return pyramid(shape, config.levels, parts, factor=False, squeeze_first=False)


def dense_layers(config: ResidualConfig, channels: int, size: tuple[int, ...] = ()) -> list[Smooth]:
    """g of an i-DenseNet: 3x3 convolutions and a last 1x1 on an image of this size, linear layers on a vector."""
    return _dense(config, channels, config.growth, channels, size)


def tail_layers(config: ResidualConfig, dims: int) -> list[Smooth]:
    """g of a fully connected block behind the last level."""
    if config.block == "dense":
        return [Linear(dims, 64, config.lipschitz), *_dense(config, 64, config.tail_growth, dims, ())]
    return _stack(config, dims, config.tail_width, (), first=False)


def stacked_layers(config: ResidualConfig, channels: int, size: tuple[int, ...] = (), *, first: bool) -> list[Smooth]:
    """g of a residual flow, a non-linearity before each layer; the first block of all begins with a layer."""
    return _stack(config, channels, config.width, size, first=first)


def _dense(config: ResidualConfig, inputs: int, growth: int, outputs: int, size: tuple[int, ...]) -> list[Smooth]:
    parts: list[Smooth] = []
    for _ in range(config.depth):
        act = _activation(config, size)
        added = growth // 2 if act.concatenated else growth
        f = Sequence([_layer(config, inputs, added, 3, size), act])
        learnable = config.concatenation == "learnable"
        parts.append(Concatenated(f, config.lipschitz, axis=act.axis, learnable=learnable))
        inputs += growth
    return [*parts, _layer(config, inputs, outputs, 1, size)]


def _stack(config: ResidualConfig, channels: int, width: int, size: tuple[int, ...], *, first: bool) -> list[Smooth]:
    parts: list[Smooth] = []
    inputs = channels
    for i in range(config.hidden + 1):
        if i or not first:
            act = _activation(config, size)
            parts.append(act)
            inputs = 2 * inputs if act.concatenated else inputs
        last = i == config.hidden
        outputs = channels if last else width // 2 if config.activation == "concatenated" else width
        parts.append(_layer(config, inputs, outputs, 3 if last or i == 0 else 1, size))
        inputs = outputs
    return parts


def _layer(config: ResidualConfig, inputs: int, outputs: int, kernel: int, size: tuple[int, ...]) -> Smooth:
    if not size:
        return Linear(inputs, outputs, config.lipschitz)
    return Conv2d(inputs, outputs, kernel, (size[0], size[1]), config.lipschitz)


def _activation(config: ResidualConfig, size: tuple[int, ...]) -> LipSwish:
    return LipSwish(concatenated=config.activation == "concatenated", axis=-3 if size else -1)


def model(config: ResidualConfig, space: Space, condition: Space | None, build: Any) -> nn.Module:
    """A `ResidualFlow` over Reals, or an `ExactJacobian`; over Integers the same, `Dequantised`."""
    if not isinstance(space, Reals | Integers) or not space.shape:
        raise ValueError(f"space is {space}; a residual flow accepts arrays of Reals or Integers")
    flow = ResidualFlow(config, Reals(space.shape), condition)
    density = ExactJacobian(flow) if config.jacobian == "exact" else flow
    if isinstance(space, Reals):
        return density
    cells = MarginalCells(space) if config.squash == "marginal" else LogitCells(space)
    return Dequantised(density, space, noise=UniformNoise(space), cells=cells, config=config)


def _tiny(**fields: Any) -> ResidualConfig:
    return ResidualConfig.model_validate({"blocks": 2, "depth": 2, "growth": 6, "width": 6, "levels": 2, **fields})


_EXACT = {"jacobian": "exact"}
_PLAIN = {"block": "residual", "activation": "lipswish"}
_TWO, _BITS = Reals((2,)), Integers((2,), 4)
_IMAGE, _GREYS, _LABEL = Reals((1, 2, 2)), Integers((1, 2, 2), 3), Integers((), 2)

TINY: dict[str, Tiny] = {
    "dense": Tiny(_tiny(), _TWO),
    "dense, exact": Tiny(_tiny(**_EXACT), _TWO),
    "dense, exact, one dimension": Tiny(_tiny(**_EXACT), Reals((1,))),
    "dense, exact, three dimensions": Tiny(_tiny(**_EXACT), Reals((3,))),
    "dense, exact, labels": Tiny(_tiny(**_EXACT), _TWO, _LABEL),
    "dense, geometric": Tiny(_tiny(tail="geometric", score_terms=1, train_terms=1), _TWO, Reals((2,))),
    "dense, one-sided, fixed": Tiny(_tiny(**_EXACT, activation="lipswish", concatenation="fixed"), _TWO),
    "dense, image": Tiny(_tiny(blocks=1, tail_blocks=1, tail_growth=6), _IMAGE),
    "dense, exact, image": Tiny(_tiny(**_EXACT, blocks=1, tail_blocks=1, tail_growth=6), _IMAGE),
    "residual": Tiny(_tiny(**_PLAIN, score_terms=0, train_terms=0), _TWO),
    "residual, exact": Tiny(_tiny(**_EXACT, **_PLAIN), _TWO),
    "residual, exact, concatenated": Tiny(_tiny(**_EXACT, block="residual"), _TWO),
    "residual, exact, image": Tiny(_tiny(**_EXACT, **_PLAIN, blocks=1, tail_blocks=1, tail_width=6), _IMAGE),
    "dequantised": Tiny(_tiny(), _BITS),
    "dequantised, exact, labels": Tiny(_tiny(**_EXACT), _BITS, _LABEL),
    "dequantised, logit": Tiny(_tiny(squash="logit", **_PLAIN), _BITS),
    "dequantised, image": Tiny(_tiny(blocks=1), _GREYS),
}
