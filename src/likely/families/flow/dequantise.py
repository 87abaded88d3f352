"""Integers under a density of the reals: `Dequantised(flow)`.

P(x) is the mass that the density puts on the cell of x. With noise u in the cell, drawn from q(u given x), and a
monotone map h = T(x + u) from (0, levels) *onto* the reals in every dimension,

    P(x) = E_q [ p(T(x + u)) T'(x + u) / q(u given x) ],

so one draw is an importance weight and its logarithm a lower bound ("A note on the evaluation of generative models",
Theis, van den Oord, Bethge, 2016; "Flow++", Ho et al., 2019, for a q that learns). Because T reaches every real number
no mass lies outside the cells: drawing h and taking the cell that it falls in draws from this very P. (Glow's
x / levels - 1/2 + u / levels leaves mass outside the cube, and its samples are clamped; their distribution is another.)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from likely.coding.local import Movable, Moves
from likely.families.flow.cells import CellMap, FilledMoves
from likely.families.flow.noise import FlowNoise, UniformNoise
from likely.noise import Noise
from likely.space import Integers, Reals
from likely.verbs import Estimated, Exact, Samples, has, require

LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)
TAIL = 2.5
TAIL_MASS = 0.5 * math.erfc(TAIL / math.sqrt(2))
TAIL_RATE = math.exp(-0.5 * TAIL**2 - LOG_ROOT_2PI) / TAIL_MASS  # the density meets the normal one at the joint


class Cells(nn.Module, ABC):
    """T: (0, levels) onto the reals, in every dimension. Abstract."""

    @abstractmethod
    def forward(self, x: Tensor, u: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        """h = T(x + u) and log T' summed over dimensions, (B,); `rest` is 1 - u without its rounding error."""

    @abstractmethod
    def cell(self, h: Tensor) -> Tensor:
        """The integer x whose cell holds T^-1(h)."""

    @abstractmethod
    def masses(self) -> Tensor:
        """What T = G^-1(F) makes of every level, F rising by it: (D, levels) float64."""

    @abstractmethod
    def distribution(self, h: Tensor) -> Tensor:
        """G, at h in float64."""


class LogitCells(Cells):
    """h = logit((x + u) / levels)."""

    def __init__(self, space: Integers) -> None:
        super().__init__()
        self.dims, self.levels = space.dims, space.levels

    def forward(self, x: Tensor, u: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        below, above = x + u, (self.levels - 1 - x) + rest
        h = below.log() - above.log()
        # dh/du = 1 / (a (1 - a)) / levels with a = (x + u) / levels
        return h, (math.log(self.levels) - below.log() - above.log()).flatten(1).sum(1)

    def cell(self, h: Tensor) -> Tensor:
        return (self.distribution(h.double()) * self.levels).floor().clamp(0, self.levels - 1).long()

    def masses(self) -> Tensor:
        return torch.full((self.dims, self.levels), 1 / self.levels, dtype=torch.float64)

    def distribution(self, h: Tensor) -> Tensor:
        return h.sigmoid()


class MarginalCells(Cells):
    """h = G^-1(F(x + u)) with F the piecewise linear distribution function of each dimension's histogram.

    G is the standard normal, but for exponential tails beyond 2.5 deviations: a weight is p(h) / g(h), and with
    normal tails it would have no variance wherever p is the wider one. (That costs 0.0002 bits.) So every dimension
    by itself starts out standard normal, and what is left to the flow is how they hang together: a flow that is the
    identity gives the product of the histograms, and before `start` the uniform distribution.
    """

    mass: Tensor
    started: Tensor

    def __init__(self, space: Integers) -> None:
        super().__init__()
        self.shape, self.levels = space.shape, space.levels
        self.register_buffer("mass", torch.full((space.dims, space.levels), 1 / space.levels))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def start(self, x: Tensor) -> None:
        """Take the histograms from x (n, *shape), every one drawn towards its channel's.

        How far, each dimension decides by the likelihood of its own rows when they are left out one at a time.
        """
        if self.started or not x.shape[0]:
            return
        n, levels = x.shape[0], self.levels
        cells = x.reshape(n, -1).long() + levels * torch.arange(self.mass.shape[0], device=x.device)
        count = torch.bincount(cells.flatten(), minlength=self.mass.numel()).double().reshape(-1, levels)
        groups = self.shape[0] if len(self.shape) == 3 else 1
        channel = count.reshape(groups, -1, levels).sum(1) + 1.0
        channel = channel / channel.sum(1, keepdim=True)
        channel = channel.repeat_interleave(count.shape[0] // groups, 0)
        best, mass = count.new_full(count.shape[:1], -math.inf), channel
        for strength in (0.25, 1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0):  # pseudo-counts of the channel's histogram
            left_out = (count - 1).clamp(min=0) + strength * channel
            score = (count * left_out.log()).sum(1) - n * math.log(n - 1 + strength)
            better = score > best
            best = torch.where(better, score, best)
            mass = torch.where(better[:, None], (count + strength * channel) / (n + strength), mass)
        self.mass.copy_(0.999 * mass + 0.001 / levels)
        self.started.fill_(True)

    def forward(self, x: Tensor, u: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        u, rest = u.flatten(1), rest.flatten(1)
        index = x.flatten(1).long() + self.levels * torch.arange(self.mass.shape[0], device=x.device)
        wide = self.masses()
        mass = wide.to(u.dtype).flatten()[index]
        below = (wide.cumsum(1) - wide).to(mass.dtype).flatten()[index] + u * mass
        above = (wide.flip(1).cumsum(1).flip(1) - wide).to(mass.dtype).flatten()[index] + rest * mass
        low = below < above
        tail = torch.where(low, below, above)  # the smaller side, which has the digits
        middle = torch.special.ndtri(tail.clamp(min=TAIL_MASS))
        beyond = tail.clamp(min=torch.finfo(tail.dtype).tiny, max=TAIL_MASS).log() - math.log(TAIL_MASS)  # at most 0
        h = middle + beyond / TAIL_RATE
        log_g = -0.5 * middle.square() - LOG_ROOT_2PI + beyond
        return torch.where(low, h, -h).reshape(-1, *self.shape), (mass.log() - log_g).sum(1)  # T' = mass / g(h)

    def cell(self, h: Tensor) -> Tensor:
        edges = self.masses().cumsum(1)[:, :-1].contiguous()
        level = self.distribution(h.double().flatten(1)).T.contiguous()
        return torch.searchsorted(edges, level, right=True).T.reshape(-1, *self.shape)

    def distribution(self, h: Tensor) -> Tensor:
        tail = torch.special.ndtr(-h.abs().clamp(max=TAIL)) * (TAIL_RATE * (TAIL - h.abs()).clamp(max=0)).exp()
        return torch.where(h < 0, tail, 1 - tail)

    def masses(self) -> Tensor:
        mass = self.mass.double()  # every row sums to 1 to its last digit
        return mass / mass.sum(1, keepdim=True)


class _Dequantised(nn.Module, ABC):
    """Integers under a density of the reals. Abstract; made by `Dequantised`, which picks the class that keeps its
    promises."""

    def __init__(
        self,
        flow: nn.Module,
        space: Integers,
        noise: UniformNoise | FlowNoise,
        cells: Cells,
        config: Any,
    ) -> None:
        super().__init__()
        self.flow, self.space, self.condition, self.config = flow, space, flow.condition, config
        self.noise, self.cells = noise, cells
        self.gradient_in_expectation = getattr(flow, "gradient_in_expectation", False)  # see `likely.verbs.Trainable`

    @property
    def surrogate(self) -> bool:
        """Whether the density's loss is no likelihood."""
        return getattr(self.flow, "surrogate", False)

    @property
    def reading_note(self) -> str:
        """The density's."""
        return getattr(self.flow, "reading_note", "")

    def sample(self, n: int, y: Any = None, *, noise: Noise) -> Tensor:
        """n draws, (n, *shape) int64."""
        return self.cells.cell(self.flow.sample(n, y, noise=noise))  # ty: ignore

    def features(self, x: Tensor, y: Any = None) -> list[Tensor]:
        """The density's `features` at the middle of every cell, so that they depend on x alone."""
        half = torch.full(x.shape, 0.5, dtype=self._dtype, device=x.device)
        return self.flow.features(self.cells(x, half, half)[0], y)  # ty: ignore

    def prepare(self, x: Tensor, y: Any = None, *, noise: Noise) -> None:
        """Takes the histograms from x; the density then prepares itself on the filled cells of at most 512 rows."""
        if isinstance(self.cells, MarginalCells):
            self.cells.start(x)
        if hasattr(self.flow, "prepare"):
            rows = torch.arange(min(x.shape[0], 512), device=x.device)
            noise, y = noise.at(rows), y if y is None else self.condition.take(y, rows)  # ty: ignore
            with torch.no_grad():
                h, _, y = self._fill(x[rows], y, noise)
            self.flow.prepare(h, y, noise=noise)  # ty: ignore

    def after_step(self) -> None:
        """The density's own, where it has one."""
        if hasattr(self.flow, "after_step"):
            self.flow.after_step()  # ty: ignore

    def _fill(self, x: Tensor, y: Any, noise: Noise) -> tuple[Tensor, Tensor, Any]:
        """h (B * k, *shape), log T' - log q (B * k,) and y, each row repeated for its draws."""
        u, rest, log_q = self.noise(x, noise, self._dtype)
        h, log_jacobian = self.cells(noise.expand(x), u, rest)
        if y is not None and noise.draws > 1:
            y = self.condition.take(y, noise.expand(torch.arange(len(noise.rows), device=noise.rows.device)))  # ty: ignore
        return h, log_jacobian - log_q, y

    @property
    def _dtype(self) -> torch.dtype:
        """Of the density's parameters or, where it has none, its buffers."""
        tensors = (t for t in (*self.flow.parameters(), *self.flow.buffers()) if t.is_floating_point())
        return next(tensors, torch.zeros(())).dtype


class DequantisedExact(_Dequantised):
    """Over an `Exact` density. Verbs: Samples, Bounded, Weighted, and Trainable where gradients reach the density."""

    players = ("model",)

    def log_weight(self, x: Tensor, y: Any = None, *, noise: Noise) -> Tensor:
        """log p(h) T' / q(u given x), (B * k,) in nats: the expectation of its exponential is P(x)."""
        h, log_ratio, y = self._fill(x, y, noise)
        return self.flow.log_prob(h, y) + log_ratio  # ty: ignore

    def elbo(self, x: Tensor, y: Any = None, *, noise: Noise) -> Tensor:
        """The same draw, read as a bound: its expectation is at most log P(x)."""
        return self.log_weight(x, y, noise=noise)

    def moves(self) -> Moves:
        """The walk from x to a normal z on a lattice. Raises `TypeError` for a density that has none."""
        if not isinstance(self.flow, Movable):
            raise TypeError(f"its {type(self.flow).__name__} has no moves on a lattice")
        fill = self.noise.fill()
        return FilledMoves(fill, CellMap(self.cells.distribution, self.cells.masses(), fill.bits), self.flow.moves())

    def loss(self, x: Tensor, y: Any = None, *, player: str = "model", noise: Noise) -> Tensor:
        """Minus the bound, the mean over rows and draws, in nats."""
        return -self.log_weight(x, y, noise=noise).mean()


class _OverEstimate(_Dequantised):
    """Over an `Estimated` density. Abstract: trains by the density's own loss."""

    players = ("model",)

    def loss(self, x: Tensor, y: Any = None, *, player: str = "model", noise: Noise) -> Tensor:
        """The density's loss at h, less log T' / q(u given x): the mean over rows and draws, in nats."""
        h, log_ratio, y = self._fill(x, y, noise)
        return self.flow.loss(h, y, noise=noise.flat()) - log_ratio.mean()  # ty: ignore

    def _estimate(self, x: Tensor, y: Any, noise: Noise) -> Tensor:
        """The estimate of log p(h) plus log T' / q(u given x), (B * k,) in nats."""
        h, log_ratio, y = self._fill(x, y, noise)
        return self.flow.log_prob_estimate(h, y, noise=noise.flat()) + log_ratio  # ty: ignore


class DequantisedBound(_OverEstimate):
    """Over an unbiased estimate (Russian roulette). Verbs: Samples, Bounded, Trainable; no weights, for the exponential
    of an unbiased log-estimate is not unbiased."""

    def elbo(self, x: Tensor, y: Any = None, *, noise: Noise) -> Tensor:
        """One draw, (B * k,) in nats: its expectation, E log p(h) T' / q, is at most log P(x)."""
        return self._estimate(x, y, noise)


class DequantisedEstimate(_OverEstimate):
    """Over an estimate that is only consistent (an ODE to some tolerance). Verbs: Samples, Estimated, Trainable."""

    unbiased = False

    def log_prob_estimate(self, x: Tensor, y: Any = None, *, noise: Noise) -> Tensor:
        """One draw, (B * k,) in nats: a lower bound of log P(x) but for the density's own error, on either side."""
        return self._estimate(x, y, noise)


def Dequantised(
    flow: nn.Module,
    space: Integers,
    *,
    noise: UniformNoise | FlowNoise | None = None,
    cells: Cells | None = None,
    config: Any = None,
) -> DequantisedExact | DequantisedBound | DequantisedEstimate:
    """A distribution over `Integers` from a density over `Reals` of the same shape, promising no more than that does.

    `noise` draws u in the cells (uniform unless given), `cells` maps them onto the reals (`MarginalCells` unless
    given). Raises `TypeError` for a density that is neither `Exact` nor `Estimated`, or has no samples.
    """
    require(flow, (Exact, Estimated), "Dequantised")
    require(flow, Samples, "Dequantised")
    if not isinstance(space, Integers):
        raise TypeError(f"space is {type(space).__name__}; Dequantised accepts Integers")
    if not isinstance(flow.space, Reals) or flow.space.shape != space.shape:
        raise ValueError(f"flow is over {flow.space}; accepts one over Reals({space.shape}), as space is {space}")
    noise, cells = noise or UniformNoise(space), cells or MarginalCells(space)
    if has(flow, Exact):
        return DequantisedExact(flow, space, noise, cells, config)
    if flow.unbiased:
        return DequantisedBound(flow, space, noise, cells, config)
    return DequantisedEstimate(flow, space, noise, cells, config)
