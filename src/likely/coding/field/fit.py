"""Fitting a neural field to one picture: latents and two tiny networks by gradient, then whole numbers.

The loss is  MSE + lambda (bits / pixels), with the MSE of values in [0, 1]. Rounding has no gradient, so a latent y is

    s(s(y) + u),  s(y) = floor(y) + 1/2 + tanh((y - floor(y) - 1/2) / T) / (2 tanh(1 / 2 T))

for the first steps, with noise u from a Kumaraswamy distribution on [-1/2, 1/2] and T falling, then round(y) with the
gradient of y. At last the weights get their units, by rate and distortion. "COOL-CHIC: coordinate-based low complexity
hierarchical image codec" (Ladune, Philippe, Henry, Clare, Leguay, 2023); "C3: high-performance and low-complexity
neural compression from a single image or video" (Kim, Bauer, Theis, Schwarz, Dupont, 2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from likely.coding.field.grids import LEFT, NEIGHBOURS, RIGHT, TOP, shapes_of
from likely.coding.field.nets import (
    CENTRE,
    FINEST,
    HIGHEST,
    LOWEST,
    MOST_LATENT,
    MOST_WEIGHT,
    SPREAD,
    Weights,
    Widths,
    features,
)
from likely.coding.tables import Ints
from likely.noise import Noise

LEAST = 2.0**-16
"""Probabilities below this count as this while fitting: gradients stay finite."""
SOFT = 0.8
"""The share of the steps that are taken with noise."""
TEMPERATURE, KUMARASWAMY = (0.3, 0.1), (2.0, 1.0)
"""T, and the parameter a of the noise (1: uniform), at the first step with noise and at the last."""


@dataclass(frozen=True)
class Fitted:
    """Whole numbers: grids (h, w) finest first, and weights. `steps` were taken."""

    grids: list[Ints]
    weights: Weights
    steps: int


Progress = Callable[[int, float, float], None]
"""Called with the step, dB and bits per pixel, of the real-valued model."""


class _Field:
    """Latents and networks in float32, and what they cost. Nothing here comes near the ceiling of hidden values."""

    def __init__(self, picture: NDArray[np.uint8], widths: Widths, lam: float, noise: Noise) -> None:
        _, height, width = picture.shape
        self.x = torch.from_numpy(picture.astype(np.float32) / 255)[None]
        self.shapes, self.lam, self.pixels, self.widths = shapes_of(height, width), lam, height * width, widths
        self.latents = torch.zeros(sum(h * w for h, w in self.shapes), requires_grad=True)
        self.net: dict[str, Tensor] = {}
        for shapes in widths.parts().values():
            for name, shape in shapes.items():
                gain = _GAINS.get(name, 0.0) * math.sqrt(2 / shape[-1])
                self.net[name] = noise.normal(shape)[0] * gain if gain else torch.zeros(shape)
        self._begin_as_pyramid(noise)
        for value in self.net.values():
            value.requires_grad_()

    def _begin_as_pyramid(self, noise: Noise) -> None:
        """The first hidden values are a latent's two signs, and colours are sums of latents: nearly grey, finer ones
        with larger steps. So the picture begins as a Laplacian pyramid: on two crops of photographs the loss was lower
        by 15 % after 300 steps than from random weights, and hung less on the seed."""
        first, second, levels = self.net["v1"], self.net["v2"], min(self.widths.levels, self.widths.synthesis // 2)
        colours = noise.normal((levels, len(second)))[0]
        for level in range(levels):
            step = 0.3 * 0.7**level * (1 + 0.5 * colours[level])
            for sign in (1, -1):
                unit = 2 * level + (sign < 0)
                first[unit] = 0
                first[unit, level] = sign
                second[:, unit] = sign * step

    def grids(self, latents: Tensor) -> list[Tensor]:
        parts = latents.split([h * w for h, w in self.shapes])
        return [part.reshape(1, 1, h, w) for part, (h, w) in zip(parts, self.shapes, strict=True)]

    def loss(self, latents: Tensor, net: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, the MSE and the bits of all latents."""
        grids = self.grids(latents)
        error = (self._picture(grids, net) - self.x).square().mean()
        bits = self._bits(latents, grids, net)
        return error + self.lam * bits / self.pixels, error, bits

    def _bits(self, latents: Tensor, grids: list[Tensor], net: dict[str, Tensor]) -> Tensor:
        contexts = []
        for grid, (h, w) in zip(grids, self.shapes, strict=True):
            around = F.pad(grid[0, 0], (LEFT, RIGHT, TOP, 0))
            near = [around[TOP + dy : TOP + dy + h, LEFT + dx : LEFT + dx + w].reshape(-1) for dy, dx in NEIGHBOURS]
            contexts.append(torch.stack(near))
        h1 = torch.addmm(net["b1"][:, None], net["w1"], torch.cat(contexts, 1)).relu_()
        h2 = h1 + torch.addmm(net["b2"][:, None], net["w2"], h1).relu_()
        mu, log_scale = torch.addmm(net["b3"][:, None], net["w3"], h2)
        rate = torch.exp(-log_scale.clamp(LOWEST, HIGHEST))  # 1 / scale of the Laplace distribution
        away = (latents - mu).abs()
        upper = (away - 0.5) * rate
        tail = 0.5 * torch.exp(-upper.abs())
        mass = torch.where(upper > 0, tail, 1 - tail) - 0.5 * torch.exp(-(away + 0.5) * rate)
        return -torch.log2(mass.clamp_min(LEAST)).sum()

    def _picture(self, grids: list[Tensor], net: dict[str, Tensor]) -> Tensor:
        f = features(grids)[0].flatten(1)
        h = torch.addmm(net["a1"][:, None], net["v1"], f).relu_()
        o = torch.addmm(net["a2"][:, None], net["v2"], h).reshape(self.x.shape)
        o = o + _convolved(o, net["v3"], net["a3"]).relu_()
        o = o + _convolved(o, net["v4"], net["a4"])
        return o * (SPREAD / 255) + CENTRE / 255


_GAINS = {"w1": 0.5, "w2": 1.0, "w3": 0.1, "v1": 0.5, "v2": 0.25}
"""Weights that do not begin as zero, in units of He's standard deviation."""


def _convolved(o: Tensor, kernel: Tensor, offset: Tensor) -> Tensor:
    return F.conv2d(F.pad(o, (1, 1, 1, 1), mode="replicate"), kernel, offset)


def _softly(y: Tensor, temperature: float) -> Tensor:
    """s(y)."""
    low = torch.floor(y)
    return low + 0.5 + torch.tanh((y - low - 0.5) / temperature) / (2 * math.tanh(0.5 / temperature))


def _kumaraswamy(uniform: Tensor, a: float) -> Tensor:
    """Noise on [-1/2, 1/2] with its mode at 0."""
    b = (2**a * (a - 1) + 1) / a
    return (1 - (1 - uniform) ** (1 / b)) ** (1 / a) - 0.5


def fit(
    picture: NDArray[np.uint8],
    widths: Widths,
    lam: float,
    steps: int,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Fitted:
    """A field for a picture (C, H, W).

    Ctrl-C ends the steps with noise early, and a quarter as many without still follow; another one ends those too.
    What was reached by then is given back; before the first step it is raised again.
    """
    noise = Noise(seed, 1)
    field = _Field(picture, widths, lam, noise)
    optimiser = torch.optim.Adam([{"params": [field.latents]}, {"params": list(field.net.values())}])
    with_noise, taken = math.ceil(SOFT * steps), 0

    def descend(count: int, soft: bool) -> None:
        nonlocal taken
        for step in range(count):
            u = step / count
            for group, (first, last) in zip(optimiser.param_groups, _RATES[soft], strict=True):
                group["lr"] = last + (first - last) * (1 + math.cos(math.pi * u)) / 2
            y = field.latents
            if soft:
                t, a = ((last - first) * u + first for first, last in (TEMPERATURE, KUMARASWAMY))
                y = _softly(_softly(y, t) + _kumaraswamy(noise.uniform(y.shape)[0], a), t)
            else:
                y = y + (y.round() - y).detach()
            loss, error, bits = field.loss(y, field.net)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                field.latents.clamp_(-MOST_LATENT, MOST_LATENT)
            taken += 1
            if progress is not None:
                decibel = -10 * math.log10(max(float(error.detach()), 1e-10))
                progress(taken, decibel, float(bits.detach()) / field.pixels)

    rest = steps - with_noise
    try:
        descend(with_noise, True)
    except KeyboardInterrupt:
        if not taken:
            raise
        rest = min(rest, taken // 4)
    with suppress(KeyboardInterrupt):
        descend(rest, False)
    latents = field.latents.detach().round()
    grids = [grid[0, 0].numpy().astype(np.int64) for grid in field.grids(latents)]
    return Fitted(grids, quantised(field, latents), taken)


_RATES = {True: ((0.3, 0.015), (2e-2, 1e-3)), False: ((1e-3, 1e-5), (1e-3, 1e-5))}
"""First and last learning rate of latents and networks, with noise and without."""


@torch.no_grad()
def quantised(field: _Field, latents: Tensor) -> Weights:
    """Units 2^-k of the groups of weights, each chosen by what it does to the loss with the weights' bits in it."""
    parts = field.widths.parts()
    chosen: dict[str, int] = dict.fromkeys(parts, FINEST - 2)
    net = {name: value.detach() for name, value in field.net.items()}

    def at(group: str, k: int) -> dict[str, Tensor]:
        scale = 2.0**k
        return {name: (net[name] * scale).round().clamp(-MOST_WEIGHT, MOST_WEIGHT) for name in parts[group]}

    def cost(ks: dict[str, int]) -> float:
        trial, bits = {}, 0.0
        for group, k in ks.items():
            whole = at(group, k)
            trial |= {name: value * 2.0**-k for name, value in whole.items()}
            bits += laplace_bits(np.concatenate([value.numpy().ravel() for value in whole.values()]))
        loss, _, _ = field.loss(latents, trial)
        return float(loss) + field.lam * bits / field.pixels

    for group in parts:
        costs = {k: cost(chosen | {group: k}) for k in range(3, FINEST + 1)}
        chosen[group] = min(costs, key=lambda k: costs[k])
    values = {n: v.numpy().astype(np.int64) for group, k in chosen.items() for n, v in at(group, k).items()}
    return Weights(field.widths, chosen, values)


def laplace_bits(whole: NDArray[np.float32]) -> float:
    """About how many bits integers take under the Laplace distribution that suits them."""
    scale = max(float(np.abs(whole).mean()), 0.1)
    upper = (np.abs(whole) - 0.5) / scale
    tail = 0.5 * np.exp(-np.abs(upper))
    mass = np.where(upper > 0, tail, 1 - tail) - 0.5 * np.exp(-(np.abs(whole) + 0.5) / scale)
    return float(-np.log2(np.maximum(mass, 1e-9)).sum())
