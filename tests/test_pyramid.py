"""Pyramid: any size comes back through the coder, and its integers are the same however they are added."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import likely as lk
from likely.coding.ans import Stack
from likely.coding.programs import intervals
from likely.coding.schemes import Sequential
from likely.data.dataset import from_arrays
from likely.families.pyramid.lattice import PAD, mirrored
from likely.families.pyramid.network import IntegerNet, bound
from likely.logprob import scoring
from likely.noise import Noise
from likely.space import Integers

SIZES = [(1, 1, 1), (3, 1, 1), (1, 1, 7), (3, 5, 1), (1, 2, 3), (3, 4, 4), (3, 9, 14), (1, 17, 8)]


def build(**fields):
    return lk.build("pyramid", Integers((3, 8, 8), 256), **{"preset": "small", "seed": 1, **fields}).eval()


def pictures(n: int, shape: tuple[int, ...], seed: int = 3) -> torch.Tensor:
    """Smooth ones with noise, some with bright and dark patches."""
    noise = Noise(seed, n)
    ramp = torch.linspace(0, 1, shape[1])[:, None] * 120 + torch.linspace(0, 1, shape[2]) * 60
    patch = 255 * (noise.uniform(shape) < 0.02)
    return (ramp + 40 * noise.uniform((shape[0], 1, 1)) + 8 * noise.normal(shape) + patch).round().clamp(0, 255).long()


@pytest.fixture(scope="module")
def rgb():
    return build()


@pytest.mark.parametrize("shape", SIZES)
def test_any_size_comes_back(rgb, shape):
    model = rgb.at(Integers(shape, 256))
    x = Noise(3, 3).integers(256, shape)
    with scoring(model):
        stack = Sequential(model, 3).encode(x, None)
        back, _ = Sequential(model, 3).sized(5).decode(Stack.from_bytes(stack.to_bytes()), 3)
    assert torch.equal(back, x)


def numbers(model, x: torch.Tensor) -> list[torch.Tensor]:
    """The parameters of all groups, (n, P, S) each."""
    with scoring(model):
        walk, found = model.factors(len(x)), []
        each = next(walk)
        for value in model.factor_values(x)[:-1]:
            found.append(each.parameters)
            each = walk.send(value)
        return [*found, each.parameters]


def test_parameters_are_the_same_integers_in_any_batch_and_precision():
    model, x = build(width=64), pictures(5, (3, 24, 17))
    model = model.at(Integers((3, 24, 17), 256))
    narrow = numbers(model, x)
    one, moved = numbers(model, x[2:3]), numbers(model, x.flip(0))
    with torch.backends.mkldnn.flags(enabled=False):
        plain = numbers(model, x)
    wide = numbers(model.double(), x)
    for a, b, c, d, e in zip(narrow, wide, one, moved, plain, strict=True):
        assert torch.equal(a, a.round())
        assert torch.equal(a.double(), b)
        assert torch.equal(a[2:3], c)
        assert torch.equal(a, d.flip(0))
        assert torch.equal(a, e)


def digest() -> str:
    """What a machine works out for some pictures: a hash of all intervals."""
    model, x = build(width=64), pictures(2, (3, 40, 33), 5)
    model = model.at(Integers((3, 40, 33), 256))
    with scoring(model):
        found = intervals(model.factors(2), model.factor_values(x), 2)
    return hashlib.sha256(b"".join(a.tobytes() + b.tobytes() for a, b in found)).hexdigest()


def test_other_instructions_and_threads_make_the_same_tables():
    code = "import torch, test_pyramid as t; torch.set_num_threads(2); print(t.digest())"
    env = os.environ | {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}
    env["PYTHONPATH"] = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=250)
    assert done.stdout.strip() == digest(), done.stderr[-500:]


def test_network_agrees_with_plain_integers():
    net = IntegerNet(7, 16, 2, 5)
    r = np.random.default_rng(0)
    with torch.no_grad():
        for p in net.parameters():  # some of them beyond what the grid holds
            p.copy_(torch.from_numpy(r.normal(size=p.shape) * 1.5))
    x = r.integers(-255, 256, (7, 40))
    ints = lambda p, units, most: np.clip(np.rint(p.detach().numpy() * units), -most, most).astype(np.int64)  # noqa: E731
    a = x
    for weight, bias in zip(net.weights, net.biases, strict=True):
        total = ints(weight, 64, 127) @ a + ints(bias, 2048, 2**20)[:, None]
        a = np.clip((total + 32) // 64, 0, 255)
    total = ints(net.last, 128, 255) @ np.concatenate([a, x]) + ints(net.offset, 4096, 2**20)[:, None]
    with torch.no_grad():
        assert np.array_equal(net(torch.from_numpy(x).float()).numpy(), (total + 8) // 16)


def test_the_largest_sums_are_exact_and_larger_networks_refused():
    assert bound(51, 128) < 2**24
    net = IntegerNet(51, 128, 1, 2)
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(1e6)
    x = torch.full((51, 3), 255.0)
    expected = (179 * 255 * 255 + 2**20 + 8) // 16
    with torch.no_grad():
        assert (net(x) == expected).all()
        assert (net.double()(x.double()) == expected).all()
    with pytest.raises(ValueError, match="width is 1000"):
        IntegerNet(51, 1000, 1, 2)


@pytest.mark.parametrize("sides", [(2, 9), (3, 5), (4, 4), (6, 7)])
def test_margins_keep_rows_and_columns_odd_or_even(sides):
    place = torch.arange(sides[0])[:, None] * 100 + torch.arange(sides[1])
    found = mirrored(place.reshape(1, 1, *sides))[0, 0]
    odd = (torch.arange(-PAD, sides[0] + PAD) % 2)[:, None] * 100 + torch.arange(-PAD, sides[1] + PAD) % 2
    assert torch.equal(found // 100 % 2 * 100 + found % 100 % 2, odd)
    assert torch.equal(found[PAD:-PAD, PAD:-PAD], place)


def test_a_grey_image_is_the_first_channel_of_a_colour_one(rgb):
    x = pictures(2, (1, 12, 10))
    grey, colour = rgb.at(Integers((1, 12, 10), 256)), rgb.at(Integers((3, 12, 10), 256))
    green = numbers(colour, x.repeat(1, 3, 1, 1))[::3]
    for a, b in zip(numbers(grey, x), green, strict=True):
        assert torch.equal(a, b)


def test_levels_add_up_to_the_loss(rgb):
    shape = (3, 11, 20)
    x, model, one = pictures(3, shape), rgb.at(Integers(shape, 256)), rgb.at(Integers((3, 1, 1), 256))
    whole = model.loss(x, noise=Noise(0, 3))
    parts = model.loss_of_finest(x, 5) + one.loss(x[:, :, :1, :1], noise=Noise(0, 3))
    assert torch.allclose(whole, parts, rtol=1e-6)
    assert model.loss_of_finest(x, 2) < model.loss_of_finest(x, 5)
    assert torch.allclose(whole, -lk.log_prob(model, x).nats.mean().float(), rtol=1e-3)  # but for the last rounding


def test_settled_parameters_answer_alike():
    model, x = build().at(Integers((3, 10, 13), 256)), pictures(2, (3, 10, 13))
    before = numbers(model, x)
    raw = model.nets[0][0].last.clone()
    model.settle()
    assert not torch.equal(model.nets[0][0].last, raw)
    assert all(torch.equal(a, b) for a, b in zip(before, numbers(model, x), strict=True))


def test_what_does_not_fit_is_refused(rgb):
    grey = lk.build("pyramid", Integers((1, 8, 8), 256), preset="small")
    with pytest.raises(ValueError, match="1 channel$"):
        grey.at(Integers((3, 8, 8), 256))
    with pytest.raises(ValueError, match="256 levels"):
        rgb.at(Integers((3, 8, 8), 16))
    for shape in ((2, 8, 8), (8, 8), (4, 8, 8)):
        with pytest.raises(ValueError, match="accepts images"):
            rgb.at(Integers(shape, 256))
    with pytest.raises(ValueError, match="condition"):
        lk.build("pyramid", Integers((1, 8, 8), 256), Integers((), 10))


def test_it_learns_from_crops():
    model = lk.build("pyramid", Integers((3, 8, 8), 256), preset="small")
    x = pictures(64, (3, 8, 8))
    before = -lk.log_prob(model, x).nats.mean()
    lk.fit(model, from_arrays(x, space=model.space), steps=40, batch=16, lr=5e-3, progress=False)
    after = -lk.log_prob(model, x).nats.mean()
    assert after < before - 20
    assert -lk.log_prob(model.at(Integers((1, 5, 9), 256)), pictures(4, (1, 5, 9))).nats.mean() < 45 * 8 * np.log(2)
