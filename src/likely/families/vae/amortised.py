"""The model of `likely.families.vae`."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from likely.config.vae import VAE as Config
from likely.families.vae.latent import FlowDensity, Gaussian, GaussianMixture, Likelihood, StandardNormal
from likely.nets import convnet
from likely.nets.mlp import mlp
from likely.noise import Noise
from likely.observation import Observation
from likely.space import Integers, Reals

BOUND = 7.0
"""Log-variances of z lie in (-BOUND, BOUND): a network's r becomes BOUND tanh(r / BOUND), which is r for small r."""


class VAE(nn.Module):
    """The model: `Trainable`, `Samples`, `Bounded`, `Weighted`, `Latent` over `Integers` or `Reals`."""

    players = ("model",)
    step: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(
        self,
        config: Config,
        space: Integers | Reals,
        condition: Integers | None,
        obs: Observation,
        flow: nn.Module | None,
    ) -> None:
        super().__init__()
        self.config, self.space, self.condition, self.observation = config, space, condition, obs
        classes = condition.levels if condition is not None else 0
        outputs = obs.parameters
        if config.network == "conv":
            sites, channels = space.shape[1:], config.channels
            self.encoder = convnet.encoder(space.shape[0] + classes, sites, channels, config.blocks, 2 * config.latent)
            self.decoder = convnet.decoder(config.latent + classes, sites, channels[::-1], config.blocks, outputs)
        else:
            numbers = outputs * math.prod(obs.sites)
            self.encoder = mlp(space.dims + classes, config.hidden, 2 * config.latent)
            self.decoder = mlp(config.latent + classes, config.hidden[::-1], numbers)
        components = (config.components, config.latent)
        if config.prior == "mixture":
            self.prior_logits = nn.Parameter(torch.zeros(config.components))
            self.prior_mean = nn.Parameter(torch.randn(components))
            self.prior_log_var = nn.Parameter(torch.zeros(components))
        elif config.prior == "vamp":  # in the units that the encoder sees; labels are soft
            self.pseudo_x = nn.Parameter(torch.randn(config.components, *space.shape) / 2)
            self.pseudo_y = nn.Parameter(torch.randn(config.components, classes)) if classes else None
        elif flow is not None:
            self.flow = flow
        if isinstance(space, Reals):
            self.register_buffer("centre", torch.zeros(space.shape))
            self.register_buffer("spread", torch.ones(space.shape))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    # Latent ------------------------------------------------------------------------------------------------------

    def prior(self, y: Any = None) -> StandardNormal | GaussianMixture | FlowDensity:
        """p(z), with `log_prob(z)` and `sample(noise)`; it is the same for every y."""
        match self.config.prior:
            case "normal":
                return StandardNormal(next(self.parameters()).new_empty(0, self.config.latent))
            case "mixture":
                return GaussianMixture(self.prior_logits, self.prior_mean, _bounded(self.prior_log_var))
            case "vamp":
                q = self._encode(self.pseudo_x, self.pseudo_y)
                return GaussianMixture(q.mean.new_zeros(self.config.components), q.mean, q.log_var)
            case _:
                return FlowDensity(self.flow)

    def posterior(self, x: Tensor, y: Tensor | None = None) -> Gaussian:
        """q(z | x), a batch of B."""
        return self._encode(self._scaled(x), self._one_hot(y))

    def likelihood(self, z: Tensor, y: Tensor | None = None) -> Likelihood:
        """p(x | z) for z (n, L) and, where there is a condition, y (n,)."""
        return self._decode(z, self._one_hot(y))

    # Bounded, Weighted -------------------------------------------------------------------------------------------

    def elbo(self, x: Tensor, y: Tensor | None = None, *, noise: Noise) -> Tensor:
        """log p(x | z) - KL(q || p), (B * k,) in nats; eq. 1."""
        reconstruction, kl = self._terms(x, y, noise)
        return reconstruction - kl

    def log_weight(self, x: Tensor, y: Tensor | None = None, *, noise: Noise) -> Tensor:
        """log p(x | z) + log p(z) - log q(z | x), (B * k,) in nats; eq. 2. The encoder runs on B rows only."""
        q, code = self.posterior(x, y), self._one_hot(y)
        z = q.sample(noise)
        return self._log_likelihood(x, code, z, noise) + self.prior(y).log_prob(z) - q.expand(noise).log_prob(z)

    # Samples -----------------------------------------------------------------------------------------------------

    def sample(self, n: int, y: Tensor | None = None, *, noise: Noise) -> Tensor:
        """n values of the space: z from p(z), then x from p(x | z)."""
        return self.likelihood(self.prior(y).sample(noise), y).sample(noise)

    # Trainable ---------------------------------------------------------------------------------------------------

    def loss(self, x: Tensor, y: Tensor | None = None, *, player: str = "model", noise: Noise) -> Tensor:
        """Mean over rows of -log p(x | z) + beta max(KL, free bits); beta is warmed up by `step`."""
        reconstruction, kl = self._terms(x, y, noise)
        if self.config.free_bits:
            kl = kl.clamp(min=self.config.free_bits)
        return (self.beta * kl - reconstruction).mean()

    @property
    def beta(self) -> Tensor:
        """The weight of the KL in the loss at this step."""
        progress = ((self.step + 1) / max(self.config.warmup, 1)).clamp(max=1.0)
        return self.config.beta * progress

    @torch.no_grad()
    def prepare(self, x: Tensor, y: Tensor | None = None, *, noise: Noise) -> None:
        """Start from data: scale of reals; pseudo-inputs are rows of x (drawn by `noise`); a flow's own start."""
        if isinstance(self.space, Reals):
            self.centre.copy_(x.mean(0))
            spread = x.std(0, correction=0)
            self.spread.copy_(torch.where(spread > 0, spread, 1.0))
        if self.config.prior == "vamp":
            order = noise.uniform()[:: noise.draws].argsort()
            rows = order[torch.arange(self.config.components, device=order.device) % len(order)]
            self.pseudo_x.copy_(self._scaled(x[rows]))
            if self.pseudo_y is not None and y is not None:
                self.pseudo_y.copy_(self._one_hot(y[rows]))
        if self.config.prior == "flow" and hasattr(self.flow, "prepare"):
            self.flow.prepare(self.posterior(x, y).sample(noise), None, noise=noise)

    def after_step(self) -> None:
        """Count the step, for the warm-up."""
        self.step += 1
        if self.config.prior == "flow" and hasattr(self.flow, "after_step"):
            self.flow.after_step()

    # Networks ----------------------------------------------------------------------------------------------------

    def _terms(self, x: Tensor, y: Tensor | None, noise: Noise) -> tuple[Tensor, Tensor]:
        """log p(x | z) and KL(q || p), each (B * k,); the KL exact under a normal prior, else one draw of it."""
        q, code = self.posterior(x, y), self._one_hot(y)
        z = q.sample(noise)
        reconstruction = self._log_likelihood(x, code, z, noise)
        if self.config.prior == "normal":
            return reconstruction, noise.expand(q.kl_to_standard())
        return reconstruction, q.expand(noise).log_prob(z) - self.prior(y).log_prob(z)

    def _log_likelihood(self, x: Tensor, code: Tensor | None, z: Tensor, noise: Noise) -> Tensor:
        """log p(x | z) for the k draws z (B * k, L) of each row, (B * k,)."""
        return self._decode(z, None if code is None else noise.expand(code)).log_prob(noise.expand(x))

    def _encode(self, h: Tensor, code: Tensor | None) -> Gaussian:
        """q(z | x) from scaled x (B, *shape) and one-hot y (B, K)."""
        if self.config.network == "mlp":
            h = h.flatten(1) if h.ndim > 1 else h[:, None]
        if code is not None:  # on images, K constant planes
            planes = code.reshape(*code.shape, *(1,) * (h.ndim - 2)).expand(*code.shape, *h.shape[2:])
            h = torch.cat([h, planes], 1)
        mean, log_var = self.encoder(h).chunk(2, 1)
        return Gaussian(mean, _bounded(log_var))

    def _decode(self, z: Tensor, code: Tensor | None) -> Likelihood:
        """p(x | z) from z (n, L) and one-hot y (n, K)."""
        outputs = self.decoder(z if code is None else torch.cat([z, code], 1))
        parameters = outputs.reshape(z.shape[0], self.observation.parameters, *self.observation.sites)
        if isinstance(self.space, Reals):  # the network speaks of standardised x
            mean, log_scale = parameters.chunk(2, 1)
            centre, spread = self.observation.arrange(self.centre[None]), self.observation.arrange(self.spread[None])
            parameters = torch.cat([centre + spread * mean, spread.log() + log_scale], 1)
        return Likelihood(self.observation, parameters)

    def _scaled(self, x: Tensor) -> Tensor:
        """x as the encoder likes it: integers on [-1, 1], reals standardised."""
        dtype = next(self.parameters()).dtype
        if isinstance(self.space, Integers):
            return self.space.centred(x, dtype)
        return (x.to(dtype) - self.centre) / self.spread

    def _one_hot(self, y: Tensor | None) -> Tensor | None:
        if self.condition is None:
            return None
        if y is None:
            raise ValueError(f"y is None; this model is p(x given y) and needs y in {self.condition}")
        return F.one_hot(y, self.condition.levels).to(next(self.parameters()).dtype)


def _bounded(log_var: Tensor) -> Tensor:
    return BOUND * torch.tanh(log_var / BOUND)
