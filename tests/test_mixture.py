"""Mixtures: against enumeration, scipy and scikit-learn, and what EM promises."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from likely.noise import Noise
from likely.registry import build, presets, tiny
from likely.space import Column, Integers, Reals, Rows, Table
from likely.verbs import verbs

TINY = tiny("mixture")
F64 = torch.float64


def make(name: str, dtype: torch.dtype = F64):
    t = TINY[name]
    return build(t.config, t.space, t.condition, dtype=dtype, seed=3)


def labels(model, n: int):
    return None if model.condition is None else torch.arange(n) % model.classes


def states(space: Integers) -> torch.Tensor:
    grid = torch.cartesian_prod(*[torch.arange(space.levels)] * space.dims)
    return grid.reshape(-1, *space.shape)


def blobs(n: int, d: int, seed: int = 0, centres: int = 4) -> torch.Tensor:
    """Rows from elongated clusters far from the origin."""
    noise = Noise(seed, n)
    centre = 4 * Noise(seed + 1, centres).normal((d,), dtype=F64) + 5
    mix = torch.eye(d, dtype=F64) + 0.5 * Noise(seed + 2, d).normal((d,), dtype=F64)
    return centre[noise.integers(centres)] + noise.normal((d,), dtype=F64) @ mix


# Verbs and shapes ----------------------------------------------------------------------------------------------------


def test_verbs_follow_the_space():
    want = {"ClosedForm", "Samples", "Exact", "Marginal"}
    for name in TINY:
        assert set(verbs(make(name))) == want | ({"Ordered"} if "categorical" in name else set()), name


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_every_batch_size_and_dtype(name, dtype, n):
    model = make(name, dtype)
    y = labels(model, n)
    x = model.space.check(model.sample(n, y, noise=Noise(0, n)))
    cells = x.cells if isinstance(x, Rows) else x
    if not isinstance(model.space, Integers):
        assert cells.dtype == dtype
    seen = Noise(1, n).uniform(model.space.shape) < 0.5
    assert model.log_prob(x, y).dtype == model.log_marginal(x, seen, y).dtype == dtype
    assert model.log_prob(x, y).shape == model.log_marginal(x, seen, y).shape == (n,)
    assert model.space.len(model.sample_given(3, x, seen, y, noise=Noise(0, n, 3))) == 3 * n
    assert model.space.len(model.sample(n, y, noise=Noise(0, n, 2))) == 2 * n
    if n:
        model.prepare(x, y, noise=Noise(2, n))
    for _ in range(3):
        statistics = model.statistics(x, y)
        assert all(value.dtype == F64 for value in statistics.values())
        assert statistics["count"] == n
        model.absorb(statistics)
    assert torch.isfinite(model.log_prob(x, y)).all()
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


@pytest.mark.parametrize("name", TINY)
def test_float32_agrees_with_float64(name):
    model, narrow = make(name), make(name, torch.float32)
    y = labels(model, 20)
    x = model.sample(20, y, noise=Noise(0, 20))
    torch.testing.assert_close(narrow.log_prob(x, y).double(), model.log_prob(x, y), rtol=1e-5, atol=1e-5)


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"covariance is 'full'.*accepts 'diagonal'"):
        build("mixture", Integers((3,), 2), covariance="full")
    with pytest.raises(ValueError, match="condition is"):
        build("mixture", Integers((3,), 2), Integers((3,), 2))
    with pytest.raises(ValueError, match="y is None"):
        make("categorical-labels").log_prob(torch.zeros(1, 4, dtype=torch.int64))
    model = make("diagonal")
    with pytest.raises(ValueError, match="noise has 2 draws"):
        model.sample_given(3, torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), noise=Noise(0, 1, 2))


def test_every_preset_builds():
    for preset, config in presets("mixture").items():
        model = build("mixture", Reals((2,)), Integers((), 3), preset=preset, dtype=F64)
        assert model.log_prob(torch.zeros(2, 2), torch.tensor([0, 2])).isfinite().all()
        assert model.components == config.components


# Densities ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["categorical", "categorical-labels"])
def test_categorical_density_marginals_and_conditionals_by_enumeration(name):
    model = make(name)
    space, x = model.space, states(model.space)
    for label in range(model.classes):
        y = None if model.condition is None else torch.full((len(x),), label)
        p = model.log_prob(x, y).exp()
        assert abs(p.sum() - 1) < 1e-12
        # log p itself, written out
        theta = model.logits[label].log_softmax(1)  # (Q, L, K)
        leaf = theta[torch.arange(space.dims), x.flatten(1)].sum(1)
        direct = (leaf + model.weight_logits[label].log_softmax(0)).logsumexp(1)
        torch.testing.assert_close(model.log_prob(x, y), direct, rtol=0, atol=1e-12)
        # every pattern of seen cells, each row with its own pattern
        flat, patterns = x.flatten(1), torch.cartesian_prod(*[torch.tensor([False, True])] * space.dims)
        pick = torch.arange(len(patterns)) % len(x)
        agree = ((flat[:, None] == flat[pick][None]) | ~patterns[None]).all(2)
        brute = (p[:, None] * agree).sum(0).log()
        seen = patterns.reshape(-1, *space.shape)
        label_of = None if y is None else torch.full((len(pick),), label)
        torch.testing.assert_close(model.log_marginal(x[pick], seen, label_of), brute, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["categorical", "categorical-labels"])
def test_categorical_draws_follow_the_conditional(name):
    model = make(name)
    space, x, n = model.space, states(model.space), 20_000
    y = None if model.condition is None else torch.full((len(x),), 1)
    p = model.log_prob(x, y).exp()
    code = space.levels ** torch.arange(space.dims - 1, -1, -1)
    one = None if y is None else y[:1]
    draws = model.sample(n, None if y is None else one.expand(n), noise=Noise(5, n)).flatten(1)
    assert _distance((draws * code).sum(1), p) < 0.03
    seen = (torch.arange(space.dims) % 2 == 0).reshape(1, *space.shape)
    given = x[37:38]
    agree = ((x == given) | ~seen).flatten(1).all(1)
    draws = model.sample_given(n, given, seen, one, noise=Noise(6, 1, n)).flatten(1)
    assert _distance((draws * code).sum(1), p * agree / p[agree].sum()) < 0.02


def _distance(code: torch.Tensor, p: torch.Tensor) -> float:
    """Total variation between drawn states and their probabilities."""
    return float((torch.bincount(code, minlength=len(p)) / len(code) - p.detach()).abs().sum() / 2)


@pytest.mark.parametrize("name", ["categorical", "categorical-labels"])
def test_the_chain_of_conditionals_is_the_density(name):
    model = make(name)
    x = states(model.space)
    y = labels(model, len(x))
    state, conditional = model.start(len(x), y)
    total = torch.zeros(len(x), dtype=F64)
    for x_i in x.reshape(len(x), -1, model.sites).unbind(2):
        torch.testing.assert_close(conditional.parameters.exp().sum(1), torch.ones_like(total))
        total += conditional.log_prob(x_i)
        state, conditional = model.step(state, x_i)
    assert conditional is None
    torch.testing.assert_close(total, model.log_prob(x, y), rtol=0, atol=1e-12)


def gaussians(model):
    """Weights (C, K), means and covariances (C, K, ...) as NumPy arrays."""
    mean = model.mean.detach()
    if hasattr(model, "lower"):
        factor = model.lower.tril(-1) + model.log_scale.exp().diag_embed()
        covariance = (factor @ factor.mT).expand(len(mean), -1, -1)
    else:
        covariance = (2 * model.log_scale).exp().diag_embed()
    shape = (model.classes, model.components)
    return (
        model.weight_logits.detach().softmax(1).numpy(),
        mean.reshape(*shape, -1).numpy(),
        covariance.detach().reshape(*shape, *covariance.shape[1:]).numpy(),
    )


@pytest.mark.parametrize("name", [n for n in TINY if n.split("-")[0] in ("diagonal", "full", "tied")])
def test_gaussian_marginals_against_scipy(name):
    model = make(name)
    d = model.space.dims
    weight, mean, covariance = gaussians(model)
    patterns = torch.cartesian_prod(*[torch.tensor([False, True])] * d)
    x = 2 * Noise(4, len(patterns)).normal((d,), dtype=F64)
    y = labels(model, len(x))
    got, whole = model.log_marginal(x, patterns, y), model.log_prob(x, y)
    for i, seen in enumerate(patterns.numpy()):
        c = 0 if y is None else int(y[i])
        for mask, value in ((seen, got[i]), (np.ones(d, bool), whole[i])):
            density = (
                1.0
                if not mask.any()
                else sum(
                    w * multivariate_normal.pdf(x[i].numpy()[mask], m[mask], s[mask][:, mask])
                    for w, m, s in zip(weight[c], mean[c], covariance[c], strict=True)
                )
            )
            assert float(value.detach()) == pytest.approx(math.log(density), abs=1e-10)


@pytest.mark.parametrize("name", ["diagonal-labels", "full", "tied"])
def test_gaussian_draws_follow_the_conditional(name):
    """First two moments of p(x_a given x_b), from mu_a + S_ab S_bb^-1 (x_b - mu_b), with a pattern for each row."""
    model, n = make(name), 40_000
    d = model.space.dims
    weight, mean, covariance = gaussians(model)
    x = Noise(4, 2).normal((d,), dtype=F64)
    seen = torch.zeros(2, d, dtype=torch.bool)
    seen[0, 0], seen[1, 1:] = True, True
    y = None if model.condition is None else torch.tensor([1, 0])
    draws = model.sample_given(n, x, seen, y, noise=Noise(8, 2, n)).detach().reshape(2, n, d).numpy()
    for i in range(2):
        b, c = seen[i].numpy(), 0 if y is None else int(y[i])
        a, value = ~b, x[i].numpy()
        assert (draws[i][:, b] == value[b]).all()
        r, m, s = [], [], []
        for w, mu, sigma in zip(weight[c], mean[c], covariance[c], strict=True):
            gain = sigma[a][:, b] @ np.linalg.inv(sigma[b][:, b])
            r.append(w * multivariate_normal.pdf(value[b], mu[b], sigma[b][:, b]))
            m.append(mu[a] + gain @ (value[b] - mu[b]))
            s.append(sigma[a][:, a] - gain @ sigma[b][:, a])
        r = np.array(r) / sum(r)
        centre = np.einsum("k,ka->a", r, np.array(m))
        second = np.einsum("k,kab->ab", r, np.array(s)) + np.einsum("k,ka,kb->ab", r, np.array(m), np.array(m))
        spread = second - np.outer(centre, centre)
        got = draws[i][:, a]
        assert np.abs(got.mean(0) - centre).max() < 5 * math.sqrt(spread.max() / n)
        assert np.abs(np.cov(got.T, bias=True) - spread).max() < 0.05 * spread.max()


@pytest.mark.parametrize("name", ["full", "tied", "diagonal-labels"])
def test_gaussian_draws_have_the_mixture_s_moments(name):
    model, n = make(name), 40_000
    with torch.no_grad():
        model.mean.mul_(0.1)  # so that the covariances show, and not the means alone
        if hasattr(model, "lower"):
            model.lower.fill_(0.8)
    weight, mean, covariance = gaussians(model)
    y = None if model.condition is None else torch.ones(n, dtype=torch.int64)
    c = 0 if y is None else 1
    draws = model.sample(n, y, noise=Noise(1, n)).detach().numpy()
    centre = weight[c] @ mean[c]
    spread = np.einsum("k,kab->ab", weight[c], covariance[c] + np.einsum("ka,kb->kab", mean[c], mean[c]))
    spread = spread - np.outer(centre, centre)
    assert np.abs(draws.mean(0) - centre).max() < 5 * math.sqrt(spread.max() / n)
    assert np.abs(np.cov(draws.T, bias=True) - spread).max() < 0.04 * spread.max()


def test_table_density_sums_and_integrates_to_one():
    model = make("table-labels")
    grid = torch.linspace(-9, 9, 181, dtype=F64)
    cells = torch.cartesian_prod(grid, torch.arange(3.0, dtype=F64), grid, torch.arange(2.0, dtype=F64))
    x = Rows(cells, torch.ones_like(cells, dtype=torch.bool))
    p = model.log_prob(x, torch.ones(len(cells), dtype=torch.int64)).detach().exp()
    assert abs(float(p.sum()) * 0.1**2 - 1) < 1e-6


def test_missing_cells_of_a_table_are_summed_out_whatever_they_hold():
    model = make("table")
    seen = torch.tensor([[True, False, False, True]])
    junk = Rows(torch.tensor([[0.3, 77.0, torch.nan, 1.0]], dtype=F64), seen)
    grid = torch.linspace(-12, 12, 2401, dtype=F64)
    cells = torch.cartesian_prod(torch.tensor([0.3], dtype=F64), torch.arange(3.0, dtype=F64), grid)
    cells = torch.cat([cells, torch.ones(len(cells), 1, dtype=F64)], 1)
    whole = Rows(cells, torch.ones_like(cells, dtype=torch.bool))
    brute = (model.log_prob(whole).exp().sum() * 0.01).log()
    torch.testing.assert_close(model.log_prob(junk)[0], brute, rtol=0, atol=1e-9)
    torch.testing.assert_close(model.log_marginal(Rows(cells[:1], whole.seen[:1]), seen)[0], brute, rtol=0, atol=1e-9)
    filled = model.sample_given(50, junk, seen, noise=Noise(0, 1, 50))
    assert filled.seen.all()
    assert (filled.cells[:, [0, 3]] == torch.tensor([0.3, 1.0], dtype=F64)).all()
    assert set(filled.cells[:, 1].tolist()) <= {0.0, 1.0, 2.0}
    model.space.check(filled)


# EM -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", ["full", "tied", "diagonal"])
def test_ten_steps_of_em_are_scikit_learn_s(covariance):
    n, d, k, floor = 300, 4, 5, 1e-6
    x = blobs(n, d)
    model = build("mixture", Reals((d,)), components=k, covariance=covariance, variance_floor=floor, dtype=F64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.mean.copy_(x[:k])
    kind = {"full": "full", "tied": "tied", "diagonal": "diag"}[covariance]
    precision = {"full": np.tile(np.eye(d), (k, 1, 1)), "tied": np.eye(d), "diag": np.ones((k, d))}[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        rival = GaussianMixture(
            k,
            covariance_type=kind,
            tol=0,
            max_iter=10,
            reg_covar=floor,
            weights_init=np.full(k, 1 / k),
            means_init=x[:k].numpy(),
            precisions_init=precision,
        ).fit(x.numpy())
    for _ in range(10):
        model.absorb(model.statistics(x))
    assert np.abs(model.log_prob(x).detach().numpy() - rival.score_samples(x.numpy())).max() < 1e-8


def data_for(model, n: int):
    """Rows with structure that the model was not made with."""
    y, noise = labels(model, n), Noise(9, n)
    space = model.space
    if isinstance(space, Integers):
        hidden = noise.integers(2)[:, None]
        flip = (noise.uniform((space.dims,)) < 0.2).long()
        return (hidden + flip).remainder(space.levels).reshape(-1, *space.shape), y
    if isinstance(space, Reals):
        return blobs(n, space.dims, 3), y
    real = blobs(n, 2, 3)
    codes = torch.stack([noise.integers(3), noise.integers(2)], 1)
    cells = torch.stack([real[:, 0], codes[:, 0], real[:, 1], codes[:, 1]], 1)
    seen = noise.uniform((4,)) < torch.tensor([0.7, 0.6, 2.0, 2.0])
    return Rows(cells, seen), y


@pytest.mark.parametrize("name", TINY)
def test_em_never_lowers_the_log_likelihood(name):
    t = TINY[name]
    config = t.config.model_copy(update={"pseudo_count": 1e-9, "variance_floor": 1e-9})
    model = build(config, t.space, t.condition, dtype=F64)
    x, y = data_for(model, 200)
    values = []
    for _ in range(25):
        statistics = model.statistics(x, y)
        values.append(float(statistics["log_prob"]))
        model.absorb(statistics)
    assert values[0] == pytest.approx(
        float(build(config, t.space, t.condition, dtype=F64).log_prob(x, y).sum().detach())
    )
    assert values[-1] > values[0]
    assert np.diff(values).min() > -1e-6


@pytest.mark.parametrize("name", TINY)
def test_statistics_add_over_batches(name):
    model = make(name)
    x, y = data_for(model, 64)
    whole = model.statistics(x, y)
    parts = [
        model.statistics(model.space.take(x, piece), None if y is None else y[piece])
        for piece in (slice(0, 10), slice(10, 11), slice(11, 64))
    ]
    for key, value in whole.items():
        torch.testing.assert_close(sum(part[key] for part in parts), value, rtol=1e-10, atol=1e-10)


def test_labels_are_blocks_that_do_not_mix():
    """EM with labels equals EM on each class alone."""
    both = make("full-labels")
    x, y = data_for(both, 100)
    alone = build(TINY["full-labels"].config, Reals((2,)), dtype=F64)
    with torch.no_grad():
        alone.weight_logits.copy_(both.weight_logits[1:])
        for name in ("mean", "log_scale", "lower"):
            getattr(alone, name).copy_(getattr(both, name)[2:])
    for _ in range(5):
        both.absorb(both.statistics(x, y))
        alone.absorb(alone.statistics(x[y == 1]))
    torch.testing.assert_close(both.log_prob(x, torch.ones_like(y)), alone.log_prob(x))


def test_one_categorical_component_is_naive_bayes():
    x, y = torch.tensor([[0, 1], [0, 2], [1, 2], [2, 2]]), torch.tensor([0, 0, 0, 1])
    model = build("mixture", Integers((2,), 3), Integers((), 2), preset="naive-bayes", pseudo_count=0.5, dtype=F64)
    model.absorb(model.statistics(x, y))
    want = math.log(2.5 / 4.5) + math.log(2.5 / 4.5)
    assert float(model.log_prob(x[1:2], torch.tensor([0]))) == pytest.approx(want)
    assert float(model.log_prob(x[:1], torch.tensor([1]))) == pytest.approx(math.log(0.5 / 2.5) * 2)


def test_missing_at_random_cells_of_a_table_do_not_bias_em():
    """Values go missing where another column says so: the mean of the seen cells is wrong, EM's is right."""
    n = 4000
    noise = Noise(0, n)
    hidden = noise.integers(2)
    label = torch.where(noise.uniform() < 0.95, hidden, 1 - hidden)
    value = noise.normal(dtype=F64) + 6.0 * hidden
    space = Table((Column("value", missing=True), Column("label", ("a", "b"))))
    gone = (label == 1) & (noise.uniform() < 0.8)
    x = Rows(torch.stack([value, label.double()], 1), torch.stack([~gone, torch.ones_like(gone)], 1))
    model = build("mixture", space, components=2, variance_floor=1e-6, pseudo_count=1e-3, dtype=F64)
    model.prepare(x, noise=Noise(1, n))
    for _ in range(60):
        model.absorb(model.statistics(x))
    mean = (model.weight_logits.softmax(1)[0] @ model.mean[:, 0]).item()
    assert abs(value[~gone].mean().item() - value.mean().item()) > 1
    assert mean == pytest.approx(value.mean().item(), abs=0.15)
    assert sorted(model.mean[:, 0].tolist()) == pytest.approx([0, 6], abs=0.2)


@pytest.mark.parametrize("name", TINY)
def test_an_empty_component_and_an_absent_class_are_harmless(name):
    model = make(name)
    x, y = data_for(model, 30)
    with torch.no_grad():
        model.weight_logits[:, 0] = -1e9
    if y is not None:
        y = torch.zeros_like(y)
        before = model.log_prob(x, torch.ones_like(y)).detach()
    for _ in range(3):
        model.absorb(model.statistics(x, y))
    assert model.log_prob(x, y).isfinite().all()
    if y is not None and "tied" not in name:
        torch.testing.assert_close(model.log_prob(x, torch.ones_like(y)).detach(), before)


def test_prepare_finds_separate_clusters_in_every_class():
    n, k = 400, 4
    noise = Noise(0, n)
    y, cluster = noise.integers(2), noise.integers(k)
    corners = torch.tensor([[0.0, 0.0], [0.0, 50.0], [50.0, 0.0], [50.0, 50.0]], dtype=F64)
    x = corners[cluster] + 1000 * y[:, None] + noise.normal((2,), dtype=F64)
    for covariance in ("diagonal", "full", "tied"):
        model = build("mixture", Reals((2,)), Integers((), 2), components=k, covariance=covariance, dtype=F64)
        model.prepare(x, y, noise=Noise(3, n))
        for label in range(2):
            mean = model.mean.detach().reshape(2, k, 2)[label]
            assert float(torch.cdist(corners + 1000 * label, mean).amin(1).max()) < 1
        again = build("mixture", Reals((2,)), Integers((), 2), components=k, covariance=covariance, dtype=F64)
        again.prepare(x, y, noise=Noise(3, n))
        assert torch.equal(again.mean, model.mean)


# Digits -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def accuracy(model, x, y) -> float:
    joint = [model.log_prob(x, torch.full_like(y, c)) for c in range(10)]
    return float((torch.stack(joint, 1).argmax(1) == y).double().mean())


def digits(space):
    bunch = load_digits()
    images, y = torch.from_numpy(bunch.images), torch.from_numpy(bunch.target).long()
    if isinstance(space, Reals):
        x = (images.flatten(1) + Noise(0, len(y)).uniform((64,), dtype=F64)) / 17
    else:
        x = images.long()[:, None]
    return x[:1000], y[:1000], x[1350:], y[1350:]


@pytest.mark.parametrize(
    ("space", "fields", "least", "bits"),
    [
        (Reals((64,)), {"components": 2, "covariance": "full", "variance_floor": 0.1}, 0.94, None),
        (Reals((64,)), {"components": 2, "covariance": "tied"}, 0.9, None),
        (Integers((1, 8, 8), 17), {"components": 1}, 0.83, 2.26),
        (Integers((1, 8, 8), 17), {"components": 4}, 0.87, 2.32),
    ],
)
def test_class_conditional_digits(space, fields, least, bits):
    x, y, x_test, y_test = digits(space)
    model = build("mixture", space, Integers((), 10), dtype=F64, **fields)
    model.prepare(x, y, noise=Noise(0, len(y)))
    for _ in range(12):
        model.absorb(model.statistics(x, y))
    assert accuracy(model, x_test, y_test) > least
    if bits:
        assert float(-model.log_prob(x_test, y_test).mean()) / 64 / math.log(2) < bits
