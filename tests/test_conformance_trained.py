"""The suite over trained models of real numbers: narrow peaks are no failures, and do not hide one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import likely as lk
from likely.conformance import check
from likely.conformance.enumerate import counted, integrate


@pytest.fixture(scope="module")
def iris() -> nn.Module:
    """A mixture whose components are a hundredth as wide as all flowers together."""
    data = lk.load("iris")
    model = lk.build("mixture", data.space, components=12, covariance="full", variance_floor=1e-5)
    lk.fit(model, data, steps=40, progress=False, threads=1)
    return model


class Changed(nn.Module):
    """A mixture that claims too much mass, or marginals that are off."""

    def __init__(self, model: nn.Module, mass: float = 1.0, marginal: float = 0.0) -> None:
        super().__init__()
        self.model, self.mass, self.marginal = model, mass, marginal
        self.space, self.condition = model.space, None

    def log_prob(self, x: Tensor, y: None = None) -> Tensor:
        return self.model.log_prob(x) + math.log(self.mass)  # ty: ignore

    def sample(self, n: int, y: None = None, *, noise: lk.Noise) -> Tensor:
        return self.model.sample(n, noise=noise)  # ty: ignore

    def log_marginal(self, x: Tensor, seen: Tensor, y: None = None) -> Tensor:
        every = seen.flatten(1).all(1) | ~seen.flatten(1).any(1)
        return self.model.log_marginal(x, seen) + torch.where(every, 0.0, self.marginal)  # ty: ignore

    def sample_given(self, n: int, x: Tensor, seen: Tensor, y: None = None, *, noise: lk.Noise) -> Tensor:
        return self.model.sample_given(n, x, seen, noise=noise)  # ty: ignore


def test_peaks_are_no_failures(iris: nn.Module) -> None:
    report = check(iris, only=["D2", "D5"])
    assert [outcome.status for outcome in report.outcomes] == ["passed", "passed"], str(report)


@pytest.mark.parametrize("mass", [0.9, 1.1])
def test_a_tenth_of_the_mass_is_missed_or_found(iris: nn.Module, mass: float) -> None:
    report = check(Changed(iris, mass=mass), only="D2")
    assert [outcome.status for outcome in report.outcomes] == ["failed"], str(report)


def test_a_thousandth_of_a_marginal_is_found(iris: nn.Module) -> None:
    report = check(Changed(iris, marginal=1e-3), only="D5")
    assert [outcome.status for outcome in report.outcomes] == ["failed"], str(report)


def test_a_model_is_trained_in_its_own_units() -> None:
    """Flowers are centimetres long and never near 0: rows around 0 would make the suite's own training diverge."""
    data = lk.load("iris")
    model = lk.build("flow", data.space, depth=2, width=16)
    lk.fit(model, data, steps=60, progress=False, threads=1)
    report = check(model, only="D2")
    assert [outcome.status for outcome in report.outcomes] == ["passed"], str(report)


@pytest.mark.parametrize("d", [1, 2])
def test_draws_show_a_quadrature_where_a_peak_is(d: int) -> None:
    """A hundredth of the mass is in a peak a ten-thousandth as wide as the rest, between all nodes."""
    place, width, share = torch.full((d,), 0.3, dtype=torch.float64), 1e-4, 0.01

    def normal(x: Tensor, sd: float) -> Tensor:
        return -0.5 * (x / sd).square().sum(1) - d * math.log(sd * math.sqrt(2 * math.pi))

    def log_p(x: Tensor) -> Tensor:
        return torch.logaddexp(normal(x, 1.0) + math.log1p(-share), normal(x - place, width) + math.log(share))

    centre, scale = torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)
    n = 10_000
    draws = lk.Noise(0, n).normal((d,), dtype=torch.float64)
    draws[: int(share * n)] = place + width * draws[: int(share * n)]
    blind = integrate(log_p, centre, scale)
    shown = integrate(log_p, centre, scale, draws=draws, of=n)
    assert float(blind.mass.sum()) < 1 - share / 2
    assert float(shown.mass.sum()) == pytest.approx(1, abs=1e-5)


def test_points_are_counted_in_their_boxes() -> None:
    low = torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.5, 0.5]], dtype=torch.float64)
    points = torch.tensor([[0.1, 0.1], [0.6, 0.2], [0.9, 0.4], [0.4, 0.9], [2.0, 2.0]], dtype=torch.float64)
    assert counted(points, low, 0.5).tolist() == [1, 2, 0]
    assert counted(points[:0], low, 0.5).tolist() == [0, 0, 0]
