"""p(x given parameters): what stands at the end of a network and turns its outputs into a distribution over data.

An observation sees data as (B, C, *sites): C channels at every site, the sites independent given the parameters,
(B, P, *sites). Images (C, H, W) have their pixels as sites; for every other shape each number is a site with one
channel. Draws are made by inverting distribution functions, so that uniform noise of shape (B, U, *sites) fixes
them. All log-probabilities are in nats, summed over channels, (B, *sites).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from likely.space import Integers, Reals, Space

Kind = Literal["bernoulli", "categorical", "logistic", "normal"]


class Observation(ABC):
    """p(x given parameters) over one space. Abstract; made by `observation`."""

    parameters: int
    """P, the numbers a network gives for each site."""
    uniforms: int
    """U, the uniform draws that a sample takes for each site."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.channels = space.shape[0] if len(space.shape) == 3 else 1
        self.sites = space.shape[1:] if len(space.shape) == 3 else space.shape

    def arrange(self, x: Tensor) -> Tensor:
        """(B, *shape) to (B, C, *sites)."""
        return x.reshape(x.shape[0], self.channels, *self.sites)

    def restore(self, x: Tensor) -> Tensor:
        """(B, C, *sites) to (B, *shape)."""
        return x.reshape(x.shape[0], *self.space.shape)

    @abstractmethod
    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """log p at every site, (B, *sites), from parameters (B, P, *sites) and x (B, C, *sites)."""

    @abstractmethod
    def tempered(self, parameters: Tensor, t: float) -> Tensor:
        """Parameters of p^(1/t), normalised; for mixtures of weights to the power of 1/t, and of scales times t."""

    @abstractmethod
    def sample(self, parameters: Tensor, u: Tensor) -> Tensor:
        """x (B, C, *sites) from parameters and uniforms u (B, U, *sites)."""

    @abstractmethod
    def mean(self, parameters: Tensor) -> Tensor:
        """E[x], (B, C, *sites), in the units of x."""


class Bernoulli(Observation):
    """Bits; one logit a channel."""

    def __init__(self, space: Integers) -> None:
        super().__init__(space)
        if space.levels != 2:
            raise ValueError(f"space has {space.levels} levels; a Bernoulli observation accepts 2")
        self.parameters = self.uniforms = self.channels

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        return F.logsigmoid(parameters * (2 * x.to(parameters.dtype) - 1)).sum(1)

    def tempered(self, parameters: Tensor, t: float) -> Tensor:
        return parameters / t

    def sample(self, parameters: Tensor, u: Tensor) -> Tensor:
        return (u < parameters.sigmoid()).long()

    def mean(self, parameters: Tensor) -> Tensor:
        return parameters.sigmoid()


class Categorical(Observation):
    """Integers without order; `levels` logits a channel, the channels independent."""

    def __init__(self, space: Integers) -> None:
        super().__init__(space)
        self.levels = space.levels
        self.parameters, self.uniforms = self.channels * space.levels, self.channels

    def _logits(self, parameters: Tensor) -> Tensor:
        shape = (parameters.shape[0], self.channels, self.levels, *parameters.shape[2:])
        return parameters.reshape(shape).log_softmax(2)

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        return self._logits(parameters).gather(2, x.long().unsqueeze(2)).squeeze(2).sum(1)

    def tempered(self, parameters: Tensor, t: float) -> Tensor:
        return parameters / t

    def sample(self, parameters: Tensor, u: Tensor) -> Tensor:
        return _invert(self._logits(parameters).exp(), u, 2)

    def mean(self, parameters: Tensor) -> Tensor:
        weight = self._logits(parameters).exp()
        value = torch.arange(self.levels, dtype=weight.dtype, device=weight.device)
        return torch.einsum("bcl...,l->bc...", weight, value)


class DiscretisedLogisticMixture(Observation):
    """Ordered integers: a mixture of logistics integrated over each bin, with open tails at both ends.

    In channels beyond the first the means are chained linearly on the true values of the earlier ones.
    "PixelCNN++" (Salimans, Karpathy, Chen, Kingma, 2017), eq. 1-3; the bin's mass is computed as
    log(s(a) - s(b)) = log s(a) + log s(-b) + log(1 - exp(b - a)) and so needs no fall-back to a density.
    """

    def __init__(self, space: Integers, components: int = 10) -> None:
        super().__init__(space)
        if self.channels not in (1, 3):
            raise ValueError(f"space has {self.channels} channels; a logistic mixture accepts 1 or 3")
        if components < 1:
            raise ValueError(f"components is {components}; accepts 1 or more")
        self.levels, self.components = space.levels, components
        self.chained = self.channels * (self.channels - 1) // 2
        self.parameters = components * (1 + 2 * self.channels + self.chained)
        self.uniforms = 1 + self.channels
        # No scale needs to be far below a bin, 2 / (levels - 1) on [-1, 1]; -7 at 256 levels, as in the paper's code.
        self.floor = -7 + math.log(255 / (self.levels - 1))

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits (B, M, *sites), means and log-scales (B, M, C, *sites), chain coefficients (B, M, chained, *sites)."""
        c = self.channels
        numbers = 1 + 2 * c + self.chained
        each = parameters.reshape(parameters.shape[0], self.components, numbers, *parameters.shape[2:])
        logit, mean, scale, chain = each.split([1, c, c, self.chained], 2)
        return logit.squeeze(2).log_softmax(1), mean, scale.clamp(min=self.floor), chain.tanh()

    def _mean(self, mean: Tensor, chain: Tensor, value: Tensor) -> Tensor:
        """Means (B, M, C, *sites) given the true centred values (B, C, *sites)."""
        if self.channels == 1:
            return mean
        red, green = value[:, None, 0], value[:, None, 1]
        return torch.stack(
            [
                mean[:, :, 0],
                mean[:, :, 1] + chain[:, :, 0] * red,
                mean[:, :, 2] + chain[:, :, 1] * red + chain[:, :, 2] * green,
            ],
            2,
        )

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        logit, mean, log_scale, chain = self._split(parameters)
        value = x.to(parameters.dtype) * (2 / (self.levels - 1)) - 1
        mass = self._log_mass(self._mean(mean, chain, value), log_scale, value, x)
        return (mass.sum(2) + logit).logsumexp(1)

    def given(self, parameters: Tensor, x: Tensor, c: int) -> tuple[Tensor, Tensor, Tensor]:
        """Channel c given the channels before it, which alone are looked at in x: a mixture of logistics again.

        Its log-weights (the components' posterior, up to a constant), its means and log-scales in levels, all
        (B, M, *sites).
        """
        logit, mean, log_scale, chain = self._split(parameters)
        value = x.to(parameters.dtype) * (2 / (self.levels - 1)) - 1
        mean, half = self._mean(mean, chain, value), (self.levels - 1) / 2
        if c:
            before = self._log_mass(mean[:, :, :c], log_scale[:, :, :c], value[:, :c], x[:, :c])
            logit = logit + before.sum(2)
        return logit, (mean[:, :, c] + 1) * half, log_scale[:, :, c] + math.log(half)

    def _log_mass(self, mean: Tensor, log_scale: Tensor, value: Tensor, x: Tensor) -> Tensor:
        """log of each component's mass in each bin, (B, M, C, *sites); `value` is x on [-1, 1]."""
        inverse, half = (-log_scale).exp(), 1 / (self.levels - 1)
        distance = value[:, None] - mean
        upper = F.logsigmoid((distance + half) * inverse)  # log s(a)
        lower = F.logsigmoid((half - distance) * inverse)  # log s(-b)
        inside = (-torch.expm1(-2 * half * inverse)).log()  # log(1 - exp(b - a))
        x = x[:, None]
        return torch.where(x == 0, upper, torch.where(x == self.levels - 1, lower, upper + lower + inside))

    def tempered(self, parameters: Tensor, t: float) -> Tensor:
        c = self.channels
        shape = (parameters.shape[0], self.components, -1, *parameters.shape[2:])
        logit, mean, scale, chain = parameters.reshape(shape).split([1, c, c, self.chained], 2)
        scale = scale.clamp(min=self.floor) + math.log(t)
        return torch.cat([logit / t, mean, scale, chain], 2).reshape(parameters.shape)

    def sample(self, parameters: Tensor, u: Tensor) -> Tensor:
        logit, mean, log_scale, chain = self._split(parameters)
        chosen = _invert(logit.exp(), u[:, 0], 1)
        index = chosen[:, None, None]

        def of(values: Tensor) -> Tensor:
            return values.gather(1, index.expand(-1, -1, values.shape[2], *index.shape[3:])).squeeze(1)

        mean, scale, chain = of(mean), of(log_scale).exp(), of(chain)
        shift = scale * (u[:, 1:].log() - torch.log1p(-u[:, 1:]))
        values: list[Tensor] = []  # centred, on the grid
        for c in range(self.channels):
            centre = mean[:, c]
            for j, before in enumerate(values):
                centre = centre + chain[:, c * (c - 1) // 2 + j] * before
            level = ((centre + shift[:, c] + 1) * ((self.levels - 1) / 2)).round().clamp(0, self.levels - 1)
            values.append(level * (2 / (self.levels - 1)) - 1)
        return torch.stack([((v + 1) * ((self.levels - 1) / 2)).round() for v in values], 1).long()

    def mean(self, parameters: Tensor) -> Tensor:
        """The mean of the logistics before they are cut to the grid, clamped to it: a picture, not an expectation."""
        logit, mean, _, chain = self._split(parameters)
        weight, channels = logit.exp(), []
        for c in range(self.channels):
            centre = mean[:, :, c]
            for j, before in enumerate(channels):
                centre = centre + chain[:, :, c * (c - 1) // 2 + j] * before[:, None]
            channels.append((weight * centre).sum(1).clamp(-1, 1))
        return (torch.stack(channels, 1) + 1) * ((self.levels - 1) / 2)


class Normal(Observation):
    """Reals; a mean and a log standard deviation a channel."""

    def __init__(self, space: Reals) -> None:
        super().__init__(space)
        self.parameters, self.uniforms = 2 * self.channels, self.channels

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        mean, log_scale = parameters.chunk(2, 1)
        standard = (x.to(parameters.dtype) - mean) * (-log_scale).exp()
        return (-0.5 * standard.square() - log_scale - 0.5 * math.log(2 * math.pi)).sum(1)

    def tempered(self, parameters: Tensor, t: float) -> Tensor:
        mean, log_scale = parameters.chunk(2, 1)
        return torch.cat([mean, log_scale + math.log(t) / 2], 1)

    def sample(self, parameters: Tensor, u: Tensor) -> Tensor:
        mean, log_scale = parameters.chunk(2, 1)
        return mean + log_scale.exp() * torch.special.ndtri(u)

    def mean(self, parameters: Tensor) -> Tensor:
        return parameters.chunk(2, 1)[0]


class LogisticsOnGrid(Observation):
    """Ordered integers: mixtures of discretised logistics whose parameters are integers, one channel.

    Log-weights, means (in levels) and log-scales (of scales in levels), `components` each, all in units of 1/256 and
    held as they are in floating point: the very numbers that integer frequency tables are looked up with. Open tails.
    """

    def __init__(self, space: Integers, components: int) -> None:
        super().__init__(space)
        if self.channels != 1:
            raise ValueError(f"space has {self.channels} channels; logistics on a grid accept 1")
        self.levels, self.components, self.parameters, self.uniforms = space.levels, components, 3 * components, 2

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logit, mean, log_scale = (parameters / 256).chunk(3, 1)
        return logit.log_softmax(1), mean, log_scale

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        logit, mean, log_scale = self._split(parameters)
        inverse, x = (-log_scale).exp(), x.to(parameters.dtype)
        upper = F.logsigmoid((x + 0.5 - mean) * inverse)
        lower = F.logsigmoid((mean - x + 0.5) * inverse)
        inside = (-torch.expm1(-inverse)).log()  # see DiscretisedLogisticMixture
        mass = torch.where(x == 0, upper, torch.where(x == self.levels - 1, lower, upper + lower + inside))
        return (mass + logit).logsumexp(1)

    def tempered(self, parameters: Tensor, t: float) -> Tensor:
        logit, mean, log_scale = parameters.chunk(3, 1)
        return torch.cat([logit / t, mean, log_scale + 256 * math.log(t)], 1)

    def sample(self, parameters: Tensor, u: Tensor) -> Tensor:
        logit, mean, log_scale = self._split(parameters)
        chosen = _invert(logit.exp(), u[:, 0], 1)[:, None]
        shift = (u[:, 1:].log() - torch.log1p(-u[:, 1:])) * log_scale.gather(1, chosen).exp()
        return (mean.gather(1, chosen) + shift).round().clamp(0, self.levels - 1).long()

    def mean(self, parameters: Tensor) -> Tensor:
        logit, mean, _ = self._split(parameters)
        return (logit.exp() * mean).sum(1, keepdim=True).clamp(0, self.levels - 1)


class Conditional(NamedTuple):
    """The distribution of one site of an `Ordered` model: an observation and its parameters (B, P)."""

    observation: Observation
    parameters: Tensor

    def log_prob(self, x_i: Tensor) -> Tensor:
        """log p of the site's values (B, C), in nats, (B,)."""
        return self.observation.log_prob(self.parameters, x_i)

    def tempered(self, t: float) -> Conditional:
        """The site at temperature t."""
        return Conditional(self.observation, self.observation.tempered(self.parameters, t))

    def sample(self, u: Tensor) -> Tensor:
        """The site's values (B, C) from uniforms (B, U)."""
        return self.observation.sample(self.parameters, u)


class Rounded(NamedTuple):
    """Numbers that were rounded to centre + k for integers k: P(k) is what a mixture has on [k - 1/2, k + 1/2].

    `centre` is (B, C, S); `logits`, `mean` (from the centre) and `log_scale` of the M parts are (B, C, S, M). A value
    is rounded to the second nearest where that lies nearer to the centre and saves more bits than `thrift` times what
    it adds to the squared error; with 0 always to the nearest.
    """

    function: Literal["logistic", "normal"]
    centre: Tensor
    logits: Tensor
    mean: Tensor
    log_scale: Tensor
    thrift: float = 0.0

    @torch.no_grad()
    def rounded(self, value: Tensor) -> Tensor:
        """centre + k for each value, the centre taken to the nearest 1/256: as the coder has it."""
        centre = (self.centre * 256).round() / 256
        k = (value - centre).round()
        if not self.thrift:
            return k + centre
        less = k - k.sign()
        saved = self.bits(k + centre) - self.bits(less + centre)
        added = (value - centre - less).square() - (value - centre - k).square()
        return torch.where(saved > self.thrift * added, less, k) + centre

    def log_mass(self, value: Tensor) -> Tensor:
        """log of the mass within 1/2 of a value, (B, C, S) in nats: log P(k) at centre + k, a density between them."""
        inverse = (-self.log_scale).exp()
        away = ((value - self.centre)[..., None] - self.mean).abs()
        upper, lower = (0.5 - away) * inverse, (-0.5 - away) * inverse  # mirrored to where F is far from 1
        if self.function == "logistic":  # log(F(a) - F(b)) = log F(a) + log F(-b) + log(1 - exp(b - a))
            mass = F.logsigmoid(upper) + F.logsigmoid(-lower) + (-torch.expm1(-inverse)).log()
        else:  # log(F(a) - F(b)) = log F(a) + log(1 - F(b) / F(a))
            above = torch.special.log_ndtr(upper)
            mass = above + (-torch.expm1(torch.special.log_ndtr(lower) - above)).log()
        return (mass + self.logits.log_softmax(-1)).logsumexp(-1)

    def bits(self, value: Tensor) -> Tensor:
        """What a rounded value costs in a table of integers that add up to 2^24, each 1 or more; (B, C, S)."""
        return -torch.log2(self.log_mass(value).exp() + 2.0**-24)


def observation(kind: Kind, space: Any, components: int = 10) -> Observation:
    """The observation `kind` over a space; `components` is for the logistic mixture.

    Raises `ValueError` where the kind does not fit: "normal" is for `Reals`, the others for `Integers`.
    """
    if kind == "normal" and isinstance(space, Reals):
        return Normal(space)
    if isinstance(space, Integers):
        if kind == "bernoulli":
            return Bernoulli(space)
        if kind == "categorical":
            return Categorical(space)
        if kind == "logistic":
            return DiscretisedLogisticMixture(space, components)
    accepted = "bernoulli (2 levels), categorical, logistic for Integers; normal for Reals"
    raise ValueError(f"observation is {kind!r} over {space}; accepts {accepted}")


def _invert(weight: Tensor, u: Tensor, dim: int) -> Tensor:
    """The category whose slice of [0, 1) holds u; `weight` sums to 1 along `dim`, which the result lacks."""
    cumulative = weight.cumsum(dim)
    category = (u.unsqueeze(dim) >= cumulative).sum(dim)
    return category.clamp(max=weight.shape[dim] - 1)
