"""DAED: the division into generator and denoiser, and the entropy that its bound must not lose."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

import likely as lk
from likely.families.diffusion.daed import fit_width, log_snr_of, parts_of, split
from likely.families.diffusion.schedule import signal_noise
from likely.tasks.profile import profile

SPACE = lk.Integers((1, 4, 4), 8)
FIELDS = {"net": "mlp", "width": 16, "blocks": (1,)}


def shaken(seed=0, **fields):
    model = lk.build("diffusion", SPACE, seed=seed, **FIELDS, **fields)
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.add_(0.1 * lk.Noise(i, 1).normal(parameter.shape)[0])
    return model.eval()


def rows(n=64, seed=9):
    return lk.Noise(seed, n).integers(8, SPACE.shape)


def test_the_first_step_in_log_snr():
    for beta in (0.001, 0.1, 0.5):
        alpha, sigma = signal_noise(torch.tensor(log_snr_of(beta), dtype=torch.float64))
        assert float(sigma**2) == pytest.approx(beta) and float(alpha**2) == pytest.approx(1 - beta)
    assert log_snr_of(0.1) == pytest.approx(math.log(9))
    with pytest.raises(ValueError, match="beta is 0"):
        log_snr_of(0)


@pytest.mark.parametrize(("beta", "bits"), [(0.1, 0.386), (0.001, -2.936)])
def test_the_entropy_that_the_slide_leaves_open(beta, bits):
    model = shaken(decoder="separate", high=log_snr_of(beta))
    parts = parts_of(model, rows(), noise=lk.Noise(1, 64))
    assert float((parts.entropy / (16 * math.log(2))).mean()) == pytest.approx(bits, abs=1e-3)
    total = parts.denoiser + parts.generator + parts.entropy
    torch.testing.assert_close(total, model.elbo(rows(), noise=lk.Noise(1, 64)))


def test_split_uses_each_model_on_its_side():
    high, low, at = shaken(1), shaken(2), 2.0
    both, x = split(high, low, at), rows()
    z = lk.Noise(3, 64).normal(SPACE.shape)
    level = torch.full((64,), at).double()
    assert torch.equal(both._reads(z, level, None), low._denoise(z, level, None))
    assert torch.equal(both.denoise(z, level), high.denoise(z, level))
    own, theirs = both.elbo_terms(x, noise=lk.Noise(4, 64)), high.elbo_terms(x, noise=lk.Noise(4, 64))
    assert torch.equal(own.prior, theirs.prior)
    assert not torch.equal(own.reconstruction, theirs.reconstruction)
    other = split(high, shaken(5), at).elbo_terms(x, noise=lk.Noise(4, 64))
    assert torch.equal(own.diffusion, other.diffusion)  # the generator's term knows nothing of the denoiser
    assert not torch.equal(own.reconstruction, other.reconstruction)


def test_the_generator_stops_at_the_division():
    asked = []
    both = split(shaken(1), shaken(2), 2.0)
    inner = both.core.denoise
    both.core.denoise = lambda z, log_snr, condition=None: asked.append(log_snr) or inner(z, log_snr, condition)
    both.elbo(rows(), noise=lk.Noise(0, 64, 8))
    lk.sample(both, 4, seed=0)
    assert max(float(a.max()) for a in asked) <= 2.0 + 1e-9


def test_split_refuses_what_does_not_fit():
    other = lk.build("diffusion", lk.Integers((2,), 8), **FIELDS)
    with pytest.raises(ValueError, match="denoiser_low is a model of"):
        split(shaken(), other, 2.0)
    with pytest.raises(ValueError, match="has seen log-SNRs from"):
        split(shaken(), shaken(), 40.0)
    labelled = lk.build("diffusion", SPACE, lk.Integers((), 3), **FIELDS)
    with pytest.raises(ValueError, match="has the condition"):
        split(labelled, shaken(), 2.0)
    with pytest.raises(ValueError, match="denoiser_low has prediction = 'noise'; accepts 'v', as denoiser_high has it"):
        split(shaken(), shaken(prediction="noise"), 2.0)
    reals = [lk.build("diffusion", lk.Reals((2,)), **FIELDS) for _ in range(2)]
    reals[1].prepare(3 * lk.Noise(0, 8).normal((2,)), noise=lk.Noise(0, 8))
    with pytest.raises(ValueError, match="denoiser_low scales its data otherwise"):
        split(*reals, 2.0)
    with pytest.raises(ValueError, match="direct decoder"):
        fit_width(shaken(), rows(), noise=lk.Noise(0, 64))


def test_the_width_is_the_most_likely_one():
    model, x = shaken(decoder="separate", high=0.5), rows()
    width = fit_width(model, x, noise=lk.Noise(0, 64, 4))

    def reconstruction(factor):
        with torch.no_grad():
            model.log_width.fill_(math.log(width * factor))
            return float(model.elbo_terms(x, noise=lk.Noise(7, 64, 64)).reconstruction.mean())

    assert reconstruction(1.0) < min(reconstruction(0.7), reconstruction(1.4))


def test_trained_together_both_parts_learn():
    x = rows(256)
    x[:, 0, 2:] = x[:, 0, :2]
    model = lk.build("diffusion", SPACE, **FIELDS, decoder="separate", high=2.0)
    before = model.elbo_terms(x, noise=lk.Noise(0, 256, 8))
    data = SimpleNamespace(train=SimpleNamespace(x=x, y=None), valid=None, space=SPACE, condition=None)
    lk.fit(model, data, steps=300, batch=64, lr=5e-3, valid_every=0, progress=False, threads=1)
    after = model.elbo_terms(x, noise=lk.Noise(0, 256, 8))
    assert float(after.diffusion.mean()) < float(before.diffusion.mean()) - 0.5
    assert float(after.reconstruction.mean()) < float(before.reconstruction.mean()) - 0.5


def test_the_profile_integrates_to_the_bound():
    model, x = shaken(), rows(256)
    found = profile(model, x, points=200, seed=1)
    bound = -model.elbo_terms(x, noise=lk.Noise(2, 256, 64)).diffusion.double()
    bits = float(-bound.mean() / (16 * math.log(2)))
    error = float(bound.reshape(256, 64).mean(1).std() / math.sqrt(256)) / (16 * math.log(2))
    assert float(found.bits[-1]) - found.prior == pytest.approx(bits, abs=5 * error + 0.01 * bits)
    assert float(model.schedule.low) < found.divide < float(model.schedule.high)
    assert bool((found.bits.diff() >= 0).all())
    assert str(found).startswith("bpd ~ ")  # a rule with few points is on no side of the bound
