"""Every metric against an oracle that counts pairs, on thousands of small cases with ties; intervals by coverage."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, false_discovery_control
from sklearn.metrics import average_precision_score, roc_auc_score

from likely.noise import Noise
from likely.tasks.conformal import benjamini_hochberg, conformal
from likely.tasks.metrics import Figure, auroc, separation
from likely.tasks.selective import augrc, calibration, risk_coverage


def cases(count: int, seed: int):
    """Small score lists with many ties, now and then infinite ones."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        n, m = rng.integers(1, 9, 2)
        a, b = rng.integers(0, 5, n).astype(float), rng.integers(0, 5, m).astype(float)
        if rng.random() < 0.1:
            b[rng.integers(m)] = -math.inf
        yield a, b


# separation -----------------------------------------------------------------------------------------------------------


def precision_by_hand(gain: np.ndarray, other: np.ndarray) -> float:
    """Average precision where high scores claim `gain`: a threshold at every grade, recall gained times precision."""
    total = 0.0
    for t in np.unique(gain):
        hits, misses = (gain >= t).sum(), (other >= t).sum()
        total += (gain == t).sum() / len(gain) * hits / (hits + misses)
    return total


def false_by_hand(a: np.ndarray, b: np.ndarray) -> float:
    """The fewest outside rows that any threshold accepting 95 % of the inside lets in."""
    grades = np.concatenate([a, b])
    return min(np.mean(b >= t) for t in grades if (a >= t).sum() * 100 >= 95 * len(a))


def test_separation_against_pairs() -> None:
    for a, b in cases(3000, 0):
        found = separation(a, b, resamples=0)
        pairs = np.mean([(x > y) + 0.5 * (x == y) for x, y in itertools.product(a, b)])
        assert found.auroc.value == pytest.approx(pairs, abs=1e-12)
        assert auroc(a, b) == pytest.approx(pairs, abs=1e-12)
        assert found.aupr_in.value == pytest.approx(precision_by_hand(a, b), abs=1e-12)
        assert found.aupr_out.value == pytest.approx(precision_by_hand(-b, -a), abs=1e-12)
        assert found.fpr95.value == pytest.approx(false_by_hand(a, b), abs=1e-12)


def test_separation_against_sklearn() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(1, 1, 300).round(1), rng.normal(0, 1, 200).round(1)
    found, truth = separation(a, b), np.repeat([1, 0], [300, 200])
    assert found.auroc.value == pytest.approx(roc_auc_score(truth, np.concatenate([a, b])))
    assert found.aupr_in.value == pytest.approx(average_precision_score(truth, np.concatenate([a, b])))
    assert found.aupr_out.value == pytest.approx(average_precision_score(1 - truth, -np.concatenate([a, b])))
    for figure in (found.auroc, found.aupr_in, found.aupr_out, found.fpr95):
        assert figure.low < figure.value < figure.high
    assert separation(a, b) == found
    assert separation(a[::-1].copy(), b).auroc.value == found.auroc.value
    json.dumps(found.to_json(), allow_nan=False)


def test_fpr95_convention_by_hand() -> None:
    # 20 inside rows: 19 of them are 95 %, so one may be refused; the threshold is the second lowest inside score
    inside, outside = torch.arange(20.0), torch.tensor([0.5, 1.0, 1.5, -1.0])
    assert separation(inside, outside, resamples=0).fpr95.value == 0.5
    # of 19 rows none may be refused
    assert separation(inside[:19], outside, resamples=0).fpr95.value == 0.75


def test_bootstrap_interval_covers() -> None:
    # the truth of N(1,1) against N(0,1) is Phi(1/sqrt 2); 95 % intervals over 200 sets miss it 10 times, at most 22
    # with probability above 1 - 1e-4
    rng, truth = np.random.default_rng(2), 0.5 * (1 + math.erf(0.5))
    missed = 0
    for seed in range(200):
        found = separation(rng.normal(1, 1, 60), rng.normal(0, 1, 80), resamples=200, seed=seed).auroc
        missed += not found.low <= truth <= found.high
    assert 1 <= missed <= 24


def test_no_overlap_is_no_certainty() -> None:
    found = separation(torch.arange(10.0) + 100, torch.arange(40.0))
    assert found.auroc.value == 1
    assert found.auroc.low == pytest.approx(0.025 ** (1 / 10))  # 10 independent pairs, all in order
    assert (found.fpr95.value, found.fpr95.low) == (0, 0)
    assert found.fpr95.high == pytest.approx(1 - 0.025 ** (1 / 40))
    turned = separation(torch.arange(40.0), torch.arange(10.0) + 100)
    assert turned.auroc == Figure(0.0, 0.0, pytest.approx(1 - 0.025 ** (1 / 10)))
    assert turned.fpr95.value == 1


@pytest.mark.parametrize("metric", [separation, auroc])
def test_separation_refuses(metric) -> None:
    with pytest.raises(ValueError, match="outside holds NaN in row 1"):
        metric(torch.ones(3), torch.tensor([1.0, math.nan]))
    with pytest.raises(ValueError, match=r"inside has shape \(0,\)"):
        metric(torch.ones(0), torch.ones(3))
    with pytest.raises(ValueError, match=r"outside has shape \(2, 2\)"):
        metric(torch.ones(3), torch.ones(2, 2))


# selective prediction -------------------------------------------------------------------------------------------------


def test_risk_coverage_against_pairs_and_orders() -> None:
    rng = np.random.default_rng(3)
    for _ in range(2000):
        n = int(rng.integers(1, 9))
        trust, wrong = rng.integers(0, 4, n).astype(float), rng.random(n) < rng.random()  # often a class is missing
        found = risk_coverage(trust, wrong)
        pairs = [
            wrong[i] * ((trust[i] > trust[j]) + 0.5 * (trust[i] == trust[j]))
            for i, j in itertools.product(range(n), repeat=2)
        ]
        assert found.augrc == pytest.approx(np.mean(pairs), abs=1e-12)
        for m in range(1, n + 1):
            edge = np.sort(trust)[::-1][m - 1]
            above, tied = trust > edge, trust == edge
            errors = wrong[above].sum() + (m - above.sum()) * wrong[tied].mean()
            assert float(found.risk[m - 1]) == pytest.approx(errors / m, abs=1e-12)
        assert found.aurc == pytest.approx(float(found.risk.mean()))


def test_risk_is_the_mean_over_orders_of_ties() -> None:
    trust, wrong = np.array([2.0, 2.0, 1.0, 2.0]), np.array([True, False, True, False])
    orders = [o for o in itertools.permutations(range(4)) if all(trust[o[i]] >= trust[o[i + 1]] for i in range(3))]
    for m in range(1, 5):
        assert float(risk_coverage(trust, wrong).risk[m - 1]) == pytest.approx(
            np.mean([wrong[list(o[:m])].mean() for o in orders])
        )


def test_augrc_formula_of_the_paper_and_interval() -> None:
    # Traub et al. (2024), eq. 6: (1 - AUROC_f) acc (1 - acc) + (1 - acc)^2 / 2
    rng = np.random.default_rng(4)
    wrong = rng.random(400) < 0.3
    trust = np.where(wrong, rng.normal(0, 1, 400), rng.normal(1, 1, 400))
    accuracy = 1 - wrong.mean()
    formula = (1 - auroc(trust[~wrong], trust[wrong])) * accuracy * (1 - accuracy) + (1 - accuracy) ** 2 / 2
    found = augrc(trust, wrong)
    assert found.value == pytest.approx(formula, abs=1e-12)
    assert found.low < found.value < found.high
    assert found.high - found.low < 0.06
    tied = augrc(np.zeros(400), wrong)  # all equally trusted: half of the error rate, whatever the resample
    assert tied.value == pytest.approx(wrong.mean() / 2)
    assert tied.low < tied.value < tied.high
    curve = risk_coverage(trust, wrong)
    assert curve.risk_at(1.0) == pytest.approx(wrong.mean())
    assert curve.risk_at(0.2) < 0.5 * curve.risk_at(1.0)
    with pytest.raises(ValueError, match="coverage is 0"):
        curve.risk_at(0)


def test_selective_refuses() -> None:
    with pytest.raises(ValueError, match="trust holds NaN"):
        risk_coverage([1.0, math.nan], [True, False])
    with pytest.raises(ValueError, match=r"wrong has shape \(2,\) and float32"):
        risk_coverage([1.0, 2.0], torch.ones(2))
    with pytest.raises(ValueError, match="confidence is"):
        calibration([0.5, 1.5], [True, False])
    with pytest.raises(ValueError, match="at least 2 rows"):
        calibration([0.5], [True])


def test_calibration_against_hand_binning() -> None:
    rng = np.random.default_rng(5)
    for _ in range(300):
        n, bins = int(rng.integers(4, 40)), int(rng.integers(1, 6))
        confidence, right = rng.integers(0, 11, n) / 10, rng.random(n) < 0.5
        groups: dict[int, list[int]] = {}
        for i in range(n):
            groups.setdefault(int((confidence < confidence[i]).sum()) * bins // n, []).append(i)
        if min(map(len, groups.values())) < 2:
            assert min(b.rows for b in calibration(confidence, right, bins=bins).bins) >= 2
            continue
        gaps = [
            (len(g), right[g].mean() - confidence[g].mean(), right[g].var(ddof=1) / len(g)) for g in groups.values()
        ]
        found = calibration(confidence, right, bins=bins)
        assert found.error == pytest.approx(sum(k * abs(gap) for k, gap, _ in gaps) / n)
        assert found.squared == pytest.approx(sum(k * (gap**2 - v) for k, gap, v in gaps) / n)
        assert sum(b.rows for b in found.bins) == n


def test_debiased_error_is_zero_in_the_mean_where_the_plain_one_is_not() -> None:
    rng = np.random.default_rng(6)
    squared, plain, off = [], [], []
    for _ in range(200):
        confidence = rng.random(150)
        found = calibration(confidence, rng.random(150) < confidence)
        squared.append(found.squared)
        plain.append(found.error)
        off.append(calibration(confidence, rng.random(150) < 0.8 * confidence).squared)
    assert abs(np.mean(squared)) < 4 * np.std(squared) / math.sqrt(200)
    assert np.mean(plain) > 0.05  # a perfect model looks 5 points off
    # the truth of confidence 0.8 c: E[(0.2 c)^2] = 0.04 / 3
    assert np.mean(off) == pytest.approx(0.04 / 3, abs=5 * np.std(off) / math.sqrt(200))


# conformal p-values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [19, 99, 999])
def test_conformal_is_super_uniform(n: int) -> None:
    """U1: 10,000 resamples; at every resolvable level the count of small p-values stays under its binomial bound."""
    draws = torch.tensor(np.random.default_rng(n).normal(size=(10_000, n + 1)))
    p = torch.stack([conformal(row[:1], row[1:])[0] for row in draws]).numpy()
    assert p.min() >= 1 / (n + 1)
    for k in {1, 2, (n + 1) // 20, (n + 1) // 10, (n + 1) // 2}:
        level = k / (n + 1)
        count = int((p <= level + 1e-12).sum())
        assert binom.sf(count - 1, 10_000, level) > 1e-6, f"P(p <= {level}) is too large: {count} of 10,000"
        assert binom.cdf(count, 10_000, level) > 1e-6, f"P(p <= {level}) is too small: {count} of 10,000"


def test_conformal_with_ties_is_valid_and_randomised_is_uniform() -> None:
    # scores with five values: the plain p-value is conservative, the randomised one exactly uniform (DKW at 1e-6)
    scores = torch.tensor(np.random.default_rng(0).integers(0, 5, (10_000, 20)).astype(float))
    noise = Noise(0, 10_000)
    ordered = scores[:, 1:]
    plain = torch.stack([conformal(s[:1], s[1:])[0] for s in scores])
    mixed = torch.stack([conformal(scores[i, :1], ordered[i], noise.at(torch.tensor([i])))[0] for i in range(10_000)])
    assert float((plain <= 0.1).double().mean()) < 0.1
    ecdf = torch.arange(1, 10_001).double() / 10_000
    assert float((mixed.sort().values - ecdf).abs().max()) < math.sqrt(math.log(2 / 1e-6) / (2 * 10_000))


def test_conformal_counts_and_refuses_nan() -> None:
    held = torch.tensor([1.0, 2.0, 2.0, 5.0])
    assert conformal(torch.tensor([0.0, 2.0, 9.0]), held).tolist() == [0.2, 0.8, 1.0]
    with pytest.raises(ValueError, match="score holds NaN"):
        conformal(torch.tensor([math.nan]), held)
    with pytest.raises(ValueError, match="held_out holds NaN"):
        conformal(torch.ones(1), torch.tensor([1.0, math.nan]))


def test_benjamini_hochberg_against_scipy() -> None:
    rng = np.random.default_rng(7)
    for _ in range(500):
        p = rng.choice([0.001, 0.01, 0.02, 0.03, 0.2, 0.7, 1.0], int(rng.integers(1, 12)))
        rate = float(rng.choice([0.011, 0.049, 0.21]))
        assert benjamini_hochberg(torch.tensor(p), rate).tolist() == (false_discovery_control(p) <= rate).tolist()
    with pytest.raises(ValueError, match="rate is 0"):
        benjamini_hochberg(torch.ones(3), 0)


def test_false_discoveries_stay_under_the_rate() -> None:
    """U2: planted mixtures of 45 inside and 5 outside rows; the mean share of false discoveries is below 0.2 * 45/50,
    within five standard errors of 400 independent calibrations, and the planted rows are found."""
    rng, shares, found = np.random.default_rng(8), [], []
    for _ in range(400):
        held, inside, outside = (torch.tensor(rng.normal(c, 1, n)) for c, n in ((0, 500), (0, 45), (-4, 5)))
        chosen = benjamini_hochberg(conformal(torch.cat([inside, outside]), held), 0.2)
        shares.append(float(chosen[:45].sum()) / max(1, int(chosen.sum())))
        found.append(float(chosen[45:].double().mean()))
    assert np.mean(shares) <= 0.2 * 0.9 + 5 * np.std(shares) / math.sqrt(400)
    assert np.mean(shares) > 0.05
    assert np.mean(found) > 0.8
