"""Raw units and those of a denoiser: where noise of a standard deviation in raw units stands on the clock.

A `Denoiser` answers for x_t = alpha x_0 + sigma eps with alpha^2 = sigmoid(lambda), sigma^2 = sigmoid(-lambda) and x_0
scaled. Scaling is affine with one unit for all dimensions, raw = origin + unit * scaled, so noise of deviation sd in
raw units is noise of deviation s = sd / unit inside: that is lambda = -2 log s.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from likely.logprob import device_of
from likely.space import Integers, Reals
from likely.verbs import Denoiser, name_of, require

_FAR = 2.0**20
"""A step so long that the slope of an affine map survives a large origin."""


class Gauge:
    """The units of a model with the verb `Denoiser` and its attributes `scaled`, `unscaled` and `log_snr_range`."""

    def __init__(self, model: Any, task: str) -> None:
        require(model, Denoiser, task)
        missing = [name for name in ("scaled", "unscaled", "log_snr_range") if not hasattr(model, name)]
        if missing or not isinstance(model.space, Integers | Reals):
            lacks = f"lacks {', '.join(missing)}" if missing else f"is over {model.space}"
            raise TypeError(
                f"{task} needs a Denoiser of Integers or Reals with scaled, unscaled and log_snr_range; "
                f"{name_of(model)} {lacks}"
            )
        self.model, self.task = model, task
        self.low, self.high = (float(end) for end in model.log_snr_range)
        with torch.no_grad():
            zero = torch.zeros(1, *model.space.shape, dtype=self.dtype, device=device_of(model))
            units = (model.unscaled(zero + _FAR) - model.unscaled(zero)).double() / _FAR
        self.unit = float(units.mean())
        if not self.unit > 0 or float((units - self.unit).abs().max()) > 1e-3 * self.unit:
            raise ValueError(
                f"{name_of(model)} scales dimensions by {float(units.min()):g} to {float(units.max()):g}; {task} "
                "accepts one positive scale for all, so that noise stays the same in every direction"
            )

    @property
    def dtype(self) -> torch.dtype:
        """The precision that the model computes in."""
        tensors = [*self.model.parameters(), *self.model.buffers()] if isinstance(self.model, torch.nn.Module) else []
        return next((t.dtype for t in tensors if t.dtype.is_floating_point), torch.get_default_dtype())

    @property
    def smallest(self) -> float:
        """The smallest standard deviation in raw units that the model knows."""
        return self.unit * math.exp(-self.high / 2)

    @property
    def largest(self) -> float:
        """The largest."""
        return self.unit * math.exp(-self.low / 2)

    def within(self, x_hat: Tensor) -> Tensor:
        """Scaled values brought back to where those of integers can be, between the first level and the last."""
        space = self.model.space
        if not isinstance(space, Integers):
            return x_hat
        origin = self.model.unscaled(torch.zeros_like(x_hat[:1]))
        return x_hat.clamp(-origin / self.unit, (space.levels - 1 - origin) / self.unit)

    def denoised(self, v: Tensor, s: Tensor, y: Any = None) -> Tensor:
        """E[x_0 given v] for v = x_0 + s eps, scaled, (B, *shape); s (B,) float64 on the scale inside."""
        log_snr = -2 * s.log()
        alpha = log_snr.sigmoid().sqrt()
        return self.model.denoise(along(alpha, v) * v, log_snr, y)


def along(values: Tensor, like: Tensor) -> Tensor:
    """One number a row, (B,), shaped and typed to multiply rows `like` (B, ...)."""
    return values.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of rows, (B,) float64."""
    return (a.double() * b.double()).flatten(1).sum(1)
