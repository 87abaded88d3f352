"""A diffusion model of T steps read as what it is: a chain of latent variables, scored on one whole path of noise.

    p(x) = int p(z_T) prod_t p(z_{t-1} | z_t) p(x | z_0),     z_0 the least noisy.

A path is drawn from q(z_0 .. z_T | x) from its noisy end on, and gives the importance weight p / q. Where `elbo` takes
one step at random and its KL in closed form, which is cheaper and varies more, the weights also have E[exp] = p(x), so
that their log-mean-exp over draws closes in on log p(x) ("Importance Weighted Autoencoders", Burda, Grosse,
Salakhutdinov, 2016).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from likely.families.diffusion.samplers import ddim
from likely.families.diffusion.schedule import signal_noise
from likely.families.diffusion.views import check_model
from likely.noise import Noise

if TYPE_CHECKING:
    from likely.families.diffusion.model import Process


class Trajectory(nn.Module):
    """A diffusion model with `steps`, whose weights are those of whole paths and whose draws take all of its steps.

    Verbs: Trainable and Bounded, as the model itself; Weighted; Samples, by exact ancestral sampling.
    """

    players = ("model",)

    def __init__(self, model: Process) -> None:
        super().__init__()
        check_model(model, "Trajectory")
        if model.config.steps is None:
            raise ValueError("model has steps=None, continuous time; Trajectory accepts a model with discrete steps")
        self.model, self.space, self.condition = model, model.space, model.condition
        self.config, self.surrogate = model.config.model_copy(update={"whole_paths": True}), model.surrogate

    def log_weight(self, x: Tensor, y: Tensor | None = None, *, noise: Noise) -> Tensor:
        """log p(x, path) / q(path | x), (B * k,) in nats: the expectation of its exponential is p(x), or p(x given y).

        One evaluation of the network for each step, and a draw's path is its own.
        """
        model, shape = self.model, self.space.shape
        condition = model._condition(None if y is None else noise.expand(y), noise.count)
        raw, x0 = noise.expand(x), noise.expand(model.scaled(x))
        log_snrs = self.log_snrs(x0.device)
        eps = noise.normal(shape, dtype=x0.dtype)
        alpha, sigma = _parts(log_snrs[0], x0)
        z = alpha * x0 + sigma * eps
        log_w = _sum(0.5 * (eps.square() - z.square()) + sigma.log())  # log p(z_T) - log q(z_T | x)
        for t, s in pairwise(log_snrs):  # of z_t, and of z_s with one step less noise
            x_hat, xi = model._denoise(z, t.expand(z.shape[0]), condition), noise.normal(shape, dtype=x0.dtype)
            # q(z_s | z_t, x) = N((alpha_s / alpha_t) (1 - c) z_t + alpha_s c x, sigma_s^2 c), p the same with x_hat
            c = -torch.expm1(t - s)
            (alpha_t, _), (alpha_s, sigma_s) = signal_noise(t), signal_noise(s)
            keep, gain, spread = (v.to(x0) for v in (alpha_s / alpha_t * (1 - c), alpha_s * c, sigma_s * c.sqrt()))
            gap = gain / spread * (x0 - x_hat)
            log_w = log_w - _sum(0.5 * gap.square() + gap * xi)  # log p(z_s | z_t) - log q(z_s | z_t, x)
            z = keep * z + gain * x0 + spread * xi
        return log_w + model.decoder.log_prob(raw, *model._read(z, condition, model._reads))

    def elbo(self, x: Tensor, y: Tensor | None = None, *, noise: Noise) -> Tensor:
        """The model's own bound, (B * k,) in nats: one step at random, its KL in closed form."""
        return -self.model.elbo_terms(x, y, noise=noise).total

    def sample(self, n: int, y: Tensor | None = None, *, noise: Noise) -> Tensor:
        """n draws, (n, *shape): every step of the reverse process, then the decoder."""
        model = self.model
        condition, z = model._condition(y, n), noise.normal(self.space.shape, dtype=model._dtype)
        points = self.log_snrs(z.device)
        *_, z = ddim(lambda z, level: model._denoise(z, level, condition), z, points, noise=noise, eta=1.0)
        return model.decode(z, y, noise=noise)

    def log_snrs(self, device: torch.device) -> Tensor:
        """From that of z_T up to that of z_0, (T + 1,) float64."""
        T = self.model.config.steps
        return self.model.schedule.log_snr(torch.arange(T, -1, -1, dtype=torch.float64, device=device) / T)  # ty: ignore

    def loss(self, x: Tensor, y: Tensor | None = None, *, player: str = "model", noise: Noise) -> Tensor:
        """The model's own."""
        return self.model.loss(x, y, player=player, noise=noise)

    def prepare(self, x: Tensor, y: Tensor | None = None, *, noise: Noise) -> None:
        """The model's own."""
        self.model.prepare(x, y, noise=noise)

    @property
    def views(self) -> dict:
        """The model's own."""
        return self.model.views


def _parts(log_snr: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma in the precision of `like`."""
    alpha, sigma = signal_noise(log_snr)
    return alpha.to(like), sigma.to(like)


def _sum(values: Tensor) -> Tensor:
    """Over all but the first axis."""
    return values.flatten(1).sum(1)
