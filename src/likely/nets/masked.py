"""A multi-layer perceptron in which output i depends on inputs before i alone.

"MADE: Masked Autoencoder for Distribution Estimation" (Germain, Gregor, Murray, Larochelle, 2015). Every hidden unit
carries a degree m, the number of sites that it may see; a connection is kept when it does not raise what is seen:
input j -> unit m if j < m, unit m -> unit m' if m <= m', unit m -> output i if m <= i. Units stand in the order of
their degrees, so that a sampler can work out each unit once, when the last site that it sees is there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class MaskedCache:
    """What a walk over the sites keeps: the inputs so far, and every hidden unit that they determine."""

    inputs: Tensor  # (B, sites * features)
    hidden: list[Tensor]  # one (B, width) a layer
    classes: Tensor | None  # y
    known: int = 0  # sites seen


class MaskedMLP(nn.Module):
    """(B, features, sites) to (B, outputs, sites) by `layers` hidden layers of `width` units.

    With `classes` > 0 every hidden layer adds an embedding of y: of a label (B,) a learned vector, of real numbers
    (B, classes) a linear map.
    """

    def __init__(
        self,
        sites: int,
        features: int,
        outputs: int,
        width: int,
        layers: int,
        classes: int,
        residual: bool,
        activation: Callable[[Tensor], Tensor] = F.silu,
    ) -> None:
        super().__init__()
        self.sites, self.features, self.outputs, self.residual = sites, features, outputs, residual
        self.activation = activation
        sizes = [sites * features, *[width] * layers]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.head = nn.Linear(width, outputs * sites)
        self.classes = nn.ModuleList(nn.Embedding(classes, width) for _ in range(layers if classes else 0))
        # degree 0 sees no site: of use only to carry the class (or when there is one site, which sees nothing)
        low = 0 if classes or sites == 1 else 1
        degrees = [low + unit * (sites - low) // width for unit in range(width)]
        # units [0, reach[k]) see at most k sites
        self.reach = [bisect_right(degrees, k) for k in range(sites)]
        degree = torch.tensor(degrees)
        site_in = torch.arange(sites).repeat_interleave(features)
        site_out = torch.arange(sites).repeat_interleave(outputs)
        self.register_buffer("mask_in", site_in < degree[:, None], persistent=False)
        self.register_buffer("mask_hidden", degree <= degree[:, None], persistent=False)
        self.register_buffer("mask_out", degree <= site_out[:, None], persistent=False)

    def forward(self, x: Tensor, y: Tensor | None = None, dropout: float = 0.0) -> Tensor:
        h = x.transpose(1, 2).flatten(1)  # (B, sites * features)
        for number, layer in enumerate(self.hidden):
            mask = self.mask_in if number == 0 else self.mask_hidden
            u = F.linear(h, layer.weight * mask, layer.bias)
            if y is not None:
                u = u + self._embedded(number, y, slice(None))
            u = self.activation(u)
            u = F.dropout(u, dropout) if dropout else u
            h = h + u if self.residual and number else u
        out = F.linear(h, self.head.weight * self.mask_out, self.head.bias)
        return out.unflatten(1, (self.sites, self.outputs)).transpose(1, 2)

    def start(self, n: int, y: Tensor | None = None) -> tuple[MaskedCache, Tensor]:
        """The cache before the first site, and that site's outputs (n, outputs)."""
        like = self.head.weight
        hidden = [like.new_zeros(n, like.shape[1]) for _ in self.hidden]
        cache = MaskedCache(like.new_zeros(n, self.sites * self.features), hidden, y)
        return cache, self._outputs(cache, 0)

    def step(self, cache: MaskedCache, x_i: Tensor) -> Tensor | None:
        """Put in a site's features (B, features); the next site's outputs, None after the last."""
        at = cache.known * self.features
        cache.inputs = _put(cache.inputs, at, x_i)
        cache.known += 1
        return None if cache.known == self.sites else self._outputs(cache, self.reach[cache.known - 1])

    def _outputs(self, cache: MaskedCache, done: int) -> Tensor:
        """Work out the units from `done` on that the known sites determine, then the next site's outputs.

        No mask is needed: these rows and columns are exactly the connections that the masks keep.
        """
        known, reach = cache.known, self.reach[cache.known]
        h = cache.inputs[:, : known * self.features]
        if reach > done:
            for number, (layer, units) in enumerate(zip(self.hidden, cache.hidden, strict=True)):
                u = F.linear(h, layer.weight[done:reach, : h.shape[1]], layer.bias[done:reach])
                if cache.classes is not None:
                    u = u + self._embedded(number, cache.classes, slice(done, reach))
                u = self.activation(u)
                u = h[:, done:] + u if self.residual and number else u
                cache.hidden[number] = _put(units, done, u)
                h = cache.hidden[number][:, :reach]
        rows = slice(known * self.outputs, (known + 1) * self.outputs)
        return F.linear(cache.hidden[-1][:, :reach], self.head.weight[rows, :reach], self.head.bias[rows])

    def _embedded(self, number: int, y: Tensor, units: slice) -> Tensor:
        """What y adds to some units of a hidden layer, (B, units)."""
        weight = self.classes[number].weight[:, units]
        return weight[y] if y.ndim == 1 else y @ weight


def _put(columns: Tensor, at: int, new: Tensor) -> Tensor:
    """The columns with `new` from `at` on: in place, but where gradients need what stood there before."""
    if torch.is_grad_enabled():
        return torch.cat([columns[:, :at], new], 1)
    columns[:, at : at + new.shape[1]] = new
    return columns
