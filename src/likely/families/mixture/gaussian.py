"""Gaussian mixtures with full or tied covariances: any marginal, any conditional, exactly.

Sigma = L L^T; L has exp(log_scale) on its diagonal and the strict lower triangle of `lower` below, so that every
value of the parameters is a covariance.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from likely.config.mixture import Mixture as Config
from likely.families.mixture.base import _EMPTY, Mixture
from likely.noise import Noise
from likely.space import Integers, Reals


class Cells(NamedTuple):
    """Rows in float64, less the origin, 0 where not seen; the mask is None where all is seen."""

    value: Tensor  # (B, D)
    seen: Tensor | None  # (B, D) bool


class GaussianMixture(Mixture):
    """Gaussians over `Reals`, each with a covariance of its own, or all with one."""

    def __init__(self, config: Config, space: Reals, condition: Integers | None) -> None:
        super().__init__(config, space, condition)
        every = self.classes * self.components
        self.tied = config.covariance == "tied"
        factors = 1 if self.tied else every  # F, below
        self.mean = nn.Parameter(torch.randn(every, space.dims))
        self.log_scale = nn.Parameter(0.3 * torch.randn(factors, space.dims))
        self.lower = nn.Parameter(0.3 * torch.randn(factors, space.dims, space.dims).tril(-1))
        self.register_buffer("origin", torch.zeros(space.dims))
        self.register_buffer("spread", torch.ones(space.dims))

    def _observe(self, x: Tensor, seen: Tensor | None = None) -> Cells:
        value = x.reshape(x.shape[0], self.space.dims).double() - self.origin.double()
        if seen is None:
            return Cells(value, None)
        seen = seen.reshape(value.shape)
        return Cells(value.where(seen, 0), seen)

    def _shift(self) -> Tensor:
        """Means less the origin, (C * K, D)."""
        return self.mean.double() - self.origin.double()

    def _factor(self) -> Tensor:
        """L, (F, D, D)."""
        return self.lower.double().tril(-1) + self.log_scale.double().exp().diag_embed()

    def _leaves(self, cells: Cells, y: Tensor | None) -> Tensor:
        if cells.seen is not None:
            return self._marginals(cells, y)
        factor, shift = self._factor(), self._shift()
        identity = torch.eye(shift.shape[1], dtype=factor.dtype, device=factor.device)
        whiten = torch.linalg.solve_triangular(factor, identity, upper=False)  # (F, D, D)
        centre = (whiten @ shift[:, :, None])[:, :, 0]  # (C * K, D)
        if self.tied:
            white = cells.value @ whiten[0].T
            distance = torch.addmm(centre.square().sum(1), white, centre.T, alpha=-2).add_(
                white.square().sum(1)[:, None]
            )
        else:
            white = torch.addmm(-centre.flatten(), cells.value, whiten.flatten(0, 1).T)
            distance = torch.linalg.vector_norm(white.reshape(-1, *centre.shape), dim=2).square()  # (B, C * K)
        constant = self.log_scale.double().sum(1) + 0.5 * shift.shape[1] * math.log(2 * math.pi)
        return self._own(-0.5 * distance - constant, y)

    def _moments(self, cells: Cells, y: Tensor | None, r: Tensor) -> dict[str, Tensor]:
        x, weight = cells.value, self._everywhere(r, y).T
        square = (x.T @ x)[None] if self.tied else (weight[:, None] * x.T) @ x
        return {"sum": weight @ x, "square": square}

    def _fit(self, statistics: dict[str, Tensor]) -> None:
        rows = statistics["rows"].reshape(-1, 1)
        some = rows > _EMPTY
        shift = statistics["sum"] / rows.clamp(min=_EMPTY)
        between = rows[:, :, None] * shift[:, :, None] * shift[:, None]
        if self.tied:
            rows, between = rows.sum(0, keepdim=True), between.sum(0, keepdim=True)
        square = (statistics["square"] - between) / rows.clamp(min=_EMPTY)[:, :, None]
        floor = self.config.variance_floor * self.spread.double()
        factor = torch.linalg.cholesky(torch.where((rows > _EMPTY)[:, :, None], square, 0) + floor.diag())
        log_scale = factor.diagonal(dim1=1, dim2=2).log()
        self.mean.copy_(torch.where(some, shift + self.origin.double(), self.mean.double()))
        self.log_scale.copy_(torch.where(rows > _EMPTY, log_scale, self.log_scale.double()))
        self.lower.copy_(torch.where((rows > _EMPTY)[:, :, None], factor.tril(-1), self.lower.double()))

    def _measure(self, x: Tensor) -> None:
        value = self._observe(x).value
        variance, mean = torch.var_mean(value, 0, correction=0)
        self.origin.add_(mean)
        self.spread.copy_(torch.where(variance > 0, variance, 1.0))

    def _points(self, x: Tensor) -> Tensor:
        return self._observe(x).value / self.spread.double().sqrt()

    def _draw(self, which: Tensor, noise: Noise) -> Tensor:
        normal = noise.normal((self.space.dims,), dtype=torch.float64)
        factor = self._factor()
        if self.tied:
            return self._shift()[which] + normal @ factor[0].T
        return self._shift()[which] + (factor[which] @ normal[:, :, None])[:, :, 0]

    def _restore(self, draw: Tensor) -> Tensor:
        return (draw + self.origin.double()).to(self.mean.dtype).reshape(-1, *self.space.shape)

    def _seen_blocks(self, seen: Tensor, own: Tensor) -> Tensor:
        """Cholesky factors of covariances `own` (..., D, D), the unseen rows and columns those of the identity.

        Such a matrix has the determinant of the seen block, and its inverse that block's inverse.
        """
        both = seen[..., :, None] & seen[..., None, :]
        identity = torch.eye(seen.shape[-1], dtype=own.dtype, device=own.device)
        return torch.linalg.cholesky(own.where(both, identity))

    def _marginals(self, cells: Cells, y: Tensor | None) -> Tensor:
        """log p(seen cells given y, k), (B, K), each row with its own pattern of seen cells."""
        seen, factor, shift = cells.seen, self._factor(), self._shift()
        covariance = (factor @ factor.mT).reshape(-1, 1 if self.tied else self.components, *factor.shape[1:])
        of_class = torch.zeros_like(seen[:, 0], dtype=torch.int64) if y is None else y
        own = covariance.expand(len(seen), -1, -1, -1) if self.tied else covariance[of_class]
        block = self._seen_blocks(seen[:, None], own)  # (B, K or 1, D, D)
        centre = shift.reshape(self.classes, self.components, -1)[of_class]
        apart = (cells.value[:, None] - centre).where(seen[:, None], 0)  # (B, K, D)
        white = torch.linalg.solve_triangular(block, apart[..., None], upper=False)[..., 0]
        log_det = block.diagonal(dim1=2, dim2=3).log().sum(2)
        constant = 0.5 * math.log(2 * math.pi) * seen.sum(1, keepdim=True, dtype=shift.dtype)
        return -0.5 * white.square().sum(2) - log_det - constant

    def _complete(self, which: Tensor, cells: Cells, noise: Noise) -> Tensor:
        """Matheron's rule: draw x' from the component, then add Sigma_.b Sigma_bb^-1 (x_b - x'_b)."""
        value, seen = noise.expand(cells.value), noise.expand(cells.seen)
        free = self._draw(which, noise)
        factor = self._factor()
        own = (factor @ factor.mT)[torch.zeros_like(which) if self.tied else which]
        block = self._seen_blocks(seen, own)
        apart = (value - free).where(seen, 0)[..., None]
        draw = free + (own @ torch.cholesky_solve(apart, block))[..., 0]
        return value.where(seen, draw)
