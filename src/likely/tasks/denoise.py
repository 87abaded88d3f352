"""What was there before the noise? The posterior mean of clean rows, given noisy ones.

The noisy rows are v = x + sd eps. A denoiser's answer E[x given v] has, of all, the least mean squared error, and says
how large that is: the posterior covariance is sd^2 times the Jacobian of the answer (Tweedie's formula, second order;
"Tweedie's formula and selection bias", Efron, 2011). Its trace comes from a random direction, "A stochastic estimator
of the trace of the influence matrix" (Hutchinson, 1989), by differences of two answers.

The same trace tells sd where nobody did. With x_hat = E[x given v] and d dimensions, the slope of the log-density of v
in log sd is

    d log p(v; sd) / d log sd  =  |v - x_hat|^2 / sd^2  -  (d - div x_hat),

so that the most likely sd makes the residual as large as noise is in the d - div x_hat directions that the answer does
not use up. Making the residual itself have deviation sd would forget these and overstate sd's certainty: that
residual is smaller than the noise by what the answer leaves in doubt.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from likely.logprob import batched, check_condition
from likely.noise import Noise
from likely.space import Integers, Reals, Space
from likely.tasks.gauge import Gauge, along, inner

STEP = 0.1
"""How far differences reach, in standard deviations of the noise."""
HALVINGS = 12
"""Steps of bisection for an unknown sd: all of the model's range of log sd over 2^12 is some thousandths."""
PROBES = 2
"""Random directions for traces."""


@dataclass(frozen=True)
class Denoised:
    """Clean rows as far as they can be told.

    `mean` (n, *shape) is the posterior mean in raw units, real-valued; `x` the same as values of the space. `sd` (n,)
    is the standard deviation of the noise in raw units, as given or, where `estimated`, as found. `expected_error` (n,)
    is the root-mean-square error that the model itself expects of `mean`, in raw units. Where clean rows were given,
    `error_before` and `error` (n,) are the true root-mean-square errors of the noisy rows and of `mean`.
    """

    mean: Tensor
    x: Tensor
    sd: Tensor
    estimated: bool
    expected_error: Tensor
    space: Space
    error_before: Tensor | None = None
    error: Tensor | None = None

    def __len__(self) -> int:
        return self.mean.shape[0]

    @property
    def psnr(self) -> tuple[Tensor, Tensor] | None:
        """Peak signal-to-noise ratios before and after, (n,) each in decibels; None without clean rows, or on reals,
        which have no peak."""
        if self.error is None or self.error_before is None or not isinstance(self.space, Integers):
            return None
        peak = self.space.levels - 1
        return 20 * (peak / self.error_before).log10(), 20 * (peak / self.error).log10()

    def __str__(self) -> str:
        how = "estimated" if self.estimated else "given"
        told = f"{len(self)} rows, sd {how} {_mean(self.sd)}; expects an error of {_mean(self.expected_error)}"
        if self.error is None or self.error_before is None:
            return told
        told += f", makes one of {_mean(self.error)} (before: {_mean(self.error_before)})"
        if self.psnr is not None:
            told += "; PSNR {:.2f} to {:.2f} dB".format(*(float(part.mean()) for part in self.psnr))
        return told

    def to_json(self) -> list[dict[str, float]]:
        """One object a row, in raw units and decibels."""
        columns = {"sd": self.sd, "expected_error": self.expected_error}
        if self.error is not None and self.error_before is not None:
            columns |= {"error_before": self.error_before, "error": self.error}
        if self.psnr is not None:
            columns |= dict(zip(("psnr_before", "psnr"), self.psnr, strict=True))
        return [{name: float(values[i]) for name, values in columns.items()} for i in range(len(self))]


def denoise(
    model: Any,
    x: Any,
    sd: float | Tensor | None = None,
    y: Any = None,
    *,
    clean: Any = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Denoised:
    """The posterior mean of the clean rows given noisy rows `x`, (n, *shape) in raw units: real numbers or integers.

    The noise is normal and independent, with standard deviation `sd` in raw units (grey levels): a number, or one a
    row. None: it is estimated, row by row, by maximum likelihood. y is the condition of a conditional model, unknown
    where None. `clean` (n, *shape) are the true rows, where these are known, to measure against. `seed` fixes the
    random directions of `expected_error` and of the estimate; `progress` is called with the number of rows done.

    An estimate needs noise that stands out from the data's own finest variation: where it does not, nothing tells them
    apart. Noise that was clipped to the range of a picture is no normal noise: its deviation is understated.

    Raises `TypeError` for a model that is no `Denoiser`, `ValueError` for an sd that is not positive or outside what
    the model knows, and for rows that do not fit.
    """
    gauge = Gauge(model, "denoise")
    noisy = real_rows(x, model.space, "x")
    n = len(noisy)
    if y is not None:
        y = check_condition(model, y, n)
    known = None if sd is None else _sd(sd, n, gauge)

    def call(v: Tensor, y: Any, ids: Tensor) -> Tensor:
        v, noise = model.scaled(v), Noise(seed, ids)
        probes = [2 * (noise.uniform(v.shape[1:], dtype=v.dtype) < 0.5).to(v.dtype) - 1 for _ in range(PROBES)]
        s = _likeliest(gauge, v, y, probes) if known is None else known.to(v.device)[ids] / gauge.unit
        trace = torch.stack([_trace(gauge, v, s, y, e)[0] for e in probes]).mean(0)
        doubt = s * (trace.clamp(min=0) / model.space.dims).sqrt()
        mean = model.unscaled(gauge.denoised(v, s, y))
        return torch.cat([mean.double().flatten(1), gauge.unit * torch.stack([s, doubt], 1)], 1)

    found = batched(model, call, noisy, y, progress=progress).reshape(n, model.space.dims + 2)
    mean = found[:, :-2].reshape(n, *model.space.shape)
    errors = {}
    if clean is not None:
        truth = real_rows(clean, model.space, "clean")
        if len(truth) != n:
            raise ValueError(f"clean has {len(truth)} rows; accepts {n}, one for each row of x")
        errors = {"error_before": rms(noisy - truth), "error": rms(mean - truth)}
    return Denoised(mean, rounded(mean, model.space), found[:, -2], known is None, found[:, -1], model.space, **errors)


def rounded(x: Tensor, space: Space) -> Tensor:
    """Real-valued rows as values of the space: integers, within its levels, or as they are."""
    if not isinstance(space, Integers):
        return x
    return x.round().clamp(0, space.levels - 1).to(torch.uint8 if space.levels <= 256 else torch.int64)


def real_rows(x: Any, space: Space, name: str) -> Tensor:
    """Finite real numbers of the space's shape, (n, *shape) float64, within its range or not."""
    return Reals(space.shape).check(x, name).detach().cpu().double()


def rms(error: Tensor) -> Tensor:
    """Root of the mean square of each row, (n,)."""
    return error.double().square().flatten(1).mean(1).sqrt()


def _sd(sd: float | Tensor, n: int, gauge: Gauge) -> Tensor:
    """One standard deviation a row, (n,) float64."""
    each = torch.as_tensor(sd, dtype=torch.float64).detach().cpu()
    if each.shape not in ((), (n,)):
        raise ValueError(f"sd has shape {tuple(each.shape)}; accepts a number, or one for each of {n} rows")
    low, high = gauge.smallest, gauge.largest
    bad = ~((each > 0) & (each >= low * (1 - 1e-6)) & (each <= high * (1 + 1e-6)))
    if bool(bad.any()):
        raise ValueError(
            f"sd is {float(each[bad][0]):g}; accepts standard deviations in raw units from {low:.4g} to {high:.4g}, "
            "the noise that this model learned from"
        )
    return each.expand(n).contiguous()


def _trace(gauge: Gauge, v: Tensor, s: Tensor, y: Any, e: Tensor) -> tuple[Tensor, Tensor]:
    """div x_hat along the direction e, and x_hat, from two answers; (B,) float64 and (B, *shape)."""
    step = along(STEP * s, v) * e
    ahead, behind = gauge.denoised(v + step, s, y), gauge.denoised(v - step, s, y)
    return inner(e, ahead - behind) / (2 * STEP * s), (ahead + behind) / 2


def _likeliest(gauge: Gauge, v: Tensor, y: Any, probes: list[Tensor]) -> Tensor:
    """The noise of maximum likelihood on the scale inside, (B,) float64: where its slope changes sign."""
    low = torch.full((len(v),), -gauge.high / 2, dtype=torch.float64, device=v.device)
    high = torch.full_like(low, -gauge.low / 2)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        s = middle.exp()
        pairs = [_trace(gauge, v, s, y, e) for e in probes]
        trace = torch.stack([t for t, _ in pairs]).mean(0)
        x_hat = torch.stack([x for _, x in pairs]).mean(0)
        more = inner(v - x_hat, v - x_hat) / s.square() > math.prod(v.shape[1:]) - trace
        low, high = torch.where(more, middle, low), torch.where(more, high, middle)
    return ((low + high) / 2).exp()


def _mean(values: Tensor) -> str:
    return f"{float(values.mean()):.4g}"
