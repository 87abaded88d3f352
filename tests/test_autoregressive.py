"""Autoregressive models: one distribution, in one order, by two routes (one pass, and site after site)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from likely.config.autoregressive import PRESETS
from likely.families.autoregressive import TINY
from likely.logprob import log_prob, sample
from likely.noise import Noise
from likely.registry import build
from likely.space import Integers, Reals
from likely.verbs import verbs

DIGITS, LABELS = Integers((1, 8, 8), 17), Integers((), 10)


@pytest.fixture(params=TINY)
def tiny(request):
    """A tiny instance in float64 with its parameters moved away from where they start."""
    case = TINY[request.param]
    model = build(case.config, case.space, case.condition, seed=1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def states(space: Integers) -> Tensor:
    """Every value of a space."""
    return torch.cartesian_prod(*[torch.arange(space.levels)] * space.dims).reshape(-1, *space.shape)


def labels(model, n: int) -> Tensor | None:
    return None if model.condition is None else torch.arange(n) % model.condition.levels


def naive_sample(model, n: int, y: Tensor | None, noise: Noise) -> Tensor:
    """What `sample` must give, by a whole pass over x for every site."""
    uniforms = noise.uniform((model.sites, model.observation.uniforms), dtype=model.dtype)
    each = model.observation
    x = torch.zeros(n, each.channels, model.sites, dtype=torch.int64)
    with torch.no_grad():
        for i in range(model.sites):
            parameters = model.network(model.features(x.unflatten(2, each.sites)), y).flatten(2)
            x[:, :, i] = each.sample(parameters[:, :, i], uniforms[:, i])
    return model.from_sites(x)


def test_the_verbs(tiny):
    assert verbs(tiny) == ("Trainable", "Samples", "Exact", "Ordered")


def test_sums_to_one_for_every_label(tiny):
    x = states(tiny.space)
    for y in [None] if tiny.condition is None else range(tiny.condition.levels):
        total = tiny.log_prob(x, None if y is None else torch.full((len(x),), y)).exp().sum()
        assert abs(total.item() - 1) < 1e-9


def test_parameters_of_a_site_see_earlier_sites_alone_and_all_of_them(tiny):
    # The Jacobian of the network's outputs by its inputs: no value enters twice, so each target is held fixed.
    each, n = tiny.observation, 3
    x = states(tiny.space)[torch.randperm(tiny.space.levels**tiny.space.dims, generator=torch.Generator())[:n]]
    features = tiny.features(tiny.to_sites(x).unflatten(2, each.sites)).flatten(2)
    y = labels(tiny, n)

    def outputs(f: Tensor) -> Tensor:
        return tiny.network(f.unflatten(2, each.sites), y).flatten(2).sum(0)

    jacobian = torch.autograd.functional.jacobian(outputs, features)  # (P, sites, n, F, sites)
    seen = jacobian.abs().amax((0, 2, 3))
    below = torch.ones(tiny.sites, tiny.sites).tril(-1).bool()
    assert (seen[~below] == 0).all()
    if tiny.config.network != "causal":  # a short kernel does not reach everything
        assert (seen[below] > 0).all()
    else:
        assert (seen.diagonal(-1) > 0).all()


def test_channels_of_a_pixel_are_chained_in_order(tiny):
    # log p of the first i sites and channels must not change with what follows: sum out the rest
    x = states(tiny.space)
    y = labels(tiny, 1)
    logs = tiny.log_prob(x, None if y is None else y.expand(len(x)))
    flat = tiny.to_sites(x).transpose(1, 2).flatten(1)  # the order of the sites, channels within a site in order
    sites = tiny.log_prob_sites(x, None if y is None else y.expand(len(x)))
    for i in range(1, tiny.sites + 1):
        size = tiny.space.levels ** (tiny.space.dims - i * tiny.observation.channels)
        key = (
            flat[:, : i * tiny.observation.channels] * tiny.space.levels ** torch.arange(i * tiny.observation.channels)
        ).sum(1)
        marginal = torch.zeros(tiny.space.levels ** (i * tiny.observation.channels), dtype=torch.float64)
        marginal = marginal.index_add(0, key, logs.exp())
        assert torch.allclose(marginal[key].log(), sites[:, :i].sum(1), atol=1e-9)
        assert (key.bincount() == size).all()


def test_steps_give_the_same_log_prob(tiny):
    x = states(tiny.space)
    y = labels(tiny, len(x))
    want = tiny.log_prob_sites(x, y)
    state, each = tiny.start(len(x), y)
    for i, x_i in enumerate(tiny.to_sites(x).unbind(2)):
        assert torch.allclose(each.log_prob(x_i), want[:, i], atol=1e-12, rtol=0)
        state, each = tiny.step(state, x_i)
    assert each is None


def test_cached_draws_are_the_naive_draws(tiny):
    n = 100
    y = labels(tiny, n)
    drawn = tiny.sample(n, y, noise=Noise(3, n))
    assert torch.equal(drawn, naive_sample(tiny, n, y, Noise(3, n)))
    assert len(drawn.unique(dim=0)) > 1


@pytest.mark.parametrize("network", ["made", "causal", "pixelcnn"])
@pytest.mark.parametrize("space", [Integers((1, 7, 6), 17), Integers((3, 4, 5), 256)], ids=["grey", "colour"])
def test_cached_draws_are_the_naive_draws_on_images(network, space):
    kinds = {"made": "categorical", "causal": "categorical", "pixelcnn": "logistic"}
    fields = {"width": 24, "layers": 4, "kernel": 5, "inner_kernel": 3, "dilations": (1, 2, 3), "components": 3}
    model = build("autoregressive", space, LABELS, network=network, observation=kinds[network], **fields)
    model = model.double()
    y = torch.arange(7)
    assert torch.equal(model.sample(7, y, noise=Noise(0, 7)), naive_sample(model, 7, y, Noise(0, 7)))
    x = model.sample(7, y, noise=Noise(0, 7))
    state, each = model.start(7, y)
    want = model.log_prob_sites(x, y)
    for i, x_i in enumerate(model.to_sites(x).unbind(2)):
        assert torch.allclose(each.log_prob(x_i), want[:, i], atol=1e-11, rtol=0)
        state, each = model.step(state, x_i)


def test_draws_have_the_density_frequencies(tiny):
    # G-test at a false alarm of 1e-6, states of small expectation pooled; 8,000 draws see a change of 5 % in a state
    # of probability 1/2; a swapped order or a wrong kernel moves far more.
    n = 8_000
    y = None if tiny.condition is None else torch.ones(n, dtype=torch.int64)
    x = states(tiny.space)
    p = tiny.log_prob(x, None if y is None else y[:1].expand(len(x))).exp().detach()
    place = tiny.space.levels ** torch.arange(tiny.space.dims).flip(0)
    seen = (tiny.sample(n, y, noise=Noise(11, n)).flatten(1) * place).sum(1).bincount(minlength=len(x))
    big = p * n >= 5
    want = torch.cat([p[big], p[~big].sum()[None]]) * n
    got = torch.cat([seen[big], seen[~big].sum()[None]]).double()
    g = 2 * torch.where(got > 0, got * (got / want.clamp(min=1e-12)).log(), 0).sum().item()
    free = int(big.sum())
    # Wilson-Hilferty: (G / free)^(1/3) is close to normal
    z = ((g / free) ** (1 / 3) - (1 - 2 / (9 * free))) / math.sqrt(2 / (9 * free))
    assert z < 4.9


def test_every_parameter_gets_a_gradient(tiny):
    x = states(tiny.space)
    tiny.loss(x, labels(tiny, len(x)), noise=Noise(0, len(x))).backward()
    for name, parameter in tiny.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad != 0).any(), name


def test_loss_is_the_mean_negative_log_prob_in_float64(tiny):
    x = states(tiny.space)
    y = labels(tiny, len(x))
    loss = tiny.loss(x, y, noise=Noise(0, len(x)))
    assert loss.dtype == torch.float64
    assert torch.allclose(loss, -tiny.log_prob(x, y).mean())


def test_no_rows_and_one_row(tiny):
    for n in (0, 1):
        y = labels(tiny, n)
        x = tiny.sample(n, y, noise=Noise(0, n))
        assert x.shape == (n, *tiny.space.shape)
        assert tiny.log_prob(x, y).shape == (n,)


@pytest.mark.parametrize("preset", PRESETS)
def test_rows_do_not_depend_on_the_batch(preset):
    space = Integers((3, 8, 8), 256) if preset == "colour" else DIGITS
    model = build("autoregressive", space, LABELS, preset=preset)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(space.levels, (100, *space.shape), generator=generator).to(torch.uint8)
    y = torch.randint(10, (100,), generator=generator)
    order = torch.randperm(100, generator=generator)
    scores = log_prob(model, x, y).nats
    assert torch.equal(log_prob(model, x[order], y[order]).nats, scores[order])
    assert torch.equal(log_prob(model, x[:3], y[:3]).nats, scores[:3])
    assert log_prob(model, x, y).kind == "="


@pytest.mark.parametrize("preset", ["made", "digits", "small"])
def test_a_draw_depends_on_its_seed_and_number_alone(preset):
    model = build("autoregressive", DIGITS, LABELS, preset=preset)
    y = torch.arange(70) % 10
    many = sample(model, 70, y, seed=5)
    assert torch.equal(sample(model, 3, y[66:69], seed=5, first=66), many[66:69])
    assert not torch.equal(many[0], many[10])


@pytest.mark.parametrize("network", ["made", "causal", "pixelcnn"])
def test_dropout_is_drawn_from_the_noise_and_in_training_only(network):
    model = build("autoregressive", DIGITS, network=network, inner_kernel=3, dropout=0.5)
    x = sample(model, 8, seed=0)
    before = torch.get_rng_state()
    first, again = (model.train().loss(x, noise=Noise(1, 8)) for _ in range(2))
    other = model.loss(x, noise=Noise(2, 8))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    exact = -model.log_prob(x).mean()
    assert not torch.equal(first, exact)
    assert torch.equal(model.eval().loss(x, noise=Noise(1, 8)), exact)


def test_the_label_reaches_the_first_site(tiny):
    if tiny.condition is not None:
        _, each = tiny.start(2, torch.tensor([0, 1]))
        assert not torch.allclose(each.parameters[0], each.parameters[1])


@pytest.mark.parametrize("network", ["made", "causal", "pixelcnn"])
def test_learns_what_only_the_order_can_explain(network):
    # Eight bits, each one the opposite of the last: the entropy is one bit.
    first = torch.arange(2).repeat(32)
    x = ((first[:, None] + torch.arange(8)) % 2).reshape(64, 2, 4)
    model = build("autoregressive", Integers((2, 4), 2), network=network, width=16, kernel=3, inner_kernel=3)
    optimiser = torch.optim.Adam(model.parameters(), 2e-2)
    for _ in range(80):
        optimiser.zero_grad()
        model.loss(x, noise=Noise(0, 64)).backward()
        optimiser.step()
    assert -model.log_prob(x).mean().item() / math.log(2) < 1.05


@pytest.mark.parametrize(
    ("space", "condition", "fields", "message"),
    [
        (Reals((2,)), None, {}, "space is Reals"),
        (DIGITS, Integers((2,), 2), {}, "condition is Integers"),
        (Integers((5,), 2), None, {"network": "pixelcnn"}, "accepts images"),
        (DIGITS, None, {"network": "pixelcnn", "kernel": 4}, "kernel is 4"),
        (DIGITS, None, {"network": "pixelcnn", "inner_kernel": 2}, "inner_kernel is 2"),
        (DIGITS, None, {"observation": "bernoulli"}, "17 levels"),
        (DIGITS, None, {"network": "transformer"}, "network"),
        (DIGITS, None, {"dropout": 1.0}, "dropout"),
        (DIGITS, None, {"widht": 3}, "did you mean 'width'"),
    ],
)
def test_what_does_not_fit_is_named(space, condition, fields, message):
    with pytest.raises(ValueError, match=message):
        build("autoregressive", space, condition, **fields)
