"""Likelihoods of a diffusion model by its probability flow, and by a decoder with a flow behind it.

The noise process has an ODE of the same marginals ("Score-Based Generative Modeling through Stochastic Differential
Equations", Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, 2021): for z = alpha x + sigma eps, over lambda,

    dz/dlambda = alpha / 2 (x_hat - alpha z),    d log |det| / dlambda = alpha / 2 (div x_hat - alpha D),

from z = alpha x at the first lambda to z ~ N(0, I) at the last. The divergence is exact where D is small, else
Hutchinson's. What comes out is an estimate (`Estimated`): of the ODE's own density, which is not that of the model that
the bound speaks of, and to a solver's tolerance (`likely.ode`).

Integers k have a bound of the ODE's kind by noise u on them, log P(k) >= E log p(k + u) - log q(u | k):

- `ProbabilityFlow`: u uniform in the cell, so that q = 1. A model that learned the middle of cells is sharper than a
  cell, so its flow starts where the noise has the variance of u, sigma / alpha = cell / sqrt(12).
- `Truncated`: log p(x | z) + log p(z) - log q(z | x) for z drawn at some log-SNR, with the model's decoder before the
  flow. The last term is the entropy that is easily forgotten: without it every dimension gains
  -1/2 log(2 pi e sigma^2) ("Soft Truncation", Kim, Shin, Song, Kang, Moon, 2022, had to correct it).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from likely.families.diffusion.schedule import signal_noise
from likely.nets.attention import forward_mode
from likely.nets.embedding import Condition
from likely.noise import Noise
from likely.ode import ORDER, Answer, Limits, Solution, attainable, refined, rk4
from likely.space import Integers

if TYPE_CHECKING:
    from likely.families.diffusion.model import Process

AXES = 16
"""Dimensions up to which "auto" takes the exact divergence, by the derivatives along all axes in one batch."""

Map = Callable[[Tensor], Tensor]
"""z (n B, *shape) to the same, n copies of B rows one after the other."""
Divergence = Callable[[Map, Tensor], Answer]
"""f and z (B, *shape) to f(z) and div f (B,)."""


def ignored(f: Map, z: Tensor) -> Answer:
    """Zero in place of the divergence: for who wants z alone."""
    return f(z), z.new_zeros(z.shape[0])


def exact(f: Map, z: Tensor) -> Answer:
    """By the derivatives along all axes, in one batch."""
    n, rows = z[0].numel(), z.shape[0]
    axes = torch.eye(n, dtype=z.dtype, device=z.device).repeat_interleave(rows, 0).reshape(n * rows, *z.shape[1:])
    value, along = _derivative(f, z.repeat(n, *[1] * (z.ndim - 1)), axes)
    return value[:rows], (along * axes).reshape(n, rows, -1).sum((0, 2))


def hutchinson(e: Tensor) -> Divergence:
    """e^T (df/dz) e along one probe e (B, *shape) for each row, the same at all times ("A stochastic estimator of the
    trace of the influence matrix", Hutchinson, 1990)."""

    def divergence(f: Map, z: Tensor) -> Answer:
        value, along = _derivative(f, z, e)
        return value, (along * e).flatten(1).sum(1)

    return divergence


def _derivative(f: Map, z: Tensor, e: Tensor) -> Answer:
    """f(z) and (df/dz) e, forward."""
    with forward_mode(), forward_ad.dual_level():
        value, along = forward_ad.unpack_dual(f(forward_ad.make_dual(z, e)))
    return value, torch.zeros_like(value) if along is None else along


class ProbabilityFlow(nn.Module):
    """A diffusion model read as a flow: z at the last log-SNR, standard normal, is an invertible map of x.

    Verbs: Estimated, Invertible. Of reals the reading is the density of x; of integers a lower bound of log P(x) but
    for the solver's error (module docstring). `at` is the log-SNR where the flow starts (None: the model's first, or
    for integers where the noise is as wide as a cell). `divergence` is "exact", "hutchinson" or "auto"; the ODE is
    solved with `steps` up to `max_steps` steps until nothing moves by more than `tolerance`, else
    `likely.ode.StepLimit`.
    The flow is the network's, without the clamp on x_hat that the bound and the samplers have.
    """

    unbiased = False
    order = ORDER

    def __init__(
        self,
        model: Process,
        *,
        at: float | None = None,
        divergence: Literal["auto", "exact", "hutchinson"] = "auto",
        steps: int = 32,
        max_steps: int = 2048,
        tolerance: float = 1e-5,
    ) -> None:
        super().__init__()
        check_model(model, "ProbabilityFlow")
        if divergence not in ("auto", "exact", "hutchinson"):
            raise ValueError(f"divergence is {divergence!r}; accepts 'auto', 'exact', 'hutchinson'")
        if not (2 <= steps <= max_steps and tolerance > 0):
            raise ValueError(
                f"steps is {steps}, max_steps {max_steps}, tolerance {tolerance}; accepts 2 <= steps <= max_steps and "
                "a tolerance above 0"
            )
        self.model, self.space, self.condition = model, model.space, model.condition
        self.at, self.limits, self.tolerance = (
            at if at is None else check_at(model, at),
            Limits(steps // 2, max_steps, tolerance),
            tolerance,
        )
        self.exact = divergence == "exact" or (divergence == "auto" and self.space.dims <= AXES)
        self.start_reading()

    # Estimated -----------------------------------------------------------------------------------------------------

    def log_prob_estimate(self, x: Tensor, y: Tensor | None = None, *, noise: Noise) -> Tensor:
        """log p(x), or log p(x given y), (B * k,) in nats, to the tolerance."""
        return self._log_prob(x, y, noise, None)

    def log_prob_at(self, x: Tensor, y: Tensor | None = None, *, steps: int, noise: Noise) -> Tensor:
        """The same on a fixed grid of `steps`: its error falls with the power `order` of them."""
        return self._log_prob(x, y, noise, steps)

    def log_prob_noised(
        self, z: Tensor, log_snr: float, y: Tensor | None = None, *, noise: Noise, steps: int | None = None
    ) -> Tensor:
        """log p(z), (n,) in nats, of the flow's z (n, *shape) at a log-SNR; `noise` has n draws, y n rows or None."""
        how = exact if self.exact else hutchinson(1 - 2 * noise.integers(2, self.space.shape).to(z.dtype))
        end, log_det = self._solved(z, y, log_snr, float(self.model.schedule.low), how, steps)
        return log_normal(end) + log_det

    @property
    def reading_note(self) -> str:
        """How a reading of log p is made, for who reads the number, and what it took since `start_reading`."""
        tolerance = attainable(self.tolerance, self._dtype)
        means = "exact divergence" if self.exact else "Hutchinson's divergence"
        solved = f", <= {self.evaluations} evaluations, last doubling <= {self.change:.0e}" if self.evaluations else ""
        bound = "a lower bound by x + u, but for the solver's error; " if isinstance(self.space, Integers) else ""
        return f"{bound}probability-flow ODE to {tolerance:.0e}{solved}, {means}"

    def start_reading(self) -> None:
        """Count evaluations and changes for the note from here on."""
        self.evaluations, self.change = 0, 0.0

    # Invertible ----------------------------------------------------------------------------------------------------

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x (of integers the middle of the cell) to z (B, *shape) at the last log-SNR, standard normal over the model's
        own draws."""
        first = self._first
        z = self._alpha(first) * self.model.scaled(x)
        return self._solved(z, y, first, float(self.model.schedule.low), ignored, None)[0]

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """z to x; to the cell that it ends in for integers."""
        first = self._first
        z = self._solved(z.to(self._dtype), y, float(self.model.schedule.low), first, ignored, None)[0]
        x = self.model.unscaled(z / self._alpha(first))
        if isinstance(self.space, Integers):
            return x.round().clamp(0, self.space.levels - 1).long()
        return x

    # Parts ---------------------------------------------------------------------------------------------------------

    def _log_prob(self, x: Tensor, y: Tensor | None, noise: Noise, steps: int | None) -> Tensor:
        first, model, dims = self._first, self.model, self.space.dims
        alpha = self._alpha(first)
        if isinstance(self.space, Integers):
            u = noise.uniform(self.space.shape, dtype=self._dtype) - 0.5
            scaled = noise.expand(model.scaled(x)) + 2 / self.space.levels * u
            volume = dims * math.log(2 / self.space.levels)
        else:
            scaled, volume = model.scaled(x), model.scaling.volume
            if not self.exact:
                scaled = noise.expand(scaled)
        once = scaled.shape[0] != noise.count  # all draws are the same
        y = y if y is None or once else noise.expand(y)
        log_p = self.log_prob_noised(alpha * scaled, first, y, noise=noise, steps=steps)
        log_p = log_p + dims * alpha.log() + volume
        return noise.expand(log_p) if once else log_p

    def _solved(
        self, z: Tensor, y: Tensor | None, start: float, end: float, how: Divergence, steps: int | None
    ) -> Answer:
        """z from one log-SNR to another, and the log-determinant."""
        condition = self.model._condition(y, z.shape[0])
        if not z.shape[0]:
            return z, z.new_zeros(0)
        rate = flow_rate(lambda z, log_snr: self.model.core.denoise(z, log_snr, _copies(condition, z.shape[0])), how)
        if steps is not None:
            return rk4(rate, z, start, end, steps)
        solution = refined(lambda n: rk4(rate, z, start, end, n), self.limits, volume=how is not ignored)
        self._count(solution)
        return solution.x, solution.log_det

    def _count(self, solution: Solution) -> None:
        self.evaluations = max(self.evaluations, int(solution.evaluations.max()))
        self.change = max(self.change, float(solution.change.detach().max()))

    @property
    def _first(self) -> float:
        """The log-SNR that the flow starts from."""
        if self.at is not None:
            return self.at
        high = float(self.model.schedule.high)
        return min(high, 2 * math.log(self.space.levels * 3**0.5)) if isinstance(self.space, Integers) else high

    def _alpha(self, log_snr: float) -> Tensor:
        return signal_noise(torch.tensor(log_snr, dtype=torch.float64))[0].to(self._device, self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device


class Truncated(nn.Module):
    """The model's decoder from z at a log-SNR, and the probability flow of z from there on.

    Verbs: Estimated, a lower bound of log p(x) but for the solver's error. `at` is the log-SNR (None: the model's
    first); further settings are those of `ProbabilityFlow`. With decoder "denoiser" the decoder's learned width grows
    with the noise at log-SNRs below the first.
    """

    unbiased = False

    def __init__(self, model: Process, at: float | None = None, **settings: Any) -> None:
        super().__init__()
        check_model(model, "Truncated")
        self.flow = ProbabilityFlow(model, at=at, **settings)
        self.space, self.condition = model.space, model.condition

    def log_prob_estimate(self, x: Tensor, y: Tensor | None = None, *, noise: Noise) -> Tensor:
        """One draw, (B * k,) in nats: log p(x given z) + log p(z) - log q(z given x)."""
        model, log_snr = self.flow.model, self._log_snr
        y = y if y is None else noise.expand(y)
        raw, x0 = noise.expand(x), noise.expand(model.scaled(x))
        eps = noise.normal(self.space.shape, dtype=x0.dtype)
        alpha, sigma = (part.to(x0) for part in signal_noise(torch.tensor(log_snr, dtype=torch.float64)))
        z = alpha * x0 + sigma * eps
        at = None if self.flow.at is None else torch.tensor(log_snr, dtype=torch.float64, device=z.device)
        decoder = model.decoder.log_prob(raw, *model._read(z, model._condition(y, len(z)), model._reads, at))
        log_q = log_normal(eps) - self.space.dims * sigma.log()
        return decoder + self.flow.log_prob_noised(z, log_snr, y, noise=noise) - log_q

    @property
    def reading_note(self) -> str:
        """How a reading is made, for who reads the number."""
        flow = self.flow.reading_note.split("; ")[-1]
        return f"a lower bound but for the solver's error; decoder at log-SNR {self._log_snr:.4g}, then {flow}"

    def start_reading(self) -> None:
        """Count for the note from here on."""
        self.flow.start_reading()

    @property
    def _log_snr(self) -> float:
        return float(self.flow.model.schedule.high) if self.flow.at is None else self.flow.at


def flow_rate(denoise: Callable[[Tensor, Tensor], Tensor], how: Divergence) -> Callable[[Tensor, Tensor], Answer]:
    """The right-hand side of the probability flow over the log-SNR: (lambda (), z) to dz/dlambda and its divergence."""

    def rate(log_snr: Tensor, z: Tensor) -> Answer:
        alpha, dims = signal_noise(log_snr)[0].to(z), z[0].numel()
        level = log_snr.to(z.device)
        x_hat, divergence = how(lambda z: denoise(z, level.expand(z.shape[0])), z)
        return alpha / 2 * (x_hat - alpha * z), alpha / 2 * (divergence - alpha * dims)

    return rate


def _copies(condition: Condition | None, n: int) -> Condition | None:
    """A condition of B rows for n rows, copies of these."""
    vector = None if condition is None else condition.vector
    if vector is None or len(vector) == n:
        return condition
    return condition.take(torch.arange(n, device=vector.device) % len(vector))  # ty: ignore


def log_normal(z: Tensor) -> Tensor:
    """log N(z; 0, I) of z (B, *shape), (B,) in nats."""
    return (-0.5 * z.square() - 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)


def check_model(model: object, name: str) -> None:
    """Raises `TypeError` for what is no diffusion model: above all for guided ones, whose density nobody knows."""
    if not (hasattr(model, "core") and hasattr(model, "schedule") and hasattr(model, "elbo_terms")):
        raise TypeError(
            f"model is {type(model).__name__}; {name} accepts a diffusion model itself (of a Trajectory its `.model`), "
            "for draws that are guided or made otherwise have no known density"
        )


def check_at(model: Process, at: float) -> float:
    """`at`, or a `ValueError` where the process does not get there."""
    low, high = float(model.schedule.low), float(model.schedule.high)
    if not low < at <= high + 1e-9:
        raise ValueError(f"at is {at}; accepts log-SNRs of this model's process, above {low:.4g} and up to {high:.4g}")
    return at
