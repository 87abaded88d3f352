"""Where in a row are its bits? -log2 p of each site given those before it, for models that take sites in an order."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from likely.logprob import batched, check_condition
from likely.verbs import Ordered, require


def bits_map(model: Any, x: Any, y: Any = None) -> Tensor:
    """-log2 p(x_i given x_1 .. x_i-1) of each site of rows x, (n, *sites): for pictures one a pixel, (n, H, W), all
    channels together. They add up to -log2 p(x). Raises `TypeError` for a model that is not `Ordered`.
    """
    require(model, Ordered, "bits_map")
    x = model.space.check(x, "x")
    n = model.space.len(x)
    y = check_condition(model, y, n)

    def call(x: Any, y: Any, ids: Tensor) -> Tensor:
        sites = model.to_sites(x)
        state, each = model.start(len(sites), y)
        nats = []
        for i in range(model.sites):
            value = sites[:, :, i]
            nats.append(each.log_prob(value).double())
            state, each = model.step(state, value)
        return torch.stack(nats, 1)

    shape = model.space.shape
    pixels = shape[1:] if len(shape) == 3 else shape
    each = -batched(model, call, x, y).reshape(n, -1) / math.log(2)
    if math.prod(pixels) == model.sites:
        return each.reshape(n, *pixels)
    # a site a channel: those of a pixel together
    whole = model.from_sites(each.reshape(n, 1, -1))
    return whole.sum(1) if len(shape) == 3 else whole
