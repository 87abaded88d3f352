"""Where a diffusion model spends its nats: the bound's integrand over log-SNR, and what is left of x there.

At every log-SNR lambda the bound pays E |eps - eps_hat|^2 / 2 nats for each unit of lambda. Where that is nothing, z is
noise to the model; where it rises, x takes shape; where it comes to D / 2 the model only removes noise from what is
there (Deja et al., 2022, section 4, look at the same through signal-to-noise ratios and divergences of single steps).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from likely.logprob import BATCH, check_condition, device_of, scoring
from likely.noise import Noise
from likely.tasks.figures import profile_figure
from likely.tasks.page import page, tile
from likely.tasks.pictures import svg
from likely.verbs import Bounded, Denoiser, has, name_of


@dataclass(frozen=True)
class Profile:
    """At rising log-SNRs (N,): what the bound in continuous time pays there, and how near x_hat is.

    Its sum estimates that bound by the trapezium rule, with few points badly: a bound is what `evaluate` gives.
    """

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

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        lists = {"log_snr": self.log_snr, "bits_per_log_snr": self.kl, "bits_so_far": self.bits, "error": self.error}
        told = {"prior": self.prior, "reconstruction": self.reconstruction, "divide": self.divide}
        return {name: values.tolist() for name, values in lists.items()} | told

    def __str__(self) -> str:
        total = float(self.bits[-1]) + self.reconstruction
        return (
            f"bpd ~ {total:.3f}: prior {self.prior:.3f}, process {float(self.bits[-1]) - self.prior:.3f}, decoder "
            f"{self.reconstruction:.3f}; half of the process's bits are paid below log-SNR {self.divide:.2f}"
        )


def profile(model: Any, x: Any, y: Any = None, *, points: int = 33, seed: int = 0) -> Profile:
    """The profile of a diffusion model on raw rows x (B, *shape), one draw of noise a row and log-SNR.

    Raises `TypeError` for a model that is no `Denoiser` with the terms of a bound, `ValueError` for fewer than 2
    points.
    """
    needed = ("elbo_terms", "log_snr_range", "scaled", "unscaled")
    if not has(model, Denoiser, Bounded) or any(not hasattr(model, name) for name in needed):
        raise TypeError(
            f"profile needs a Denoiser with a bound in terms, such as a diffusion; this is {name_of(model)}"
        )
    x = model.space.check(x, "x")
    y = None if y is None else check_condition(model, y, len(x))
    if points < 2:
        raise ValueError(f"points is {points}; accepts 2 or more")
    low, high = model.log_snr_range
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
                alpha, sigma = (float(part.sigmoid().sqrt()) for part in (level, -level))
                z = alpha * x0 + sigma * noise.normal(x0.shape[1:], dtype=x0.dtype)
                x_hat = model.denoise(z, log_snr, labels)
                sums[0, i] += float(0.5 * level.exp() * (x_hat - x0).double().square().sum())
                sums[1, i] += float((model.unscaled(x_hat) - model.unscaled(x0)).abs().double().sum())
    nats = n * model.space.dims * math.log(2)
    prior, reconstruction = (ends / nats).tolist()
    return Profile(levels, sums[0] / nats, sums[1] / (n * model.space.dims), reconstruction, prior)


def write_profile(path: Path, found: Profile, title: str) -> None:
    """A page with the profile's curves and figures."""
    tiles = [
        tile(
            f"{float(found.bits[-1]) + found.reconstruction:.3f}",
            "bits per dimension, an estimate of the bound",
        ),
        tile(f"{found.reconstruction:.3f}", "of them the decoder's"),
        tile(f"{found.divide:.2f}", "the log-SNR below which half of the process's bits are paid"),
    ]
    body = f"""<h1>Where the bits are paid</h1>
<p class="lead">{escape(title)}</p>
<div class="tiles">{"".join(tiles)}</div>
<p>On the left there is only noise, on the right the data. Where the curve is flat at nothing the model sees nothing;
where it rises, the picture takes shape; where it nears half a nat a dimension (dotted), the model only takes noise off
what is there already.</p>
<figure>{svg(profile_figure(found))}</figure>"""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(title, body), encoding="utf-8")
