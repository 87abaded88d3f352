"""Distributions over z, and of x given z: what the verbs of `Latent` answer with."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from likely.coding.local import Movable, Moves
from likely.noise import Noise
from likely.observation import Observation
from likely.verbs import name_of

LOG_2PI = math.log(2 * math.pi)


class Gaussian(NamedTuple):
    """Diagonal normals, one a row: mean and log-variance (B, L)."""

    mean: Tensor
    log_var: Tensor

    def log_prob(self, z: Tensor) -> Tensor:
        """log density of z (B, L), (B,)."""
        return -0.5 * ((z - self.mean).square() * (-self.log_var).exp() + self.log_var + LOG_2PI).sum(-1)

    def sample(self, noise: Noise) -> Tensor:
        """z (B * k, L): mean + standard deviation times noise."""
        row = self.expand(noise)
        return row.mean + (row.log_var / 2).exp() * noise.normal(self.mean.shape[1:], dtype=self.mean.dtype)

    def expand(self, noise: Noise) -> Gaussian:
        """Every row repeated for its k draws."""
        return Gaussian(noise.expand(self.mean), noise.expand(self.log_var))

    def kl_to_standard(self) -> Tensor:
        """KL to N(0, I), (B,) in nats."""
        return 0.5 * (self.log_var.exp() + self.mean.square() - 1 - self.log_var).sum(-1)


class StandardNormal(NamedTuple):
    """N(0, I); `like` is an empty (0, L) tensor of the wanted type."""

    like: Tensor

    @property
    def mean(self) -> Tensor:
        """Zero, (1, L)."""
        return self.like.new_zeros(1, *self.like.shape[1:])

    @property
    def log_var(self) -> Tensor:
        """Zero, (1, L)."""
        return self.mean

    def log_prob(self, z: Tensor) -> Tensor:
        """log density of z (n, L), (n,)."""
        return -0.5 * (z.square() + LOG_2PI).sum(-1)

    def sample(self, noise: Noise) -> Tensor:
        """z (B * k, L)."""
        return noise.normal(self.like.shape[1:], dtype=self.like.dtype)


class GaussianMixture(NamedTuple):
    """A mixture of M diagonal normals: logits (M,), means and log-variances (M, L)."""

    logits: Tensor
    mean: Tensor
    log_var: Tensor

    def log_prob(self, z: Tensor) -> Tensor:
        """log density of z (n, L), (n,): coordinates are summed inside a component, then components are mixed."""
        each = Gaussian(self.mean, self.log_var).log_prob(z[:, None])  # (n, M)
        return (each + self.logits.log_softmax(0)).logsumexp(1)

    def sample(self, noise: Noise) -> Tensor:
        """z (B * k, L)."""
        threshold = self.logits.softmax(0).cumsum(0)
        which = torch.searchsorted(threshold, noise.uniform(dtype=threshold.dtype), right=True)
        which = which.clamp(max=len(threshold) - 1)
        normal = noise.normal(self.mean.shape[1:], dtype=self.mean.dtype)
        return self.mean[which] + (self.log_var[which] / 2).exp() * normal


class FlowDensity(NamedTuple):
    """A flow over R^L, seen as a distribution."""

    flow: Any

    def log_prob(self, z: Tensor) -> Tensor:
        """log density of z (n, L), (n,)."""
        return self.flow.log_prob(z)

    def sample(self, noise: Noise) -> Tensor:
        """z (B * k, L)."""
        return self.flow.sample(noise.count, noise=noise)

    def moves(self) -> Moves:
        """z to a normal on a lattice, and back. Raises `TypeError` for a flow that has no moves."""
        if not isinstance(self.flow, Movable):
            raise TypeError(f"its prior, a {name_of(self.flow)}, has no moves on a lattice")
        return self.flow.moves()


class Likelihood(NamedTuple):
    """p(x | z) for n values of z, from the parameters (n, P, *sites) of an observation."""

    observation: Observation
    parameters: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        """log p of x (n, *shape), (n,) in nats."""
        each = self.observation.log_prob(self.parameters, self.observation.arrange(x))
        return each.flatten(1).sum(1) if each.ndim > 1 else each

    @property
    def mean(self) -> Tensor:
        """E[x given z], (n, *shape), in the units of x."""
        return self.observation.restore(self.observation.mean(self.parameters))

    def sample(self, noise: Noise) -> Tensor:
        """x (n, *shape); `noise` has n draws in all."""
        shape = (self.observation.uniforms, *self.observation.sites)
        u = noise.uniform(shape, dtype=self.parameters.dtype)
        return self.observation.restore(self.observation.sample(self.parameters, u))
