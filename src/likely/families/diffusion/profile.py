"""Where a diffusion model spends its nats: the bound's integrand over log-SNR, and what is left of x there.

At every log-SNR lambda the bound pays E |eps - eps_hat|^2 / 2 nats for each unit of lambda. Where that is nothing, z is
noise to the model; where it rises, x takes shape; where it comes to D / 2 the model only removes noise from what is
there (Deja et al., 2022, section 4, look at the same through signal-to-noise ratios and divergences of single steps).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from likely.families.diffusion.core import along
from likely.families.diffusion.model import Process
from likely.families.diffusion.schedule import signal_noise
from likely.logprob import BATCH, device_of, scoring
from likely.noise import Noise


@dataclass(frozen=True)
class Profile:
    """At rising log-SNRs (N,): what the bound pays there, and how near x_hat is."""

    log_snr: Tensor
    kl: Tensor
    """Bits a dimension for one unit of log-SNR, (N,)."""
    error: Tensor
    """Mean absolute error of x_hat, in raw units, (N,)."""
    reconstruction: float
    """Bits a dimension of -log p(x | z_0)."""
    prior: float
    """Bits a dimension of the prior's term."""

    @property
    def bits(self) -> Tensor:
        """Bits a dimension paid up to each log-SNR by the trapezium rule, from the last one on, with the prior's."""
        steps = (self.kl[1:] + self.kl[:-1]) / 2 * self.log_snr.diff()
        return self.prior + torch.cat([steps.new_zeros(1), steps.cumsum(0)])

    @property
    def divide(self) -> float:
        """The log-SNR at which half of the process's bits have been paid: noisier than this the model generates, nearer
        to the data it denoises."""
        bits = self.bits - self.prior
        return float(self.log_snr[int((bits >= bits[-1] / 2).nonzero()[0])])


def profile(model: Process, x: Tensor, y: Tensor | None = None, *, points: int = 33, seed: int = 0) -> Profile:
    """The profile of a model on raw rows x (B, *shape), one draw of noise a row and log-SNR."""
    x = model.space.check(x, "x")
    if points < 2:
        raise ValueError(f"points is {points}; accepts 2 or more")
    low, high = float(model.schedule.low), float(model.schedule.high)
    levels = torch.linspace(low, high, points, dtype=torch.float64)
    sums, n = torch.zeros(2, points, dtype=torch.float64), len(x)
    ends = torch.zeros(2, dtype=torch.float64)
    with scoring(model):
        for start in range(0, n, BATCH):
            rows = torch.arange(start, min(start + BATCH, n))
            part = x[rows].to(device_of(model))
            labels = None if y is None else y[rows].to(part.device)
            noise = Noise(seed, rows.to(part.device))
            terms = model.elbo_terms(part, labels, noise=noise)
            ends += torch.stack([terms.prior.double().sum(), terms.reconstruction.double().sum()]).cpu()
            x0 = model.scaled(part)
            for i, level in enumerate(levels):
                log_snr = level.expand(len(rows)).to(part.device)
                alpha, sigma = signal_noise(log_snr)
                z = along(alpha, x0) * x0 + along(sigma, x0) * noise.normal(x0.shape[1:], dtype=x0.dtype)
                x_hat = model.denoise(z, log_snr, labels)
                sums[0, i] += float(0.5 * level.exp() * (x_hat - x0).double().square().sum())
                sums[1, i] += float((model.unscaled(x_hat) - model.unscaled(x0)).abs().double().sum())
    nats = n * model.space.dims * math.log(2)
    prior, reconstruction = (ends / nats).tolist()
    return Profile(levels, sums[0] / nats, sums[1] / (n * model.space.dims), reconstruction, prior)
