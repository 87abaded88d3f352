"""The joint promises what its parts promise, and no more."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from likely import registry
from likely.families.joint import ClassConditional
from likely.logprob import Kind, log_posterior, log_prob, sample
from likely.noise import Noise
from likely.space import Integers, Reals
from likely.verbs import Bounded, Exact, Joint, JointBound, Weighted, has, verbs

BITS = Integers((2, 2), 2)
STATES = torch.tensor(list(itertools.product(range(2), repeat=4))).reshape(-1, 2, 2)


def parts(family: str, classes: int = 3, **fields: object) -> list[nn.Module]:
    return [registry.build(family, BITS, seed=s, dtype=torch.float64, **fields) for s in range(classes)]


def causal() -> list[nn.Module]:
    return parts("autoregressive", width=6, layers=1, kernel=3)


def test_separate_parts_give_bayes_rule() -> None:
    models = causal()
    joint = ClassConditional(models).double()
    with torch.no_grad():
        joint.logits.copy_(torch.tensor([0.5, 0.2, 0.3]).log())
    prior = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    each = torch.stack([log_prob(m, STATES).nats for m in models], 1)
    marginal = (each.exp() * prior).sum(1)
    assert torch.allclose(log_prob(joint, STATES).nats, marginal.log(), atol=1e-10)
    assert torch.allclose(log_posterior(joint, STATES).nats.exp(), each.exp() * prior / marginal[:, None], atol=1e-10)
    given = log_prob(joint, STATES, torch.full((16,), 2))
    assert torch.allclose(given.nats, each[:, 2], atol=1e-12)


def test_loss_is_the_joint_negative_log_likelihood() -> None:
    joint = ClassConditional(causal()).double()
    y = torch.arange(16) % 3
    with torch.no_grad():
        joint.logits.copy_(torch.tensor([2.0, 0.0, -1.0]))
        loss = joint.loss(STATES, y, noise=Noise(0, 16))
        truth = -(joint.log_prob(STATES, y) + joint.logits.log_softmax(0)[y]).mean()
    assert torch.allclose(loss, truth, atol=1e-10)


def test_samples_follow_the_class_asked_for() -> None:
    models = causal()
    joint = ClassConditional(models).double()
    y = torch.tensor([2, 0, 1, 1, 0, 2, 2])
    together = sample(joint, 7, y, seed=3)
    for label, part in enumerate(models):
        rows = (y == label).nonzero()[:, 0]
        alone = part.sample(len(rows), noise=Noise(3, rows))
        assert torch.equal(together[rows], alone)


@pytest.mark.parametrize("name", registry.tiny("joint"))
def test_type_follows_the_part(name: str) -> None:
    tiny = registry.tiny("joint")[name]
    joint = registry.build(tiny.config, tiny.space, tiny.condition)
    exact = not name.startswith("vae")
    assert has(joint, Exact) == has(joint, Joint) == exact
    assert has(joint, Weighted) == has(joint, Bounded) == has(joint, JointBound) == (not exact)


def test_joint_over_weights_bounds_the_joint_over_their_truth() -> None:
    joint = registry.build("joint", BITS, Integers((), 2), part={"family": "vae", "latent": 1, "hidden": (4,)})
    many = log_prob(joint, STATES, k=256)
    assert many.kind is Kind.BOUND
    with torch.no_grad():
        plain = joint.elbo(STATES, noise=Noise(0, 16, 256)).reshape(16, 256).double().mean(1)
    assert (plain < many.nats).all()  # Jensen's inequality on the same draws
    assert math.isclose(float(many.nats.exp().sum()), 1, abs_tol=0.05)
    assert log_posterior(joint, STATES, k=4).kind is Kind.ESTIMATE


class OnlyBounded(nn.Module):
    """A part whose bound is no importance weight."""

    space, condition = BITS, None
    players = ("model",)

    def elbo(self, x, y=None, *, noise):
        return torch.full((noise.count,), -5.0)

    def loss(self, x, y=None, *, player="model", noise):
        return torch.zeros(())


def test_parts_that_cannot_keep_the_promise_are_refused() -> None:
    with pytest.raises(TypeError, match="Exact or Weighted"):
        ClassConditional([OnlyBounded(), OnlyBounded()])
    with pytest.raises(ValueError, match="condition None"):
        ClassConditional(causal()[0])
    with pytest.raises(ValueError, match="different spaces"):
        ClassConditional([causal()[0], registry.build("autoregressive", Integers((3,), 2), width=4, layers=1)])
    with pytest.raises(ValueError, match="empty"):
        ClassConditional([])
    with pytest.raises(ValueError, match="accepts labels"):
        registry.build("joint", BITS)
    with pytest.raises(ValueError, match="part is 'vea'"):
        registry.build("joint", BITS, Integers((), 2), part="vea")


def test_em_joint_counts_classes_and_climbs() -> None:
    joint = registry.build("joint", Reals((2,)), Integers((), 2), part={"family": "mixture", "components": 2})
    x = torch.cat([Noise(1, 30).normal((2,)), Noise(2, 10).normal((2,)) + 4])
    y = torch.tensor([0] * 30 + [1] * 10)
    joint.prepare(x, y, noise=Noise(0, 40))
    seen = []
    for _ in range(6):
        statistics = joint.statistics(x, y)
        seen.append(float(statistics["log_prob"]))
        joint.absorb(statistics)
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(seen))
    assert torch.allclose(joint.logits.softmax(0), torch.tensor([31 / 42, 11 / 42]), atol=1e-6)
    truth = joint.log_prob(x, y).double().sum() + joint.logits.log_softmax(0).double()[y].sum()
    assert math.isclose(float(joint.statistics(x, y)["log_prob"]), float(truth), rel_tol=1e-5)
    assert "ClosedForm" in verbs(joint)
    assert "Trainable" not in verbs(joint)
