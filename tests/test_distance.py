"""The kernel distance against its definition and closed form."""

from __future__ import annotations

import pytest
import torch

from likely.noise import Noise
from likely.tasks.distance import kernel_distance


def normal(seed, n, d=3, shift=0.0):
    return Noise(seed, n).normal((d,), dtype=torch.float64) + shift


def test_no_distance_between_draws_of_one_law_and_the_error_covers_it():
    scores = []
    for seed in range(40):
        found = kernel_distance(normal(2 * seed, 100), normal(2 * seed + 1, 120), "raw")
        scores.append(found.value / found.stderr)
    scores = torch.tensor(scores)
    # degenerate where laws agree, so the jackknife is generous; the mean of 40 must be near 0 and few beyond 3
    assert abs(float(scores.mean())) < 0.6 and int((scores.abs() > 3).sum()) <= 2


def test_the_distance_of_two_points_in_law():
    """k(a, b) = (a b + 1)^3 on one feature, point masses at 0 and s: s^6 + 3 s^4 + 3 s^2 + 1 - 2 + 1."""
    s = 1.5
    found = kernel_distance(torch.zeros(40, 1), torch.full((60, 1), s), "raw")
    assert found.value == pytest.approx((s * s + 1) ** 3 + 1 - 2, rel=1e-12) and found.stderr < 1e-6
    assert found.rows == (40, 60) and "raw" in str(found)


def test_a_shift_is_seen():
    found = kernel_distance(normal(1, 400), normal(2, 400, shift=0.5), "raw")
    assert found.value > 6 * found.stderr > 0


def test_bad_features_are_refused():
    with pytest.raises(ValueError, match="drawn has shape"):
        kernel_distance(torch.zeros(10, 2), torch.zeros(100, 2), "raw")
    with pytest.raises(ValueError, match="drawn has shape"):
        kernel_distance(torch.zeros(100, 3), torch.zeros(100, 2), "raw")
