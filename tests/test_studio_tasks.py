"""The tasks that the studio is the first to ask: standing, neighbours, altered pictures, codes, films, maps of bits."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from likely import registry
from likely.logprob import Kind, LogProb, log_prob, sample
from likely.noise import Noise
from likely.space import Integers, Reals
from likely.tasks.alter import alter
from likely.tasks.bits import bits_map
from likely.tasks.decide import decide
from likely.tasks.film import FRAMES, animation, film, has_film, thinned
from likely.tasks.latents import Codes, great_circle
from likely.tasks.neighbours import Neighbours
from likely.tasks.standing import calibrate, histogram, place, standing, two_sided

PICTURES = Integers((1, 4, 4), 5)


class Normal(nn.Module):
    """N(0, 1) on a line, exactly."""

    space, condition = Reals((1,)), None

    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return -0.5 * x.double()[:, 0] ** 2 - 0.5 * math.log(2 * math.pi)


class Classes(Normal):
    """The same with two equal classes, told apart by sign."""

    condition = Integers((), 2)

    def log_posterior(self, x: Tensor) -> Tensor:
        return torch.cat([-3 * x, 3 * x], 1).double().log_softmax(1)


def normal(n: int, seed: int = 0) -> Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=(n, 1)))


# Standing -------------------------------------------------------------------------------------------------------------


def test_both_tails_of_log_p_are_strange() -> None:
    known = torch.arange(100.0)
    low, middle, high = two_sided(torch.tensor([-1.0, 49.5, 200.0]), known).tolist()
    assert low == high == pytest.approx(2 / 101)
    assert middle == 1


def test_p_values_of_rows_like_the_held_out_ones_are_super_uniform() -> None:
    shares = []
    for seed in range(40):
        known = calibrate(Normal(), normal(199, seed))
        shares.append(standing(Normal(), normal(500, 1000 + seed), known, novelty=0.1).novel.double().mean())
    mean, error = float(torch.stack(shares).mean()), float(torch.stack(shares).std() / math.sqrt(40))
    assert mean < 0.1 + 4 * error
    assert mean > 0.05  # and not empty


def test_a_calibration_kept_decides_as_the_rows_do() -> None:
    x, held = normal(50, 1), normal(300)
    fresh, kept = decide(Classes(), x, held), decide(Classes(), x, calibrate(Classes(), held))
    assert torch.equal(fresh.p_value, kept.p_value)
    assert torch.equal(fresh.p_sure, kept.p_sure)
    with pytest.raises(ValueError, match="held-out rows resolve rates"):
        decide(Classes(), x, calibrate(Classes(), held[:10]))


def test_verdicts_name_what_is_strange() -> None:
    found = standing(Normal(), torch.tensor([[0.7], [9.0]]), calibrate(Normal(), normal(300)))
    assert found.verdict(0).startswith("like what I was trained on (p-value 0.")
    assert found.verdict(1).startswith("not like anything I was trained on (p-value 0.0")


def test_histogram_counts_and_places() -> None:
    def reading(bits: list[float], kind: Kind = Kind.EXACT) -> LogProb:
        return LogProb(-torch.tensor(bits, dtype=torch.float64) * 2 * math.log(2), kind, Reals((2,)))

    train, held = reading([1.0, 1.0, 2.0, 3.0]), reading([2.0, math.inf])
    found = histogram({"training": train, "held out": held}, bins=2)
    assert found.edges.tolist() == [1, 2, 3]
    assert found.shares["training"].tolist() == [0.5, 0.5]
    assert found.shares["held out"].tolist() == [0, 1]
    assert place(held) == 2.0
    assert found.below(2.0, train) == 0.5
    with pytest.raises(ValueError, match="do not rank"):
        histogram({"training": train, "held out": reading([1.0], Kind.BOUND)})


# Neighbours, altered pictures ----------------------------------------------------------------------------------------


def test_nearest_rows_are_those_of_a_plain_search() -> None:
    rng = np.random.default_rng(0)
    rows = torch.tensor(rng.integers(0, 5, (60, 1, 4, 4)))
    x = torch.tensor(rng.integers(0, 5, (7, 1, 4, 4)))
    near = Neighbours(rows, PICTURES).nearest(x, 3)
    distance = (x.double().flatten(1)[:, None] - rows.double().flatten(1)).square().mean(2).sqrt()
    assert torch.allclose(near.distance, distance.sort(1).values[:, :3])
    assert torch.allclose(distance.gather(1, near.index), near.distance)
    with pytest.raises(ValueError, match="accepts 1 .. 60"):
        Neighbours(rows, PICTURES).nearest(x, 61)


def test_pictures_turn_the_way_of_rot90_and_blur() -> None:
    x = torch.tensor(np.random.default_rng(0).integers(0, 5, (3, 1, 4, 4)))
    assert torch.equal(alter(x, PICTURES, turn=90), x.rot90(1, (-2, -1)))
    assert torch.equal(alter(x, PICTURES, turn=-180), x.rot90(2, (-2, -1)))
    assert torch.equal(alter(x, PICTURES, invert=True), 4 - x)
    assert torch.equal(alter(x, PICTURES), x)
    big = Integers((1, 21, 21), 256)
    bar = torch.zeros(1, 1, 21, 21, dtype=torch.uint8)
    bar[..., 10, 12:] = 255  # a bar to the right of the centre points up when turned by 90 degrees, counter-clockwise
    nearly = alter(bar, big, turn=89)[0, 0].double()
    assert nearly[:9, 9:12].sum() > 0.9 * nearly.sum()
    blurred = alter(bar, big, blur=2.0)
    assert blurred.max() < 100
    assert abs(float(blurred.double().sum() / bar.double().sum()) - 1) < 0.1
    filled = alter(255 - bar, big, turn=45)
    assert (filled[0, 0, [0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()  # the corners take the edge's level
    with pytest.raises(ValueError, match="only pictures"):
        alter(torch.zeros(1, 3), Integers((3,), 2))
    with pytest.raises(ValueError, match="blur at least 0"):
        alter(x, PICTURES, blur=-1)


# Codes ---------------------------------------------------------------------------------------------------------------


class Line(nn.Module):
    """An invertible model whose code is x / 2 on three reals."""

    space, condition = Reals((3,)), None

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return x / 2

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return z * 2


def test_a_walk_begins_and_ends_at_the_codes_and_keeps_to_the_circle() -> None:
    a, b = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.0, 4.0, 0.0]])
    way = Codes(Line()).between(a, b, 5)
    assert torch.allclose(way[0], a[0], atol=1e-6)
    assert torch.allclose(way[-1], b[0], atol=1e-6)
    assert torch.allclose(way.norm(dim=1), torch.linspace(2, 4, 5), atol=1e-5)
    angles = torch.atan2(way[:, 1], way[:, 0])
    assert torch.allclose(angles.diff(), torch.full((4,), math.pi / 8), atol=1e-5)
    straight = great_circle(torch.zeros(2), torch.ones(2), torch.tensor([0.0, 0.5, 1.0]))
    assert torch.allclose(straight, torch.tensor([[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]]))


def test_axes_are_the_directions_of_most_variance() -> None:
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(400, 3)) * [1.0, 6.0, 3.0] + [0.0, 5.0, 0.0])
    codes = Codes(Line())
    axes = codes.axes(x, count=2)
    assert abs(float(axes.directions[0, 1])) > 0.99
    assert abs(float(axes.directions[1, 2])) > 0.99
    assert torch.allclose(axes.deviations, torch.tensor([3.0, 1.5], dtype=torch.float64), rtol=0.15)
    there = torch.tensor([[1.5, -0.5]], dtype=torch.float64)
    assert torch.allclose(axes.places(axes.at(there)), there)
    assert torch.allclose(axes.at(torch.zeros(1, 2))[0], codes.encode(x).mean(0))


def test_codes_of_a_vae_are_its_means_whatever_the_batch() -> None:
    tiny = next(t for t in registry.tiny("vae").values() if isinstance(t.space, Integers) and t.condition is None)
    model = registry.build(tiny.config, tiny.space, tiny.condition).eval()
    x = Noise(0, 70).integers(tiny.space.levels, tiny.space.shape)
    codes = Codes(model)
    z = codes.encode(x)
    assert torch.equal(z[5], codes.encode(x[5:6])[0])
    with torch.no_grad():
        assert torch.allclose(z, model.posterior(x).mean.double(), atol=1e-6)
    back = codes.decode(z)
    assert back.shape == x.shape
    assert int(back.max()) < tiny.space.levels
    with pytest.raises(TypeError, match="a walk among codes needs a model that is Latent or Invertible"):
        Codes(Normal())


# Films and bits ------------------------------------------------------------------------------------------------------


def of(family: str, name: str) -> nn.Module:
    """A tiny instance."""
    tiny = registry.tiny(family)[name]
    return registry.build(tiny.config, tiny.space, tiny.condition).eval()


WAYS = [
    ("diffusion", "cosine, v"),
    ("diffusion", "separate decoder"),
    ("meanflow", "one step"),
    ("autoregressive", "pixelcnn, colour, logistic"),
    ("mixture", "categorical"),
]


@pytest.mark.parametrize(("family", "name"), WAYS)
def test_the_last_frame_is_the_draw(family: str, name: str) -> None:
    model = of(family, name)
    assert has_film(model)
    frames = list(film(model, 5, seed=3))
    assert len(frames) > 1 or family == "meanflow"
    assert torch.equal(frames[-1].long(), sample(model, 5, seed=3).long())
    for frame in frames:
        assert frame.shape == (5, *model.space.shape)
        model.space.check(frame)


def test_a_film_of_an_order_uncovers_site_after_site() -> None:
    model = of("autoregressive", "pixelcnn, colour, logistic")
    frames = list(film(model, 2, seed=0))
    final = model.to_sites(frames[-1])
    for done, frame in enumerate(frames):
        sites = model.to_sites(frame)
        assert torch.equal(sites[..., :done], final[..., :done])
        assert not sites[..., done:].any()


def test_who_draws_in_one_go_has_no_film() -> None:
    model = of("vae", "bernoulli")
    assert not has_film(model)
    with pytest.raises(TypeError, match="draws in one go"):
        list(film(model, 1, seed=0))
    with pytest.raises(ValueError, match="accepts 1 .. 64"):
        list(film(of("diffusion", "cosine, v"), 65, seed=0))


def test_animation_has_every_frame() -> None:
    frames = [torch.full((2, 1, 4, 4), i % 5) for i in range(7)]
    with Image.open(io.BytesIO(animation(frames, PICTURES, scale=2))) as found:
        assert found.n_frames == 7
        assert found.format == "WEBP"
        assert found.size == (2 * 8 + 6, 8 + 4)
    assert thinned(list(range(1000)))[0] == 0
    assert thinned(list(range(1000)))[-1] == 999
    assert len(thinned(list(range(1000)))) == FRAMES
    with pytest.raises(ValueError, match="film is made of"):
        animation([], PICTURES)


@pytest.mark.parametrize(("family", "name"), [*WAYS[-2:], ("autoregressive", "made")])
def test_bits_of_pixels_add_up(family: str, name: str) -> None:
    model = of(family, name)
    x = Noise(0, 9).integers(model.space.levels, model.space.shape)
    bits = bits_map(model, x)
    shape = model.space.shape
    assert bits.shape == (9, *(shape[1:] if len(shape) == 3 else shape))
    assert torch.allclose(bits.flatten(1).sum(1), -log_prob(model, x).nats / math.log(2), atol=1e-4)
    assert (bits > 0).all()
