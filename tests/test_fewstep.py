"""Mean flows and consistency models: closed forms on Gaussians, derivatives by differences, and one step that works."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import likely as lk
from likely.conformance import check
from likely.families.diffusion.meanflow import MeanFlow, target
from likely.noise import Noise
from likely.registry import build
from likely.space import Integers, Reals
from likely.verbs import verbs

F64 = torch.float64
CENTRE, SPREAD = torch.tensor([0.7, -0.2], dtype=F64), torch.tensor([0.5, 1.3], dtype=F64)
"""Data x ~ N(CENTRE, SPREAD^2) in every dimension by itself."""


def width(t: Tensor) -> Tensor:
    """Standard deviation of z_t = (1 - t) x + t eps, (B, 2)."""
    return (((1 - t)[:, None] * SPREAD).square() + t[:, None].square()).sqrt()


def exact(z: Tensor, r: Tensor, t: Tensor) -> Tensor:
    """The mean velocity of Gaussian data for r < t: the flow keeps (z_t - mean_t) / width_t, so that
    z_r = mean_r + width_r / width_t (z_t - mean_t)."""
    mean_t, mean_r = ((1 - time)[:, None] * CENTRE for time in (t, r))
    z_r = mean_r + width(r) / width(t) * (z - mean_t)
    return (z - z_r) / (t - r)[:, None]


def velocity(z: Tensor, t: Tensor) -> Tensor:
    """E[eps - x given z_t = z] of Gaussian data, by regression: cov(eps - x, z_t) / var z_t."""
    gain = (t[:, None] - (1 - t)[:, None] * SPREAD.square()) / width(t).square()
    return gain * (z - (1 - t)[:, None] * CENTRE) - CENTRE


def points(n: int = 64, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """z, r < t."""
    noise = Noise(seed, n)
    pair = noise.uniform((2,), dtype=F64).sort(1).values
    return 2 * noise.normal((2,), dtype=F64), pair[:, 0], pair[:, 1] + 0.01


def shaken(family: str, *space, seed: int = 0, size: float = 0.2, **fields):
    """A small model in float64 whose every parameter has been moved: nothing is zero."""
    model = build(family, *space, dtype=F64, **{"net": "mlp", "width": 16, "blocks": (1,), **fields})
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.add_(size * Noise(seed + i, 1).normal(parameter.shape, dtype=F64)[0])
    return model.eval()


def test_the_exact_mean_flow_of_a_gaussian_is_the_fixed_point_of_the_target():
    z, r, t = points()
    v = velocity(z, t)
    torch.testing.assert_close(target(exact, z, r, t, v), exact(z, r, t), rtol=1e-9, atol=1e-9)
    wrong = target(lambda z, r, t: exact(z, r, t) + 0.1 * (t - r)[:, None], z, r, t, v)
    assert (wrong - exact(z, r, t)).abs().max() > 0.01  # and only that one is
    near = exact(z, t - 1e-6, t)
    torch.testing.assert_close(near, v, rtol=1e-4, atol=1e-4)  # the two closed forms agree


def test_with_the_pairs_own_velocity_the_target_is_the_mean_flow_on_average():
    # E[eps - x given z] is the velocity, and the target is affine in it: residuals are orthogonal to functions of z
    noise = Noise(0, 200_000)
    x, eps = CENTRE + SPREAD * noise.normal((2,), dtype=F64), noise.normal((2,), dtype=F64)
    t = noise.uniform(dtype=F64) * 0.98 + 0.02
    r = t * noise.uniform(dtype=F64) * 0.99
    z = (1 - t)[:, None] * x + t[:, None] * eps
    residual = target(exact, z, r, t, eps - x) - exact(z, r, t)
    for test in (torch.ones_like(z), z, z * t[:, None], r[:, None] * z.sin()):
        values = residual * test
        score = values.mean(0) / (values.std(0) / math.sqrt(len(z)))
        assert score.abs().max() < 5


def test_the_target_is_that_of_finite_differences():
    model, h = shaken("meanflow", Reals((2,))), 1e-5
    z, r, t = points(16)
    t = t.clamp(max=0.99)
    v = Noise(3, 16).normal((2,), dtype=F64)
    slope = (model.mean_velocity(z + h * v, r, t + h) - model.mean_velocity(z - h * v, r, t - h)) / (2 * h)
    with torch.no_grad():
        torch.testing.assert_close(target(model.mean_velocity, z, r, t, v), v - (t - r)[:, None] * slope)
    assert (slope.abs() > 1e-3).all()


@pytest.mark.parametrize("equal", [0.0, 0.6, 1.0])
def test_the_loss_is_its_definition(equal):
    model = shaken("meanflow", Reals((2,)), equal=equal, offset=0.3)
    x = Noise(1, 64).normal((2,), dtype=F64)
    seen = {}

    class Spy(MeanFlow):
        def mean_velocity(self, z, r, t, condition=None):
            seen.setdefault("at", (z, r, t))
            return super().mean_velocity(z, r, t, condition)

    model.__class__ = Spy
    loss = model.loss(x, noise=Noise(5, 64))
    model.__class__ = MeanFlow
    z, r, t = seen["at"]
    assert (r <= t).all()
    assert abs(float((r == t).double().mean()) - equal) < 0.2
    eps = (z - (1 - t)[:, None] * x) / t[:, None]  # scaled is raw here: centre 0, scale 1
    v = eps - x
    assert abs(float(eps.mean())) < 0.4
    u = model.mean_velocity(z, r, t)
    with torch.no_grad():
        goal = target(model.mean_velocity, z, r, t, v)
    torch.testing.assert_close(loss, ((u - goal).square().sum(1) + 0.3).log().mean())
    if equal == 1:  # flow matching, to the last bit that float64 leaves
        torch.testing.assert_close(loss, ((u - v).square().sum(1) + 0.3).log().mean(), rtol=1e-12, atol=1e-12)
    logit = (t / (1 - t)).log()
    assert -1 < float(logit.mean()) < 0.8


def test_no_gradient_flows_through_the_target():
    model = shaken("meanflow", Reals((2,)), equal=0.0)
    x, teacher = Noise(1, 32).normal((2,), dtype=F64), shaken("meanflow", Reals((2,)), equal=0.0)
    own = torch.autograd.grad(model.loss(x, noise=Noise(5, 32)), list(model.parameters()))
    taught = torch.autograd.grad(model.loss(x, noise=Noise(5, 32), teacher=teacher), list(model.parameters()))
    for a, b in zip(own, taught, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("evaluations", [1, 2, 5])
def test_the_exact_mean_flow_draws_the_data_in_any_number_of_steps(evaluations, monkeypatch):
    model = build("meanflow", Reals((2,)), net="mlp", width=8, evaluations=evaluations, dtype=F64)
    monkeypatch.setattr(model, "mean_velocity", lambda z, r, t, condition: exact(z, r, t))
    states = list(model.path(Noise(0, 9).normal((2,), dtype=F64)))
    assert len(states) == evaluations
    torch.testing.assert_close(states[-1], CENTRE + SPREAD * Noise(0, 9).normal((2,), dtype=F64))


def test_it_denoises_as_a_gaussian_does(monkeypatch):
    model = build("meanflow", Reals((2,)), net="mlp", width=8, dtype=F64)
    monkeypatch.setattr(model, "mean_velocity", lambda z, r, t, condition: velocity(z, t))
    log_snr = torch.linspace(-6, 6, 13, dtype=F64)
    alpha, sigma = log_snr.sigmoid().sqrt()[:, None], (-log_snr).sigmoid().sqrt()[:, None]
    x_t = Noise(0, 13).normal((2,), dtype=F64)
    # x given x_t is normal: precision 1 / SPREAD^2 + alpha^2 / sigma^2
    mean = (CENTRE / SPREAD.square() + alpha * x_t / sigma.square()) / (1 / SPREAD.square() + (alpha / sigma).square())
    torch.testing.assert_close(model.denoise(x_t, log_snr), mean)


def test_attention_has_a_forward_mode():
    model = build("meanflow", Integers((1, 4, 4), 4), width=8, multipliers=(1,), attention=(0,), head=8, equal=0.0)
    x = Noise(0, 4).integers(4, (1, 4, 4))
    model.loss(x, noise=Noise(1, 4)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_mean_flow_says_what_it_is():
    model = build("meanflow", Integers((2,), 4), net="mlp", width=8)
    assert verbs(model) == ("Trainable", "Samples", "Denoiser")
    with pytest.raises(TypeError, match="meanflow is Trainable, Samples, Denoiser"):
        lk.log_prob(model, torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="accepts arrays"):
        build("meanflow", Integers((), 4))


def test_a_taught_gradient_that_flows_through_the_target_is_found():
    class Leaky(MeanFlow):
        def loss(self, x, y=None, *, player="model", noise, teacher=None):
            u = (teacher or self).mean_velocity(self.scaled(x), x[:, 0] * 0, x[:, 0] * 0 + 1)
            return super().loss(x, y, noise=noise, teacher=teacher) + u.square().mean()

    model = build("meanflow", Reals((2,)), net="mlp", width=8, blocks=(1,))
    model.__class__ = Leaky
    assert [outcome.status for outcome in check(model, only="G6").outcomes] == ["failed"]
