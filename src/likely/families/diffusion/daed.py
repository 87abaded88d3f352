"""DAED: a diffusion model divided into a generator and a denoiser.

The generator is a diffusion model of x_1, the data after a first step of noise with variance beta_1; the denoiser is a
denoising auto-encoder p(x_0 | x_1) with parameters of its own,

    log p(x_0) >= E log p(x_0 | x_1) + E log [p(x_1 .. x_T) / q(x_2 .. x_T | x_1)] + H(q(x_1 | x_0)),

expectations over q. The last term, D/2 log(2 pi e beta_1), has nothing to learn and is easily lost: it is -2.94 bits a
dimension at beta_1 = .001 and .39 at .1, and without it the sum is no bound on log p(x_0).
("On Analyzing Generative and Denoising Capabilities of Diffusion-based Deep Generative Models", Deja, Kuzina,
Trzcinski, Tomczak, 2022.) Trained together this is a `Diffusion` with decoder "separate"; `split` puts one together
from two models that were trained apart, on the same data or not.
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor

from likely.config.diffusion import Diffusion as Config
from likely.families.diffusion.model import Diffusion, Process
from likely.families.diffusion.schedule import signal_noise
from likely.noise import Noise


class Parts(NamedTuple):
    """The three terms of the bound above, whose sum is the bound itself; each (B * k,) in nats."""

    denoiser: Tensor
    """log p(x_0 | x_1)."""
    generator: Tensor
    """log p(x_1 .. x_T) / q(x_2 .. x_T | x_1)."""
    entropy: Tensor
    """H(q(x_1 | x_0))."""


def log_snr_of(beta: float) -> float:
    """The log-SNR after a first step with variance beta, log (1 - beta) / beta. Raises `ValueError` outside (0, 1)."""
    if not 0 < beta < 1:
        raise ValueError(f"beta is {beta}; accepts a variance between 0 and 1")
    return math.log1p(-beta) - math.log(beta)


def split(denoiser_high: Process, denoiser_low: Process, at: float) -> Diffusion:
    """The model that generates with `denoiser_high` down to the log-SNR `at`, and reads x off there with
    `denoiser_low`.

    `denoiser_high` works where noise is high, from its last log-SNR to `at`; `denoiser_low` removes what noise is left
    at `at`. Both are copied; the schedule is the generator's. The decoder's width is at first that of the noise:
    `fit_width` sets it from data.

    Raises `ValueError` where the two do not speak of the same space, have conditions, never saw noise at `at`, scale
    reals otherwise, or have networks that one config cannot describe.
    """
    if denoiser_low.space != denoiser_high.space:
        raise ValueError(f"denoiser_low is a model of {denoiser_low.space}; accepts one of {denoiser_high.space}")
    for name, part in (("denoiser_high", denoiser_high), ("denoiser_low", denoiser_low)):
        if part.condition is not None:
            raise ValueError(
                f"{name} has the condition {part.condition}; accepts models of x alone. (A conditional one can be "
                "trained as a whole, with decoder='separate'.)"
            )
        low, high = float(part.schedule.low), float(part.schedule.high)
        if not low < at <= high + 1e-9:
            raise ValueError(f"at is {at}, but {name} has seen log-SNRs from {low:.2f} to {high:.2f}")
    for field in sorted(Config.model_fields.keys() - Config.free - {"decoder"}):
        wanted, came = getattr(denoiser_high.config, field), getattr(denoiser_low.config, field)
        if came != wanted:
            raise ValueError(f"denoiser_low has {field} = {came!r}; accepts {wanted!r}, as denoiser_high has it")
    if not all(map(torch.equal, denoiser_high.scaling.buffers(), denoiser_low.scaling.buffers())):
        raise ValueError("denoiser_low scales its data otherwise than denoiser_high; accepts reals of one training set")
    config = denoiser_high.config.model_copy(update={"high": at, "decoder": "separate", "steps": None})
    if config.schedule == "learned":
        config = config.model_copy(update={"schedule": "linear", "low": float(denoiser_high.schedule.low)})
    parts = copy.deepcopy(denoiser_high), copy.deepcopy(denoiser_low)
    model = Diffusion(config, parts[0].space, None, parts[0].core.net, parts[1].core.net)
    model.core, model.own_reader = parts[0].core, parts[1].core
    model.scaling.load_state_dict(parts[0].scaling.state_dict())
    return model.to(next(parts[0].parameters()).device, next(parts[0].parameters()).dtype)


@torch.no_grad()
def fit_width(model: Process, x: Tensor, y: Tensor | None = None, *, noise: Noise) -> float:
    """Set the width of p(x_0 | x_1) to the one of 81, from 1/16 to 64 times the noise's, that makes rows x most likely.

    Returns it, on the scale inside.
    """
    if not hasattr(model, "log_width"):
        raise ValueError(
            "model has a direct decoder, whose width is the noise's; accepts decoder 'denoiser' or 'separate'"
        )
    condition = model._condition(None if y is None else noise.expand(y), noise.count)
    raw, x0 = noise.expand(x), noise.expand(model.scaled(x))
    mean, _ = model._read(model._noised(x0, model.schedule.high, noise), condition, model._reads)
    widths = float((-0.5 * model.schedule.high).exp()) * 2 ** torch.linspace(-4, 6, 81, dtype=mean.dtype)
    scores = [float(model.decoder.log_prob(raw, mean, width).double().mean()) for width in widths.to(mean.device)]
    best = widths[int(torch.tensor(scores).argmax())]
    model.log_width.fill_(float(best.log()))
    return float(best)


def parts_of(model: Process, x: Tensor, y: Tensor | None = None, *, noise: Noise) -> Parts:
    """The bound of a split model in the three terms of its definition, (B * k,) nats each."""
    terms = model.elbo_terms(x, y, noise=noise)
    _, sigma = signal_noise(model.schedule.high)
    entropy = 0.5 * model.space.dims * math.log(2 * math.pi * math.e * float(sigma) ** 2) + torch.zeros_like(
        terms.prior
    )
    return Parts(-terms.reconstruction, -terms.prior - terms.diffusion - entropy, entropy)
