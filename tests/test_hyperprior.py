"""The lossy family: where it starts, what its latents depend on, and that it learns."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.special import expit, ndtr
from torch import Tensor, nn

import likely as lk
from likely.families.hyperprior import Hyperprior, checkerboard, cosines
from likely.noise import Noise
from likely.observation import Rounded
from likely.space import Integers, Reals

SMALL = {"patch": 4, "latent": 16, "width": 8, "hyper": 4, "smooth": 4, "lams": (0.01, 0.1, 1.0)}


def made(channels: int = 1, **fields: Any) -> Hyperprior:
    model = lk.build("hyperprior", Integers((channels, 16, 16), 256), **(SMALL | fields))
    assert isinstance(model, Hyperprior)
    return model.eval()


def waves(n: int, channels: int, height: int, width: int) -> Tensor:
    """Smooth pictures of bytes, each with an edge."""
    y, x = torch.arange(height)[:, None] / 7, torch.arange(width) / 11
    each = []
    for i in range(n):
        wave = 90 * (y * (1 + i / 3) + x).sin() + 30 * (x * 3 + i > 2 + y)
        each.append(torch.stack([wave * (1 - c / 4) + 120 for c in range(channels)]))
    return torch.stack(each).round().clamp(0, 255).to(torch.uint8)


def rate(value: float, n: int = 1) -> Tensor:
    return torch.full((n,), value)


# Where it starts ------------------------------------------------------------------------------------------------------


def test_cosines_are_orthonormal_and_the_smoothest_come_first() -> None:
    basis, deviation = cosines(3, 4, 48)
    flat = basis.double().flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(48, dtype=torch.float64), atol=1e-6, rtol=0)
    assert bool((deviation.diff() <= 0).all())
    torch.testing.assert_close(basis[0], torch.full((3, 4, 4), 48**-0.5))  # the mean varies most
    few, _ = cosines(3, 4, 5)
    torch.testing.assert_close(few, basis[:5])


def test_a_model_that_has_learned_nothing_codes_pictures_already() -> None:
    x = waves(2, 1, 32, 48)
    model = made()
    with torch.no_grad():
        _, error = model.rate_distortion(x, rate(3, 2))
        _, worse = model.rate_distortion(x, rate(1, 2))
    assert 10 * math.log10(255**2 / float(error.max())) > 38
    assert bool((worse > 3 * error).all())


def test_prepare_gives_every_coefficient_variance_one_and_changes_no_picture() -> None:
    x, model = waves(40, 3, 16, 16), made(3)
    board = checkerboard(4, 4)

    def decoded() -> Tensor:
        """What the pictures come to when nothing is rounded."""
        _, anchors, others = model.latents(x, rate(2, 40))
        y = torch.empty(40, 16, 4, 4)
        y[..., board], y[..., ~board] = anchors, others
        return model.reconstruct(y, 16, 16, rate(2, 40))

    with torch.no_grad():
        before = decoded()
        model.prepare(x, noise=Noise(0, 40))
        y = model.enter(0.03 * model.space.centred(x, torch.float32))
        torch.testing.assert_close(decoded(), before, atol=0.05, rtol=0)
    deviation = y.transpose(0, 1).flatten(1).std(1, correction=0)
    assert float((deviation - 1).abs().max()) < 1e-3


# What depends on what -------------------------------------------------------------------------------------------------


def test_anchors_have_no_anchors_around_them() -> None:
    board = checkerboard(5, 6)
    assert board.sum() == 15
    assert not bool((board[:, 1:] & board[:, :-1]).any() or (board[1:] & board[:-1]).any())


def test_anchors_hang_on_z_alone_and_the_others_on_the_anchors_around_them() -> None:
    model = made()
    with torch.no_grad():
        z, first, _ = model.latents(waves(1, 1, 64, 64), rate(2))
        for p in model.predict.parameters():
            p.mul_(3)

        def means(first: Tensor) -> tuple[Tensor, Tensor]:
            program = model.groups(64, 64, rate(2))
            next(program)
            of_anchors = program.send(z.round())
            return of_anchors.centre, program.send(first).centre

        base, moved = means(first.round()), first.round()
        moved[0, 0, 50] += 9  # one anchor
        other = means(moved)
    assert torch.equal(base[0], other[0])
    board = checkerboard(16, 16)
    place = board.nonzero()[50]
    changed = (base[1] != other[1])[0].any(0)
    where = (~board).nonzero()[changed]
    assert len(where) >= 4
    assert int((where - place).abs().max()) <= 2  # a window of 5 x 5
    near = ((~board).nonzero() - place).abs().sum(1) == 1
    assert bool(changed[near].all())


def test_rates_between_two_lie_between_their_gains() -> None:
    model = made()
    x = waves(1, 1, 32, 32)
    with torch.no_grad():
        model.log_gain.copy_(torch.tensor([0.0, 1.0, 3.0])[:, None].expand_as(model.log_gain))
        one, half, two = (model.latents(x, rate(r))[1] for r in (1, 1.5, 2))
    torch.testing.assert_close(two, one * math.e)
    torch.testing.assert_close(half, one * math.exp(0.5))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 40), (33, 16)])
def test_pictures_of_any_size(height: int, width: int) -> None:
    model = made(3)
    x = waves(2, 3, height, width)
    bits, error = model.rate_distortion(x, torch.tensor([1.0, 2.7]))
    assert bits.shape == error.shape == (2,)
    y = torch.randn(2, 16, *(4 * -(-side // 16) for side in (height, width)))
    assert model.reconstruct(y, height, width, rate(1, 2)).shape == x.shape


# Rounded ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("function", "distribution"), [("normal", ndtr), ("logistic", expit)])
def test_rounded_is_a_mixture_cut_into_cells(function: Any, distribution: Any) -> None:
    logits = torch.tensor([0.3, -1.0], dtype=torch.float64).expand(1, 1, 1, 2)
    mean, log_scale = (torch.tensor(v, dtype=torch.float64).expand(1, 1, 1, 2) for v in ([-2.0, 5.0], [0.5, -1.0]))
    centre = torch.tensor([[[0.25]]], dtype=torch.float64)
    each = Rounded(function, centre, logits, mean, log_scale)
    k = torch.arange(-60.0, 60, dtype=torch.float64)
    found = torch.cat([each.log_mass(centre + step) for step in k]).flatten().exp()
    weight, scale = logits[0, 0, 0].softmax(0), log_scale[0, 0, 0].exp()
    upper, lower = ((k[:, None] + s - mean[0, 0, 0]) / scale for s in (0.5, -0.5))
    wanted = (distribution(upper.numpy()) - distribution(lower.numpy())) @ weight.numpy()
    torch.testing.assert_close(found, torch.from_numpy(wanted), rtol=1e-6, atol=1e-12)
    assert float(found.sum()) == pytest.approx(1)
    assert float(each.rounded(torch.tensor([[[7.1]]], dtype=torch.float64))) == 7.25


def test_a_latent_is_rounded_to_its_prediction_where_that_is_worth_it() -> None:
    value = torch.tensor([[[0.6, -0.6, 0.9, 1.6, 0.4, 0.6]]], dtype=torch.float64)
    scale = torch.tensor([0.25, 0.25, 0.25, 0.25, 0.25, 4.0], dtype=torch.float64).log().reshape(1, 1, 6, 1)
    zero = torch.zeros_like(scale)
    for thrift, wanted in ((0.0, [1, -1, 1, 2, 0, 1]), (15.0, [0, 0, 1, 1, 0, 1])):
        each = Rounded("normal", zero[..., 0], zero, zero, scale, thrift)
        assert each.rounded(value).flatten().tolist() == wanted
    bits = Rounded("normal", zero[..., 0], zero, zero, scale).bits(torch.tensor([[[0.0, 1, 40, 0, 0, 0]]]))
    assert bits[0, 0, 2] == pytest.approx(24) and bits[0, 0, 0] == pytest.approx(
        -math.log2(ndtr(2) - ndtr(-2)), abs=1e-5
    )


def test_rounded_stays_finite_far_away_and_has_a_gradient_there() -> None:
    zero = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    for function in ("normal", "logistic"):
        scale = torch.full_like(zero, -2.0).requires_grad_()
        mass = Rounded(function, zero[..., 0], zero, zero, scale).log_mass(torch.full_like(zero[..., 0], 300.0))  # ty: ignore
        mass.sum().backward()
        assert bool(mass.isfinite().all()) and scale.grad is not None and float(scale.grad) > 100


# Learning -------------------------------------------------------------------------------------------------------------


def test_it_learns_at_every_rate() -> None:
    x = waves(24, 1, 16, 16)
    model = lk.build("hyperprior", Integers((1, 16, 16), 256), **SMALL)
    assert isinstance(model, Hyperprior)
    lams = torch.tensor(model.lams)

    def losses() -> Tensor:
        found = [model.rate_distortion(x, rate(r, 24)) for r in (1, 2, 3)]
        return torch.stack([b.mean() / 256 + lam * d.mean() for (b, d), lam in zip(found, lams, strict=True)]).detach()

    model.prepare(x, noise=Noise(1, 24))
    before = losses()
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(80):
        optimiser.zero_grad()
        model.loss(x, noise=Noise(step, 24)).backward()
        optimiser.step()
    assert bool((losses() < 0.9 * before).all())


def test_gradients_of_rounded_numbers_are_those_with_the_rounding_error_held() -> None:
    model, x = made(), waves(2, 1, 16, 16)
    plain = torch.autograd.grad(model.loss(x, noise=Noise(3, 2)), list(model.parameters()), allow_unused=True)
    held = torch.autograd.grad(
        model.loss(x, noise=Noise(3, 2), teacher=model), list(model.parameters()), allow_unused=True
    )
    for a, b in zip(plain, held, strict=True):
        assert a is not None and b is not None
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_block_has_no_more_latents_than_numbers() -> None:
    """The default preset is for colour; grey pictures have fewer numbers to a block, and are taken all the same."""
    grey = lk.build("hyperprior", Integers((1, 12, 12), 256))
    assert grey.config.latent == grey.enter.out_channels == 64
    assert lk.build("hyperprior", Integers((3, 12, 12), 256)).config.latent == 128


# Refusals -------------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused() -> None:
    pictures = Integers((1, 16, 16), 256)
    with pytest.raises(ValueError, match="condition is"):
        lk.build("hyperprior", pictures, Integers((), 10), **SMALL)
    for space in (Reals((1, 16, 16)), Integers((16,), 256)):
        with pytest.raises(TypeError, match="a hyperprior accepts pictures"):
            lk.build("hyperprior", space, **SMALL)
    with pytest.raises(ValueError, match="each above the one before"):
        made(lams=(0.1, 0.01))
    assert isinstance(made(), nn.Module)
