"""Wrappers of denoisers: guidance, thresholds, experts. Each takes denoisers and gives a denoiser, for any sampler.

A denoiser maps z (B, ...) and log-SNR (B,) to x_hat, shaped like z. Guidance is written in x_hat,

    x_w = x_u + w (x_c - x_u),

and is the same in noise, v or any other prediction a x + b eps with a sigma != b alpha, for at given z those are affine
in x_hat. What a guided sampler draws from has no density that is known: no likelihood is to be made of these.

Where rows of a batch lie on different sides of a log-SNR, both denoisers see the whole batch and rows are picked from
the answers, so that a row does not depend on its neighbours; where all lie on one side, only one is asked.

"Classifier-free diffusion guidance" (Ho, Salimans, 2022); "Guiding a diffusion model with a bad version of itself"
(Karras, Aittala, Kynkaanniemi, Lehtinen, Aila, Laine, 2024); "Applying guidance in a limited interval improves sample
and distribution quality in diffusion models" (Kynkaanniemi, Aittala, Karras, Laine, Aila, Lehtinen, 2024);
"Photorealistic text-to-image diffusion models with deep language understanding" (Saharia and others, 2022) for the
thresholds; "Common diffusion noise schedules and sample steps are flawed" (Lin, Liu, Li, Yang, 2024) for `rescaled`;
"On analyzing generative and denoising capabilities of diffusion-based deep generative models" (Deja, Kuzina, Trzcinski,
Tomczak, 2022) for `split`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from likely.families.diffusion.samplers import Denoise
from likely.nets.embedding import Condition


def classifier_free(conditional: Denoise, unconditional: Denoise, weight: float) -> Denoise:
    """x_u + w (x_c - x_u). Weight 0 and 1 are the two denoisers themselves, one evaluation instead of two."""
    _finite("weight", weight)
    if weight == 1:
        return conditional
    if weight == 0:
        return unconditional

    def guided(z: Tensor, log_snr: Tensor) -> Tensor:
        return _guided(conditional(z, log_snr), unconditional(z, log_snr), weight)

    return guided


def doubled(
    denoise: Callable[[Tensor, Tensor, Condition], Tensor],
    condition: Condition,
    null_condition: Condition,
    weight: float,
) -> Denoise:
    """Classifier-free guidance in one batch of 2 B rows: those with the condition, then those with the null condition.

    `denoise(z, log_snr, condition)`; both conditions have B rows and the same parts.
    """
    _finite("weight", weight)
    both = Condition.concat([condition, null_condition])

    def guided(z: Tensor, log_snr: Tensor) -> Tensor:
        x_c, x_u = denoise(torch.cat([z, z]), torch.cat([log_snr, log_snr]), both).chunk(2)
        return _guided(x_c, x_u, weight)

    return guided


def autoguidance(good: Denoise, bad: Denoise, weight: float) -> Denoise:
    """x_bad + w (x_good - x_bad): away from what a smaller, or less trained, version of the same model would say."""
    return classifier_free(good, bad, weight)


def interval(guided: Denoise, plain: Denoise, low: float, high: float) -> Denoise:
    """`guided` where low <= log-SNR <= high, `plain` elsewhere."""
    if not low < high:
        raise ValueError(f"low is {low} and high {high}; accepts log-SNRs, low < high")
    return _picked(guided, plain, lambda log_snr: (low <= log_snr) & (log_snr <= high))


def split(high: Denoise, low: Denoise, at: float) -> Denoise:
    """Two experts: `high` where log-SNR >= at (little noise), `low` below it."""
    if math.isnan(at):
        raise ValueError(f"at is {at}; accepts a log-SNR")
    return _picked(high, low, lambda log_snr: log_snr >= at)


def static_threshold(denoise: Denoise, bound: float = 1.0) -> Denoise:
    """x_hat clipped to -bound .. bound."""
    if not bound > 0:
        raise ValueError(f"bound is {bound}; accepts a number above 0")
    return lambda z, log_snr: denoise(z, log_snr).clamp(-bound, bound)


def dynamic_threshold(denoise: Denoise, percentile: float = 0.995) -> Denoise:
    """x_hat of each row clipped to -s .. s and divided by s, s = max(1, the `percentile` of |x_hat|), a share of 1."""
    if not 0 < percentile <= 1:
        raise ValueError(f"percentile is {percentile}; accepts a share above 0, up to 1 (0.995, not 99.5)")

    def thresholded(z: Tensor, log_snr: Tensor) -> Tensor:
        x_hat = denoise(z, log_snr)
        s = _per_row(_percentile(x_hat.abs().flatten(1), percentile).clamp(min=1), x_hat)
        return x_hat.clamp(-s, s) / s

    return thresholded


def rescaled(guided: Denoise, conditional: Denoise, share: float) -> Denoise:
    """`guided`, brought by a `share` (0 to 1) of the way to each row's standard deviation in `conditional` (Lin et al.,
    eq. 14 to 16, there 0.7): against the contrast that large weights bring."""
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; accepts 0 to 1")

    def brought_back(z: Tensor, log_snr: Tensor) -> Tensor:
        x_w, x_c = guided(z, log_snr), conditional(z, log_snr)
        wide, right = (x.flatten(1).std(1, correction=0) for x in (x_w, x_c))
        ratio = torch.where(wide > 0, right / wide, 1)
        return _per_row(share * ratio + (1 - share), x_w) * x_w

    return brought_back


def once(denoise: Denoise) -> Denoise:
    """Remembers its last answer, for a denoiser that stands in two places: `rescaled(classifier_free(c, u, w), c, .7)`
    with c = once(conditional) asks it once."""
    asked: tuple[Tensor, Tensor, Tensor] | None = None

    def remembered(z: Tensor, log_snr: Tensor) -> Tensor:
        nonlocal asked
        if asked is None or asked[0] is not z or asked[1] is not log_snr:
            asked = z, log_snr, denoise(z, log_snr)
        return asked[2]

    return remembered


def _guided(x_c: Tensor, x_u: Tensor, weight: float) -> Tensor:
    return x_u + weight * (x_c - x_u)


def _picked(chosen: Denoise, other: Denoise, where: Callable[[Tensor], Tensor]) -> Denoise:
    """`chosen` for the rows that `where` picks by their log-SNR."""

    def picked(z: Tensor, log_snr: Tensor) -> Tensor:
        rows = where(log_snr)
        if bool(rows.all()):
            return chosen(z, log_snr)
        if not bool(rows.any()):
            return other(z, log_snr)
        return torch.where(_per_row(rows, z), chosen(z, log_snr), other(z, log_snr))

    return picked


def _percentile(values: Tensor, share: float) -> Tensor:
    """Of each row of (B, D), between order statistics linearly: `torch.quantile` without its limit on the size."""
    place = share * (values.shape[1] - 1)
    below = int(place)
    top = values.topk(values.shape[1] - below, 1).values  # falling: the last is order statistic `below`, counted from 0
    return top[:, -1].lerp(top[:, max(-2, -top.shape[1])], place - below)


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    """(B,) as (B, 1, ...), to meet `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}; accepts a finite number")
