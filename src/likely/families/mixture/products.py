"""Mixtures of products: given the component, every cell is an independent categorical or normal.

Cells are of two kinds, R numbers and Q codes, and log p is linear in features of them: x^2, x and 1 for a number,
an indicator of its level for a code. So scores and statistics are matrix products, dense for numbers and sparse for
codes, and a missing cell is one whose features are zero.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from likely.config.mixture import Mixture as Config
from likely.families.mixture.base import _EMPTY, Mixture
from likely.noise import Noise
from likely.observation import Categorical, Conditional
from likely.space import Integers, Reals, Rows, Table


class Cells(NamedTuple):
    """Rows in float64; a mask is None where all is seen."""

    features: Tensor  # (B, 2R): squares and values of the numbers, less the origin; 0 where not seen
    number_seen: Tensor | None  # (B, R), 0 or 1
    codes: Tensor  # (B, Q) int64
    code_seen: Tensor | None  # (B, Q), 0 or 1


class Draw(NamedTuple):
    """Numbers (n, R) and codes (n, Q)."""

    numbers: Tensor
    codes: Tensor


class _Products(Mixture):
    """R numbers, and Q codes with `levels` each. Abstract."""

    def __init__(self, config: Config, space: Any, condition: Integers | None, numbers: int, levels: list[int]) -> None:
        super().__init__(config, space, condition)
        every, most = self.classes * self.components, max(levels, default=0)
        self.mean = nn.Parameter(torch.randn(every, numbers))
        self.log_scale = nn.Parameter(0.3 * torch.randn(every, numbers))
        self.logits = nn.Parameter(torch.randn(self.classes, len(levels), most, self.components))
        self.register_buffer("origin", torch.zeros(numbers))
        self.register_buffer("spread", torch.ones(numbers))
        absent = torch.arange(most) >= torch.tensor(levels, dtype=torch.int64)[:, None]
        self.register_buffer("absent", absent[:, :, None], persistent=False)  # (Q, L, 1): levels a column lacks

    def _cells(self, numbers: Tensor, number_seen: Tensor | None, codes: Tensor, code_seen: Tensor | None) -> Cells:
        value = numbers.double() - self.origin.double()
        if number_seen is not None:
            value, number_seen = value.where(number_seen, 0), number_seen.double()
        if code_seen is not None:
            codes, code_seen = codes.where(code_seen, 0), code_seen.double()
        return Cells(torch.cat([value.square(), value], 1), number_seen, codes, code_seen)

    def _log_theta(self) -> Tensor:
        """Log-probabilities of the levels, (C, Q, L, K); -inf at levels that a column lacks."""
        return self.logits.double().masked_fill(self.absent, -torch.inf).log_softmax(2)  # ty: ignore[no-matching-overload]

    def _bags(self, log_theta: Tensor, cells: Cells, y: Tensor | None) -> Tensor:
        """sum_q log theta[y, q, code_q, k], (B, K)."""
        _, q, levels, k = log_theta.shape
        column = torch.arange(q, device=cells.codes.device)
        index = (column if y is None else y[:, None] * q + column) * levels + cells.codes
        return F.embedding_bag(index, log_theta.reshape(-1, k), mode="sum", per_sample_weights=cells.code_seen)

    def _leaves(self, cells: Cells, y: Tensor | None) -> Tensor:
        score = cells.features.new_zeros(())
        if self.mean.shape[1]:
            mean, log_scale = self.mean.double() - self.origin.double(), self.log_scale.double()
            precision = (-2 * log_scale).exp()
            constant = -0.5 * mean.square() * precision - log_scale - 0.5 * math.log(2 * math.pi)  # (C * K, R)
            natural = torch.cat([-0.5 * precision, mean * precision], 1)
            if cells.number_seen is None:
                each = torch.addmm(constant.sum(1), cells.features, natural.T)
            else:
                each = cells.features @ natural.T + cells.number_seen @ constant.T
            score = self._own(each, y)
        if self.logits.shape[1]:
            score = score + self._bags(self._log_theta(), cells, y)
        return score

    def _moments(self, cells: Cells, y: Tensor | None, r: Tensor) -> dict[str, Tensor]:
        sums = {}
        if self.mean.shape[1]:
            weight = self._everywhere(r, y).T
            sums["square"], sums["sum"] = (weight @ cells.features).chunk(2, 1)
            if cells.number_seen is not None:
                sums["numbers"] = weight @ cells.number_seen
        if self.logits.shape[1]:
            # sum_b r[b] [code_bq = l] is the derivative of sum_bk r[b, k] log p(codes_b given k) by log theta
            with torch.enable_grad():
                theta = torch.zeros_like(self.logits, dtype=torch.float64).requires_grad_()
                (sums["levels"],) = torch.autograd.grad((self._bags(theta, cells, y) * r).sum(), theta)
        return sums

    def _fit(self, statistics: dict[str, Tensor]) -> None:
        if self.mean.shape[1]:
            rows = statistics.get("numbers", statistics["rows"].reshape(-1, 1))
            some = rows > _EMPTY
            rows = rows.clamp(min=_EMPTY)
            shift = statistics["sum"] / rows
            variance = (statistics["square"] / rows - shift.square()).clamp(min=0)
            variance = variance + self.config.variance_floor * self.spread.double()
            self.mean.copy_(torch.where(some, shift + self.origin.double(), self.mean.double()))
            self.log_scale.copy_(torch.where(some, 0.5 * variance.log(), self.log_scale.double()))
        if self.logits.shape[1]:
            count = statistics["levels"]
            logits = (count + self.config.pseudo_count).log()
            some = (statistics["rows"] > _EMPTY)[:, None, None]  # (C, 1, 1, K)
            self.logits.copy_(torch.where(some, logits, self.logits.double()))

    def _measure(self, x: Any) -> None:
        cells = self._observe(x)
        value = cells.features.chunk(2, 1)[1]
        seen = torch.ones_like(value) if cells.number_seen is None else cells.number_seen
        rows = seen.sum(0).clamp(min=1)
        shift = value.sum(0) / rows
        variance = ((value - shift).square() * seen).sum(0) / rows
        self.origin.add_(shift)
        self.spread.copy_(torch.where(variance > 0, variance, 1.0))

    def _points(self, x: Any) -> Tensor:
        cells = self._observe(x)
        codes = F.one_hot(cells.codes, self.logits.shape[2]).double() if self.logits.shape[1] else cells.codes.double()
        if cells.code_seen is not None:
            codes = codes * cells.code_seen.reshape(*cells.code_seen.shape, *[1] * (codes.ndim - 2))
        return torch.cat([cells.features.chunk(2, 1)[1] / self.spread.double().sqrt(), codes.flatten(1)], 1)

    def _draw(self, which: Tensor, noise: Noise) -> Draw:
        count, numbers = which.shape[0], self.mean.shape[1]
        codes = which.new_zeros(count, self.logits.shape[1])
        value = self.mean.new_zeros(count, 0, dtype=torch.float64)
        if numbers:
            normal = noise.normal((numbers,), dtype=torch.float64)
            mean, scale = self.mean.double(), self.log_scale.double().exp()
            value = torch.addcmul(mean.index_select(0, which), scale.index_select(0, which), normal)
        if codes.shape[1]:
            edges = self._log_theta().exp().cumsum(2).permute(0, 3, 1, 2).flatten(0, 1)  # (C * K, Q, L)
            u = noise.uniform((codes.shape[1], 1), dtype=torch.float64)
            codes = torch.searchsorted(edges.index_select(0, which), u, right=True).squeeze(2)
            codes = torch.minimum(codes, (~self.absent).sum((1, 2)) - 1)
        return Draw(value, codes)

    def _complete(self, which: Tensor, cells: Cells, noise: Noise) -> Draw:
        value, codes = self._draw(which, noise)
        if cells.number_seen is not None:
            given = noise.expand(cells.features.chunk(2, 1)[1] + self.origin.double())
            value = given.where(noise.expand(cells.number_seen) > 0, value)
        if cells.code_seen is not None:
            codes = noise.expand(cells.codes).where(noise.expand(cells.code_seen) > 0, codes)
        return Draw(value, codes)


class DiagonalMixture(_Products):
    """Gaussians with diagonal covariances, over `Reals`."""

    def __init__(self, config: Config, space: Reals, condition: Integers | None) -> None:
        super().__init__(config, space, condition, space.dims, [])

    def _observe(self, x: Tensor, seen: Tensor | None = None) -> Cells:
        value = x.reshape(x.shape[0], self.space.dims)
        none = torch.zeros(x.shape[0], 0, dtype=torch.int64, device=x.device)
        return self._cells(value, None if seen is None else seen.reshape(value.shape), none, None)

    def _restore(self, draw: Draw) -> Tensor:
        return draw.numbers.to(self.mean.dtype).reshape(-1, *self.space.shape)


class TableMixture(_Products):
    """A categorical or a normal for each column of a `Table`; missing cells are summed out."""

    def __init__(self, config: Config, space: Table, condition: Integers | None) -> None:
        levels = [len(column.categories) for column in space.columns if column.categories is not None]
        super().__init__(config, space, condition, len(space.columns) - len(levels), levels)
        coded = torch.tensor([column.categories is not None for column in space.columns])
        self.register_buffer("coded", coded, persistent=False)

    def _observe(self, x: Rows, seen: Tensor | None = None) -> Cells:
        seen = x.seen if seen is None else x.seen & seen
        cells = x.cells.where(seen, 0)  # what stands in a cell that is not seen may be anything
        coded = self.coded
        return self._cells(cells[:, ~coded], seen[:, ~coded], cells[:, coded].long(), seen[:, coded])

    def _restore(self, draw: Draw) -> Rows:
        cells = self.mean.new_zeros(draw.codes.shape[0], self.space.dims)
        cells[:, ~self.coded], cells[:, self.coded] = draw.numbers.to(cells.dtype), draw.codes.to(cells.dtype)
        return Rows(cells, torch.ones_like(cells, dtype=torch.bool))


class State(NamedTuple):
    """Where the chain rule stands: log p(k given the sites so far), (n, K)."""

    log_weight: Tensor
    log_theta: Tensor  # (1 or n, Q, L, K): each row's class
    site: int


class CategoricalMixture(_Products):
    """Categoricals at every position of `Integers`; `Ordered` as well, every number a site in reading order."""

    def __init__(self, config: Config, space: Integers, condition: Integers | None) -> None:
        super().__init__(config, space, condition, 0, [space.levels] * space.dims)
        self.sites = space.dims
        self.site = Categorical(Integers((), space.levels))

    def _observe(self, x: Tensor, seen: Tensor | None = None) -> Cells:
        codes = x.reshape(x.shape[0], self.sites).long()
        none = self.mean.new_zeros(x.shape[0], 0)
        return self._cells(none, None, codes, None if seen is None else seen.reshape(codes.shape))

    def _restore(self, draw: Draw) -> Tensor:
        return draw.codes.reshape(-1, *self.space.shape)

    def _points(self, x: Tensor) -> Tensor:
        # as if the levels were ordered: this only starts EM
        return self.space.centred(x, torch.float64).flatten(1)  # ty: ignore[missing-attribute]

    def to_sites(self, x: Tensor) -> Tensor:
        """(B, *shape) to (B, 1, sites), the order in which `step` takes them."""
        return x.reshape(x.shape[0], 1, self.sites)

    def from_sites(self, x: Tensor) -> Tensor:
        """(B, 1, sites) to (B, *shape)."""
        return x.reshape(x.shape[0], *self.space.shape)

    def start(self, n: int, y: Tensor | None = None) -> tuple[State, Conditional]:
        """The state before the first site, and that site's distribution."""
        log_theta = self._log_theta()
        state = State(self._log_weight(y).expand(n, -1), log_theta if y is None else log_theta[y], 0)
        return state, self._conditional(state)

    def step(self, state: State, x_i: Tensor) -> tuple[State, Conditional | None]:
        """Put in a site's values (n, 1): Bayes' rule for the component, then the next site's distribution."""
        here = state.log_theta[:, state.site].expand(x_i.shape[0], -1, -1)  # (n, L, K)
        index = x_i.long().reshape(-1, 1, 1).expand(-1, 1, self.components)
        log_weight = (state.log_weight + here.gather(1, index)[:, 0]).log_softmax(1)
        state = State(log_weight, state.log_theta, state.site + 1)
        return state, None if state.site == self.sites else self._conditional(state)

    def _conditional(self, state: State) -> Conditional:
        parameters = (state.log_weight[:, None] + state.log_theta[:, state.site]).logsumexp(2)
        return Conditional(self.site, parameters.to(self.logits.dtype))
