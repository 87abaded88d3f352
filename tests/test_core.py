"""The core: spaces, counter-based noise, the doors, verbs, observations. Toys stand in for models."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import likely
from likely.logprob import BATCH, Kind, LogProb, log_prob, sample
from likely.noise import Noise
from likely.observation import Bernoulli, Categorical, DiscretisedLogisticMixture, Normal, observation
from likely.space import Column, Integers, Reals, Rows, Table, from_json, to_json
from likely.verbs import VERBS, Bounded, Exact, Joint, Weighted, has, require, verbs

sys.path.append(str(Path(__file__).parent))
from toys import BITS, LABELS, TOYS, Affine, Chain, Classes, Independent, OnlySamples, Switch

ROOT = Path(__file__).resolve().parent.parent


# Spaces -----------------------------------------------------------------------------------------------------------

TABLE = Table((Column("age"), Column("colour", ("red", "green")), Column("pay", missing=True)))


@pytest.mark.parametrize(
    ("space", "x", "error", "words"),
    [
        (BITS, torch.zeros(4, 2, 3), TypeError, "x holds float32"),
        (BITS, torch.zeros(4, 3, 2, dtype=torch.int64), ValueError, r"x has shape \(4, 3, 2\); accepts \(n, 2, 3\)"),
        (BITS, torch.full((4, 2, 3), 2), ValueError, r"x holds values 2 \.\. 2; .* accepts 0 \.\. 1"),
        (BITS, torch.full((4, 2, 3), -1), ValueError, "accepts 0"),
        (BITS, torch.tensor(1), ValueError, "shape"),
        (BITS, "cat", TypeError, "x holds|x is"),
        (Reals((2,)), torch.tensor([[0.0, 1.0], [math.nan, 0.0]]), ValueError, "NaN or infinity in row 1"),
        (Reals((2,)), torch.tensor([[0.0, math.inf]]), ValueError, "row 0"),
        (Reals((2,)), torch.zeros(1, 2, dtype=torch.complex64), TypeError, "complex64"),
        (TABLE, [[1.0, math.nan, 2.0]], ValueError, "column 'colour' is missing in row 0; declare it"),
        (TABLE, [[1.0, 2.0, 2.0]], ValueError, r"column 'colour' must hold codes 0 \.\. 1"),
        (TABLE, [[1.0, 0.5, 2.0]], ValueError, "codes"),
        (TABLE, [[math.inf, 0.0, 2.0]], ValueError, "column 'age' holds NaN or infinity"),
        (TABLE, [[1.0, 0.0]], ValueError, "shape"),
    ],
)
def test_space_says_what_is_wrong(space, x, error, words):
    with pytest.raises(error, match=words):
        space.check(x)


def test_space_takes_what_is_right():
    small = torch.zeros(3, 2, 3, dtype=torch.uint8)
    assert BITS.check(small) is small, "eight-bit data are not widened"
    assert BITS.check(np.zeros((0, 2, 3), dtype=np.int32)).shape == (0, 2, 3)
    assert BITS.dims == 6
    assert LABELS.dims == 1
    rows = TABLE.check([[1.0, 1.0, math.nan]])
    assert rows.seen.tolist() == [[True, True, False]]
    assert torch.isfinite(rows.cells).all()
    both = TABLE.concat([rows, TABLE.check(Rows(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)))])
    assert TABLE.len(both) == 3
    assert TABLE.len(TABLE.take(both, slice(1, 3))) == 2


def test_pad_repeats_the_first_row():
    x = torch.arange(6).reshape(3, 2)
    assert Integers((2,), 6).pad(x, 5).tolist() == [[0, 1], [2, 3], [4, 5], [0, 1], [0, 1]]


def test_centred_ends_are_minus_one_and_one():
    centred = Integers((3,), 17).centred(torch.tensor([[0, 8, 16]], dtype=torch.uint8), torch.float64)
    assert centred.tolist() == [[-1.0, 0.0, 1.0]]


@pytest.mark.parametrize("space", [BITS, LABELS, Reals((3, 4)), TABLE])
def test_space_survives_json(space):
    assert from_json(to_json(space)) == space


def test_space_refuses_unknown_fields():
    with pytest.raises(ValueError, match="colour"):
        from_json({"kind": "reals", "shape": [2], "colour": 1})
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        Integers((2,), 1)
    with pytest.raises(ValueError, match="distinct names"):
        Table((Column("a"), Column("a")))


# Noise ------------------------------------------------------------------------------------------------------------


def test_noise_depends_on_the_row_and_nothing_else():
    ids = torch.tensor([7, 3, 1000, 0])
    every = Noise(5, 1001).normal((4,))
    assert torch.equal(Noise(5, ids).normal((4,)), every[ids])
    two = Noise(5, ids, 3)
    first, second = two.uniform((2,)), two.uniform((2,))
    assert not torch.equal(first, second)
    alone = Noise(5, torch.tensor([1000]), range(1, 3))
    assert torch.equal(alone.uniform((2,)), first.reshape(4, 3, 2)[2, 1:])
    assert torch.equal(alone.uniform((2,)), second.reshape(4, 3, 2)[2, 1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["uniform", "normal", "gumbel", "logistic"])
def test_noise_has_its_distribution(name, dtype):
    """Kolmogorov's test at 1e-6 over rows, over calls, over draws and over elements, 20,000 each."""
    law = {"uniform": stats.uniform, "normal": stats.norm, "gumbel": stats.gumbel_r, "logistic": stats.logistic}[name]
    n = 20_000
    calls = Noise(2, 1)
    samples = {
        "rows": getattr(Noise(1, n), name)(dtype=dtype),
        "calls": torch.cat([getattr(calls, name)(dtype=dtype) for _ in range(n // 20)]),
        "draws": getattr(Noise(3, 1, n), name)(dtype=dtype),
        "elements": getattr(Noise(4, 1), name)((n,), dtype=dtype)[0],
        "seeds": torch.cat([getattr(Noise(seed, 1), name)(dtype=dtype) for seed in range(n // 20)]),
    }
    for where, values in samples.items():
        assert values.dtype == dtype
        assert stats.kstest(values.double().numpy(), law.cdf).pvalue > 1e-6, where


def test_noise_has_no_correlation_between_neighbours():
    """Rows, calls, elements and draws next to each other: |correlation| under 5 standard errors of 40,000 pairs."""
    source = Noise(11, 200, 2)
    a, b = source.normal((201,), dtype=torch.float64), source.normal((201,), dtype=torch.float64)
    other = Noise(12, 200, 2).normal((201,), dtype=torch.float64)
    pairs = {
        "elements": (a[:, 1:], a[:, :-1]),
        "calls": (a, b),
        "rows": (a[::2][1:], a[::2][:-1]),
        "draws": (a[::2], a[1::2]),
        "seeds": (a, other),
    }
    for where, (u, v) in pairs.items():
        assert abs(float((u * v).mean())) < 5 / math.sqrt(u.numel()), where


def test_noise_in_single_precision_is_the_double_cut_short():
    u, v = (Noise(3, 1000).uniform((7,), dtype=d) for d in (torch.float32, torch.float64))
    assert float((u.double() - v).abs().max()) <= 2.0**-23
    assert float(u.min()) > 0
    assert float(u.max()) < 1
    g, h = (Noise(3, 1000).normal((7,), dtype=d) for d in (torch.float32, torch.float64))
    assert float((g.double() - h).abs().max()) < 1e-5


def test_integers_are_uniform():
    counts = torch.bincount(Noise(6, 60_000).integers(6), minlength=6)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-6


def test_noise_refuses():
    with pytest.raises(TypeError, match="seed is float"):
        Noise(0.5, 2)
    with pytest.raises(ValueError, match="rows has shape"):
        Noise(0, torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="rows has shape"):
        Noise(0, torch.zeros(2))
    with pytest.raises(ValueError, match="draws is 0"):
        Noise(0, 2, 0)
    with pytest.raises(ValueError, match="high is 0"):
        Noise(0, 2).integers(0)


def test_noise_leaves_global_state_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    Noise(0, 5, 2).normal((3,))
    Noise(0, 5).torch_seed()
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert before[2] == random.getstate()


def test_seeds_for_dropout_go_on_where_draws_were_made():
    noise = Noise(3, torch.tensor([5, 9]))
    first = noise.torch_seed()
    noise.normal((2,))
    assert len({first, *(noise.torch_seed() for _ in range(20))}) == 21
    assert noise.at(torch.tensor([0])).torch_seed() == noise.torch_seed(), "the first row's key, whatever came before"


def test_noise_of_nothing():
    for shape in ((0,), (2, 0)):
        assert Noise(0, 3).normal(shape).shape == (3, *shape)
        assert Noise(0, 3).integers(5, shape).shape == (3, *shape)
    assert Noise(0, 0, 2).normal((4,)).shape == (0, 4)
    assert Noise(0, 0).uniform().shape == (0,)


def test_expand_puts_draws_of_a_row_side_by_side():
    assert Noise(0, 2, 3).expand(torch.tensor([4, 9])).tolist() == [4, 4, 4, 9, 9, 9]
    assert Noise(0, 2, 3).count == 6


# The doors ----------------------------------------------------------------------------------------------------------


class Wide(nn.Module):
    """Matrix products round differently in other batches: what the canonical batch is for."""

    condition = None

    def __init__(self) -> None:
        super().__init__()
        self.space = Reals((50,))
        self.net = nn.Sequential(nn.Linear(50, 200), nn.Tanh(), nn.Linear(200, 1))

    def log_prob(self, x: Tensor, y: object = None) -> Tensor:
        return self.net(x)[:, 0]


def test_scores_are_bit_equal_whatever_the_batching():
    model, x = Wide(), torch.randn(130, 50)
    whole = log_prob(model, x).nats
    order = torch.randperm(130)
    assert torch.equal(log_prob(model, x[order]).nats, whole[order])
    for size in (1, 5, 64, 65):
        pieces = [log_prob(model, x[i : i + size]).nats for i in range(0, 130, size)]
        assert torch.equal(torch.cat(pieces), whole), size
    raw = torch.cat([model.log_prob(x[i : i + 1]) for i in range(130)]).detach().double()
    assert torch.allclose(raw, whole, atol=1e-5)


def test_noisy_scores_and_draws_follow_row_ids():
    model = Switch(BITS)
    x = Noise(0, 100).integers(2, (2, 3))
    whole = log_prob(model, x, k=5, seed=3).nats
    ids = torch.arange(60, 90)
    assert torch.equal(log_prob(model, x[60:90], k=5, seed=3, rows=ids).nats, whole[60:90])
    assert not torch.equal(log_prob(model, x[60:90], k=5, seed=3).nats, whole[60:90])
    draws = sample(model, 100, seed=3)
    assert torch.equal(sample(model, 30, seed=3, first=60), draws[60:90])
    assert not torch.equal(sample(model, 100, seed=4), draws)
    assert not torch.equal(sample(model, 100), sample(model, 100)), "without a seed each call is another"


def test_many_draws_are_taken_in_pieces_of_the_same_draws():
    model = Switch(BITS)
    x = Noise(0, 3).integers(2, (2, 3))
    with torch.no_grad():
        weights = model.log_weight(x, noise=Noise(0, 3, 50)).reshape(3, 50).double()
    reading = log_prob(model, x, k=50)
    assert torch.allclose(reading.nats, weights.logsumexp(1) - math.log(50), atol=1e-6)
    assert (reading.kind, reading.k) == (Kind.BOUND, 50)


def test_reading_prints_what_it_is():
    space = Integers((1, 2, 2), 4)
    bound = LogProb(torch.tensor([-8.0, -9.0], dtype=torch.float64) * math.log(2), Kind.BOUND, space, 64)
    assert str(bound) == "bpd <= 2.125 ± 0.125 (k=64)"
    assert str(LogProb(bound.nats, Kind.EXACT, space)) == "bpd = 2.125 ± 0.125"
    assert str(LogProb(bound.nats, Kind.ESTIMATE, space, 2)) == "bpd ~ 2.125 ± 0.125 (k=2)"
    assert bound.bits_per_dim.tolist() == pytest.approx([2.0, 2.25])
    assert bound.mean == pytest.approx(-8.5 * math.log(2))
    assert math.isnan(LogProb(bound.nats[:1], Kind.EXACT, space).stderr)
    unnormalised = LogProb(bound.nats, Kind.UNNORMALISED, space)
    assert "+ c nats" in str(unnormalised)
    with pytest.raises(TypeError, match="bits_per_dim of an unnormalised density does not exist"):
        _ = unnormalised.bits_per_dim
    with pytest.raises(TypeError, match="unnormalised"):
        _ = unnormalised.mean_bits_per_dim


def test_only_like_is_compared_with_like():
    nats = torch.zeros(3, dtype=torch.float64)
    exact, bound = LogProb(nats, Kind.EXACT, BITS), LogProb(nats, Kind.BOUND, BITS)
    exact.comparable(LogProb(nats - 1, Kind.EXACT, BITS))
    with pytest.raises(ValueError, match="'>=' reading, this a '='"):
        exact.comparable(bound)
    with pytest.raises(ValueError, match="their bits do not compare"):
        exact.comparable(LogProb(nats, Kind.EXACT, LABELS))
    unnormalised = LogProb(nats, Kind.UNNORMALISED, BITS)
    with pytest.raises(ValueError, match="rank"):
        unnormalised.comparable(unnormalised)


class Energy(nn.Module):
    condition = None
    space = BITS

    def energy(self, x: Tensor, y: object = None) -> Tensor:
        return x.double().sum((1, 2))


def test_the_best_reading_is_taken():
    x = torch.ones(2, 2, 3, dtype=torch.int64)
    assert log_prob(Energy(), x).kind is Kind.UNNORMALISED
    assert log_prob(Energy(), x, k=9).k == 1
    assert log_prob(Energy(), x).nats.tolist() == [-6.0, -6.0]
    assert log_prob(Switch(BITS), x).kind is Kind.BOUND
    assert log_prob(Chain(BITS), x, k=4).kind is Kind.EXACT


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "3"])
def test_k_is_refused(k):
    with pytest.raises(ValueError, match="k is"):
        log_prob(Chain(BITS), torch.zeros(1, 2, 3, dtype=torch.int64), k=k)


def test_doors_refuse():
    x = torch.zeros(3, 2, 3, dtype=torch.int64)
    given = Independent(BITS, LABELS)
    with pytest.raises(TypeError, match=r"log_prob needs a model that is Exact .* OnlySamples is Trainable, Samples"):
        log_prob(OnlySamples(), torch.zeros(1, 2))
    with pytest.raises(TypeError, match="sample needs a model that is Samples"):
        sample(Energy(), 3)
    with pytest.raises(ValueError, match="y is None, but Independent models"):
        log_prob(given, x)
    with pytest.raises(ValueError, match=r"y holds values 0 \.\. 2"):
        log_prob(given, x, torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="y has 2 rows; accepts 3"):
        log_prob(given, x, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="y was given"):
        log_prob(Chain(BITS), x, torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match="rows has shape"):
        log_prob(Chain(BITS), x, rows=torch.arange(2))
    with pytest.raises(ValueError, match="n is -1"):
        sample(Chain(BITS), -1)
    with pytest.raises(ValueError, match="y"):
        sample(given, 3)


def test_doors_take_nothing_and_one():
    model = Independent(BITS, LABELS)
    assert log_prob(model, torch.zeros(0, 2, 3, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)).nats.shape == (
        0,
    )
    assert sample(model, 0, 1, seed=0).shape == (0, 2, 3)
    assert sample(model, 1, 1, seed=0).shape == (1, 2, 3)
    seen = []
    sample(model, 2 * BATCH + 1, 1, seed=0, progress=seen.append)
    assert seen == [BATCH, 2 * BATCH, 2 * BATCH + 1]


def test_a_joint_answers_with_and_without_a_label():
    model, x = Classes(Independent(BITS, LABELS)), torch.zeros(3, 2, 3, dtype=torch.int64)
    assert log_prob(model, x).kind is Kind.EXACT
    assert not torch.equal(log_prob(model, x).nats, log_prob(model, x, torch.tensor([1, 1, 1])).nats)


def test_door_scores_in_evaluation_mode_and_puts_it_back():
    class Dropping(Wide):
        def log_prob(self, x: Tensor, y: object = None) -> Tensor:
            return self.net(nn.functional.dropout(x, 0.5, self.training))[:, 0]

    model, x = Dropping().train(), torch.randn(4, 50)
    model.net.eval()  # a part that was frozen stays so
    first = log_prob(model, x)
    assert torch.equal(first.nats, log_prob(model, x).nats)
    assert not first.nats.requires_grad
    assert model.training
    assert not model.net.training
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(first.nats, log_prob(model, x).nats), "scores are computed outside autocast"


def test_a_weight_is_no_mere_bound():
    """Two states: p(z) = (.5, .5), p(x = 1 | z) = q(z | x = 1) = (.9, .1), so log p(x = 1) = log .5 = -0.693.

    Draws of the bound with the KL in closed form have log-mean-exp -0.567, above the truth: they are `Bounded`, not
    `Weighted`, and the door takes their plain mean. The importance weights' log-mean-exp is right.
    """

    class KL(nn.Module):
        condition = None
        space = Integers((), 2)

        def __init__(self) -> None:
            super().__init__()
            self.q = nn.Parameter(torch.tensor([0.9, 0.1], dtype=torch.float64), requires_grad=False)

        def _z(self, x: Tensor, noise: Noise) -> Tensor:
            return (noise.uniform(dtype=torch.float64) > 0.9).long()

        def elbo(self, x: Tensor, y: object = None, *, noise: Noise) -> Tensor:
            kl = (self.q * (self.q / 0.5).log()).sum()
            return self.q[self._z(x, noise)].log() - kl

    class IW(KL):
        def log_weight(self, x: Tensor, y: object = None, *, noise: Noise) -> Tensor:
            z = self._z(x, noise)
            return self.q[z].log() + math.log(0.5) - self.q[z].log()

    x, k = torch.ones(1, dtype=torch.int64), 20_000
    truth = math.log(0.5)
    model = KL()
    assert not has(model, Weighted)
    draws = model.elbo(x, noise=Noise(0, 1, k))
    assert float(draws.logsumexp(0)) - math.log(k) == pytest.approx(-0.567, abs=0.01)
    reading = log_prob(model, x, k=k)
    assert reading.kind is Kind.BOUND
    assert float(reading.nats) == pytest.approx(float(draws.mean()), abs=1e-9)
    assert float(reading.nats) < truth + 5 * float(draws.std()) / math.sqrt(k)  # q is the posterior: the bound is tight
    assert float(log_prob(IW(), x, k=100).nats) == pytest.approx(truth, abs=1e-9)


# Verbs --------------------------------------------------------------------------------------------------------------


def test_no_two_verbs_share_a_method_name():
    methods = [
        name
        for verb in VERBS.values()
        for name in vars(verb)
        if not name.startswith("_") and callable(vars(verb)[name])
    ]
    assert len(methods) == len(set(methods))
    assert len(methods) > len(VERBS)


def test_toys_have_the_verbs_they_say():
    for name, make in TOYS.items():
        said = (type(make()).__doc__ or "").partition(":")[0].split(", ")
        assert set(verbs(make())) == {"Trainable", *said}, name


def test_require_names_task_need_and_model():
    require(Chain(BITS), (Joint, Exact), "evaluate")
    with pytest.raises(TypeError, match="decide needs a model that is Joint; Affine is Trainable, Samples, Exact, Inv"):
        require(Affine(), Joint, "decide")
    with pytest.raises(TypeError, match="Joint or Bounded; object is no verb"):
        require(object(), (Joint, Bounded), "decide")


# Observations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
@pytest.mark.parametrize(
    ("kind", "space"),
    [("bernoulli", BITS), ("categorical", Integers((1, 2, 3), 7)), ("logistic", Integers((1, 1, 1), 256))],
)
def test_observation_sums_to_one(kind, space, scale):
    each = observation(kind, space, 5)
    n = 500
    parameters = Noise(1, n).normal((each.parameters,), dtype=torch.float64) * scale
    site = torch.arange(space.levels)
    total = each.log_prob(
        parameters.repeat_interleave(space.levels, 0), site.repeat(n)[:, None].expand(-1, each.channels)
    ).reshape(n, space.levels)
    assert each.channels == 1
    assert float((total.logsumexp(1).exp() - 1).abs().max()) < 1e-9


def test_logistic_mixture_of_colours_sums_to_one():
    each = DiscretisedLogisticMixture(Integers((3, 1, 1), 5), 3)
    values = torch.cartesian_prod(*[torch.arange(5)] * 3)
    parameters = Noise(1, 200).normal((each.parameters,), dtype=torch.float64) * 5
    total = each.log_prob(parameters.repeat_interleave(125, 0), values.repeat(200, 1)).reshape(200, 125)
    assert float((total.logsumexp(1).exp() - 1).abs().max()) < 1e-9


def test_logistic_bins_match_the_plain_formula():
    """Against cdf(upper edge) - cdf(lower edge) in mild places, tails open, on [-1, 1]."""
    each = DiscretisedLogisticMixture(Integers((), 9), 1)
    mean, log_scale = 0.3, -1.1
    parameters = torch.tensor([[0.0, mean, log_scale]], dtype=torch.float64).expand(9, -1)
    mine = each.log_prob(parameters, torch.arange(9)[:, None]).exp()
    law = stats.logistic(mean, math.exp(log_scale))
    edges = np.concatenate([[-np.inf], (np.arange(1, 9) - 0.5) / 4 - 1, [np.inf]])
    assert mine.tolist() == pytest.approx(np.diff(law.cdf(edges)).tolist(), abs=1e-12)


def test_logistic_is_finite_far_out_and_has_gradients():
    each = DiscretisedLogisticMixture(Integers((), 256), 2)
    parameters = torch.tensor([[0.0, 0.0, 50.0, -50.0, -9.0, -30.0]], requires_grad=True)
    value = each.log_prob(parameters.expand(3, -1), torch.tensor([[0], [128], [255]]))
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(parameters.grad).all()


@pytest.mark.parametrize(("kind", "levels"), [("bernoulli", 2), ("categorical", 4), ("logistic", 6)])
def test_observation_draws_what_it_scores(kind, levels):
    space = Integers((), levels)
    each = observation(kind, space, 3)
    n = 40_000
    parameters = Noise(5, 1).normal((each.parameters,), dtype=torch.float64)
    u = Noise(6, n).uniform((each.uniforms,), dtype=torch.float64)
    drawn = each.sample(parameters.expand(n, -1), u)
    counts = torch.bincount(drawn[:, 0], minlength=levels)
    p = each.log_prob(parameters.expand(levels, -1), torch.arange(levels)[:, None]).exp()
    assert stats.chisquare(counts.numpy(), (p / p.sum() * n).detach().numpy()).pvalue > 1e-6


def test_normal_observation():
    each = Normal(Reals((3,)))
    parameters = torch.tensor([[[0.5] * 3, [-0.7] * 3]], dtype=torch.float64)
    x = torch.tensor([[[0.0, 0.5, 3.0]]], dtype=torch.float64)
    want = torch.distributions.Normal(0.5, math.exp(-0.7)).log_prob(x[:, 0])
    assert torch.allclose(each.log_prob(parameters, x), want)
    u = Noise(0, 20_000).uniform((1, 3), dtype=torch.float64)
    drawn = each.sample(parameters.expand(20_000, -1, -1), u)[:, 0, 0]
    assert stats.kstest(drawn.numpy(), stats.norm(0.5, math.exp(-0.7)).cdf).pvalue > 1e-6


def test_observation_refuses():
    with pytest.raises(ValueError, match="observation is 'normal' over Integers"):
        observation("normal", BITS)
    with pytest.raises(ValueError, match="3 levels; a Bernoulli"):
        Bernoulli(Integers((2,), 3))
    with pytest.raises(ValueError, match="2 channels; a logistic mixture accepts 1 or 3"):
        DiscretisedLogisticMixture(Integers((2, 1, 1), 4))
    with pytest.raises(ValueError, match="components is 0"):
        DiscretisedLogisticMixture(Integers((), 4), 0)
    assert isinstance(observation("categorical", BITS), Categorical)


# The package --------------------------------------------------------------------------------------------------------


def test_public_surface_is_small():
    assert len(likely.__all__) <= 30
    with pytest.raises(AttributeError, match="its public names are"):
        _ = likely.no_such_name


def test_import_changes_nothing():
    """In a new process: default dtype, threads, gradients, RNG states, log handlers and warnings filters stay."""
    code = """
import logging, random, warnings, numpy as np, torch
def state():
    return (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(), torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(), random.getstate(), list(logging.getLogger().handlers),
            torch.distributions.Distribution._validate_args, torch.are_deterministic_algorithms_enabled())
before = state()
import likely
for name in likely.__all__: getattr(likely, name)
assert state() == before, [a == b for a, b in zip(state(), before)]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("late", [False, True])
def test_scores_do_not_depend_on_the_batch_whatever_the_processor(late):
    """Imported too late, the library cannot see to that: then it must say so."""
    code = f"""
import warnings, torch
torch.set_num_threads(1)
if {late}:
    torch.randn(4, 4) @ torch.randn(4, 4)
import likely as lk
model = lk.build("vae", lk.Integers((9,), 2), hidden=(7, 5), latent=5, seed=0)
x, order = torch.randint(2, (64, 9)), torch.randperm(64)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    every = lk.log_prob(model, x).nats
    moved = lk.log_prob(model, x[order], rows=order).nats
print(torch.equal(moved, every[order]), any("MKL_CBWR" in str(w.message) for w in told))
"""
    environment = {key: value for key, value in os.environ.items() if key != "MKL_CBWR"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    same, told = done.stdout.split()
    assert same == "True" or (late and told == "True")
    assert late or told == "False"
