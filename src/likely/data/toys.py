"""Two-dimensional toys with known densities, and so with known entropies: a mean -log p below them is a mistake.

The generators are those of "FFJORD" (Grathwohl et al., 2019), with rows drawn independently (classes and angles too,
where scikit-learn lays out a grid). Each has its exact density, which the entropy floor, in nats, is integrated from.
`likely.data.toys.entropy(name)` repeats the integration.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from likely.noise import Noise


class Toy(NamedTuple):
    """A generator of points in the plane, its density, and the entropy of that density."""

    draw: Callable[[Noise], tuple[Tensor, Tensor | None]]
    """noise -> points (n, 2) float64 and labels (n,) int64, or None."""
    log_density: Callable[[Tensor], Tensor]
    """points (n, 2) float64 -> (n,) nats."""
    entropy: float
    """Nats; no model's mean negative log-likelihood on fresh points can be below."""
    classes: int
    half_width: float
    """The density beyond the square [-half_width, half_width]^2 does not matter to the entropy."""
    text: str


def draw(name: str, n: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """n points (n, 2) in the default floating type, and labels; the same points for the same seed."""
    key = int.from_bytes(hashlib.sha256(f"toy {name}, seed {seed}".encode()).digest()[:8], "big")
    x, y = TOYS[name].draw(Noise(key, n))
    return x.to(torch.get_default_dtype()), y


def entropy(name: str, cells: int = 240) -> float:
    """-integral of p log p over the plane by the midpoint rule on cells x cells squares, in nats."""
    toy = TOYS[name]
    step = 2 * toy.half_width / cells
    axis = (torch.arange(cells, dtype=torch.float64) + 0.5) * step - toy.half_width
    total = 0.0
    for rows in axis.split(max(1, 8_000 // cells)):
        log_p = toy.log_density(torch.cartesian_prod(rows, axis))
        total -= float(torch.special.xlogy(log_p.exp(), log_p.exp()).sum())
    return total * step * step


# --- circles and rings: r = radius, angle uniform, plus Normal noise of deviation sd ------------------------------


def _rings(radii: tuple[float, ...], sd: float, floor: float, text: str) -> Toy:
    radius = torch.tensor(radii, dtype=torch.float64)

    def draw(noise: Noise) -> tuple[Tensor, Tensor]:
        y = noise.integers(len(radii))
        angle = 2 * math.pi * noise.uniform(dtype=torch.float64)
        ring = torch.stack([angle.cos(), angle.sin()], 1) * radius[y, None]
        return ring + sd * noise.normal((2,), dtype=torch.float64), y

    def log_density(x: Tensor) -> Tensor:
        # A circle blurred by a Normal has density exp(-(r - R)^2 / 2 sd^2) i0e(r R / sd^2) / (2 pi sd^2).
        r = x.norm(dim=1, keepdim=True)
        log_p = torch.special.i0e(r * radius / sd**2).log() - (r - radius).square() / (2 * sd**2)
        return log_p.logsumexp(1) - math.log(2 * math.pi * sd**2 * len(radii))

    return Toy(draw, log_density, floor, len(radii), max(radii) + 7 * sd, text)


# --- eight Gaussians on a circle of radius 4 / 1.414 --------------------------------------------------------------

_CENTRES = torch.tensor([(math.cos(k * math.pi / 4), math.sin(k * math.pi / 4)) for k in range(8)], dtype=torch.float64)
_CENTRES, _GAUSS_SD = _CENTRES * (4 / 1.414), 0.5 / 1.414


def _draw_gaussians(noise: Noise) -> tuple[Tensor, Tensor]:
    y = noise.integers(8)
    return _CENTRES[y] + _GAUSS_SD * noise.normal((2,), dtype=torch.float64), y


def _log_gaussians(x: Tensor) -> Tensor:
    distance = (x[:, None] - _CENTRES).square().sum(2)
    return (-distance / (2 * _GAUSS_SD**2)).logsumexp(1) - math.log(2 * math.pi * _GAUSS_SD**2 * 8)


# --- two moons: half circles, noise 0.1, doubled and shifted by (-1, -0.2) ----------------------------------------

_SHIFT, _MOON_SD = torch.tensor([-1.0, -0.2], dtype=torch.float64), 0.2


def _moons(t: Tensor, lower: Tensor) -> Tensor:
    """Points of the noise-free moons at angle t (n,) in [0, pi]; `lower` (n,) bool picks the second one."""
    x = torch.where(lower, 1 - t.cos(), t.cos())
    return 2 * torch.stack([x, torch.where(lower, 0.5 - t.sin(), t.sin())], 1) + _SHIFT


def _draw_moons(noise: Noise) -> tuple[Tensor, Tensor]:
    y = noise.integers(2)
    points = _moons(math.pi * noise.uniform(dtype=torch.float64), y == 1)
    return points + _MOON_SD * noise.normal((2,), dtype=torch.float64), y


def _log_moons(x: Tensor) -> Tensor:
    u, weight = _gauss_legendre(96)
    log_p = [
        ((x[:, None] - _moons(math.pi * u, torch.full_like(u, k, dtype=torch.bool))).square().sum(2), weight.log())
        for k in (0, 1)
    ]
    terms = torch.cat([w - d / (2 * _MOON_SD**2) for d, w in log_p], 1)
    return terms.logsumexp(1) - math.log(2 * 2 * math.pi * _MOON_SD**2)


# --- two spirals: angle and radius t = 3 pi sqrt(u), a uniform offset below 1/6, Normal noise 0.1 -----------------

_SPIRAL_SD, _SPIRAL_WIDTH = 0.1, 0.5 / 3


def _spiral(u: Tensor) -> Tensor:
    """Points (n, 2) of the first noise-free spiral at u (n,) in (0, 1)."""
    t = 3 * math.pi * u.sqrt()
    return torch.stack([-t.cos() * t, t.sin() * t], 1) / 3


def _draw_spirals(noise: Noise) -> tuple[Tensor, Tensor]:
    y = noise.integers(2)
    points = _spiral(noise.uniform(dtype=torch.float64)) + _SPIRAL_WIDTH * noise.uniform((2,), dtype=torch.float64)
    return points * (1 - 2 * y[:, None]) + _SPIRAL_SD * noise.normal((2,), dtype=torch.float64), y


def _log_spirals(x: Tensor) -> Tensor:
    # Uniform offset plus Normal noise: (Phi(d / sd) - Phi((d - width) / sd)) / width on each axis; quadrature over t,
    # with density 2 t / (3 pi)^2, for the rest. The second spiral is the first one turned by half a circle.
    share, weight = _gauss_legendre(400)
    centre, weight = _spiral(share.square()), weight * 2 * share
    p = x.new_zeros(len(x))
    for side in (x, -x):
        z = (side[:, None] - centre) / _SPIRAL_SD
        blurred = torch.special.ndtr(z) - torch.special.ndtr(z - _SPIRAL_WIDTH / _SPIRAL_SD)
        p = p + blurred.prod(2) @ weight
    return (p / (2 * _SPIRAL_WIDTH**2)).log()


# --- checkerboard: uniform on 8 of the 16 squares of side 2 in [-4, 4]^2 ------------------------------------------


def _draw_checkerboard(noise: Noise) -> tuple[Tensor, None]:
    x1 = 4 * noise.uniform(dtype=torch.float64) - 2
    x2 = noise.uniform(dtype=torch.float64) - 2 * noise.integers(2) + x1.floor() % 2
    return 2 * torch.stack([x1, x2], 1), None


def _log_checkerboard(x: Tensor) -> Tensor:
    inside = (x.abs() < 4).all(1) & ((x / 2).floor().sum(1) % 2 == 0)
    return torch.where(inside, -math.log(32), -math.inf)


def _gauss_legendre(nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes in (0, 1) and weights that sum to 1."""
    at, weight = np.polynomial.legendre.leggauss(nodes)
    return torch.from_numpy((at + 1) / 2), torch.from_numpy(weight / 2)


TOYS: dict[str, Toy] = {
    "moons": Toy(
        _draw_moons, _log_moons, 2.393879, 2, 5.0, "two half circles, noise 0.1, times 2, shifted by (-1, -0.2)"
    ),
    "circles": _rings((3.0, 1.5), 0.24, 3.268136, "circles of radius 3 and 1.5, noise 0.24"),
    "rings": _rings((3.0, 2.25, 1.5, 0.75), 0.08, 2.623183, "rings of radius 3, 2.25, 1.5 and 0.75, noise 0.08"),
    "checkerboard": Toy(_draw_checkerboard, _log_checkerboard, math.log(32), 1, 5.0, "8 of 16 squares of side 2"),
    "spirals": Toy(_draw_spirals, _log_spirals, 2.645450, 2, 4.5, "two spirals of 1.5 turns, noise 0.1 and an offset"),
    "gaussians": Toy(
        _draw_gaussians, _log_gaussians, 2.831880, 8, 5.5, "eight Gaussians, radius 4/1.414, sd 0.5/1.414"
    ),
}
