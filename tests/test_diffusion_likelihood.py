"""Likelihoods of diffusion models against distributions whose denoiser is known in closed form."""

from __future__ import annotations

import math
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import likely as lk
from likely.conformance import check
from likely.families.diffusion import views
from likely.families.diffusion.model import Terms
from likely.families.diffusion.samplers import ddim, point
from likely.families.diffusion.schedule import SCHEDULES
from likely.families.diffusion.trajectory import Trajectory
from likely.noise import Noise
from likely.ode import StepLimit
from likely.registry import build
from likely.space import Integers, Reals
from likely.verbs import Bounded, Estimated, Exact, Invertible, Weighted, has, view

sys.path.append(str(Path(__file__).parent))
import analytic
from toys import shaken

F64 = torch.float64


class Known(nn.Module):
    """A core whose x_hat is right."""

    def __init__(self, law) -> None:
        super().__init__()
        self.law, self.none = law, nn.Parameter(torch.zeros(1, dtype=F64))

    def denoise(self, z: Tensor, log_snr: Tensor, condition=None) -> Tensor:
        return self.law.denoise(z, log_snr)


def known(law, space, **fields):
    """The diffusion model that knows a law of scaled x."""
    model = build(
        "diffusion", space, **{"net": "mlp", "width": 8, "schedule": "linear", "low": -10.0, **fields}
    ).double()
    model.core = Known(law)
    return model


def gaussian() -> analytic.Gaussian:
    return analytic.Gaussian([0.1, -0.2], [[0.3, 0.1], [0.1, 0.2]])


def rows(law: analytic.Gaussian, n: int, log_snr: float = 40.0) -> Tensor:
    return law.marginal(Noise(9, n).normal((2,), dtype=F64), log_snr)


def log_p(law: analytic.Gaussian, x: Tensor) -> Tensor:
    return torch.distributions.MultivariateNormal(law.mean, law.covariance).log_prob(x)


class Nodes:
    """In place of noise: every row meets the same nodes of eps, whose weights integrate over N(0, 1)."""

    def __init__(self, rows: int, nodes: int = 161) -> None:
        self.eps = torch.linspace(-8, 8, nodes, dtype=F64)
        weight = (-0.5 * self.eps.square()).exp()
        self.weight, self.rows, self.count, self.draws = weight / weight.sum(), rows, rows * nodes, nodes

    def expand(self, values: Tensor) -> Tensor:
        return values.repeat_interleave(self.draws, 0)

    def normal(self, shape, dtype=None) -> Tensor:
        return self.eps.repeat(self.rows)[:, None]

    def stratified(self) -> Tensor:
        return torch.full((self.count,), 0.5, dtype=F64)

    def mean(self, values: Tensor) -> Tensor:
        return values.reshape(self.rows, self.draws) @ self.weight


def pixel_bound(steps: int | None) -> float:
    """Minus the expected bound of the categorical pixel, over eps and time by quadrature."""
    law = analytic.pixel()
    model = known(law, Integers((1,), 4), high=13.3, low=-5.0, steps=steps)
    n = steps or 1500
    t = torch.arange(1, n + 1, dtype=F64) / n if steps else (torch.arange(n, dtype=F64) + 0.5) / n
    x = torch.arange(4)[:, None]
    with torch.no_grad():
        nodes = Nodes(4)
        terms = model.elbo_terms(x, noise=nodes)
        ends = nodes.mean(terms.prior + terms.reconstruction)
        each = Nodes(4 * n)
        cost = model.cost_at(x.repeat_interleave(n, 0), each.expand(t.repeat(4)), noise=each)
        steps_cost = each.mean(cost).reshape(4, n).mean(1)
    return float(law.weights @ (ends + steps_cost))


@pytest.mark.parametrize(("steps", "nats"), [(None, 1.279870), (10, 3.685), (100, 1.404), (1000, 1.292)])
def test_the_categorical_pixel(steps: int | None, nats: float) -> None:
    """Entropy 1.279854; the numbers of the specification, section 7."""
    found = pixel_bound(steps)
    assert found == pytest.approx(nats, abs=2e-5 if steps is None else 6e-4)
    assert found > 1.279854 - 1e-6


def test_the_bound_is_below_log_p_and_comes_near() -> None:
    """A right denoiser on Gaussian data: what continuous time leaves is the decoder's e^-high and the prior's."""
    law, n = gaussian(), 64
    x = rows(law, n)
    truth = log_p(law, x)
    for fields, slack in (({}, 0.02), ({"steps": 100}, 1.0)):
        model = known(law, Reals((2,)), high=8.0, **fields)
        with torch.no_grad():
            draws = model.elbo(x, noise=Noise(0, n, 2000)).reshape(n, -1)
        gap = (truth[:, None] - draws).mean(0)
        gap = gap.reshape(20, -1).mean(1)
        assert -5.5 * float(gap.std()) / 20**0.5 < float(gap.mean()) < slack + 5.5 * float(gap.std()) / 20**0.5
        if fields:
            assert float(gap.mean()) > 5.5 * float(gap.std()) / 20**0.5  # few steps cost something


def test_the_flow_has_the_marginals_of_the_noise() -> None:
    """Log-likelihood of x, and of z on the way, on a Gaussian; exact and by Hutchinson's probe; there and back."""
    law, n = gaussian(), 16
    x = rows(law, n)
    model = known(law, Reals((2,)), high=16.0, low=-20.0)
    flow = lk.ProbabilityFlow(model, tolerance=1e-7)
    with torch.no_grad():
        mine = flow.log_prob_estimate(x, noise=Noise(0, n))
        assert float((mine - log_p(law, x)).abs().max()) < 5e-5  # e^-10 of the mean is left at the last log-SNR
        z = rows(law, n, 1.0)
        alpha, sigma = analytic.signal_noise(torch.tensor([1.0], dtype=F64))
        spread = alpha**2 * law.covariance + sigma**2 * torch.eye(2, dtype=F64)
        truth = torch.distributions.MultivariateNormal(alpha[0] * law.mean, spread).log_prob(z)
        assert float((flow.log_prob_noised(z, 1.0, noise=Noise(0, n)) - truth).abs().max()) < 5e-5
        early = lk.ProbabilityFlow(model, at=1.0, tolerance=1e-7).log_prob_estimate(x, noise=Noise(0, n))
        blurred = law.covariance + math.exp(-1.0) * torch.eye(2, dtype=F64)  # x and noise of sigma / alpha
        truth = torch.distributions.MultivariateNormal(law.mean, blurred).log_prob(x)
        assert float((early - truth).abs().max()) < 5e-5
        end = flow.encode(x)
        assert float((end - law.flow(point(16.0).alpha * x, 16.0, -20.0)).abs().max()) < 1e-6
        assert float((flow.decode(end) - x).abs().max()) < 1e-6
        probed = lk.ProbabilityFlow(model, divergence="hutchinson", tolerance=1e-4)
        draws = probed.log_prob_estimate(x, noise=Noise(1, n, 100)).reshape(n, -1)
    score = (draws.mean(1) - log_p(law, x)) / (draws.std(1) / 10)
    assert float(draws.std(1).min()) > 0.01 and float(score.abs().max()) < 5.5


def test_the_flow_falls_with_its_order() -> None:
    law = analytic.two_blobs()
    x = law.sample(16)
    flow = lk.ProbabilityFlow(known(law, Reals((2,)), high=12.4, low=-12.0))
    with torch.no_grad():
        at = {s: flow.log_prob_at(x, steps=s, noise=Noise(0, 16)) for s in (32, 64, 128, 256)}
    changes = [float((b - a).abs().mean()) for a, b in pairwise(at.values())]
    assert math.log2(changes[0] / changes[1]) > 3.5 and math.log2(changes[1] / changes[2]) > 3.5
    truth = law.log_prob(x, torch.full((16,), 50.0, dtype=F64))
    assert float((at[256] - truth).abs().mean()) < 2e-3  # the first log-SNR's own share


def test_the_units_of_x() -> None:
    """Bits of bytes are those of the density over [-1, 1] and 7 more, over [0, 1] 8 more."""
    law = analytic.Gaussian([0.1], [[0.04]])
    k = torch.arange(0, 256, 16)[:, None]
    bytes_ = lk.ProbabilityFlow(known(law, Integers((1,), 256)), at=10.0, tolerance=1e-6)
    noise = Noise(0, len(k))
    scaled = (2 * (k + noise.uniform((1,), dtype=F64))) / 256 - 1
    bits = lambda nats: -nats / math.log(2)  # noqa: E731
    with torch.no_grad():
        mine = bits(bytes_.log_prob_estimate(k, noise=Noise(0, len(k))))
        for log_scale, more, x in ((0.0, 7.0, scaled), (-math.log(2), 8.0, (scaled + 1) / 2)):
            model = known(law, Reals((1,)), high=10.0)
            model.scaling.log_scale.fill_(log_scale)
            model.scaling.centre.fill_(0.5 if more == 8 else 0.0)
            density = bits(lk.ProbabilityFlow(model, tolerance=1e-6).log_prob_estimate(x, noise=Noise(0, len(k))))
            torch.testing.assert_close(mine, density + more, rtol=0, atol=1e-5)


def test_integers_are_bounded_from_below() -> None:
    """Of a pixel that is known: the flow's mass over a cell is at most its probability, and comes near."""
    law, n = analytic.pixel(), 800
    model = known(law, Integers((1,), 4))
    flow = lk.ProbabilityFlow(model, tolerance=1e-3)
    x = torch.arange(4)[:, None]
    with torch.no_grad():
        nats = flow.log_prob_estimate(x, noise=Noise(0, 4, n // 4)).reshape(4, -1).mean(1)
        truncated = lk.Truncated(model, tolerance=1e-3)
        tight = truncated.log_prob_estimate(x, noise=Noise(0, 4, n // 4)).reshape(4, -1).mean(1)
    truth = law.weights.log()
    # the flow's own mass over cells 1/2 wide, at the noise where it starts: sigma / alpha = cell / sqrt(12)
    edges, normal = torch.linspace(-1, 1, 5, dtype=F64), torch.distributions.Normal(law.means[:, 0], 0.5 / 12**0.5)
    mass = law.weights @ normal.cdf(edges[:, None]).diff(dim=0).T
    gap = mass.log() - nats
    assert float(gap.min()) > 0.01 and float(gap.max()) < 0.25  # .177 nats for a cell without neighbours, less .087
    assert bool((tight < truth + 0.02).all()) and float((truth - tight).max()) < 0.08
    assert "lower bound" in flow.reading_note and "lower bound" in truncated.reading_note


def test_the_truncated_model_has_its_entropy_term() -> None:
    """Linear VP (beta from .1 to 20) at t = 1e-5: without -log q every dimension would gain 7.92 bits."""
    law, n, t = gaussian(), 32, 1e-5
    square = -math.expm1(-(0.1 * t + 0.5 * 19.9 * t * t))  # sigma^2
    at = math.log((1 - square) / square)
    assert -0.5 * math.log2(2 * math.pi * math.e * square) == pytest.approx(7.92, abs=0.005)
    model = known(law, Reals((2,)), high=15.0)
    x = rows(law, n)
    view_ = lk.Truncated(model, at=at, tolerance=1e-5)
    with torch.no_grad():
        bits = -view_.log_prob_estimate(x, noise=Noise(0, n, 8)).reshape(n, -1).mean(1) / (2 * math.log(2))
    truth = -log_p(law, x) / (2 * math.log(2))
    assert float((bits - truth).abs().max()) < 0.02
    coarse = lk.Truncated(model, at=2.2, tolerance=1e-5)  # a big first step: a bound that is not tight, below
    with torch.no_grad():
        bits = -coarse.log_prob_estimate(x, noise=Noise(0, n, 64)).reshape(n, -1).mean(1) / (2 * math.log(2))
    assert 0.05 < float((bits - truth).mean()) < 1.5


def test_gauges_are_one_process() -> None:
    """DDIM keeps the variance, Euler in sigma / alpha (EDM) and in t (rectified flow): the same x_hat on one grid."""
    law = analytic.two_blobs()
    grid = torch.linspace(-6, 8, 15, dtype=F64)
    at = [point(v) for v in grid.tolist()]
    seen: list[Tensor] = []

    def denoise(z: Tensor, level: Tensor) -> Tensor:
        seen.append(law.denoise(z, level))
        return seen[-1]

    z = law.marginal(8, -6.0)
    list(ddim(denoise, z, grid))
    y, r, ve, rf = z / at[0].alpha, z / (at[0].alpha + at[0].sigma), [], []
    for t, s in pairwise(at):
        level = torch.full((8,), t.log_snr, dtype=F64)
        ve.append(law.denoise(t.alpha * y, level))
        y = y + (s.ratio - t.ratio) * (y - ve[-1]) / t.ratio
        a, b = t.ratio / (1 + t.ratio), s.ratio / (1 + s.ratio)  # t of z = (1 - t) x + t eps
        rf.append(law.denoise(r * (t.alpha + t.sigma), level))
        r = r + (b - a) * (r - rf[-1]) / a  # eps - x = (z - x) / t
    for mine, other in ((seen, ve), (seen, rf)):
        assert max(float((a - b).abs().max()) for a, b in zip(mine, other, strict=True)) < 1e-11


def test_the_process_is_that_of_its_steps() -> None:
    """q(z_t | x) by composing single steps: of DDPM from its betas, of every schedule from its transitions."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=F64)
    scale, variance = torch.ones((), dtype=F64), torch.zeros((), dtype=F64)
    schedule = SCHEDULES["ddpm"](50.0, -50.0)
    log_snr = schedule.log_snr(torch.arange(1000, dtype=F64) / 999)
    for i, beta in enumerate(betas):
        scale, variance = scale * (1 - beta).sqrt(), variance * (1 - beta) + beta
        alpha, sigma = log_snr[i].sigmoid().sqrt(), (-log_snr[i]).sigmoid().sqrt()
        assert abs(float(alpha - scale)) < 1e-10 and abs(float(sigma.square() - variance)) < 1e-10


def test_whole_paths() -> None:
    """Their mean is the model's bound, their log-mean-exp closes in on log p; a chain of T = 1 by quadrature."""
    law, n = gaussian(), 8
    model = known(law, Reals((2,)), high=3.0, low=-3.0, steps=4)
    paths = Trajectory(model)
    assert has(paths, Weighted, Bounded) and not has(paths, Exact)
    x = rows(law, n)
    with torch.no_grad():
        weights = paths.log_weight(x, noise=Noise(0, n, 4000)).reshape(n, -1)
        bound = model.elbo(x, noise=Noise(1, n, 4000)).reshape(n, -1)
    error = (weights.var(1) / 4000 + bound.var(1) / 4000).sqrt()
    assert float(((weights.mean(1) - bound.mean(1)) / error).abs().max()) < 5.5
    # every step of p is Gaussian and linear here, so p(x) has a closed form
    mean, spread = torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64)
    for t, s in pairwise(paths.log_snrs(torch.device("cpu"))):
        zero = law.denoise(torch.zeros(1, 2, dtype=F64), t[None])[0]
        gain = (law.denoise(torch.eye(2, dtype=F64), t.expand(2)) - zero).T
        c, (a, b) = -torch.expm1(t - s), (point(float(t)), point(float(s)))
        step = b.alpha / a.alpha * (1 - c) * torch.eye(2, dtype=F64) + b.alpha * c * gain
        mean = step @ mean + b.alpha * c * zero
        spread = step @ spread @ step.T + b.sigma**2 * c * torch.eye(2, dtype=F64)
    last = point(3.0)
    mean, spread = mean / last.alpha, spread / last.alpha**2 + last.ratio**2 * torch.eye(2, dtype=F64)
    truth = torch.distributions.MultivariateNormal(mean, spread)
    ratio = (weights - truth.log_prob(x)[:, None]).exp()
    assert float(((ratio.mean(1) - 1) / (ratio.std(1) / 4000**0.5)).abs().max()) < 5.5
    with torch.no_grad():
        drawn = paths.sample(4000, noise=Noise(2, 4000))
    assert float(((drawn.mean(0) - mean) / (drawn.std(0) / 4000**0.5)).abs().max()) < 5.5
    assert float((drawn.T.cov() / spread - 1).abs().max()) < 0.25


def test_the_terms_are_the_bound() -> None:
    model = shaken(
        build("diffusion", Integers((2,), 4), net="mlp", width=8, schedule="ddpm", steps=5, decoder="denoiser")
    )
    x = torch.tensor([[0, 3], [1, 2]])
    terms = model.elbo_terms(x, noise=Noise(0, 2, 3))
    assert isinstance(terms, Terms)
    torch.testing.assert_close(
        model.elbo(x, noise=Noise(0, 2, 3)), -(terms.prior + terms.diffusion + terms.reconstruction)
    )


@pytest.mark.long
def test_the_suite_on_a_flow() -> None:
    """Round trips, the order, and log p against autograd's log-determinant; the same bits in every batch."""
    model = build("diffusion", Reals((2,)), net="mlp", width=8, blocks=(1,), low=-3.0, high=2.0)
    report = check(lk.ProbabilityFlow(model, tolerance=1e-3, steps=16), only=["F1", "F5", "G2"])
    assert report.passed and [o.status for o in report.outcomes].count("passed") == 3


def test_divergences_are_those_of_autograd() -> None:
    """Of a U-Net with attention, conditioned: along all axes, and along one probe."""
    shape = (1, 4, 2)
    model = shaken(build("diffusion", Reals(shape), Reals((3,)), width=8, multipliers=(1,), attention=(0,)).double())
    z, y = Noise(0, 3).normal(shape, dtype=F64), Noise(1, 3).normal((3,), dtype=F64)
    level, condition = torch.tensor([-2.0, 0.0, 3.0], dtype=F64), model._condition(y, 3)

    def f(z: Tensor) -> Tensor:
        n = len(z) // 3
        return model.core.denoise(z, level.repeat(n), views._copies(condition, len(z)))

    with sdpa_kernel(SDPBackend.MATH):
        jacobian = torch.autograd.functional.jacobian(lambda v: f(v).sum(0), z).reshape(8, 3, 8).transpose(0, 1)
    value, trace = views.exact(f, z)
    torch.testing.assert_close(value, f(z), rtol=0, atol=1e-10)
    torch.testing.assert_close(trace, jacobian.diagonal(dim1=1, dim2=2).sum(1), rtol=0, atol=1e-9)
    e = Noise(2, 3).normal(shape, dtype=F64)
    along = torch.einsum("bi,bij,bj->b", e.flatten(1), jacobian, e.flatten(1))
    torch.testing.assert_close(views.hutchinson(e)(f, z)[1], along, rtol=0, atol=1e-9)


# Views by name, mistakes ---------------------------------------------------------------------------------------------


def test_views_by_name() -> None:
    model = shaken(build("diffusion", Reals((2,)), net="mlp", width=8, low=-4.0, high=4.0))
    assert set(model.views) == {"flow", "truncated"}
    flow = view(model, "flow")
    assert isinstance(flow, lk.ProbabilityFlow) and has(flow, Estimated, Invertible) and not has(flow, Exact)
    flow = lk.ProbabilityFlow(model, tolerance=1e-2, steps=8)
    x = Noise(0, 70).normal((2,))
    reading = lk.log_prob(flow, x)
    assert reading.kind == "~" and "probability-flow ODE to 1e-02, <= " in reading.note
    assert "evaluations, last doubling <= " in reading.note and reading.note.endswith("exact divergence")
    assert torch.equal(lk.log_prob(flow, x[60:]).nats, reading.nats[60:])
    with pytest.raises(ValueError, match="view is 'paths'; diffusion has flow, truncated"):
        view(model, "paths")
    with pytest.raises(ValueError, match="mixture has no other views"):
        view(build("mixture", Reals((2,))), "flow")
    assert isinstance(view(build("diffusion", Reals((2,)), net="mlp", steps=3), "paths"), Trajectory)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda m: lk.ProbabilityFlow(nn.Linear(1, 1)),
            TypeError,
            "model is Linear; ProbabilityFlow accepts a diffusion",
        ),
        (lambda m: lk.ProbabilityFlow(m.drawn()), TypeError, "no known density"),
        (lambda m: lk.ProbabilityFlow(m, divergence="both"), ValueError, "divergence is 'both'"),
        (lambda m: lk.ProbabilityFlow(m, steps=8, max_steps=4), ValueError, "max_steps 4"),
        (lambda m: lk.Truncated(m, at=50.0), ValueError, "at is 50.0; accepts log-SNRs"),
        (lambda m: Trajectory(m), ValueError, "discrete steps"),
        (lambda m: build("diffusion", Reals((2,)), net="mlp", whole_paths=True), ValueError, "whole_paths"),
        (
            lambda m: lk.log_prob(lk.ProbabilityFlow(m, steps=2, max_steps=2), torch.zeros(2, 2)),
            StepLimit,
            "in 2 steps",
        ),
    ],
)
def test_bad_input(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(shaken(build("diffusion", Reals((2,)), net="mlp", width=8)))
