"""Samplers, grids and guidance, on distributions whose denoiser is known exactly. No training anywhere."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from likely.families.diffusion import guidance
from likely.families.diffusion.samplers import SAMPLERS, ddim, dpmpp_2m, grid, heun, ipndm, point
from likely.families.diffusion.schedule import Cosine, Flow
from likely.nets.embedding import Condition
from likely.noise import Noise

sys.path.append(str(Path(__file__).parent))
from analytic import Design, Gaussian, followed, order, pixel, signal_noise, two_blobs

F64 = torch.float64
LOW, HIGH = -9.0, 12.0
INFINITE = torch.tensor([math.inf], dtype=F64)
GAUSSIAN = Gaussian([0.3, -0.2], [[0.5, 0.2], [0.2, 0.3]])
BLOBS = two_blobs()


def last(sampler: Callable, denoise: Callable, z: Tensor, lam: Tensor, **settings) -> Tensor:
    """The result of a sampler."""
    *_, z = sampler(denoise, z, lam, **settings)
    return z


def normal(n: int, d: int = 2, seed: int = 0) -> Tensor:
    return Noise(seed, n).normal((d,), dtype=F64)


def distance(a: Tensor, b: Tensor) -> float:
    """The mean over rows of the Euclidean distance."""
    return float((a - b).norm(dim=1).mean())


# Order of convergence ------------------------------------------------------------------------------------------------

SETTINGS = {
    **{name: (sampler.run, sampler.order) for name, sampler in SAMPLERS.items()},
    "ipndm, 1 slope": (partial(ipndm, slopes=1), 1),
    "ipndm, 2 slopes": (partial(ipndm, slopes=2), 2),
    "ipndm, 4 slopes": (partial(ipndm, slopes=4), 2),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("on", ["uniform", "edm"])
def test_order_on_a_gaussian(name, on):
    """Over these steps the slopes lie within 0.06 of the limit; the next lower order is 1 away."""
    run, nominal = SETTINGS[name]
    z = GAUSSIAN.marginal(normal(16), LOW)
    truth = GAUSSIAN.flow(z, LOW, HIGH)

    def error(steps: int) -> float:
        return distance(last(run, GAUSSIAN.denoise, z, grid(on, LOW, HIGH, steps)), truth)

    assert order(error, 160, 320) == pytest.approx(nominal, abs=0.1)
    assert error(320) < {1: 0.01, 2: 2e-4}[nominal]


@pytest.fixture(scope="module")
def blobs() -> tuple[Tensor, Tensor]:
    """z at LOW, and where the ODE takes it by HIGH: to 3e-7, where the samplers below err by 1e-5 and more."""
    z = BLOBS.marginal(64, LOW)
    return z, followed(BLOBS.denoise, z, LOW, HIGH, 200)


@pytest.mark.parametrize("name", SETTINGS)
def test_order_on_a_mixture(name, blobs):
    """Rows near the ridge between the modes come late to the limit: hence the wider margin."""
    run, nominal = SETTINGS[name]
    z, truth = blobs

    def error(steps: int) -> float:
        return distance(last(run, BLOBS.denoise, z, grid("uniform", LOW, HIGH, steps)), truth)

    assert order(error, 100, 400) == pytest.approx(nominal, abs=0.25)


# (sampler, grid, points) -> the specification's mean trajectory error (section 8), measured by others with other draws
MEASURED = {
    ("ddim", "edm", 10): 0.118,
    ("ddim", "edm", 20): 0.055,
    ("heun", "edm", 5): 1.14,
    ("heun", "edm", 10): 0.097,
    ("heun", "edm", 20): 0.0166,
    ("dpmpp_2m", "edm", 10): 0.108,
    ("dpmpp_2m", "edm", 20): 0.023,
    ("dpmpp_2m", "uniform", 10): 0.054,
    ("dpmpp_2m", "uniform", 20): 0.011,
}


@pytest.mark.parametrize("on", ["edm", "uniform"])
def test_errors_of_the_specification(on):
    """sigma~ 80 to 0.002, or log-SNR -9 to 12, from so many points and then in one step to no noise at all."""
    low, high = (-2 * math.log(80), -2 * math.log(0.002)) if on == "edm" else (LOW, HIGH)
    z = normal(1000)
    truth = followed(BLOBS.denoise, z, low, 25.0, 150)
    for (name, grid_name, n), error in MEASURED.items():
        if grid_name == on:
            lam = torch.cat([grid(on, low, high, n - 1), INFINITE])
            assert distance(last(SAMPLERS[name].run, BLOBS.denoise, z, lam), truth) == pytest.approx(error, rel=0.05)


def test_few_evaluations():
    """What is said of them: the default halves DDIM's error, and iPNDM the default's."""
    z = BLOBS.marginal(256, LOW)
    truth = followed(BLOBS.denoise, z, LOW, HIGH, 200)
    for n, most in ((10, (0.12, 0.05, 0.015)), (20, (0.06, 0.012, 0.005))):
        errors = [
            distance(last(s, BLOBS.denoise, z, grid("uniform", LOW, HIGH, n)), truth) for s in (ddim, dpmpp_2m, ipndm)
        ]
        assert all(error < bound for error, bound in zip(errors, most, strict=True))
        assert errors[2] < errors[1] / 2 < errors[0] / 4


# Moments and draws ---------------------------------------------------------------------------------------------------

DRAWN = {
    "ddim, 0": (ddim, 1),
    "ddim, 0.5": (partial(ddim, eta=0.5), 1),
    "ddim, 1": (partial(ddim, eta=1.0), 1),
    "heun": (heun, 2),
    "heun, churn": (partial(heun, churn=5.0), 2),
    "heun, churn between": (partial(heun, churn=10.0, churn_from=0.1, churn_to=10.0), 2),
    "dpmpp_2m": (dpmpp_2m, 2),
    "ipndm": (ipndm, 2),
}


@pytest.mark.parametrize("name", DRAWN)
def test_moments_at_nominal_order(name):
    """Each step is linear in z and the draws, so moments are found without sampling error: the mean is exact, the
    covariance comes at the sampler's order."""
    run, nominal = DRAWN[name]
    mean, covariance = GAUSSIAN.moments(HIGH)

    def moments(steps: int) -> tuple[Tensor, Tensor]:
        noise = Design(steps + 1, 2)
        z = GAUSSIAN.marginal(noise.normal((2,), dtype=F64), LOW)
        z = last(run, GAUSSIAN.denoise, z, grid("uniform", LOW, HIGH, steps), noise=noise)
        return z.mean(0), (z - z.mean(0)).T @ (z - z.mean(0)) / len(z)

    assert torch.allclose(moments(20)[0], mean, rtol=0, atol=1e-12)
    assert order(lambda steps: float((moments(steps)[1] - covariance).norm()), 80, 160) == pytest.approx(
        nominal, abs=0.1
    )


def test_ancestral_draws():
    """8000 real draws have the moments that ancestral sampling of 60 steps has in truth. The standard errors of the
    variances are 1.6 per cent: noise that is 4 per cent too weak or strong, or the same at every step, is 5 of them
    away; those of the means are 0.006 to 0.008."""
    n, steps = 8000, 60
    lam = grid("uniform", LOW, HIGH, steps)
    design = Design(steps + 1, 2)
    z = GAUSSIAN.marginal(design.normal((2,), dtype=F64), LOW)
    exact = last(ddim, GAUSSIAN.denoise, z, lam, noise=design, eta=1.0)
    z = last(ddim, GAUSSIAN.denoise, GAUSSIAN.marginal(normal(n, seed=1), LOW), lam, noise=Noise(2, n), eta=1.0)
    covariance = exact.T.cov(correction=0)
    variance = covariance.diagonal()
    assert ((z.mean(0) - exact.mean(0)).abs() < 4.5 * (variance / n).sqrt()).all()
    error = ((covariance**2 + variance[:, None] * variance) / n).sqrt()
    assert ((z.T.cov() - covariance).abs() < 4.5 * error).all()
    assert (4 * 2 * 0.04 * variance > 4.5 * error.diagonal()).all()


def test_ancestral_kernel_is_the_posterior():
    """q(z_s | z_t, x) by brute force: q(z_s | x) q(z_t | z_s), z_t = a z_s + N(0, sigma_t^2 - a^2 sigma_s^2) with
    a = alpha_t / alpha_s, normalised over a fine lattice of z_s."""
    x, z_t, (t, s) = 0.4, -0.7, (point(-1.3), point(0.9))
    lattice = torch.linspace(-8, 8, 40001, dtype=F64)
    a = t.alpha / s.alpha
    log = -((lattice - s.alpha * x) ** 2) / (2 * s.sigma**2)
    log = log - (z_t - a * lattice) ** 2 / (2 * (t.sigma**2 - a**2 * s.sigma**2))
    p = log.softmax(0)
    mean = p @ lattice
    deviation = (p @ (lattice - mean) ** 2).sqrt()

    lam, z = torch.tensor([t.log_snr, s.log_snr], dtype=F64), torch.full((2, 1), z_t, dtype=F64)
    for eta in (1.0, 0.6):
        above, below = last(ddim, lambda z, _: torch.full_like(z, x), z, lam, noise=Design(1, 1), eta=eta)
        assert float(above - below) / 2 == pytest.approx(eta * float(deviation), abs=1e-10)
        if eta == 1:
            assert float(above + below) / 2 == pytest.approx(float(mean), abs=1e-10)
        else:  # the marginal stays: the noise that is kept of z_t, and the fresh one, add up to sigma_s
            kept = (float(above + below) / 2 - s.alpha * x) / ((z_t - t.alpha * x) / t.sigma)
            assert kept**2 + (eta * float(deviation)) ** 2 == pytest.approx(s.sigma**2, abs=1e-10)


@pytest.mark.parametrize("sampler", [dpmpp_2m, ipndm])
def test_levels_of_a_pixel(sampler):
    """The ODE in one dimension keeps the order of its points: 2000 quantiles of N(0, 1) go to the levels in their
    shares, but for the few that lie on an edge."""
    q = PIXEL_STARTS
    z = last(sampler, pixel().denoise, q, torch.cat([grid("uniform", LOW, HIGH, 200), INFINITE]))
    levels = (z * 2 + 1.5).squeeze(1)
    found = levels.round()
    assert float(((levels - found).abs() < 1e-3).double().mean()) > 0.995
    shares = torch.bincount(found.long(), minlength=4) / len(q)
    assert torch.allclose(shares, torch.tensor([0.1, 0.4, 0.3, 0.2]), atol=0.005)


PIXEL_STARTS = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(2000, dtype=F64) + 0.5) / 2000)[:, None]


def test_ancestral_pixel():
    """5000 ancestral draws: a goodness-of-fit statistic of 3 degrees of freedom, below 16.3 at 1 in 1000. Shares moved
    by .03 between two levels raise it by 5000 * .03^2 * (1 / .4 + 1 / .3) = 26."""
    n = 5000
    lam = torch.cat([grid("uniform", LOW, HIGH, 150), INFINITE])
    z = last(ddim, pixel().denoise, normal(n, 1), lam, noise=Noise(3, n), eta=1.0)
    counts, p = torch.bincount((z * 2 + 1.5).round().long().flatten(), minlength=4), torch.tensor([0.1, 0.4, 0.3, 0.2])
    assert float(((counts - n * p) ** 2 / (n * p)).sum()) < 16.3


# What holds step by step ---------------------------------------------------------------------------------------------


def test_first_and_last_steps_are_of_first_order():
    """Both steps of a grid of two, the last of three, and only these."""
    z = normal(8)
    lam = grid("uniform", -4, 6, 3)
    film, euler = list(dpmpp_2m(BLOBS.denoise, z, lam)), [z, *ddim(BLOBS.denoise, z, lam)]
    assert torch.allclose(film[0], euler[1], rtol=0, atol=1e-14)
    assert (last(ddim, BLOBS.denoise, film[0], lam[1:3]) - film[1]).abs().max() > 1e-2
    assert torch.allclose(last(ddim, BLOBS.denoise, film[1], lam[2:]), film[2], rtol=0, atol=1e-14)
    two = grid("edm", -4, 6, 2)
    assert torch.allclose(last(dpmpp_2m, BLOBS.denoise, z, two), last(ddim, BLOBS.denoise, z, two), rtol=0, atol=1e-14)
    one = list(heun(BLOBS.denoise, z, lam))
    assert torch.allclose(last(ddim, BLOBS.denoise, one[1], lam[2:]), one[2], rtol=0, atol=1e-14)


def test_second_order_steps_are_exact_where_they_should_be():
    """dpmpp_2m: an x_hat that is linear in log-SNR is continued exactly to the middle of the step, on uneven grids too.
    ipndm: with an x_hat for which dy / dsigma~ is quadratic in sigma~, three slopes on even steps of sigma~ are exact.
    """
    z = torch.zeros(1, 1, dtype=F64)
    lam = torch.tensor([-1.0, 0.5, 3.0, 4.0], dtype=F64)
    film = list(dpmpp_2m(lambda z, log_snr: log_snr[:, None], z, lam))
    t, s = point(0.5), point(3.0)
    assert torch.allclose(film[1], s.sigma / t.sigma * film[0] - s.alpha * math.expm1(-1.25) * 1.75, atol=1e-14)

    ratio = torch.tensor([5.0, 4, 3, 2, 1], dtype=F64)

    def quadratic(z: Tensor, log_snr: Tensor) -> Tensor:
        sigma = (-log_snr / 2).exp()[:, None]
        return z / signal_noise(log_snr)[0] - sigma * sigma**2  # dy / dsigma~ = sigma~^2

    lam = -2 * ratio.log()
    y = [z / point(float(level)).alpha for z, level in zip(ipndm(quadratic, z, lam), lam[1:], strict=True)]
    assert float(y[3] - y[2]) == pytest.approx((1 - 8) / 3)
    assert float(y[2] - y[1]) == pytest.approx((8 - 27) / 3)


def test_gauges_give_the_same_path():
    """Euler on variance-exploding y = x + sigma~ eps (EDM's code), Euler on rectified flow's velocity eps - x, and the
    variance-preserving `ddim` ask for the same x_hat, on one grid of log-SNRs. So do Heun's two."""
    lam = grid("uniform", -8, 10, 12)
    asked: list[Tensor] = []

    def spied(z: Tensor, log_snr: Tensor) -> Tensor:
        asked.append(BLOBS.denoise(z, log_snr))
        return asked[-1]

    start = normal(16)  # eps-like: z = alpha y in every gauge
    list(ddim(spied, start, lam))
    ours, asked = asked, []
    ratio = (-lam / 2).exp()
    y = start / point(float(lam[0])).alpha
    for t, s in pairwise(ratio):
        d = (y - spied(y / (1 + t**2).sqrt(), (-2 * t.log()).expand(16))) / t
        y = y + (s - t) * d
    exploding, asked = asked, []
    time = ratio / (1 + ratio)  # sigma = t, alpha = 1 - t
    z = start / point(float(lam[0])).alpha * (1 - time[0])
    for t, s in pairwise(time):
        vp = z / (t**2 + (1 - t) ** 2).sqrt()
        x_hat = spied(vp, (2 * ((1 - t) / t).log()).expand(16))
        z = z + (s - t) * (z - x_hat) / t  # eps_hat - x_hat = (z - x_hat) / t
    straight = asked
    assert torch.allclose(torch.stack(exploding), torch.stack(ours), rtol=0, atol=1e-12)
    assert torch.allclose(torch.stack(straight), torch.stack(ours), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SAMPLERS)
def test_there_and_back(name):
    """Without noise the path can be gone backwards, and what is missing falls at the sampler's order at
    least."""
    run, nominal = SAMPLERS[name].run, SAMPLERS[name].order
    z = GAUSSIAN.marginal(normal(16), 8.0)

    def missing(steps: int) -> float:
        lam = grid("uniform", -6.0, 8.0, steps)
        noise = last(run, GAUSSIAN.denoise, z, lam.flip(0))
        return distance(last(run, GAUSSIAN.denoise, noise, lam), z)

    assert order(missing, 100, 200) > nominal - 0.2  # Heun's is higher: back and forth its leading errors cancel
    assert missing(200) < 0.03


@pytest.mark.parametrize("name", SAMPLERS)
def test_deterministic_by_default(name):
    z, lam = normal(8), grid("uniform", LOW, HIGH, 10)
    noise = Noise(1, 8)
    assert torch.equal(
        last(SAMPLERS[name].run, BLOBS.denoise, z, lam, noise=noise), last(SAMPLERS[name].run, BLOBS.denoise, z, lam)
    )
    assert noise.calls == 0


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("end", [[], [math.inf]])
def test_evaluations_and_film(name, end):
    """Exactly so many evaluations, at the log-SNRs of the grid; N steps yield N times; an infinite end yields x_hat."""
    sampler, levels, given = SAMPLERS[name], [], []

    def counted(z: Tensor, log_snr: Tensor) -> Tensor:
        assert log_snr.shape == (4,) and log_snr.dtype == F64
        levels.append(float(log_snr[0]))
        given.append(BLOBS.denoise(z, log_snr))
        return given[-1]

    lam = torch.cat([grid(sampler.grid, LOW, HIGH, 9), torch.tensor(end, dtype=F64)])
    steps = len(lam) - 1
    film = list(sampler.run(counted, normal(4), lam))
    assert len(film) == steps
    assert len(levels) == sampler.evaluations(steps)
    assert sampler.steps(max(len(levels), sampler.fewest)) == max(steps, sampler.steps(sampler.fewest))
    wanted = [lam[0], *[level for level in lam[1:-1] for _ in range(sampler.per_step)]]
    assert levels == [float(level) for level in wanted]
    if end and name != "ipndm":
        assert torch.allclose(film[-1], given[-1], rtol=0, atol=1e-13)
    if end:
        assert film[-1].isfinite().all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_nothing_is_changed_in_place(name):
    """Neither z, nor the grid, nor an answer of the denoiser, nor a film's earlier states."""
    kept: list[tuple[Tensor, Tensor]] = []

    def watched(x: Tensor) -> Tensor:
        kept.append((x, x.clone()))
        return x

    def denoise(z: Tensor, log_snr: Tensor) -> Tensor:
        watched(log_snr)
        return watched(BLOBS.denoise(watched(z), log_snr))

    wrapped = guidance.dynamic_threshold(guidance.rescaled(denoise, guidance.static_threshold(denoise, 0.1), 0.5))
    for z in SAMPLERS[name].run(wrapped, watched(normal(4)), watched(grid("uniform", -3, 3, 5))):
        watched(z)
    assert len(kept) > 20 and all(torch.equal(now, then) for now, then in kept)


DRAWING = {"ddim": {"eta": 1.0}, "heun": {"churn": 5.0}, "dpmpp_2m": {}, "ipndm": {}}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_rows_do_not_depend_on_their_batch(name, dtype):
    """Bit for bit, with an x_hat that is the same arithmetic for any number of rows."""

    def denoise(z: Tensor, log_snr: Tensor) -> Tensor:
        alpha, sigma = signal_noise(log_snr)
        return (0.5 * alpha / (0.5 * alpha**2 + sigma**2)).to(z.dtype) * z

    lam = grid(SAMPLERS[name].grid, LOW, HIGH, 12)
    z = normal(6, 3).to(dtype)
    noise = Noise(7, 6)
    together = last(SAMPLERS[name].run, denoise, z, lam, noise=noise, **DRAWING[name])
    assert together.dtype == dtype
    for i in range(6):
        alone = last(SAMPLERS[name].run, denoise, z[i : i + 1], lam, noise=Noise(7, torch.tensor([i])), **DRAWING[name])
        assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize("name", SAMPLERS)
def test_float32_follows_float64(name):
    lam = grid(SAMPLERS[name].grid, -13.0, 13.0, 30)
    z = normal(64)
    wide = last(SAMPLERS[name].run, GAUSSIAN.denoise, z, lam)
    narrow = last(SAMPLERS[name].run, lambda z, log_snr: GAUSSIAN.denoise(z.double(), log_snr).float(), z.float(), lam)
    assert narrow.dtype == torch.float32
    assert torch.allclose(narrow.double(), wide, rtol=0, atol=2e-5)


@pytest.mark.parametrize("shape", [(), (1,), (1, 2, 3), (2, 3, 4, 5)])
def test_any_shape(shape):
    z = Noise(0, 5).normal(shape, dtype=F64)
    for name, sampler in SAMPLERS.items():
        film = list(sampler.run(lambda z, _: z / 2, z, grid("uniform", -2, 2, 3), noise=Noise(1, 5), **DRAWING[name]))
        assert [z.shape for z in film] == [(5, *shape)] * 3
        assert last(sampler.run, lambda z, _: z / 2, z[:0], grid("uniform", -2, 2, 3)).shape == (0, *shape)


def test_churn():
    """Noise goes in where it is asked for: with x_hat known and constant, one step's spread is that of
    y + sqrt(up^2 - sigma~^2) S_noise xi, up = (1 + gain) sigma~, carried by sigma~_s / up."""
    lam = torch.tensor([0.0, 2.0], dtype=F64)
    t, s = point(0.0), point(2.0)
    design = Design(1, 1)
    for churn, inflation, gain in ((0.2, 1.0, 0.2), (9.0, 1.5, math.sqrt(2) - 1)):
        z = last(
            heun,
            lambda z, _: torch.full_like(z, 0.3),
            torch.ones(2, 1, dtype=F64),
            lam,
            noise=Design(1, 1),
            churn=churn,
            inflation=inflation,
        )
        up = (1 + gain) * t.ratio
        spread = s.alpha * s.ratio / up * inflation * math.sqrt(up**2 - t.ratio**2)
        assert float((z[0] - z[1]) / 2) == pytest.approx(spread)
        assert float(z.mean()) == pytest.approx(s.alpha * (0.3 + s.ratio / up * (1 / t.alpha - 0.3)))
    outside = last(heun, lambda z, _: z / 2, torch.ones(2, 1, dtype=F64), lam, noise=design, churn=9.0, churn_to=0.9)
    assert design.calls == 0
    assert torch.equal(outside, last(heun, lambda z, _: z / 2, torch.ones(2, 1, dtype=F64), lam))


# Grids ---------------------------------------------------------------------------------------------------------------


def test_grids():
    assert torch.allclose(grid("uniform", -5, 13.3, 6).diff(), torch.full((6,), 18.3 / 6, dtype=F64))
    lam = grid("edm", -2 * math.log(80), -2 * math.log(0.002), 17)
    sigma = (-lam / 2).exp()
    # Karras et al.'s table at N = 18: first, second and last but one of sigma_i
    i = torch.arange(18, dtype=F64)
    assert torch.allclose(sigma, (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7, rtol=1e-12)
    assert sigma[1:3].tolist() == pytest.approx([57.586, 40.7856], rel=1e-4)
    cosine = Cosine(9.0, -8.0)
    lam = grid("time", -6, 6, 4, cosine)  # a part of it, evenly in t too
    t = torch.atan((-lam / 2).exp())
    assert torch.allclose(t.diff(), (t[-1:] - t[0]).expand(4) / 4, rtol=0, atol=1e-12)
    for name in ("uniform", "edm", "time"):
        lam = grid(name, -6.1, 6.2, 9, cosine)
        assert lam.dtype == F64 and lam[0] == -6.1 and lam[-1] == 6.2 and (lam.diff() > 0).all()
        assert grid(name, -6, 6, 1, cosine).tolist() == [-6, 6]
    for schedule in (cosine, Flow(10.0, -9.0, shift=-1.0)):
        whole = grid("time", float(schedule.low), float(schedule.high), 8, schedule)
        assert torch.allclose(whole, schedule.log_snr(1 - torch.arange(9, dtype=F64) / 8), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: grid("karras", -1, 1, 5), "grid is 'karras'; accepts one of 'uniform', 'edm', 'time'"),
        (lambda: grid("uniform", 1, -1, 5), "low is 1 and high -1"),
        (lambda: grid("uniform", -math.inf, 1, 5), "finite"),
        (lambda: grid("uniform", -1, 1, 0), "steps is 0; accepts 1 or more"),
        (lambda: grid("time", -1, 1, 5), "schedule None; accepts a Schedule"),
        (
            lambda: grid("time", -9, 1, 5, Cosine(9.0, -8.0)),
            "low is -9 and high 1; this schedule accepts log-SNRs -8 .. 9",
        ),
        (
            lambda: SAMPLERS["heun"].steps(14),
            "evaluations is 14; heun accepts 15 or more: raise evaluations, or choose",
        ),
        (lambda: SAMPLERS["ddim"].steps(0), "evaluations is 0; ddim accepts 1 or more"),
        (lambda: last(ddim, BLOBS.denoise, normal(2), torch.tensor([1.0])), r"shape \(1,\); accepts a vector of 2"),
        (lambda: last(heun, BLOBS.denoise, normal(2), torch.zeros(2, 2)), r"shape \(2, 2\)"),
        (lambda: last(ddim, BLOBS.denoise, normal(2), torch.tensor([1.0, 3.0, 2.0])), "grid is 1, 3, 2; accepts log"),
        (lambda: last(ddim, BLOBS.denoise, normal(2), torch.tensor([1.0, 1.0])), "grid is 1, 1"),
        (lambda: last(ipndm, BLOBS.denoise, normal(2), torch.tensor([1.0, math.nan])), "grid is 1, nan"),
        (lambda: last(ddim, BLOBS.denoise, normal(2), torch.tensor([-math.inf, 1.0])), "accepts finite log-SNRs"),
        (lambda: last(ddim, BLOBS.denoise, normal(2), torch.tensor([math.inf, 1.0])), "accepts finite log-SNRs"),
        (lambda: last(ddim, BLOBS.denoise, normal(2), torch.tensor([1.0, -1.0]), eta=1), "where no noise is drawn"),
        (lambda: last(heun, BLOBS.denoise, normal(2), torch.tensor([1.0, -1.0]), churn=1), "where no noise is drawn"),
        (lambda: last(ddim, BLOBS.denoise, normal(2), grid("uniform", 0, 1, 2), eta=1.1), "eta is 1.1; accepts 0"),
        (lambda: last(ddim, BLOBS.denoise, normal(2), grid("uniform", 0, 1, 2), eta=1), "noise is None; eta above 0"),
        (lambda: last(heun, BLOBS.denoise, normal(2), grid("uniform", 0, 1, 2), churn=1), "noise is None; churn needs"),
        (lambda: last(heun, BLOBS.denoise, normal(2), grid("uniform", 0, 1, 2), churn=-1), "churn is -1"),
        (
            lambda: last(ddim, BLOBS.denoise, normal(2), grid("uniform", 0, 1, 2), eta=1, noise=Noise(0, 3)),
            "noise serves 3 rows; z has 2",
        ),
        (
            lambda: last(ipndm, BLOBS.denoise, normal(2), grid("uniform", 0, 1, 2), slopes=5),
            "slopes is 5; accepts 1 to 4",
        ),
        (lambda: guidance.classifier_free(BLOBS.denoise, BLOBS.denoise, math.nan), "weight is nan"),
        (lambda: guidance.interval(BLOBS.denoise, BLOBS.denoise, 2, 1), "low is 2 and high 1"),
        (lambda: guidance.split(BLOBS.denoise, BLOBS.denoise, math.nan), "at is nan"),
        (lambda: guidance.static_threshold(BLOBS.denoise, 0), "bound is 0"),
        (lambda: guidance.dynamic_threshold(BLOBS.denoise, 99.5), "percentile is 99.5; accepts a share"),
        (lambda: guidance.rescaled(BLOBS.denoise, BLOBS.denoise, 1.5), "share is 1.5; accepts 0 to 1"),
    ],
)
def test_mistakes(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_steps_for_evaluations():
    assert [SAMPLERS["heun"].steps(n) for n in (15, 16, 17, 35)] == [8, 8, 9, 18]
    assert [SAMPLERS[name].steps(20) for name in SAMPLERS] == [20, 10, 20, 20]
    assert SAMPLERS["heun"].evaluations(18) == 35  # as in EDM


# Guidance ------------------------------------------------------------------------------------------------------------


def conditional(z: Tensor, log_snr: Tensor) -> Tensor:
    return Gaussian([0.5, 0.1], [[0.1, 0.0], [0.0, 0.2]]).denoise(z, log_snr)


LEVELS = torch.tensor([-3.0, -1.0, 0.0, 2.0, 5.0], dtype=F64)


def test_guidance_is_the_same_in_every_prediction():
    """Guide in F = a x + b eps and go back to x_hat: noise (0, 1), v (-sigma, alpha), velocity (-1, 1)."""
    z = normal(5)
    alpha, sigma = signal_noise(LEVELS)
    x_c, x_u = conditional(z, LEVELS), BLOBS.denoise(z, LEVELS)
    x_w = guidance.classifier_free(conditional, BLOBS.denoise, 3.0)(z, LEVELS)
    assert torch.allclose(x_w, 3 * x_c - 2 * x_u, rtol=0, atol=1e-12)
    for a, b in ((0 * alpha, 0 * alpha + 1), (-sigma, alpha), (0 * alpha - 1, 0 * alpha + 1)):
        f_c, f_u = (a * x + b * (z - alpha * x) / sigma for x in (x_c, x_u))
        f = f_u + 3 * (f_c - f_u)
        assert torch.allclose((sigma * f - b * z) / (a * sigma - b * alpha), x_w, rtol=0, atol=1e-10)


def test_guidance_scales_the_score_of_the_ratio():
    """With weight w the score is that of p(z)^(1 - w) p(z | c)^w: for Gaussians of one covariance their means' own
    guidance, so the sampler ends in N(m_u + w (m_c - m_u), C)."""
    covariance = [[0.3, 0.1], [0.1, 0.2]]
    c, u, w = Gaussian([0.4, 0.0], covariance), Gaussian([-0.2, 0.1], covariance), Gaussian([1.0, -0.1], covariance)
    z = normal(16)
    ours = last(dpmpp_2m, guidance.classifier_free(c.denoise, u.denoise, 2.0), z, grid("uniform", LOW, HIGH, 20))
    assert torch.allclose(ours, last(dpmpp_2m, w.denoise, z, grid("uniform", LOW, HIGH, 20)), rtol=0, atol=1e-12)


def counting(denoise: Callable) -> tuple[Callable, list[int]]:
    rows: list[int] = []

    def counted(z: Tensor, *rest: Tensor) -> Tensor:
        rows.append(len(z))
        return denoise(z, *rest)

    return counted, rows


def test_weights_of_nothing_cost_nothing():
    c, asked_c = counting(conditional)
    u, asked_u = counting(BLOBS.denoise)
    z = normal(5)
    assert torch.equal(guidance.classifier_free(c, u, 1)(z, LEVELS), conditional(z, LEVELS))
    assert torch.equal(guidance.classifier_free(c, u, 0)(z, LEVELS), BLOBS.denoise(z, LEVELS))
    assert (asked_c, asked_u) == ([5], [5])
    two = guidance.classifier_free(c, u, 2)(z, LEVELS)
    assert (asked_c, asked_u) == ([5, 5], [5, 5])
    assert torch.equal(guidance.autoguidance(c, u, 2)(z, LEVELS), two)


def test_doubled_batch():
    """One evaluation of 2 B rows says what two of B rows say."""

    def denoise(z: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        return BLOBS.denoise(z, log_snr) + condition.vector

    counted, rows = counting(denoise)
    z, y, null = normal(5), Condition(normal(5, seed=4)), Condition(torch.zeros(5, 2, dtype=F64))
    apart = guidance.classifier_free(lambda z, _: denoise(z, _, y), lambda z, _: denoise(z, _, null), 2.5)(z, LEVELS)
    assert torch.allclose(guidance.doubled(counted, y, null, 2.5)(z, LEVELS), apart, rtol=0, atol=1e-12)
    assert rows == [10]


def test_interval_and_split_pick_by_row():
    z = normal(5)
    a, b = conditional(z, LEVELS), BLOBS.denoise(z, LEVELS)
    inside = guidance.interval(conditional, BLOBS.denoise, -1.0, 2.0)
    assert torch.equal(inside(z, LEVELS), torch.cat([b[:1], a[1:4], b[4:]]))
    experts = guidance.split(conditional, BLOBS.denoise, at=2.0)
    assert torch.equal(experts(z, LEVELS), torch.cat([b[:3], a[3:]]))
    high, asked_high = counting(conditional)
    low, asked_low = counting(BLOBS.denoise)
    film = list(ddim(guidance.split(high, low, at=0.0), z, torch.tensor([-4.0, -2.0, 0.0, 1.0, 3.0])))
    assert (asked_high, asked_low) == ([5, 5], [5, 5])
    assert torch.equal(film[1], last(ddim, BLOBS.denoise, z, torch.tensor([-4.0, -2.0, 0.0])))


def test_thresholds():
    values = torch.linspace(-3, 3, 600, dtype=F64).reshape(1, 2, 300)
    x_hat = torch.cat([values, values / 10])
    fixed = lambda z, log_snr: x_hat  # noqa: E731
    assert torch.equal(guidance.static_threshold(fixed)(x_hat, LEVELS[:2]), x_hat.clamp(-1, 1))
    assert torch.equal(guidance.static_threshold(fixed, 2.0)(x_hat, LEVELS[:2]), x_hat.clamp(-2, 2))
    for share in (0.995, 0.5, 1.0, 0.9, 1e-9):
        s = x_hat[0].abs().flatten().quantile(share).clamp(min=1)
        found = guidance.dynamic_threshold(fixed, share)(x_hat, LEVELS[:2])
        assert torch.allclose(found[0], x_hat[0].clamp(-s, s) / s, rtol=0, atol=1e-12)
        assert torch.equal(found[1], x_hat[1])  # inside the bound: left alone
        assert float(found.abs().max()) <= 1
    named = guidance.dynamic_threshold(fixed, 0.995)(x_hat, LEVELS[:2])
    assert torch.equal(guidance.dynamic_threshold(fixed)(x_hat, LEVELS[:2]), named)  # the paper's, not .95
    one = torch.tensor([[2.5], [0.5]], dtype=F64)
    assert guidance.dynamic_threshold(lambda z, log_snr: one)(one, LEVELS[:2]).flatten().tolist() == [1.0, 0.5]


def test_rescaled():
    z = Noise(0, 5).normal((3, 4), dtype=F64)
    c, asked = counting(lambda z, log_snr: z / 2)
    c = guidance.once(c)
    guided = guidance.classifier_free(c, lambda z, log_snr: -z.flip(1) / 3, 4.0)
    plain = guided(z, LEVELS)
    z = z.clone()
    assert torch.equal(guidance.rescaled(guided, c, 0.0)(z, LEVELS), plain)
    assert asked == [5, 5]  # once for each z
    full = guidance.rescaled(guided, c, 1.0)(z, LEVELS)
    assert torch.allclose(full.flatten(1).std(1), z.flatten(1).std(1) / 2)
    half = guidance.rescaled(guided, c, 0.7)(z, LEVELS)
    assert torch.allclose(half, 0.7 * full + 0.3 * plain)
    flat = torch.full((5, 3), 0.4, dtype=F64)
    assert torch.equal(guidance.rescaled(lambda z, _: flat, conditional, 0.5)(flat[:, :2], LEVELS), flat)


def test_once_asks_again_for_another_level():
    remembered = guidance.once(conditional)
    z = normal(5)
    assert torch.equal(remembered(z, LEVELS), conditional(z, LEVELS))
    assert torch.equal(remembered(z, LEVELS + 1), conditional(z, LEVELS + 1))
