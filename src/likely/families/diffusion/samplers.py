"""Samplers: from noise at a low log-SNR to data at a high one, with nothing but a denoiser.

z = alpha x + sigma eps with alpha^2 = sigmoid(lambda), sigma^2 = sigmoid(-lambda); `denoise(z, lambda)` is x_hat =
E[x | z]. Without noise a sampler follows the probability-flow ODE, which in y = z / alpha over sigma~ = sigma / alpha =
e^(-lambda / 2) reads

    dy / dsigma~ = (y - x_hat) / sigma~,    or, solved but for x_hat,
    z_s = (sigma_s / sigma_t) z_t + sigma_s int e^l x_hat dl,    l = lambda / 2 from t to s.

Every sampler is a generator with one signature, `name(denoise, z, grid, *, noise=None, ...)`. `grid` (N + 1,) holds
rising log-SNRs, z (B, ...) stands at grid[0], and each of the N steps yields z at the next point: the last one is the
result, all of them are a film. `denoise` takes log-SNRs (B,) in float64. The last point may be infinite, for a last
step that ends in x_hat itself; without noise a grid may also fall, from data to their noise. Bad arguments are
ValueErrors at the first step.

"Denoising diffusion implicit models" (Song, Meng, Ermon, 2021); "Elucidating the design space of diffusion-based
generative models" (Karras, Aittala, Aila, Laine, 2022); "DPM-Solver++: fast solver for guided sampling of diffusion
probabilistic models" (Lu, Zhou, Bao, Chen, Li, Zhu, 2022); "Fast sampling of diffusion models with exponential
integrator" (Zhang, Chen, 2023) for iPNDM.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from likely.families.diffusion.schedule import EDM, Linear, Schedule, signal_noise
from likely.noise import Noise

Denoise = Callable[[Tensor, Tensor], Tensor]
"""z (B, ...) and log-SNR (B,) to x_hat, shaped like z."""


class Point(NamedTuple):
    """A point of a grid: log-SNR, alpha, sigma and sigma~ = sigma / alpha."""

    log_snr: float
    alpha: float
    sigma: float
    ratio: float


def points(grid: Tensor, noisy: bool = False) -> list[Point]:
    """The points of a grid, in float64; ValueError for one that cannot be followed, `noisy` if noise is drawn."""
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(f"grid has shape {tuple(grid.shape)}; accepts a vector of 2 log-SNRs or more")
    lam = grid.detach().to("cpu", torch.float64)
    rises = bool((lam.diff() > 0).all())
    if not rises and (noisy or not bool((lam.diff() < 0).all())):
        raise ValueError(f"grid is {_short(lam)}; accepts log-SNRs that rise (or, where no noise is drawn, fall)")
    if not bool(lam[: -1 if rises else None].isfinite().all()):
        raise ValueError(f"grid is {_short(lam)}; accepts finite log-SNRs (infinite may be the last that rises)")
    return [point(value) for value in lam.tolist()]


def point(log_snr: float) -> Point:
    """What belongs to a log-SNR, in float64."""
    lam = torch.tensor(log_snr, dtype=torch.float64)
    return Point(log_snr, *map(float, signal_noise(lam)), float((-lam / 2).exp()))


def ddim(
    denoise: Denoise, z: Tensor, grid: Tensor, *, noise: Noise | None = None, eta: float = 0.0
) -> Iterator[Tensor]:
    """First order. `eta` is the share of the posterior's deviation that is drawn anew: 0 is deterministic (Euler's
    method in sigma~), 1 ancestral sampling, a draw from q(z_s | z_t, x = x_hat). 0 <= eta <= 1."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}; accepts 0 (deterministic) to 1 (ancestral)")
    path = points(grid, noisy=eta > 0)
    for t, s in pairwise(path):
        x_hat = denoise(z, _level(z, t.log_snr))
        # Song et al., eq. (12) and (16): z_s = alpha_s x_hat + sqrt(sigma_s^2 - fresh^2) eps_hat + fresh xi,
        # eps_hat = (z_t - alpha_t x_hat) / sigma_t
        c = -math.expm1(t.log_snr - s.log_snr)  # below 0 where a grid falls, and eta is 0
        fresh = eta * s.sigma * math.sqrt(max(c, 0.0))
        kept = math.sqrt(s.sigma**2 - fresh**2) / t.sigma
        z = kept * z + (s.alpha - kept * t.alpha) * x_hat
        if fresh:
            z = z + fresh * _xi(noise, z, "eta above 0")
        yield z


def heun(
    denoise: Denoise,
    z: Tensor,
    grid: Tensor,
    *,
    noise: Noise | None = None,
    churn: float = 0.0,
    churn_from: float = 0.0,
    churn_to: float = math.inf,
    inflation: float = 1.0,
) -> Iterator[Tensor]:
    """Second order, two evaluations a step and one in the last, which is Euler's (EDM's algorithms 1 and 2).

    `churn` (S_churn) noises z up by sigma~ -> (1 + min(churn / N, sqrt(2) - 1)) sigma~ before the steps whose sigma~ is
    in `churn_from` .. `churn_to`, with noise `inflation` (S_noise) times as large as it should be. Churn is >= 0.
    """
    if churn < 0 or inflation <= 0:
        raise ValueError(f"churn is {churn} and inflation {inflation}; accepts churn >= 0 and inflation > 0")
    path = points(grid, noisy=churn > 0)
    gain = min(churn / (len(path) - 1), math.sqrt(2) - 1)
    for t, s in pairwise(path):
        y = z / t.alpha
        if gain and churn_from <= t.ratio <= churn_to:
            up = point(t.log_snr - 2 * math.log1p(gain))
            extra = inflation * math.sqrt(up.ratio**2 - t.ratio**2)
            t, y = up, y + extra * _xi(noise, z, "churn")
        step, d = s.ratio - t.ratio, _slope(denoise, y, t)
        ahead = y + step * d
        if s is not path[-1]:
            ahead = y + step * (d + _slope(denoise, ahead, s)) / 2
        z = s.alpha * ahead
        yield z


def dpmpp_2m(denoise: Denoise, z: Tensor, grid: Tensor, *, noise: Noise | None = None) -> Iterator[Tensor]:
    """DPM-Solver++(2M), second order with one evaluation a step: x_hat is continued along the line through its last
    two values. First and last step are of first order. Deterministic: `noise` is not used."""
    path = points(grid)
    before, h_before = None, math.inf
    for t, s in pairwise(path):
        x_hat = denoise(z, _level(z, t.log_snr))
        h = (s.log_snr - t.log_snr) / 2
        d = x_hat
        if before is not None and s is not path[-1]:
            d = x_hat + h / (2 * h_before) * (x_hat - before)  # Lu et al., algorithm 2
        z = s.sigma / t.sigma * z - s.alpha * math.expm1(-h) * d
        before, h_before = x_hat, h
        yield z


ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def ipndm(
    denoise: Denoise, z: Tensor, grid: Tensor, *, noise: Noise | None = None, slopes: int = 3
) -> Iterator[Tensor]:
    """Adams and Bashforth's method in sigma~ on the last `slopes` (1 to 4) values of dy / dsigma~, as many as there
    are. Deterministic: `noise` is not used.

    The weights are those of even steps, which those of a grid are not: so the order is 2 for 2 slopes or more, and more
    slopes make the error smaller, not its order higher. With few evaluations on a grid that is even in log-SNR, or
    EDM's, that beats weights that are right; on grids even in time `dpmpp_2m` does better.
    """
    if not 1 <= slopes <= len(ADAMS_BASHFORTH):
        raise ValueError(f"slopes is {slopes}; accepts 1 to {len(ADAMS_BASHFORTH)}")
    path = points(grid)
    y, past = z / path[0].alpha, []
    for t, s in pairwise(path):
        past = [_slope(denoise, y, t), *past][:slopes]
        mean = sum(weight * d for weight, d in zip(ADAMS_BASHFORTH[len(past) - 1], past, strict=True))
        y = y + (s.ratio - t.ratio) * mean
        yield s.alpha * y


@dataclass(frozen=True)
class Sampler:
    """A sampler and what is known of it."""

    name: str
    run: Callable[..., Iterator[Tensor]]
    """The generator function."""
    order: int
    """Without noise, the error falls with this power of the number of steps."""
    grid: str
    """The name of the grid that suits it."""
    per_step: int = 1
    """Evaluations of a step; the last step has one."""
    fewest: int = 1
    """Evaluations below which its results are not to be used."""

    def steps(self, evaluations: int) -> int:
        """How many steps so many evaluations buy; ValueError where they are too few for this sampler."""
        if evaluations < self.fewest:
            names = ", ".join(repr(name) for name, other in SAMPLERS.items() if other.fewest <= max(evaluations, 1))
            raise ValueError(
                f"evaluations is {evaluations}; {self.name} accepts {self.fewest} or more: "
                f"raise evaluations, or choose one of {names}"
            )
        return (evaluations + self.per_step - 1) // self.per_step

    def evaluations(self, steps: int) -> int:
        """How often so many steps call the denoiser."""
        return self.per_step * (steps - 1) + 1


_SAMPLERS = (
    Sampler("ddim", ddim, 1, "uniform"),
    Sampler("heun", heun, 2, "edm", per_step=2, fewest=15),
    Sampler("dpmpp_2m", dpmpp_2m, 2, "uniform"),
    Sampler("ipndm", ipndm, 2, "uniform"),
)
SAMPLERS: dict[str, Sampler] = {sampler.name: sampler for sampler in _SAMPLERS}
"""By name; `dpmpp_2m` is the default, `heun` the reference where evaluations are cheap."""
GRIDS: dict[str, type[Schedule]] = {"uniform": Linear, "edm": EDM}
"""Those that are even in the time of a schedule of their own: in log-SNR, or in sigma~^(1/7) (Karras et al., eq. 5)."""


def grid(name: str, low: float, high: float, steps: int, schedule: Schedule | None = None) -> Tensor:
    """`steps` + 1 log-SNRs (float64) that rise from `low` to `high`, even in log-SNR ("uniform"), as in EDM ("edm"), or
    even in the time of a `schedule` that goes so far ("time")."""
    if name not in (*GRIDS, "time"):
        raise ValueError(f"grid is {name!r}; accepts one of {', '.join(map(repr, GRIDS))}, 'time'")
    if steps < 1:
        raise ValueError(f"steps is {steps}; accepts 1 or more")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"low is {low} and high {high}; accepts finite log-SNRs, low < high")
    if name != "time":
        schedule = GRIDS[name](high, low)
    if schedule is None:
        raise ValueError("grid is 'time' and schedule None; accepts a Schedule")
    least, most = float(schedule.low), float(schedule.high)
    if low < least - 1e-6 or high > most + 1e-6:
        raise ValueError(f"low is {low:g} and high {high:g}; this schedule accepts log-SNRs {least:g} .. {most:g}")
    with torch.no_grad():
        ends = torch.tensor([low, high], dtype=torch.float64, device=schedule.low.device)
        start, end = schedule.time(ends).clamp(0, 1)
        share = torch.linspace(0, 1, steps + 1, dtype=torch.float64, device=ends.device)
        lam = schedule.log_snr(start + share * (end - start))
    lam[0], lam[-1] = low, high  # whatever was rounded
    return lam


def _level(z: Tensor, log_snr: float) -> Tensor:
    return torch.full((z.shape[0],), log_snr, dtype=torch.float64, device=z.device)


def _slope(denoise: Denoise, y: Tensor, at: Point) -> Tensor:
    """dy / dsigma~."""
    return (y - denoise(at.alpha * y, _level(y, at.log_snr))) / at.ratio


def _xi(noise: Noise | None, z: Tensor, why: str) -> Tensor:
    """Fresh standard normal noise, shaped like z."""
    if noise is None:
        raise ValueError(f"noise is None; {why} needs a Noise")
    if noise.count != z.shape[0]:
        raise ValueError(f"noise serves {noise.count} rows; z has {z.shape[0]}")
    return noise.normal(z.shape[1:], dtype=z.dtype)


def _short(values: Tensor) -> str:
    shown = [f"{value:g}" for value in values.tolist()]
    return ", ".join(shown if len(shown) < 8 else [*shown[:3], "...", *shown[-3:]])
