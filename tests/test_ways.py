"""Drawing in other ways than a model's own: temperature."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

import likely as lk
from likely import observation, registry
from likely.space import Integers, Reals
from likely.tasks.ways import Tempered, with_settings
from likely.verbs import Exact, Samples, has

ORDERED = ["causal, logistic", "pixelcnn, colour, logistic", "pixelcnn, logistic, labels", "made"]


def made(name: str, family: str = "autoregressive") -> Any:
    tiny = registry.tiny(family)[name]
    return registry.build(tiny.config, tiny.space, tiny.condition, seed=1)


def test_sites_are_drawn_from_their_powers() -> None:
    """Each conditional to the power of 1/t, site after site: the law of three bits, counted."""
    t, n = 0.5, 40_000
    model = lk.build("autoregressive", Integers((3,), 2), network="made", width=8, layers=1, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape)
    states = torch.tensor(list(product(range(2), repeat=3)))
    with torch.no_grad():
        each = model.log_prob_sites(states)  # log p(x_i given those before)
    p = each.double().exp()
    want = (p ** (1 / t) / (p ** (1 / t) + (1 - p) ** (1 / t))).prod(1)
    draws = lk.sample(with_settings(model, {"temperature": t}), n, seed=0)
    counts = torch.bincount((draws * torch.tensor([4, 2, 1])).sum(1), minlength=8)
    assert chisquare(counts.numpy(), (want / want.sum() * n).numpy()).pvalue > 1e-6
    plain = torch.bincount((lk.sample(model, n, seed=0) * torch.tensor([4, 2, 1])).sum(1), minlength=8)
    assert chisquare(plain.numpy(), (want / want.sum() * n).numpy()).pvalue < 1e-6  # the test can tell them apart


@pytest.mark.parametrize("name", ORDERED)
def test_at_one_it_is_the_model_and_cold_draws_vary_less(name: str) -> None:
    model = made(name)
    y = None if model.condition is None else torch.arange(300) % model.condition.levels
    own = lk.sample(model, 300, y, seed=2)
    assert with_settings(model, {"temperature": 1}) is model
    assert torch.equal(lk.sample(Tempered(model, 1.0), 300, y, seed=2), own)
    cold = lk.sample(with_settings(model, {"temperature": 0.05}), 300, y, seed=2)
    assert cold.double().std(0).mean() < 0.8 * own.double().std(0).mean()


@pytest.mark.parametrize(
    ("each", "parameters"),
    [
        (observation.Bernoulli(Integers((1,), 2)), torch.tensor([[0.7]])),
        (observation.Categorical(Integers((1,), 3)), torch.tensor([[0.7, -0.2, 0.4]])),
    ],
)
def test_parameters_of_a_power(each: observation.Observation, parameters: Tensor) -> None:
    values = torch.arange(each.space.levels)[:, None]  # ty: ignore[unresolved-attribute]
    rows = parameters.expand(len(values), -1)
    want = (2 * each.log_prob(rows, values)).log_softmax(0)
    torch.testing.assert_close(each.log_prob(each.tempered(rows, 0.5), values), want)


def test_a_normal_to_a_power() -> None:
    each, x = observation.Normal(Reals((1,))), torch.linspace(-3, 3, 50)[:, None]
    rows = torch.tensor([[0.3, -0.4]]).expand(50, -1)
    difference = each.log_prob(each.tempered(rows, 0.5), x) - 2 * each.log_prob(rows, x)
    torch.testing.assert_close(difference, difference[:1].expand(50))  # a constant: the normaliser


def test_tempered_models_only_draw() -> None:
    tempered = with_settings(made("made"), {"temperature": 0.5})
    assert has(tempered, Samples)
    assert not has(tempered, Exact)
    with pytest.raises(TypeError, match="log_prob needs a model"):
        lk.log_prob(tempered, torch.zeros(1, *tempered.space.shape, dtype=torch.int64))


@pytest.mark.parametrize(
    ("family", "name", "settings", "says"),
    [
        ("autoregressive", "made", {"temperature": 0}, "temperature is 0; accepts a number above 0, at most 10"),
        ("autoregressive", "made", {"temperature": "hot"}, "temperature is 'hot'"),
        ("autoregressive", "made", {"name": "heun"}, "accepts temperature=T"),
        ("vae", "bernoulli", {"temperature": 0.5}, "draws in one way only"),
    ],
)
def test_what_is_refused(family: str, name: str, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        with_settings(made(name, family), settings)
