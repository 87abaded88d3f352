"""Pyramid: any size comes back through the coder, and the network's integers are the same however they are added."""

from __future__ import annotations

import pytest
import torch

import likely as lk
from likely.coding.ans import Stack
from likely.coding.schemes import Sequential
from likely.logprob import scoring
from likely.noise import Noise
from likely.space import Integers

SIZES = [(1, 1, 1), (3, 1, 1), (1, 1, 7), (3, 5, 1), (1, 2, 3), (3, 4, 4), (3, 9, 14), (1, 17, 8)]


@pytest.fixture(scope="module")
def rgb():
    return lk.build("pyramid", Integers((3, 8, 8), 256), preset="small", seed=1)


@pytest.mark.parametrize("shape", SIZES)
def test_any_size_comes_back(rgb, shape):
    model = rgb.at(Integers(shape, 256)).eval()
    x = Noise(3, 3).integers(256, shape)
    with scoring(model):
        stack = Sequential(model, 3).encode(x, None)
        back, _ = Sequential(model.double(), 3).sized(5).decode(Stack.from_bytes(stack.to_bytes()), 3)
    model.float()
    assert torch.equal(back, x)
