"""What all mixtures share: weights, EM, the choice of a component; the leaves p(x given y, k) are their own.

Components are numbered y * components + k across classes, C * K of them; there is one class without a condition.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from likely.config.mixture import Mixture as Config
from likely.noise import Noise
from likely.space import Integers, Rows, Space

_LLOYD = 10
"""Rounds of k-means that `prepare` makes: a start for EM, which does the rest."""
_EMPTY = 1e-10
"""Rows below which a component is taken to have seen nothing."""


class Mixture(nn.Module, ABC):
    """sum_k pi[y, k] p(x given y, k). Abstract: subclasses say what the leaves are."""

    def __init__(self, config: Config, space: Space, condition: Integers | None) -> None:
        super().__init__()
        self.config, self.space, self.condition = config, space, condition
        self.classes, self.components = 1 if condition is None else condition.levels, config.components
        self.weight_logits = nn.Parameter(0.5 * torch.randn(self.classes, self.components))

    # The leaves ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def _observe(self, x: Any, seen: Tensor | None = None) -> Any:
        """x in float64, in whatever form the leaves work on; cells that are not `seen` are marked as missing."""

    @abstractmethod
    def _leaves(self, cells: Any, y: Tensor | None) -> Tensor:
        """log p(seen cells given y, k), (B, K)."""

    @abstractmethod
    def _moments(self, cells: Any, y: Tensor | None, r: Tensor) -> dict[str, Tensor]:
        """Sums over rows that the leaves' M-step needs, from responsibilities r (B, K)."""

    @abstractmethod
    def _fit(self, statistics: dict[str, Tensor]) -> None:
        """The leaves' M-step."""

    @abstractmethod
    def _draw(self, which: Tensor, noise: Noise) -> Any:
        """A draw from component `which` (n,) of each row, as `_restore` takes it."""

    @abstractmethod
    def _complete(self, which: Tensor, cells: Any, noise: Noise) -> Any:
        """A draw from component `which` (B * k,) that agrees with the seen cells, as `_restore` takes it."""

    @abstractmethod
    def _restore(self, draw: Any) -> Any:
        """A value of the space."""

    @abstractmethod
    def _points(self, x: Any) -> Tensor:
        """Rows as vectors (B, E) whose distances mean something: where k-means starts."""

    # Verbs ---------------------------------------------------------------------------------------------------------

    def log_prob(self, x: Any, y: Tensor | None = None) -> Tensor:
        """log p(x given y), (B,) in nats."""
        return self._joint(self._observe(x), y).logsumexp(1).to(self.weight_logits.dtype)

    def log_marginal(self, x: Any, seen: Tensor, y: Tensor | None = None) -> Tensor:
        """log p of the cells marked in `seen` (B, *shape), (B,) in nats."""
        return self._joint(self._observe(x, seen), y).logsumexp(1).to(self.weight_logits.dtype)

    def sample(self, n: int, y: Tensor | None = None, *, noise: Noise) -> Any:
        """n draws (n * k where noise has k a row)."""
        return self._restore(self._draw(self._choose(self._log_weight(y), y, noise), noise))

    def sample_given(self, n: int, x: Any, seen: Tensor, y: Tensor | None = None, *, noise: Noise) -> Any:
        """n draws for each row that keep its seen cells; the component is drawn given those cells alone."""
        if noise.draws != n:
            raise ValueError(f"noise has {noise.draws} draws a row; accepts n, which is {n}")
        cells = self._observe(x, seen)
        which = self._choose(self._joint(cells, y).log_softmax(1), y, noise)
        draw = self._restore(self._complete(which, cells, noise))
        seen = noise.expand(seen)  # seen cells as they came: shifting by the origin and back would move their last bit
        if isinstance(draw, Rows):
            return Rows(torch.where(seen, noise.expand(x.cells).to(draw.cells.dtype), draw.cells), draw.seen)
        return torch.where(seen, noise.expand(x).to(draw.dtype), draw)

    @torch.no_grad()
    def statistics(self, x: Any, y: Tensor | None = None) -> dict[str, Tensor]:
        """The E-step: float64 sums over rows; "log_prob" and "count" are those of the rows themselves."""
        cells = self._observe(x)
        joint = self._joint(cells, y)
        log_prob = joint.logsumexp(1, keepdim=True)
        return self._sums(cells, y, joint.sub_(log_prob).exp_()) | {"log_prob": log_prob.sum()}

    @torch.no_grad()
    def absorb(self, statistics: dict[str, Tensor]) -> None:
        """The M-step. A component, or a whole class, that saw no rows keeps its parameters."""
        rows = statistics["rows"]
        total = rows.sum(1, keepdim=True)
        weight = (rows / total.clamp(min=_EMPTY)).clamp(min=1e-12).log()
        self.weight_logits.copy_(torch.where(total > _EMPTY, weight, self.weight_logits.double()))
        self._fit(statistics)

    @torch.no_grad()
    def prepare(self, x: Any, y: Tensor | None = None, *, noise: Noise) -> None:
        """Start from k-means within each class, itself started by k-means++; fixes the scale of the variance floor."""
        self._measure(x)
        points = self._points(x)
        near = self._k_means(points, torch.zeros_like(points[:, 0], dtype=torch.int64) if y is None else y, noise)
        r = nn.functional.one_hot(near, self.components).double()
        self.absorb(self._sums(self._observe(x), y, r))

    # Parts of them -------------------------------------------------------------------------------------------------

    def _measure(self, x: Any) -> None:
        """Note the scale of the data, where the leaves have one."""

    def _log_weight(self, y: Tensor | None) -> Tensor:
        """log pi[y] in float64, (B, K), or (1, K) without a condition."""
        if (y is None) != (self.condition is None):
            raise ValueError(f"y is {'None' if y is None else 'given'}; the condition is {self.condition or 'none'}")
        log_weight = self.weight_logits.double().log_softmax(1)
        return log_weight if y is None else log_weight[y]

    def _joint(self, cells: Any, y: Tensor | None) -> Tensor:
        """log p(seen cells, k given y), (B, K)."""
        return self._log_weight(y) + self._leaves(cells, y)

    def _sums(self, cells: Any, y: Tensor | None, r: Tensor) -> dict[str, Tensor]:
        rows = self._everywhere(r, y).sum(0).reshape(self.classes, self.components)
        return {"count": r.new_tensor(r.shape[0]), "rows": rows} | self._moments(cells, y, r)

    def _own(self, each: Tensor, y: Tensor | None) -> Tensor:
        """Of (B, C * K) the block of each row's class, (B, K)."""
        if y is None:
            return each
        return each.reshape(-1, self.classes, self.components)[torch.arange(y.shape[0], device=y.device), y]

    def _everywhere(self, r: Tensor, y: Tensor | None) -> Tensor:
        """(B, K) put into the block of each row's class, zero elsewhere: (B, C * K)."""
        if y is None:
            return r
        full = r.new_zeros(r.shape[0], self.classes, self.components)
        full[torch.arange(y.shape[0], device=y.device), y] = r
        return full.flatten(1)

    def _choose(self, log_weight: Tensor, y: Tensor | None, noise: Noise) -> Tensor:
        """A component for every draw, (B * k,) in 0 .. C * K - 1, from normalised log-weights (B or 1, K)."""
        edges, u = log_weight.exp().cumsum(1), noise.uniform((1,), dtype=torch.float64)
        if len(edges) == 1:  # one set of weights for all draws
            u = u.reshape(1, -1)
        elif noise.draws > 1:
            edges = noise.expand(edges)
        k = torch.searchsorted(edges, u, right=True).flatten().clamp(max=self.components - 1)
        return k if y is None else noise.expand(y) * self.components + k

    def _k_means(self, points: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The cluster of each row within its class, (B,) in 0 .. K - 1: k-means++, then Lloyd; all classes at once."""
        member = y == torch.arange(self.classes, device=y.device)[:, None]  # (C, B)
        far, centres = points.new_ones(len(y)), []
        for _ in range(self.components):
            # Gumbel's trick: the arg-max of log d^2 + noise is a row drawn in proportion to d^2
            key = (far + 1e-30).log() + noise.gumbel(dtype=points.dtype)
            pick = key.where(member, -torch.inf).argmax(1)  # (C,)
            away = (points - points[pick][y]).square().sum(1)
            far = torch.minimum(far, away) if centres else away
            centres.append(points[pick])
        centre = torch.stack(centres, 1).flatten(0, 1)  # (C * K, E)
        near = y
        for _ in range(_LLOYD):
            distance = centre.square().sum(1) - 2 * points @ centre.T  # up to the row's own square
            near = distance.reshape(len(y), self.classes, -1)[torch.arange(len(y)), y].argmin(1)
            cluster = y * self.components + near
            size = torch.zeros_like(centre[:, 0]).index_add_(0, cluster, torch.ones_like(far))[:, None]
            total = torch.zeros_like(centre).index_add_(0, cluster, points)
            centre = torch.where(size > 0, total / size.clamp(min=1), centre)
        return near
