"""The two networks of a neural field in integers: the same numbers on every machine.

Values are integers in units of 2^-12, weights in units of 2^-k, each group of weights with its own k. A layer is

    floor((W a + b 2^k) / 2^k)

with every partial sum an integer below 2^53, so that float64 adds them exactly in any order ("Integer networks for
data compression with latent-variable models", Ballé, Johnston, Minnen, 2019). Nothing else than sums, products, floor
and clamp happens, in the entropy part or in the picture: what is decoded is the same, bit for bit, everywhere.

    entropy     12 neighbours c -> h1 = clamp(W1 c + b1) -> h2 = h1 + clamp(W2 h1 + b2) -> (mu, log scale) = W3 h2 + b3
    synthesis   every grid is brought to full resolution, bilinearly; f are its numbers at a pixel
                f -> h = clamp(W1 f + b1) -> o = W2 h + b2 -> o' = o + clamp(K1 * o) -> o'' = o' + K2 * o'
                pixel = 128 + 64 o''

where clamp is to [0, 256] and K1, K2 are 3 x 3 convolutions of the colours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from likely.coding.field.grids import NEIGHBOURS
from likely.coding.tables import GRID, Chosen, Ints, Listed, Located

FRACTION = 12
"""Values are in units of 2^-12."""
CEILING = 256
"""Hidden values are clamped to [0, 256]."""
MOST_LATENT = 127
MOST_WEIGHT = 4095
MOST_WIDTH = 64
FINEST = FRACTION
"""The largest k: weights are in units of 2^-12 at the least."""
CENTRE, SPREAD = 128, 64
"""A pixel is 128 + 64 times the network's output."""
PHASES, SCALES = 16, 64
"""Means are coded to 1/16, log-scales as one of 64 from -3.75 on in steps of 1/8."""
LOWEST, PER_NAT = -3.75, 8
HIGHEST = LOWEST + (SCALES - 1) / PER_NAT
_MIDDLE = 2 * MOST_LATENT + 1  # the symbol of a latent at its rounded mean
_EXACT = 1 << 53

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Widths:
    """How large the networks are."""

    channels: int
    levels: int
    entropy: int
    synthesis: int

    def parts(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Groups of weights that share their unit, and the shapes in them; the order is the file's."""
        e, s, c = self.entropy, self.synthesis, self.channels
        return {
            "entropy": {"w1": (e, len(NEIGHBOURS)), "w2": (e, e), "w3": (2, e)},
            "entropy offsets": {"b1": (e,), "b2": (e,), "b3": (2,)},
            "synthesis": {"v1": (s, self.levels), "v2": (c, s)},
            "synthesis offsets": {"a1": (s,), "a2": (c,), "a3": (c,), "a4": (c,)},
            "convolutions": {"v3": (c, c, 3, 3), "v4": (c, c, 3, 3)},
        }


@dataclass(frozen=True)
class Weights:
    """Integers, and the exponent k of each group's unit 2^-k."""

    widths: Widths
    exponents: Mapping[str, int]
    values: Mapping[str, Ints]

    def layer(self, weight: str, offset: str) -> tuple[Floats, Floats, int]:
        """A weight, its offset in units of 2^-(12 + k), and k. Raises `ValueError` where sums could be inexact."""
        k, j = (self.exponents[self._group(name)] for name in (weight, offset))
        w, b = self.values[weight], self.values[offset] << (FRACTION + k - j)
        largest = max(MOST_LATENT, CEILING) << FRACTION
        if w.ndim == 4:
            largest = _LOUDEST
        reach = int(np.abs(w).reshape(len(w), -1).sum(1).max()) * largest + int(np.abs(b).max())
        if reach >= _EXACT:
            raise ValueError(f"sums of the layer {weight} reach {reach}; integers are exact below 2^53")
        return w.astype(np.float64), b.astype(np.float64), k

    def _group(self, name: str) -> str:
        return next(group for group, shapes in self.widths.parts().items() if name in shapes)


_LOUDEST = 1 << (FRACTION + 10)  # colours before each convolution are clamped to [-1024, 1024]


def _floor(sums: Floats, k: int) -> Floats:
    return np.floor(sums * 2.0**-k)


def _hidden(sums: Floats, k: int) -> Floats:
    return np.clip(_floor(sums, k), 0, CEILING << FRACTION)


# Entropy -------------------------------------------------------------------------------------------------------------


class Entropy:
    """Contexts to distributions."""

    def __init__(self, weights: Weights) -> None:
        self._layers = [weights.layer(f"w{i}", f"b{i}") for i in (1, 2, 3)]

    def __call__(self, contexts: Ints) -> tuple[Ints, Ints]:
        """From neighbours (n, 12): which of the frozen tables, and what to add to its symbols to have latents, (n,)."""
        (w1, b1, k1), (w2, b2, k2), (w3, b3, k3) = self._layers
        h = _hidden((contexts * float(1 << FRACTION)) @ w1.T + b1, k1)
        h += _hidden(h @ w2.T + b2, k2)
        mu, log_scale = _floor(h @ w3.T + b3, k3).T
        unit = (1 << FRACTION) // PHASES
        mu = np.clip(np.floor(mu / unit + 0.5), -MOST_LATENT * PHASES, MOST_LATENT * PHASES).astype(np.int64)
        whole, phase = np.divmod(mu + PHASES // 2, PHASES)
        step = (1 << FRACTION) // PER_NAT
        scale = np.floor(log_scale / step + (0.5 - LOWEST * PER_NAT))
        return phase * SCALES + np.clip(scale, 0, SCALES - 1).astype(np.int64), whole - _MIDDLE


@cache
def frozen() -> tuple[Listed, dict[int, list[int]]]:
    """The tables: Laplace distributions over 511 symbols, one for each phase and scale; and a place for plain lists."""
    phase, scale = np.divmod(np.arange(PHASES * SCALES), SCALES)
    centre = _MIDDLE * GRID + (phase - PHASES // 2) * GRID // PHASES
    log_scale = int(LOWEST * GRID) + scale * GRID // PER_NAT
    size = 2 * _MIDDLE + 1
    located = Located(size, np.zeros((len(phase), 1), np.int64), centre[:, None], log_scale[:, None], "laplace")
    return Listed(located.below(np.broadcast_to(np.arange(size + 1), (len(phase), size + 1)))), {}


def chosen(index: Ints) -> Chosen:
    """Some of the frozen tables."""
    listed, plain = frozen()
    return Chosen(listed, index, plain)


# Synthesis -----------------------------------------------------------------------------------------------------------


def doubled(x: Tensor, shape: tuple[int, int]) -> Tensor:
    """Bilinear upsampling by 2 of (1, C, h, w), cut to `shape`: weights 1/4 and 3/4, exact for what float64 holds."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)[..., : shape[0], : shape[1]]


def features(grids: list[Tensor]) -> Tensor:
    """Grids (1, 1, h, w), finest first, at full resolution: (1, L, H, W), the coarsest last."""
    found = grids[-1]
    for grid in grids[-2::-1]:
        found = torch.cat([grid, doubled(found, (grid.shape[2], grid.shape[3]))], 1)
    return found


def synthesise(weights: Weights, grids: list[Ints]) -> NDArray[np.uint8]:
    """The picture (C, H, W)."""
    height, width = grids[0].shape
    # latents of 2^7, each doubling divides by 2^4: 7 + 6 * 4 + 12 bits, exact
    f = features([torch.from_numpy(grid.astype(np.float64))[None, None] for grid in grids])
    f = np.floor(f[0].reshape(len(grids), -1).numpy() * (1 << FRACTION))
    (v1, a1, k1), (v2, a2, k2) = weights.layer("v1", "a1"), weights.layer("v2", "a2")
    o = _floor(v2 @ _hidden(v1 @ f + a1[:, None], k1) + a2[:, None], k2).reshape(-1, height, width)
    for last, (weight, offset) in enumerate((("v3", "a3"), ("v4", "a4"))):
        kernel, a, k = weights.layer(weight, offset)
        o = np.clip(o, -_LOUDEST, _LOUDEST)
        x = F.pad(torch.from_numpy(o)[None], (1, 1, 1, 1), mode="replicate")
        sums = F.conv2d(x, torch.from_numpy(kernel), torch.from_numpy(a))[0].round().numpy()
        o = o + (_floor(sums, k) if last else _hidden(sums, k))
    pixels = np.floor((o * SPREAD + (CENTRE << FRACTION)) * 2.0**-FRACTION + 0.5)
    return np.clip(pixels, 0, 255).astype(np.uint8)
