"""The model: a walk from the coarsest pixel to the image, which scoring, drawing and coding all take."""

from __future__ import annotations

import copy
import math
from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from likely.config.pyramid import Pyramid
from likely.families import Tiny
from likely.families.pyramid.lattice import STARTS, UNIT, Surroundings, doubled, inputs, sizes
from likely.families.pyramid.network import IntegerNet
from likely.noise import Noise
from likely.observation import Conditional, LogisticsOnGrid
from likely.space import Integers, Space

Program = Generator[Conditional, Tensor, Tensor]
ORDER = (1, 0, 2)
"""Green first."""
LN2 = 177
"""log 2 in units of 1/256."""
_LOWEST, _HIGHEST = -4 * 256, 7 * 256  # log-scales
_REACH = 16 * 256  # log-weights, and means in units of the contrast


class PyramidModel(nn.Module):
    """p(x) over images (1 or 3, H, W) of at most 256 levels. Verbs: Trainable, Samples, Exact. Made by `model`."""

    players = ("model",)
    straight_through = True
    numerics = "int"
    """Its parameters are integers, the same on every machine."""

    def __init__(self, config: Pyramid, space: Integers) -> None:
        super().__init__()
        self.config, self.space, self.condition = config, space, None
        self.observation = LogisticsOnGrid(Integers((1,), space.levels), config.components)
        channels, outputs = range(space.shape[0]), self.observation.parameters
        self.first = nn.Parameter(torch.zeros(space.shape[0], outputs))  # the coarsest pixel
        self.nets = nn.ModuleList(
            nn.ModuleList(IntegerNet(inputs(g, c), config.width, config.hidden, outputs) for c in channels)
            for g in range(len(STARTS))
        )
        with torch.no_grad():  # components of several widths around the interpolation
            k = config.components
            spread = torch.linspace(-1.5, 1, k) if k > 1 else torch.zeros(1)
            side = torch.linspace(-0.5, 0.5, k) if k > 1 else torch.zeros(1)
            for net in (net for group in self.nets for net in group):
                net.offset.copy_(torch.cat([torch.zeros(k), side, spread]))
            wide = math.log(space.levels / 4)
            self.first.copy_(torch.cat([torch.zeros(k), side * space.levels, torch.full((k,), wide)]))
            self.first[0, k : 2 * k] += space.levels / 2

    def at(self, space: Integers) -> PyramidModel:
        """The same weights, not copied, over images of another size, or grey ones.

        Raises `ValueError` for a space that they cannot serve.
        """
        _check(space)
        if space.levels != self.space.levels or space.shape[0] > len(self.first):
            raise ValueError(
                f"space is {space}; these weights serve {self.space.levels} levels and "
                f"{'1 or 3 channels' if len(self.first) > 1 else '1 channel'}"
            )
        other = copy.copy(self)
        other.space = space
        return other

    def factors(self, n: int, y: Any = None) -> Program:
        """For n images: yields each group's distribution, takes its values (n, 1, S); returns x (n, C, H, W)."""
        return self._walk(n, whole=True)

    def factor_values(self, x: Tensor, y: Any = None) -> list[Tensor]:
        """The values of all groups of x, (n, 1, S) int64 each, in the order in which `factors` takes them."""
        every = range(len(sizes(*self.space.shape[1:])) - 1)
        coarsest = x[:, :, :: 2 ** len(every), :: 2 ** len(every)]
        return [*self._ordered(coarsest.long()).flatten(2).split(1, 1), *self._values(x, every)]

    def _values(self, x: Tensor, levels: Sequence[int]) -> list[Tensor]:
        """Those of some levels, the coarser first."""
        each = [self._ordered(x.long())[:, :, :: 2**level, :: 2**level] for level in reversed(levels)]
        groups = [level[:, :, r::2, c::2].flatten(2) for level in each for r, c in STARTS]
        return [value for group in groups for value in group.split(1, 1) if value.shape[2]]

    def sample(self, n: int, y: Any = None, *, noise: Noise) -> Tensor:
        """n draws, (n, C, H, W) int64."""
        walk = self.factors(n)
        with torch.no_grad():
            try:
                each = next(walk)
                while True:
                    u = noise.uniform((2, each.parameters.shape[2]), dtype=each.parameters.dtype)
                    each = walk.send(each.sample(u))
            except StopIteration as end:
                return end.value

    def log_prob(self, x: Tensor, y: Any = None) -> Tensor:
        """log p(x), (B,) in nats."""
        return self._log_prob(self._walk(len(x), whole=True), self.factor_values(x), len(x))

    def loss(self, x: Tensor, y: Any = None, *, player: str = "model", noise: Noise) -> Tensor:
        """-log p(x), the mean over rows, in nats; its gradients pass straight through the roundings.

        The last rounding, that of the distributions' parameters to 1/256, is left out.
        """
        return -self._log_prob(self._walk(len(x), whole=False), self.factor_values(x), len(x)).mean()

    def loss_of_finest(self, x: Tensor, levels: int) -> Tensor:
        """The part of `loss` that is the `levels` finest levels', given all others: nearly all of it, for less."""
        coarse = self._ordered(x)[:, :, :: 2**levels, :: 2**levels].transpose(0, 1).to(self.first.dtype)
        walk = self._finer(coarse, levels, whole=False)
        return -self._log_prob(walk, self._values(x, range(levels)), len(x)).mean()

    @torch.no_grad()
    def settle(self) -> None:
        """Put all parameters on the grids to which they are rounded in use: no answer changes, and files get small."""
        self.first.copy_((self.first * UNIT).round() / UNIT)
        for net in (net for group in self.nets for net in group):
            net.settle()

    def _log_prob(self, walk: Program, values: list[Tensor], n: int) -> Tensor:
        """log p of the values that a walk takes, (n,)."""
        each, total = next(walk), self.first.new_zeros(n)
        for number, value in enumerate(values, 1):
            total = total + each.log_prob(value).sum(1)
            if number < len(values):
                each = walk.send(value)
        return total

    def _walk(self, n: int, *, whole: bool) -> Program:
        canvas = self.first.new_zeros(self.space.shape[0], n, 1, 1)  # channels first, green before red
        for c in range(len(canvas)):
            canvas[c] = (yield self._coarsest(canvas, c, whole)).reshape(n, 1, 1)
        return (yield from self._finer(canvas, len(sizes(*self.space.shape[1:])) - 1, whole=whole))

    def _finer(self, canvas: Tensor, levels: int, *, whole: bool) -> Program:
        """From level `levels` down to the image."""
        for level in reversed(range(levels)):
            size = sizes(*self.space.shape[1:])[level]
            canvas = doubled(canvas, size)
            missed = torch.zeros_like(canvas)
            for group, first in enumerate(STARTS):
                if size[0] <= first[0] or size[1] <= first[1]:  # one row or column has no odd ones
                    continue
                around = Surroundings(canvas, missed, level, group, self.space.levels)
                for c in range(len(canvas)):
                    around.fill(c, (yield self._group(around, c, whole)))
        return self._ordered(canvas.transpose(0, 1)).long()

    def _coarsest(self, canvas: Tensor, channel: int, whole: bool) -> Conditional:
        raw = self.first[channel] * UNIT
        logit, mean, log_scale = (raw.round() if whole else raw)[:, None, None].expand(-1, canvas.shape[1], 1).chunk(3)
        if channel:
            mean = mean + canvas[0].reshape(1, -1, 1) * UNIT
        log_scale = log_scale.clamp(_LOWEST, _HIGHEST)
        return Conditional(self.observation, torch.cat([logit, mean, log_scale]).transpose(0, 1))

    def _group(self, around: Surroundings, channel: int, whole: bool) -> Conditional:
        """The distribution of a channel of a group, given what is known around it."""
        seen, base, power, scale = around.of(channel)
        raw = self.nets[around.group][channel](seen.flatten(1), whole=whole)  # (3 K, n h w)
        logit, mean, log_scale = raw.clamp(-_REACH, _REACH).chunk(3)
        mean = base.flatten() + mean * scale.flatten()
        log_scale = (log_scale + LN2 * power.flatten()).clamp(_LOWEST, _HIGHEST)
        each = torch.cat([logit, mean, log_scale]).reshape(len(raw), *base.shape).flatten(2)
        return Conditional(self.observation, each.transpose(0, 1))

    def _ordered(self, x: Tensor) -> Tensor:
        """Red, green, blue to green, red, blue, along the second axis, and back."""
        return x if x.shape[1] == 1 else x[:, ORDER]


def _check(space: Space) -> None:
    fits = isinstance(space, Integers) and len(space.shape) == 3 and space.shape[0] in (1, 3) and space.levels <= 256
    if not fits:
        raise ValueError(f"space is {space}; a pyramid accepts images (1 or 3, H, W) of at most 256 levels")


def model(config: Pyramid, space: Space, condition: Space | None, build: Any) -> PyramidModel:
    """The pyramid of a config over images."""
    _check(space)
    if condition is not None:
        raise ValueError(f"condition is {condition}; a pyramid has none")
    return PyramidModel(config, space)


def _tiny(**fields: Any) -> Pyramid:
    return Pyramid(**{"width": 5, "hidden": 1, "components": 2, **fields})


TINY: dict[str, Tiny] = {
    "grey": Tiny(_tiny(), Integers((1, 2, 2), 8)),
    "colour": Tiny(_tiny(), Integers((3, 2, 2), 2)),
    "odd sides": Tiny(_tiny(hidden=2, components=1), Integers((1, 2, 3), 4)),
}
