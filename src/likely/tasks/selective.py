"""Answering only where one is sure: what that costs and brings, and whether the sureness can be believed.

Rows are answered from the most trusted on. With m of n rows answered, e of them wrongly:

    coverage          m / n
    selective risk    e / m
    generalised risk  e / n, the chance that a row is answered *and* wrong

AURC is the mean of the selective risk over the coverages 1/n .. 1 ("Bias-reduced uncertainty estimation for deep
neural classifiers", Geifman, Uziel and El-Yaniv, 2019). AUGRC is the area under the generalised risk, which weighs
every error alike ("Overcoming common flaws in the evaluation of selective classification systems", Traub et al.,
2024): the chance that of two rows one is wrong and at least as trusted as the other, ties counting half. Where trust
is tied, everything is expected over the order of the ties.

Calibration: bins of equal mass, equal trust never split. The squared calibration error is debiased ("Verified
uncertainty calibration", Kumar, Liang and Ma, 2019; "A bias-corrected decomposition of the Brier score", Ferro and
Fricker, 2012): a bin's squared gap is that of its expectation plus the variance of its mean, a (1 - a) / (n - 1) for
accuracy a of n rows, which is taken off. The plain figure is above 0 even for a perfect model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from likely.noise import Noise
from likely.tasks.metrics import RESAMPLES, Figure, _scores

BINS = 15
"""Bins of a reliability diagram."""
STEPS = 20
"""Coverages that `error_threshold` tries, about."""


@dataclass(frozen=True)
class RiskCoverage:
    """The curve: with the m most trusted rows answered, `risk[m - 1]` (n,) is the share of wrong answers among them."""

    risk: Tensor
    aurc: float
    augrc: float

    @property
    def coverage(self) -> Tensor:
        """m / n for m = 1 .. n."""
        return torch.arange(1, len(self.risk) + 1, dtype=torch.float64) / len(self.risk)

    def risk_at(self, coverage: float) -> float:
        """Selective risk with the share `coverage` of the rows answered (at least one row)."""
        if not 0 < coverage <= 1:
            raise ValueError(f"coverage is {coverage}; accepts a share above 0, up to 1")
        return float(self.risk[max(1, round(coverage * len(self.risk))) - 1])


def risk_coverage(trust: Any, wrong: Any) -> RiskCoverage:
    """The risk-coverage curve of rows with trust (n,) that were answered wrongly (n,) bool."""
    trust, wrong = _rows(trust, wrong)
    return RiskCoverage(*_areas(trust, wrong))


def augrc(trust: Any, wrong: Any, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Figure:
    """AUGRC with its bootstrap interval (rows drawn with replacement, percentiles)."""
    trust, wrong = _rows(trust, wrong)
    n = len(trust)
    rank = trust.unique(return_inverse=True)[1]
    grades, values, size = int(rank.max()) + 1, [], max(1, 2**22 // n)
    for start in range(0, resamples, size):
        rows = Noise(seed, torch.arange(start, min(start + size, resamples))).integers(n, (n,))
        ones = torch.ones_like(rows, dtype=torch.float64)
        every = torch.zeros(len(rows), grades, dtype=torch.float64).scatter_add_(1, rank[rows], ones)
        errors = torch.zeros_like(every).scatter_add_(1, rank[rows], wrong[rows])
        # a wrong row counts against every row that is trusted less, and half against its equals
        values.append((errors * (every.cumsum(1) - every / 2)).sum(1) / n**2)
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.cat(values).quantile(ends).tolist()
    return Figure(_areas(trust, wrong)[2], low, high)


def error_threshold(trust: Any, wrong: Any, risk: float, *, confidence: float = 0.95) -> float:
    """The least trust t such that of the rows trusted more than t at most the share `risk` is wrong, or inf.

    It holds with chance `confidence` over the rows given ("Learn then test", Angelopoulos, Bates, Candes, Jordan and
    Lei, 2021, by fixed-sequence testing): more and more rows are taken in, the most trusted first, from as few on as
    could show the risk with one error among them, until Clopper and Pearson's upper bound exceeds it for the first
    time. The order of the tests is fixed beforehand, so each may use all of the allowed chance of failure; the rows
    above an order statistic are a plain sample of all that lies above it.
    """
    from scipy.stats import beta

    trust, wrong = _rows(trust, wrong)
    for name, value in (("risk", risk), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ValueError(f"{name} is {value}; accepts a share above 0 and below 1")
    n, found = len(trust), math.inf
    high = lambda errors, rows: 1.0 if errors == rows else float(beta.ppf(confidence, errors + 1, rows - errors))  # noqa: E731
    first = next((k for k in range(2, n + 1) if high(1, k) <= risk), n + 1)
    ordered = trust.sort(descending=True).values
    for k in dict.fromkeys([*range(first, n, max(1, n // STEPS)), *([n] if first <= n else [])]):
        edge = float(ordered[k]) if k < n else -math.inf
        above = trust > edge
        count = int(above.sum())  # fewer than k where trust is tied: too few to show anything, perhaps
        if count < first:
            continue
        if high(int(wrong[above].sum()), count) > risk:
            break
        found = edge
    return found


def _areas(trust: Tensor, wrong: Tensor) -> tuple[Tensor, float, float]:
    """Selective risk for m = 1 .. n, its mean, and the area under the generalised risk."""
    n = len(trust)
    _, rank, size = (-trust).unique(return_inverse=True, return_counts=True)  # the most trusted first
    errors = torch.zeros(len(size), dtype=torch.float64).index_add_(0, rank, wrong)
    done = size.cumsum(0)
    group = torch.repeat_interleave(torch.arange(len(size)), size)  # of the m-th row
    m = torch.arange(1, n + 1, dtype=torch.float64)
    before = (done - size)[group]
    expected = (errors.cumsum(0) - errors)[group] + errors[group] * (m - before) / size[group]
    risk = expected / m
    # the trapezoid from (0, 0) on is exactly the share of pairs in the module's docstring
    area = float((expected - torch.diff(expected, prepend=expected.new_zeros(1)) / 2).sum()) / n**2
    return risk, float(risk.mean()), area


@dataclass(frozen=True)
class Bin:
    """Rows of about equal confidence: their number, mean confidence, share of right answers, and its interval."""

    rows: int
    confidence: float
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """How far confidence is from accuracy.

    `error` is the mean absolute gap over the bins (ECE, equal mass, biased upwards); `squared` the debiased mean
    squared gap, which is 0 in expectation for a calibrated model and may be negative.
    """

    bins: tuple[Bin, ...]
    error: float
    squared: float

    @property
    def root(self) -> float:
        """Root of the debiased squared error, 0 where that is negative: a distance between shares, 0 .. 1."""
        return math.sqrt(max(0.0, self.squared))

    def to_json(self) -> dict[str, Any]:
        """The figures, and the bins of the reliability diagram."""
        return {
            "ece": self.error,
            "squared_debiased": self.squared,
            "rms_debiased": self.root,
            "bins": [vars(each) for each in self.bins],
        }


def calibration(confidence: Any, right: Any, *, bins: int = BINS, level: float = 0.95) -> Calibration:
    """Reliability diagram and calibration error of rows with confidence (n,) in 0 .. 1, answered rightly (n,) bool.

    Bins have about equal mass, at least two rows, and never split rows of one confidence; their intervals are
    Clopper and Pearson's. Raises `ValueError` for fewer than two rows.
    """
    from scipy.stats import binomtest

    confidence, right = _rows(confidence, right, ("confidence", "right"))
    if confidence.min() < 0 or confidence.max() > 1 + 1e-9:
        raise ValueError(f"confidence is {confidence.min():.3g} .. {confidence.max():.3g}; accepts 0 .. 1")
    n = len(confidence)
    if n < 2 or bins < 1:
        raise ValueError(f"{n} rows in {bins} bins; accepts at least 2 rows and 1 bin")
    _, rank, size = confidence.unique(return_inverse=True, return_counts=True)
    below = size.cumsum(0) - size
    slot = (below * bins // n)[rank]
    shown, error, squared, edges = [], 0.0, 0.0, []
    for k in slot.unique().tolist():
        rows = (slot == k).nonzero()[:, 0]
        if edges and (len(rows) < 2 or len(edges[-1]) < 2):
            edges[-1] = torch.cat([edges[-1], rows])  # one row has no variance to take off: it joins its neighbours
        else:
            edges.append(rows)
    for rows in edges:
        count, mean, share = len(rows), float(confidence[rows].mean()), float(right[rows].mean())
        gap, weight = share - mean, count / n
        error += weight * abs(gap)
        squared += weight * (gap**2 - share * (1 - share) / (count - 1))
        ends = binomtest(round(share * count), count).proportion_ci(level)
        shown.append(Bin(count, mean, share, float(ends.low), float(ends.high)))
    return Calibration(tuple(shown), error, squared)


def _rows(trust: Any, flag: Any, names: tuple[str, str] = ("trust", "wrong")) -> tuple[Tensor, Tensor]:
    trust, flag = _scores(trust, names[0]), torch.as_tensor(flag).cpu()
    if flag.shape != trust.shape or flag.dtype != torch.bool:
        kind = str(flag.dtype).removeprefix("torch.")
        raise ValueError(f"{names[1]} has shape {tuple(flag.shape)} and {kind}; accepts ({len(trust)},) bool")
    return trust, flag.double()
