"""The VAE against quadrature, closed forms and torch.distributions; book mistakes 5 to 9; the contract for draws."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch import distributions as td

from likely.families.vae import TINY, VAE, Gaussian, GaussianMixture
from likely.logprob import Kind, log_prob, sample
from likely.noise import Noise
from likely.registry import build
from likely.space import Integers, Reals, Space

DISCRETE = [name for name, tiny in TINY.items() if isinstance(tiny.space, Integers)]


def made(name: str, seed: int = 3) -> VAE:
    """A tiny instance in float64, its parameters pushed away from their start."""
    tiny = TINY[name]
    model = build(tiny.config, tiny.space, tiny.condition, seed=seed, dtype=torch.float64)
    push = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=push, dtype=torch.float64)
        last = model.encoder[-1]  # q a little wider than the prior, so that importance weights have light tails
        last.weight /= 3
        last.bias[model.config.latent :] = 0.8
    assert isinstance(model, VAE)
    return model


def states(space: Space) -> Tensor:
    """Every x of a finite space."""
    assert isinstance(space, Integers)
    every = torch.tensor(list(itertools.product(range(space.levels), repeat=space.dims)))
    return every.reshape(-1, *space.shape)


def labels(model: VAE, n: int) -> Tensor | None:
    return None if model.condition is None else torch.full((n,), 1)


@torch.no_grad()
def by_quadrature(model: VAE, x: Tensor) -> Tensor:
    """log p(x) (given y = 1) by the trapezoid rule over z."""
    line = torch.linspace(-12, 12, 161, dtype=torch.float64)
    z = torch.cartesian_prod(*[line] * model.config.latent).reshape(-1, model.config.latent)
    log_z = model.prior(labels(model, 1)).log_prob(z) + model.config.latent * math.log(float(line[1] - line[0]))
    z, log_z = z[log_z > -40], log_z[log_z > -40]
    given_z = model.likelihood(z, labels(model, len(z)))
    return torch.stack([(log_z + given_z.log_prob(row.expand(len(z), *row.shape))).logsumexp(0) for row in x])


@torch.no_grad()
def draws(model: VAE, x: Tensor, k: int, verb: str = "log_weight") -> Tensor:
    """k draws of a verb for each row, (n, k)."""
    return getattr(model, verb)(x, labels(model, len(x)), noise=Noise(1, len(x), k)).reshape(len(x), k)


# The truth -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bernoulli", "mixture", "vamp", "flow", "conv-given-y"])
def test_the_truth_sums_to_one(name):
    """Mistake 8 too: a flow prior whose log-determinant were counted L times would not."""
    model = made(name)
    x = states(model.space)
    total = by_quadrature(model, x).logsumexp(0)
    assert abs(float(total)) < 1e-6


@pytest.mark.parametrize("name", DISCRETE)
def test_weights_are_unbiased_and_bounds_in_order(name):
    """L4: E[exp log_weight] = p(x). L1: E[elbo] <= E[IWAE_2] <= E[IWAE_16] <= log p; 6 standard errors each."""
    model = made(name)
    x = states(model.space)
    x = x[torch.linspace(0, len(x) - 1, 6).long()]
    log_p, log_w, elbo = by_quadrature(model, x), draws(model, x, 4096), draws(model, x, 4096, "elbo")
    ratio = (log_w - log_p[:, None]).exp()
    assert ((ratio.mean(1) - 1).abs() < 6 * ratio.std(1) / 64 + 1e-6).all()

    def iwae(k: int) -> Tensor:
        return log_w.reshape(len(x), -1, k).logsumexp(2) - math.log(k)

    def not_above(low: Tensor, high: Tensor) -> bool:
        gap = low - high
        return bool((gap.mean(1) <= 6 * gap.std(1) / math.sqrt(gap.shape[1]) + 1e-9).all())

    assert not_above(elbo.reshape(len(x), -1, 2).mean(2), iwae(2))
    assert not_above(iwae(2).reshape(len(x), -1, 8).mean(2), iwae(16))
    assert not_above(iwae(16), log_p[:, None].expand(-1, 256))
    # the bounds are not vacuous: far more than noise, less than nothing
    assert (elbo.mean(1) < log_p).all()
    # and both are bounds of the same thing: their expectations agree
    difference = elbo - log_w
    assert (difference.mean(1).abs() <= 6 * difference.std(1) / 64 + 1e-9).all()


@pytest.mark.parametrize("name", ["bernoulli", "mixture", "given-y", "flow"])
def test_samples_follow_the_density(name):
    model = made(name)
    x, n = states(model.space), 20_000
    y = labels(model, n)
    found = model.sample(n, y, noise=Noise(5, n)).flatten(1)
    code = (found * model.space.levels ** torch.arange(model.space.dims - 1, -1, -1)).sum(1)
    expected = n * by_quadrature(model, x).exp()
    counts = torch.bincount(code, minlength=len(x)).double()
    common = expected >= 5
    chi2 = ((counts - expected).square() / expected)[common].sum() + (
        (counts[~common].sum() - expected[~common].sum()).square() / expected[~common].sum().clamp(min=1)
    )
    degrees = float(common.sum())
    assert chi2 < degrees + 6 * math.sqrt(2 * degrees)


def test_linear_gaussian_equals_the_evidence():
    """L2: where q is the exact posterior of probabilistic PCA, every single weight is p(x)."""
    model = build("vae", Reals((3,)), latent=2, hidden=(), dtype=torch.float64)
    w = torch.tensor([[1.0, 2.0], [2.0, -1.0], [0.5, 0.0]], dtype=torch.float64)  # columns orthogonal: q is diagonal
    mu, sigma = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64), 0.7
    precision = w.T @ w / sigma**2 + torch.eye(2, dtype=torch.float64)
    gain = torch.linalg.solve(precision, w.T / sigma**2)  # E[z | x] = gain (x - mu)
    log_var = -precision.diagonal().log()
    (enc,), (dec,) = model.encoder, model.decoder
    with torch.no_grad():
        enc.weight.copy_(torch.cat([gain, torch.zeros(2, 3)]))
        enc.bias.copy_(torch.cat([-gain @ mu, 7 * torch.atanh(log_var / 7)]))
        dec.weight.copy_(torch.cat([w, torch.zeros(3, 2)]))
        dec.bias.copy_(torch.cat([mu, mu.new_full((3,), math.log(sigma))]))
    assert abs(float(precision[0, 1])) < 1e-12
    x = Noise(0, 8).normal((3,), dtype=torch.float64) * 2
    evidence = td.MultivariateNormal(
        mu, w @ w.T + sigma**2 * torch.eye(3, dtype=torch.float64), validate_args=True
    ).log_prob(x)
    assert (draws(model, x, 5) - evidence[:, None]).abs().max() < 1e-8
    elbo = draws(model, x, 4096, "elbo")
    assert ((elbo.mean(1) - evidence).abs() < 6 * elbo.std(1) / 64).all()
    assert torch.allclose(log_prob(model, x, k=3).nats, evidence, atol=1e-8, rtol=0)


def test_kl_in_closed_form():
    """L3: closed form = torch.distributions = Monte Carlo, and never negative."""
    q = Gaussian(*Noise(2, 5).normal((2, 3), dtype=torch.float64).unbind(1))
    p = td.Normal(torch.zeros(3, dtype=torch.float64), 1.0, validate_args=True)
    kl = q.kl_to_standard()
    reference = td.kl_divergence(td.Normal(q.mean, (q.log_var / 2).exp(), validate_args=True), p).sum(1)
    assert torch.allclose(kl, reference, atol=1e-12)
    assert (kl >= 0).all()
    noise = Noise(3, 5, 40_000)
    z = q.sample(noise)
    each = (q.expand(noise).log_prob(z) - p.log_prob(z).sum(1)).reshape(5, -1)
    assert ((each.mean(1) - kl).abs() < 6 * each.std(1) / 200).all()


class TwoStates(nn.Module):
    """p(z) = (.5, .5), p(x=1 | z) = q(z | x=1) = (.9, .1): lessons for the core, on the smallest latent model."""

    space, condition = Integers((1,), 2), None

    def _z(self, noise: Noise) -> Tensor:
        first = noise.uniform(dtype=torch.float64) < 0.9
        return 0.1 + 0.8 * first.double()  # p(x=1 | z), which is q(z | x=1) as well

    def elbo(self, x: Tensor, y: None = None, *, noise: Noise) -> Tensor:
        kl = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
        return self._z(noise).log() - kl


class TwoStatesWeighted(TwoStates):
    def log_weight(self, x: Tensor, y: None = None, *, noise: Noise) -> Tensor:
        each = self._z(noise)
        return each.log() + math.log(0.5) - each.log()


def test_only_weights_may_be_averaged_in_the_exponent():
    """Log-mean-exp of analytic-KL draws ends above log p = log .5; of weights it does not, nor does the door."""
    x, k, truth = torch.ones(1, 1, dtype=torch.int64), 20_000, math.log(0.5)
    bound, weight = TwoStates(), TwoStatesWeighted()
    wrong = bound.elbo(x, noise=Noise(0, 1, k)).logsumexp(0) - math.log(k)
    assert abs(float(wrong) + 0.567) < 0.01
    assert wrong > truth + 0.1
    right = weight.log_weight(x, noise=Noise(0, 1, k)).logsumexp(0) - math.log(k)
    assert abs(float(right) - truth) < 1e-9
    assert log_prob(bound, x, k=2000).nats < truth + 0.08  # q is exact here: the mean draw is log p itself
    assert abs(float(log_prob(weight, x, k=2000).nats) - truth) < 1e-9


# The book's mistakes -------------------------------------------------------------------------------------------------


def test_gaussian_density_is_the_textbook_one():
    """Mistake 5: D ln(2 pi) once a coordinate too often; it cancels in q - p alone."""
    z, mean, log_var = Noise(0, 6).normal((3, 4), dtype=torch.float64).unbind(1)
    reference = td.Normal(mean, (log_var / 2).exp(), validate_args=True).log_prob(z).sum(1)
    assert torch.allclose(Gaussian(mean, log_var).log_prob(z), reference, atol=1e-12)
    model = build("vae", Reals((4,)), latent=4, dtype=torch.float64)
    standard = td.Normal(torch.zeros(4, dtype=torch.float64), 1.0, validate_args=True).log_prob(z).sum(1)
    assert torch.allclose(model.prior().log_prob(z), standard, atol=1e-12)


def mixture() -> GaussianMixture:
    return GaussianMixture(
        torch.tensor([0.0, 1.0], dtype=torch.float64),
        torch.tensor([[-6.0, -6.0], [6.0, 6.0]], dtype=torch.float64),
        torch.tensor([[0.5, -0.5], [-1.0, 0.0]], dtype=torch.float64),
    )


def test_mixture_prior_is_a_joint_mixture():
    """Mistake 6: log-sum-exp in each coordinate, then summed, is a product of one-dimensional mixtures."""
    prior = mixture()
    reference = td.MixtureSameFamily(
        td.Categorical(logits=prior.logits, validate_args=True),
        td.Independent(td.Normal(prior.mean, (prior.log_var / 2).exp(), validate_args=True), 1, validate_args=True),
        validate_args=True,
    )
    z = 3 * Noise(0, 50).normal((2,), dtype=torch.float64)
    assert torch.allclose(prior.log_prob(z), reference.log_prob(z), atol=1e-12)
    draw = prior.sample(Noise(1, 4000))
    assert (draw[:, 0] * draw[:, 1] > 0).double().mean() > 0.99  # both coordinates of one component


def test_prior_samples_have_the_prior_scale():
    """Mistake 7: noise times the variance instead of the standard deviation."""
    prior, n = mixture(), 40_000
    z = prior.sample(Noise(1, n))
    first = z[:, 0] < 0
    for part, m in ((z[first], 0), (z[~first], 1)):
        assert torch.allclose(part.std(0), (prior.log_var[m] / 2).exp(), rtol=0.05)
    assert abs(float(first.double().mean()) - 1 / (1 + math.e)) < 0.02
    q = Gaussian(torch.zeros(1, 2, dtype=torch.float64), torch.full((1, 2), math.log(9.0), dtype=torch.float64))
    assert torch.allclose(q.sample(Noise(0, 1, n)).std(0), torch.full((2,), 3.0, dtype=torch.float64), rtol=0.03)


def test_flow_prior_counts_its_log_determinant_once():
    """Mistake 8: the density over z integrates to one."""
    prior = made("flow").requires_grad_(False).prior()
    line = torch.linspace(-14, 14, 701, dtype=torch.float64)
    total = prior.log_prob(torch.cartesian_prod(line, line)).logsumexp(0) + 2 * math.log(float(line[1] - line[0]))
    assert abs(float(total)) < 1e-6


def test_pseudo_inputs_start_as_data():
    """Mistake 9: a VampPrior that ignores the data it is given. It is the average posterior of distinct rows."""
    space, n = Integers((1, 4, 4), 9), 30
    x, y = Noise(0, n).integers(9, (1, 4, 4)), Noise(1, n).integers(3)
    model = build("vae", space, Integers((), 3), prior="vamp", components=8, hidden=(7,), dtype=torch.float64)
    model.prepare(x, y, noise=Noise(2, n))
    every = space.centred(x, torch.float64)
    rows = [int((every == pseudo).flatten(1).all(1).nonzero().item()) for pseudo in model.pseudo_x]
    assert len(set(rows)) == 8
    assert model.pseudo_y.argmax(1).tolist() == y[rows].tolist()
    z = Noise(3, 5).normal((16,), dtype=torch.float64)
    q = model.posterior(x[rows], y[rows])
    average = torch.stack([Gaussian(m, v).log_prob(z) for m, v in zip(*q, strict=True)]).logsumexp(0) - math.log(8)
    assert torch.allclose(model.prior().log_prob(z), average, atol=1e-10)
    few = build("vae", space, prior="vamp", components=8, hidden=(7,))
    few.prepare(x[:3], noise=Noise(2, 3))
    assert torch.isfinite(few.elbo(x, noise=Noise(0, n))).all()


# The contract for draws ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["elbo", "log_weight"])
@pytest.mark.parametrize("name", ["categorical", "mixture-given-y", "normal", "flow-given-y"])
def test_k_draws_are_k_calls(name, verb):
    model, k = made(name), 4
    x = sample(model, 5, labels(model, 5), seed=0)
    ids, y = torch.tensor([7, 1, 0, 30, 2]), labels(model, 5)
    together = getattr(model, verb)(x, y, noise=Noise(9, ids, k)).reshape(5, k)
    for j in range(k):
        alone = getattr(model, verb)(x, y, noise=Noise(9, ids, range(j, j + 1)))
        assert torch.allclose(together[:, j], alone, atol=1e-12)
    assert (together[:, 0] != together[:, 1]).all()
    if verb == "log_weight":  # the door mixes the same draws in the exponent
        reading = log_prob(model, x, y, k, seed=9, rows=ids).nats
        assert torch.allclose(reading, together.logsumexp(1) - math.log(k), atol=1e-12)


def test_the_encoder_runs_once_for_all_draws():
    model, rows = made("bernoulli"), {}
    for name in ("encoder", "decoder"):
        part = getattr(model, name)
        part.register_forward_hook(lambda m, i, o, name=name: rows.setdefault(name, []).append(len(o)))
    model.log_weight(states(model.space)[:6], noise=Noise(0, 6, 100))
    assert rows == {"encoder": [6], "decoder": [600]}


@pytest.mark.parametrize("name", list(TINY))
def test_shapes_types_and_gradients(name):
    tiny = TINY[name]
    for dtype in (torch.float32, torch.float64):
        model = build(tiny.config, tiny.space, tiny.condition, dtype=dtype)
        x = sample(model, 7, labels(model, 7), seed=1)
        y = labels(model, 7)
        for n in (0, 1, 7):
            part = None if y is None else y[:n]
            for verb in (model.elbo, model.log_weight):
                value = verb(x[:n], part, noise=Noise(0, n, 3))
                assert value.shape == (3 * n,)
                assert value.dtype == dtype
                assert torch.isfinite(value).all()
        assert model.likelihood(model.prior(y).sample(Noise(0, 7)), y).mean.shape == x.shape
        tiny.space.check(x)
    model = made(name)  # off its start, where a flow's last layers are zero
    y = None if y is None else torch.arange(7) % tiny.condition.levels
    model.loss(x, y, noise=Noise(0, 7)).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert (parameter.grad != 0).any(), key
    reading = log_prob(model, x, y, k=3)
    assert reading.kind is Kind.BOUND
    assert reading.nats.shape == (7,)


@pytest.mark.parametrize("verb", ["elbo", "log_weight"])
@pytest.mark.parametrize("name", ["bernoulli", "normal-vamp"])
def test_gradients_flow_through_z(name, verb):
    """Reparameterisation: the encoder's gradient is that of finite differences at fixed noise."""
    model = made(name)
    x, bias, step = sample(model, 4, seed=0), model.encoder[-1].bias, 1e-5

    def value() -> Tensor:
        return getattr(model, verb)(x, noise=Noise(0, 4, 2)).sum()

    (gradient,) = torch.autograd.grad(value(), bias)
    for i in range(len(bias)):
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                bias[i] += sign * step
                ends.append(value())
                bias[i] -= sign * step
        assert abs(float((ends[0] - ends[1]) / (2 * step) - gradient[i])) < 1e-6


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 8, 8), (3, 32, 20), (2, 5, 7), (1, 1, 1)])
def test_conv_takes_any_image(shape):
    model = build("vae", Integers(shape, 4), network="conv", channels=(3, 4, 5), blocks=1, latent=2)
    x = sample(model, 3, seed=0)
    assert x.shape == (3, *shape)
    assert model.elbo(x, noise=Noise(0, 3)).shape == (3,)


# Training and its weights --------------------------------------------------------------------------------------------


def test_beta_and_free_bits_shape_the_loss_and_nothing_else():
    x, noise = states(Integers((6,), 2))[:20], lambda: Noise(4, 20)
    fields = {"latent": 2, "hidden": (6,), "seed": 1, "dtype": torch.float64}
    plain = build("vae", Integers((6,), 2), **fields)
    shaped = build("vae", Integers((6,), 2), **fields, beta=3.0, warmup=10, free_bits=0.7)
    kl = plain.posterior(x).kl_to_standard()
    reconstruction = plain.elbo(x, noise=noise()) + kl
    assert torch.allclose(plain.loss(x, noise=noise()), -plain.elbo(x, noise=noise()).mean(), atol=1e-12)
    for done in range(12):
        beta = 3.0 * min(1.0, (done + 1) / 10)
        wanted = (beta * kl.clamp(min=0.7) - reconstruction).mean()
        assert torch.allclose(shaped.loss(x, noise=noise()), wanted, atol=1e-12)
        assert torch.equal(shaped.elbo(x, noise=noise()), plain.elbo(x, noise=noise()))
        assert torch.equal(shaped.log_weight(x, noise=noise()), plain.log_weight(x, noise=noise()))
        shaped.after_step()
    assert (kl < 0.7).any()


def test_the_label_matters():
    model = made("given-y").requires_grad_(False)
    x = states(model.space)
    each = [model.elbo(x, torch.full((len(x),), label), noise=Noise(0, len(x))).exp().sum() for label in range(3)]
    assert len({round(float(value), 6) for value in each}) == 3
    draw = [sample(model, 200, label, seed=0).double().mean() for label in range(3)]
    assert len({float(value) for value in draw}) == 3
    with pytest.raises(ValueError, match="y is None"):
        model.elbo(x, noise=Noise(0, len(x)))


def test_reals_are_standardised_and_units_cost_what_they_must():
    """D6: x -> a x + b moves log p by -D log a, exactly, once the model has seen the data's scale."""
    x, a = Noise(0, 40).normal((3,), dtype=torch.float64) * 2 + 1, 1000.0
    one, two = (build("vae", Reals((3,)), latent=2, hidden=(5,), dtype=torch.float64) for _ in range(2))
    one.prepare(x, noise=Noise(0, 40))
    two.prepare(a * x - 7, noise=Noise(0, 40))
    moved = two.log_weight(a * x - 7, noise=Noise(1, 40)) - one.log_weight(x, noise=Noise(1, 40))
    assert torch.allclose(moved, torch.full((40,), -3 * math.log(a), dtype=torch.float64), atol=1e-8)
    constant = torch.cat([x, torch.ones(40, 1, dtype=torch.float64)], 1)
    model = build("vae", Reals((4,)), dtype=torch.float64)
    model.prepare(constant, noise=Noise(0, 40))
    assert torch.isfinite(model.elbo(constant, noise=Noise(0, 40))).all()


def test_training_finds_the_entropy():
    """Two bits tied and one fair coin: 2 ln 2 nats of entropy; 3 ln 2 for a model that sees no tie."""
    coins = Noise(0, 512).integers(2, (2,))
    x = torch.stack([coins[:, 0], coins[:, 0], coins[:, 1]], 1)
    model = build("vae", Integers((3,), 2), latent=2, hidden=(32,), warmup=50)
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    before = -log_prob(model, x, k=32).mean
    for step in range(200):
        optimiser.zero_grad()
        model.loss(x[:128], noise=Noise(step, 128)).backward()
        optimiser.step()
        model.after_step()
    after = -log_prob(model, x, k=32).mean
    assert before > 1.9
    assert 2 * math.log(2) - 0.03 < after < 2 * math.log(2) + 0.25


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "condition", "fields", "words"),
    [
        (Integers((4,), 256), None, {"observation": "normal"}, "observation is 'normal'"),
        (Integers((4,), 17), None, {"observation": "bernoulli"}, "17 levels"),
        (Reals((4,)), None, {"observation": "categorical"}, "observation is 'categorical'"),
        (Reals((4,)), None, {"network": "conv"}, "network is 'conv'"),
        (Reals((4,)), Reals((2,)), {}, "condition is"),
        (Reals((4,)), None, {"latent": 0}, "latent"),
        (Reals((4,)), None, {"beta": 0.0}, "beta"),
        (Reals((4,)), None, {"prior": "vampp"}, "prior"),
    ],
)
def test_what_does_not_fit_is_refused(space, condition, fields, words):
    with pytest.raises(ValueError, match=words):
        build("vae", space, condition, **fields)
