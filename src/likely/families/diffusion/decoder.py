"""p(x given z_0) and x_hat: the last step, from the least noisy z to the raw x; and what x looks like inside.

Inside, level k of L stands in the middle of its cell of [-1, 1], 2 (k + 1/2) / L - 1; reals are (x - centre) / scale
with one scale for all dimensions, so that noise stays isotropic.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from likely.noise import Noise
from likely.space import Integers, Reals

WINDOW = 9.0
"""Standard deviations to either side beyond which levels are left out: e^-40 of the mass."""


class Scaling(nn.Module, ABC):
    """Between raw x and what is noised. Abstract."""

    @property
    @abstractmethod
    def volume(self) -> Tensor:
        """log |d scaled / d raw|, nats; 0 for integers, whose probabilities are of cells."""

    @abstractmethod
    def scaled(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Raw rows to scaled ones."""

    @abstractmethod
    def unscaled(self, x: Tensor) -> Tensor:
        """Scaled rows to raw units, real-valued."""

    @abstractmethod
    def nearest(self, x: Tensor) -> Tensor:
        """Scaled rows to the raw rows nearest to them."""

    def prepare(self, x: Tensor) -> None:
        """Set from data what follows from them."""


class Cells(Scaling):
    """Integers in the middle of their cells."""

    def __init__(self, space: Integers) -> None:
        super().__init__()
        self.levels = space.levels

    @property
    def volume(self) -> Tensor:
        return torch.zeros(())

    def scaled(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return (2 * x.to(dtype) + 1) / self.levels - 1

    def unscaled(self, x: Tensor) -> Tensor:
        return ((x + 1) * self.levels - 1) / 2

    def nearest(self, x: Tensor) -> Tensor:
        return self.unscaled(x).round().clamp(0, self.levels - 1).long()


class Standardised(Scaling):
    """Reals at mean 0 in every dimension, and at standard deviation `spread` over all of them together."""

    centre: Tensor
    log_scale: Tensor

    def __init__(self, space: Reals, spread: float) -> None:
        super().__init__()
        self.dims, self.spread = space.dims, spread
        self.register_buffer("centre", torch.zeros(space.shape))
        self.register_buffer("log_scale", torch.zeros(()))

    @property
    def volume(self) -> Tensor:
        return -self.dims * self.log_scale

    def scaled(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return (x.to(dtype) - self.centre) * (-self.log_scale).exp()

    def unscaled(self, x: Tensor) -> Tensor:
        return x * self.log_scale.exp() + self.centre

    nearest = unscaled

    def prepare(self, x: Tensor) -> None:
        self.centre.copy_(x.mean(0))
        spread = float((x - x.mean(0)).square().mean().sqrt())
        self.log_scale.fill_(math.log(spread / self.spread) if spread > 0 else 0.0)


class Decoder(ABC):
    """p(x | m, s): x is near m, within s; m (B, *shape) and s () on the scale inside. Abstract."""

    @abstractmethod
    def log_prob(self, x: Tensor, m: Tensor, s: Tensor) -> Tensor:
        """log p of raw rows x, (B,) nats."""

    @abstractmethod
    def sample(self, m: Tensor, s: Tensor, noise: Noise) -> Tensor:
        """Raw rows."""


class Gaussian(Decoder):
    """Reals: N(m, s^2) on the scale inside."""

    def __init__(self, scaling: Scaling) -> None:
        self.scaling = scaling

    def log_prob(self, x: Tensor, m: Tensor, s: Tensor) -> Tensor:
        u = (self.scaling.scaled(x, m.dtype) - m) / s
        log_p = -0.5 * u.square() - s.log() - 0.5 * math.log(2 * math.pi)
        return log_p.flatten(1).sum(1) + self.scaling.volume

    def sample(self, m: Tensor, s: Tensor, noise: Noise) -> Tensor:
        return self.scaling.unscaled(m + s * noise.normal(m.shape[1:], dtype=m.dtype))


class Softmax(Decoder):
    """Integers: p(k) proportional to exp(-(m - x_k)^2 / 2 s^2), x_k the middle of cell k (Kingma et al., 2021, eq. 7).

    This is p(k | z) for a uniform p(k) where m = z / alpha, s = sigma / alpha. Levels `WINDOW` s away from m (or from
    the nearest level, where m lies outside) have no mass that counts and are left out.
    """

    def __init__(self, scaling: Cells) -> None:
        self.scaling, self.levels = scaling, scaling.levels

    def _window(self, m: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """The levels around m, (B, *shape, W) from -1 up, and their log-probabilities."""
        reach = min(math.ceil(WINDOW * float(s.detach()) * self.levels / 2) + 1, self.levels)
        nearest = self.scaling.unscaled(m.detach()).round().clamp(0, self.levels - 1)
        k = nearest[..., None] + torch.arange(-reach, reach + 1, dtype=m.dtype, device=m.device)
        logits = self._logit(k, m[..., None], s).masked_fill((k < 0) | (k > self.levels - 1), -math.inf)
        return k, logits

    def _logit(self, k: Tensor, m: Tensor, s: Tensor) -> Tensor:
        return -0.5 * ((m - self.scaling.scaled(k, m.dtype)) / s).square()

    def log_prob(self, x: Tensor, m: Tensor, s: Tensor) -> Tensor:
        _, logits = self._window(m, s)
        return (self._logit(x.to(m.dtype), m, s) - logits.logsumexp(-1)).flatten(1).sum(1)

    def sample(self, m: Tensor, s: Tensor, noise: Noise) -> Tensor:
        k, logits = self._window(m, s)
        below = logits.softmax(-1).cumsum(-1)
        u = noise.uniform(m.shape[1:], dtype=m.dtype)[..., None] * below[..., -1:]
        place = (below < u).sum(-1, keepdim=True)
        return k.gather(-1, place)[..., 0].long()


class Discretised(Decoder):
    """Integers: the mass that N(m, s^2) has in cell k, the outer cells open (Ho, Jain, Abbeel, 2020, eq. 13)."""

    def __init__(self, scaling: Cells) -> None:
        self.scaling, self.levels = scaling, scaling.levels

    def log_prob(self, x: Tensor, m: Tensor, s: Tensor) -> Tensor:
        middle, half = self.scaling.scaled(x, m.dtype), 1 / self.levels
        high = ((middle + half - m) / s).masked_fill(x == self.levels - 1, math.inf)
        low = ((middle - half - m) / s).masked_fill(x == 0, -math.inf)
        # of a cell to the right of m take the mirror image: the difference of small numbers keeps its digits
        flip = low + high > 0
        low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
        top, bottom = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
        return (top + torch.log(-torch.expm1(bottom - top))).flatten(1).sum(1)

    def sample(self, m: Tensor, s: Tensor, noise: Noise) -> Tensor:
        drawn = m + s * noise.normal(m.shape[1:], dtype=m.dtype)
        return self.scaling.nearest(drawn)
