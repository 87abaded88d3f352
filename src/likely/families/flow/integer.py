"""Integer discrete flow: z = f(x) permutes the states 0 .. levels-1 of every number, so P(x) = P(z), exactly.

A coupling divides the numbers into parts and moves one after the other,

    z_i = (x_i + round(t_i(the others))) mod levels,

where t_i sees every other part as it is by then ("Integer Discrete Flows and Lossless Compression", Hoogeboom, Peters,
van den Berg, Welling, 2019; "IDF++", van den Berg, Gritsenko, Dehghani, Sonderby, Salimans, 2020; four parts as in
"Deep Generative Modeling", Tomczak, 2024, ch. 3). Volumes do not change, so no log-determinant is counted.

Why modulo. In those papers z lives in all integers. That map is a bijection of Z^D, but the images of the box
{0 .. levels-1}^D are another set than the box, and mass that the base puts outside them belongs to no x: the
probabilities of all x add up to less than one. Modulo `levels` the box itself is permuted: with a base over the box
that sums to one, so does P, and every z decodes to an x in range. The price is wrap-around: a shift that carries a
value over the edge leaves a second mode at the other end, which costs the mixture a component.

Rounding has derivative zero; gradients pass straight through it, as if it were not there (`straight_through`). Those
of the base's parameters are exact, those of the shifts' networks a biased substitute.

What they carry is not the derivative of log P(z) in z either. That one knows nothing of the wrap-around: from an edge
it leads off the box, to the other end; and at the top of a peak it is zero, so that nothing holds a shift there before
it has left. Training then makes the score worse. `loss` takes the difference to the neighbour on the circle on whose
side z would lie without rounding instead (`Base._slope`): a piecewise linear log P, whose maxima lie at integers. Which
side that is, the sum of t - round(t), travels through the levels as the imaginary part of z. Over two levels, where
both neighbours are the same number, the shifts still learn nothing.

A shift near a half may round differently where a network's last bits differ, as they do between batch sizes: in
float32 some shifts in 100,000, so that most colour pictures of 32x32 encoded alone have another z than among 64.
Whatever answers a question (`encode`, `decode`, `log_prob`, `sample`, `features`) therefore runs in float64, where a
shift would have to lie within some 1e-13 of a half. Only `loss` runs in the parameters' own precision.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor, nn

from likely.config.integer_flow import IntegerFlow as IntegerFlowConfig
from likely.families import Tiny
from likely.families.flow.base import as_context, context_size
from likely.families.flow.conditioner import Conditioner
from likely.families.flow.model import has_channels, mixing
from likely.families.flow.multiscale import Multiscale, pyramid, with_features
from likely.families.flow.transforms import Answer, Chain, Transform, Volume, no_change
from likely.noise import Noise
from likely.observation import Conditional, observation
from likely.space import Integers, Reals, Space

FINE = torch.float64
"""What answers are computed in."""
MOST_LEVELS = 2**16
"""float32, in which training runs, holds integers and their sums exactly far beyond; a picture has no more."""


class ShiftCoupling(Transform):
    """z_i = (x_i + round(t_i)) mod levels, one part after the other; x and z are floats that hold 0 .. levels-1.

    `nets[i]` takes the other parts on [-1, 1] to t_i in units of half the range. Where x is complex its real part is
    moved, and t - round(t) added to its imaginary part.
    """

    def __init__(self, levels: int, sizes: list[int], nets: list[nn.Module]) -> None:
        super().__init__()
        self.levels, self.sizes, self.nets = levels, sizes, nn.ModuleList(nets)

    def forward(self, x: Tensor, y: Tensor | None = None, volume: Volume | None = None) -> Answer:
        parts, lost = list(x.real.split(self.sizes, 1)), []
        for i in range(len(parts)):
            parts[i] = (parts[i] + self._shift(i, parts, y, lost)).remainder(self.levels)
        z = torch.cat(parts, 1)
        return torch.complex(z, x.imag + torch.cat(lost, 1)) if x.is_complex() else z, no_change(z)

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        parts = list(z.split(self.sizes, 1))
        for i in reversed(range(len(parts))):
            parts[i] = (parts[i] - self._shift(i, parts, y)).remainder(self.levels)
        return torch.cat(parts, 1)

    def _shift(self, i: int, parts: list[Tensor], y: Tensor | None, lost: list[Tensor] | None = None) -> Tensor:
        """round(t_i) mod levels: an integer whatever the network says, and small enough to be added exactly.

        t_i - round(t_i) is appended to `lost`.
        """
        others = torch.cat([*parts[:i], *parts[i + 1 :]], 1)
        t = at_precision(self.nets[i], centred(others, self.levels), y) * ((self.levels - 1) / 2)
        if lost is not None:
            lost.append((t - t.round()).detach().to(others.dtype))
        return straight_round(t).remainder(self.levels)


class Base(nn.Module):
    """A mixture of discretised logistics for each number, (C, H, W) or (D,) of them: sums to one over 0 .. levels-1.

    The parameters are learned offsets plus, where there is a `net`, what it makes of the kept half and y; without one
    they are linear in y.
    """

    started: Tensor

    def __init__(
        self, levels: int, shape: tuple[int, ...], components: int, net: nn.Module | None = None, context: int = 0
    ) -> None:
        super().__init__()
        self.levels, self.shape, self.size, self.net = levels, tuple(shape), math.prod(shape), net
        self.observation = observation("logistic", Integers((1,), levels), components)
        middle = (2 * torch.arange(components) + 1) / components - 1  # components side by side over [-1, 1]
        offset = torch.zeros(components, 3, self.size)  # logit, mean, log scale
        offset[:, 1], offset[:, 2] = middle[:, None], -math.log(2 * components)
        self.offset = nn.Parameter(offset)
        self.weight = nn.Parameter(torch.zeros(context, offset.numel())) if context and net is None else None
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def start(self, z: Tensor) -> None:
        """Put the components at the quantiles of z (n, *shape), unless that was done before or z is empty."""
        if self.started or not z.shape[0]:
            return
        value, k = centred(z, self.levels).flatten(1), self.offset.shape[0]
        at = (torch.arange(k, dtype=value.dtype, device=value.device) + 0.5) / k
        scale = (value.std(0, correction=0) / k).clamp(min=1 / (self.levels - 1))
        spread = (torch.arange(k, device=value.device) - (k - 1) / 2)[:, None] * scale / 2  # no two the same
        with torch.no_grad():
            self.offset[:, 1] = value.quantile(at, 0) + spread
            self.offset[:, 2] = scale.log()
            self.started.fill_(True)

    def _numbers(self, kept: Tensor | None, y: Tensor | None, dtype: torch.dtype) -> Tensor:
        """(B or 1, P, numbers)."""
        offset = self.offset.to(dtype).reshape(1, -1, self.size)
        if self.net is not None and kept is not None:
            found = at_precision(self.net, centred(kept, self.levels), y)
            return offset + found.reshape(kept.shape[0], -1, self.size)
        if self.weight is not None and y is not None:
            return offset + (y.flatten(1) @ self.weight.to(dtype)).reshape(-1, *offset.shape[1:])
        return offset

    def log_prob(self, z: Tensor, kept: Tensor | None, y: Tensor | None) -> Tensor:
        """log P of z (B, *shape) given the kept half, (B,) in nats.

        A complex z is its real part; the gradient by it is then `_slope`, by the imaginary part's sign.
        """
        flat = z.real.reshape(z.shape[0], 1, self.size)
        parameters = self._numbers(kept, y, flat.dtype).expand(z.shape[0], -1, -1)
        held = flat.detach() if z.is_complex() else flat
        log_p = self.observation.log_prob(parameters, held)
        if z.is_complex():
            slope = self._slope(parameters, held, log_p, z.imag.reshape(z.shape[0], self.size))
            log_p = log_p + slope * (flat - held)[:, 0]
        return log_p.sum(1)

    def _slope(self, parameters: Tensor, z: Tensor, here: Tensor, lost: Tensor) -> Tensor:
        """What a level more changes in log P, `here` at z, on the side of z where `lost` lies; all (B, size).

        The mean of both sides where `lost` is 0, as it is before the first step.
        """
        with torch.no_grad():
            below, above = (
                self.observation.log_prob(parameters, (z + step).remainder(self.levels)) for step in (-1, 1)
            )
            return torch.where(lost > 0, above - here, torch.where(lost < 0, here - below, (above - below) / 2))

    def conditional(self, n: int, kept: Tensor | None, y: Tensor | None) -> Conditional:
        """The distribution of n rows of z given the kept half, parameters (n, P, numbers)."""
        return Conditional(self.observation, self._numbers(kept, y, FINE).expand(n, -1, -1))


class IntegerFlow(nn.Module):
    """A normalised distribution over `Integers` by a permutation of all its states.

    Three axes (C, H, W) are an image unless `config.levels` is 0, all other shapes a vector. y is a label or a real
    vector. Verbs: Trainable, Samples, Exact, Invertible (z is flat, (B, D) int64 in 0 .. levels-1).
    """

    players = ("model",)
    straight_through = True

    def __init__(self, config: IntegerFlowConfig, space: Integers, condition: Space | None = None) -> None:
        super().__init__()
        self.config, self.space, self.condition = config, space, condition
        context = context_size(condition)
        inside = 0 if config.conditioning == "prior" else context
        outside = 0 if config.conditioning == "coupling" else context
        if has_channels(space.shape, config.levels):
            self.shape = space.shape
            self.trunk = pyramid(self.shape, config.levels, lambda level: self._steps(level.shape[0], inside, True))
        else:
            self.shape = (space.dims,)
            self.trunk = Multiscale([Chain(self._steps(space.dims, inside, False))], [self.shape])
        *leaving, last = self.trunk.shapes
        bases = [self._factored(shape, outside) for shape in leaving]
        self.bases = nn.ModuleList([*bases, Base(space.levels, last, config.components, context=outside)])
        self.observation = self.bases[-1].observation

    def _steps(self, channels: int, context: int, image: bool) -> list[Transform]:
        """The couplings of a level, and what mixes between them; one number alone has nothing to learn from."""
        config, n = self.config, min(self.config.parts, channels)
        sizes = [channels // n + (i < channels % n) for i in range(n)]
        steps: list[Transform] = []
        for _ in range(config.depth if n > 1 else 0):
            nets = [self._net(channels - size, size, context, image) for size in sizes]
            steps += [ShiftCoupling(self.space.levels, sizes, nets), mixing(config, channels)]
        return steps

    def _factored(self, shape: tuple[int, ...], context: int) -> Base:
        """The base of the half that leaves a level, given the half that stays."""
        channels, *sites = shape
        kept, config = channels // 2, self.config
        leaving = channels - kept
        net = self._net(kept, 3 * config.components * leaving, context, True)
        return Base(self.space.levels, (leaving, *sites), config.components, net)

    def _net(self, inputs: int, outputs: int, context: int, image: bool) -> nn.Module:
        config = self.config
        return Conditioner(
            inputs,
            outputs,
            width=config.width,
            hidden=config.hidden,
            activation=config.activation,
            context=context,
            image=image,
        )

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x (B, *shape) to z (B, D)."""
        with torch.no_grad():
            return self.trunk(self._floats(x, FINE), self._context(y, FINE))[0].long()

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """z (B, D) to x (B, *shape). Raises `TypeError` for floats, `ValueError` for a z out of range."""
        z = Integers((self.space.dims,), self.space.levels).check(z, "z")
        with torch.no_grad():
            x = self.trunk.inverse(z.to(FINE), self._context(y, FINE))
        return x.long().reshape(-1, *self.space.shape)

    def sample(self, n: int, y: Tensor | None = None, *, noise: Noise) -> Tensor:
        """n draws, (n, *shape) int64: the last level's z first, what left the earlier ones given what they kept."""
        us = noise.uniform((2, self.space.dims), dtype=FINE).split([base.size for base in self.bases], 2)
        with torch.no_grad():
            walk = self.factors(n, y)
            each = next(walk)
            for u in us[:0:-1]:
                each = walk.send(each.sample(u))
            try:
                walk.send(each.sample(us[0]))
            except StopIteration as end:
                return end.value
        raise AssertionError("a walk over the levels ends with the first")

    def factors(self, n: int, y: Tensor | None = None) -> Generator[Conditional, Tensor, Tensor]:
        """For n rows: yields each level's distribution, the last level's first, takes its z (n, 1, S); returns x."""
        y = self._context(y, FINE)
        x: Tensor | None = None
        for level, base in reversed(list(zip(self.trunk.levels, self.bases, strict=True))):
            z = (yield base.conditional(n, x, y)).to(FINE).reshape(-1, *base.shape)
            x = level.inverse(z if x is None else torch.cat([x, z], 1), y)
        return x.long().reshape(-1, *self.space.shape)  # ty: ignore[unresolved-attribute]

    def factor_values(self, x: Tensor, y: Tensor | None = None) -> list[Tensor]:
        """z of every level of x, (B, 1, S) int64, in the order in which `factors` takes them."""
        with torch.no_grad():
            scales = self._scales(self._floats(x, FINE), self._context(y, FINE))
        parts = [each[:, each.shape[1] - base.shape[0] :] for base, each in zip(self.bases, scales, strict=True)]
        return [part.flatten(1)[:, None].long() for part in reversed(parts)]

    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """log P(x), or log P(x given y), (B,) in nats."""
        y = self._context(y, FINE)
        return self._log_base(self._scales(self._floats(x, FINE), y), y).to(self._dtype)

    def loss(self, x: Tensor, y: Tensor | None = None, *, player: str = "model", noise: Noise) -> Tensor:
        """-log P(x given y), the mean over rows, in nats; its gradients pass straight through the roundings."""
        return self.loss_and_features(x, y, noise=noise)[0]

    def loss_and_features(self, x: Tensor, y: Tensor | None = None, *, noise: Noise) -> tuple[Tensor, list[Tensor]]:
        """`loss` and `features` in one pass, in the parameters' precision."""
        y, start = self._context(y, self._dtype), self._floats(x, self._dtype)
        scales = self._scales(torch.complex(start, torch.zeros_like(start)), y)
        return -self._log_base(scales, y).mean(), [centred(each.real, self.space.levels) for each in scales]

    def features(self, x: Tensor, y: Tensor | None = None) -> list[Tensor]:
        """What leaves each scale on [-1, 1], (B, C, H, W) each, or [(B, D)] of a vector; gradients as in `loss`."""
        scales = self._scales(self._floats(x, FINE), self._context(y, FINE))
        return [centred(each, self.space.levels).to(self._dtype) for each in scales]

    def prepare(self, x: Tensor, y: Tensor | None = None, *, noise: Noise) -> None:
        """Puts the base's components at the quantiles of at most 512 rows; what has been started before stays."""
        x, y = x[:512], y if y is None else self.condition.take(y, slice(0, 512))  # ty: ignore
        with torch.no_grad():
            scales = self._scales(self._floats(x, self._dtype), self._context(y, self._dtype))
            for base, each in zip(self.bases, scales, strict=True):
                base.start(each[:, each.shape[1] - base.shape[0] :])  # the part that leaves, or all

    def _scales(self, x: Tensor, y: Tensor | None) -> list[Tensor]:
        """What leaves each level, (B, C, H, W) with the kept half first, or [z] (B, D) of a vector."""
        return with_features(self, lambda: self.trunk(x, y))[1]

    def _log_base(self, scales: list[Tensor], y: Tensor | None) -> Tensor:
        total = no_change(scales[0].real)
        for base, each in zip(self.bases, scales, strict=True):
            kept = each.shape[1] - base.shape[0]
            total = total + base.log_prob(each[:, kept:], each[:, :kept].real if kept else None, y)
        return total

    def _floats(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return x.to(dtype).reshape(-1, *self.shape)

    def _context(self, y: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        return as_context(self.condition, y, dtype, image=len(self.shape) == 3)

    @property
    def _dtype(self) -> Any:
        return self.bases[-1].offset.dtype


def straight_round(t: Tensor) -> Tensor:
    """round(t), with the derivative 1 ("Estimating or propagating gradients", Bengio, Leonard, Courville, 2013).

    Exact in floating point: t and round(t) are within a factor of two of each other, or round(t) is 0.
    """
    return t + (t.round() - t).detach()


def centred(x: Tensor, levels: int) -> Tensor:
    """0 .. levels-1 on [-1, 1]."""
    return x * (2 / (levels - 1)) - 1


def at_precision(net: nn.Module, x: Tensor, y: Tensor | None) -> Tensor:
    """net(x, y) in the precision of x, whatever the network's own."""
    parameters = dict(net.named_parameters())
    if all(p.dtype == x.dtype for p in parameters.values()):
        return net(x, y)
    return torch.func.functional_call(net, {name: p.to(x.dtype) for name, p in parameters.items()}, (x, y))


def model(config: IntegerFlowConfig, space: Space, condition: Space | None, build: Any) -> IntegerFlow:
    """The integer flow of a config over `Integers`."""
    if not isinstance(space, Integers) or not space.shape:
        raise ValueError(f"space is {space}; an integer flow accepts arrays of Integers")
    if space.levels > MOST_LEVELS:
        raise ValueError(f"space has {space.levels} levels; an integer flow accepts at most {MOST_LEVELS}")
    return IntegerFlow(config, space, condition)


def _tiny(**fields: Any) -> IntegerFlowConfig:
    return IntegerFlowConfig(**{"depth": 2, "width": 6, "hidden": 1, "components": 2, **fields})


_PAIR, _FOUR, _LABEL = Integers((2,), 9), Integers((2, 2), 4), Integers((), 2)

TINY: dict[str, Tiny] = {
    "four parts": Tiny(_tiny(), _FOUR),
    "two parts": Tiny(_tiny(parts=2), _PAIR),
    "three numbers": Tiny(_tiny(parts=3, mixing="permutation"), Integers((3,), 5)),
    "one number": Tiny(_tiny(), Integers((1,), 7)),
    "labels": Tiny(_tiny(parts=2), _PAIR, _LABEL),
    "labels in the prior": Tiny(_tiny(parts=2, conditioning="prior"), _PAIR, _LABEL),
    "labels in the couplings": Tiny(_tiny(parts=2, conditioning="coupling"), _PAIR, _LABEL),
    "vector condition": Tiny(_tiny(parts=2), _PAIR, Reals((2,))),
    "image": Tiny(_tiny(depth=1), Integers((1, 2, 2), 3)),
    "image, labels": Tiny(_tiny(depth=1, parts=2), Integers((1, 2, 2), 4), _LABEL),
}
