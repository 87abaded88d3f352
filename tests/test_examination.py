"""What decisions are worth, against a mixture of two Gaussians of which everything is known; the pages."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from likely.space import Integers, Reals
from likely.tasks.decide import decide
from likely.tasks.decide_page import decisions_page
from likely.tasks.examination import examine, limit_risk
from likely.tasks.selective import error_threshold


class TwoGaussians(nn.Module):
    """p(y) = 1/2, x given y ~ N(-1, 1) or N(1, 1); `slope` other than 1 makes its p(y given x) too sure or too shy."""

    space, condition = Reals((1,)), Integers((), 2)

    def __init__(self, slope: float = 1.0) -> None:
        super().__init__()
        self.slope = slope

    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        each = -0.5 * (x.double() - torch.tensor([-1.0, 1.0]).double()) ** 2 - 0.5 * math.log(2 * math.pi)
        return each.logsumexp(1) - math.log(2) if y is None else each.gather(1, y[:, None])[:, 0]

    def log_posterior(self, x: Tensor) -> Tensor:
        return torch.cat([-self.slope * x.double(), self.slope * x.double()], 1).log_softmax(1)


def draw(n: int, seed: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    return torch.tensor(rng.normal(2 * y - 1.0, 1.0))[:, None], torch.tensor(y)


def test_examination_by_hand() -> None:
    (x, y), (held, _) = draw(2000, 0), draw(500, 1)
    decisions = decide(TwoGaussians(), x, held, novelty=0.05, unsure=0.2)
    found = examine(decisions, y)
    right = (x[:, 0] > 0) == (y == 1)
    assert found.accuracy == pytest.approx(float(right.double().mean()))
    assert found.accuracy == pytest.approx(norm.cdf(1), abs=0.04)
    given = decisions.label >= 0
    assert found.answered == pytest.approx(float(given.double().mean()))
    assert found.accuracy_answered == pytest.approx(float(right[given].double().mean()))
    assert found.accuracy_answered > found.accuracy
    assert found.augrc["p(y given x)"].value < found.augrc["p(x)"].value  # p(x) says nothing of the class here
    order = x[:, 0].abs().argsort(descending=True)
    assert found.sure_but_wrong.tolist() == [i for i in order.tolist() if not right[i]][:12]
    assert abs(found.calibration.squared) < 1e-3
    assert examine(decide(TwoGaussians(3), x, held), y).calibration.root > 0.05
    json.dumps(found.to_json(), allow_nan=False)
    with pytest.raises(ValueError, match=r"y has shape \(3,\)"):
        examine(decisions, y[:3])


def test_take_is_rows() -> None:
    (x, _), (held, _) = draw(30, 0), draw(99, 1)
    whole = decide(TwoGaussians(), x, held, unsure=0.2)
    part = whole.take(slice(10, 20))
    assert part.to_json() == whole.to_json()[10:20]
    assert len(part) == 10


def test_risk_is_held() -> None:
    """With 95 % confidence at most 10 % of the answers is wrong: the true risk of 200 thresholds, known in closed form,
    is above it in at most 5 % of them (binomial bound 22 of 200 at 1e-4); and the promise is not bought by silence."""
    broken, answered = 0, []
    for seed in range(200):
        x, y = draw(300, seed)
        t = error_threshold(x[:, 0].abs(), (x[:, 0] > 0) != (y == 1), 0.1)
        wrong, right = norm.cdf(-t - 1), norm.cdf(1 - t)  # P(answered and wrong), P(answered and right)
        broken += wrong > 0.1 * (wrong + right)
        answered.append(wrong + right)
    assert broken <= 22
    assert np.mean(answered) > 0.5


def test_threshold_edges() -> None:
    trust = torch.arange(400.0)
    assert error_threshold(trust, torch.zeros(400, dtype=torch.bool), 0.05) == -math.inf
    assert error_threshold(trust, torch.ones(400, dtype=torch.bool), 0.05) == math.inf
    assert error_threshold(trust[:5], torch.zeros(5, dtype=torch.bool), 0.05) == math.inf  # too few to promise anything
    assert 180 <= error_threshold(trust, trust < 200, 0.05) <= 220
    with pytest.raises(ValueError, match="risk is 0"):
        error_threshold(trust, trust < 1, 0)


def test_limit_risk_keeps_back_the_unsure() -> None:
    (x, _), (held, _), (other, truth) = draw(400, 0), draw(199, 1), draw(900, 2)
    model = TwoGaussians()
    free = decide(model, x, held)
    bound, threshold = limit_risk(free, decide(model, other, held), truth, 0.05)
    assert 0 < threshold < math.inf
    kept = bound.label >= 0
    assert torch.equal(kept, (free.posterior.log_odds > threshold) & ~free.novel)
    none, infinite = limit_risk(free, decide(model, other[:9], held), truth[:9], 0.01)
    assert infinite == math.inf
    assert (none.label == -1).all()


def test_page_stands_alone() -> None:
    (x, y), (held, _) = draw(200, 0), draw(99, 1)
    decisions = decide(TwoGaussians(), x, held, classes=("<left>", "right"))
    html = decisions_page(
        examine(decisions, y), decisions, x, y, [f"row {i}" for i in range(200)], Reals((1,)), "a & b"
    )
    assert "&lt;left&gt;" in html and "<left>" not in html
    assert "a &amp; b" in html
    assert html.count("<svg") == 2
    assert not re.search(r"<script|src=\"http|href=", html.replace("xlink:href", "").replace("xmlns", ""))
