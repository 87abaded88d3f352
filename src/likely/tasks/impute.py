"""What is missing here? Completions of rows of which some cells are seen.

Exact (`=`) where the model can draw from its conditionals: `Marginal`, or `Ordered` where what is seen comes first.
A `Denoiser` draws approximately (`~`): the sampler's path is steered by

    E[x given z, seen] ~ x_hat + C_as C_ss^-1 (x_s - x_hat_s),    C = J, up to a factor,

with x_hat = E[x given z] and J its Jacobian in z, for the posterior covariance of x given z is J sigma^2 / alpha
(Tweedie's formula). For Gaussian x this is the truth, so that draws are exact but for the steps of the sampler; for
other x it is what a Gaussian of that mean and covariance would say: moment matching posterior sampling, "Learning
Diffusion Priors from Observations by Expectation Maximization" (Rozet, Andry, Lanusse, Louppe, 2024). The linear system
is solved by a few steps of conjugate gradients, each of which asks for one product of J, the difference of two
answers. So the model needs nothing but the verb, and no gradients.

The steps are those of SDE-DPM-Solver++(2M) ("DPM-Solver++: fast solver for guided sampling of diffusion probabilistic
models", Lu et al., 2022), evenly in log-SNR; their fresh noise mends what a network's x_hat gets wrong on the way.
RePaint (Lugmayr et al., 2022), which puts noisy copies of what is seen into the path and repeats steps, ends dozens of
times further from the true conditional of a Gaussian at as many evaluations: bench/impute.py measures both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from likely.logprob import Kind, batched, check_condition
from likely.noise import Noise
from likely.space import Reals, Rows, Space, Table
from likely.tasks.denoise import rounded
from likely.tasks.gauge import Gauge, along, inner
from likely.verbs import Denoiser, Marginal, Ordered, has, require

SOLVES = 3
"""Steps of conjugate gradients for each step of the sampler."""
STEP = 0.1
"""How far differences reach, in standard deviations of the noise."""


@dataclass(frozen=True)
class Imputed:
    """n completions of each of B rows.

    `draws` are B * n values of the space, those of a row adjacent: seen cells as they came, the others drawn. `kind` is
    `=` for draws from the model's own conditional and `~` for approximate ones; `how` says by what.
    """

    draws: Any
    seen: Tensor
    n: int
    kind: Kind
    how: str
    space: Space
    evaluations: int | None = None
    """How often the denoiser was asked for each draw."""

    @property
    def mean(self) -> Tensor:
        """The mean of each row's draws, (B, *shape) real-valued; of categories the mean code, which says little."""
        return self._cells.mean(1)

    @property
    def spread(self) -> Tensor:
        """The standard deviation of each row's draws, (B, *shape); 0 where n is 1."""
        return self._cells.std(1, correction=0)

    @property
    def _cells(self) -> Tensor:
        cells = self.draws.cells if isinstance(self.draws, Rows) else self.draws
        return cells.double().reshape(-1, self.n, *self.space.shape)

    def __str__(self) -> str:
        share = float(1 - self.seen.double().mean())
        return f"{len(self.seen)} rows, {share:.0%} of the cells filled in, {self.n} times {self.kind} ({self.how})"


def impute(
    model: Any,
    x: Any,
    seen: Any = None,
    n: int = 1,
    *,
    y: Any = None,
    evaluations: int = 120,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Imputed:
    """n draws of the cells of each row that are not seen, given those that are.

    x is (B, *shape) in the model's space; whatever stands in cells that are not seen does not matter, and may be NaN on
    reals. `seen` is bool, shaped like x, like one row, or (H, W) for pictures (C, H, W); None for a table, whose rows
    say themselves what was seen. Draw j of row i depends on (seed, i, j) alone. `evaluations` is how often a denoiser
    is asked for each draw; exact models have no use for it. `progress` is called with the number of draws done.

    Raises `TypeError` for a model that is neither `Marginal` nor `Denoiser`, nor `Ordered` with what is seen in front;
    `ValueError` for rows, masks and numbers that do not fit.
    """
    require(model, (Marginal, Denoiser, Ordered), "impute")
    space: Space = model.space
    seen = _mask(space, x, seen)
    x = space.check(x if isinstance(space, Table) else _blank(space, x, seen), "x")
    rows = space.len(x)
    if len(seen) != rows:
        raise ValueError(f"seen has {len(seen)} rows; accepts one mask, or {rows}, one for each row of x")
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n is {n!r}; accepts the number of draws for each row, 1 or more")
    draw, kind, how, cost = _drawer(model, seen, evaluations)
    # every draw is a row of its own, whose noise has the id (draw, row)
    row, number = torch.arange(rows).repeat_interleave(n), torch.arange(n).repeat(rows)
    every = space.take(x, row)
    if y is not None:
        y = check_condition(model, y, rows)
        y = model.condition.take(y, row)
    elif not has(model, Denoiser):
        check_condition(model, None, rows)

    def call(x: Any, y: Any, ids: Tensor) -> Tensor:
        got = draw(x, seen.to(ids.device)[ids & 0xFFFFFFFF], y, Noise(seed, ids))
        return got.cells if isinstance(got, Rows) else got

    cells = batched(model, call, every, y, rows=row + (number << 32), progress=progress)
    cells = cells.reshape(rows * n, *space.shape)
    kept = seen[row]
    if isinstance(every, Rows):
        cells = torch.where(kept, every.cells.to(cells.dtype), cells)
        return Imputed(Rows(cells, torch.ones_like(kept)), seen, n, kind, how, space, cost)
    return Imputed(torch.where(kept, every, cells.to(every.dtype)), seen, n, kind, how, space, cost)


Draw = Callable[[Any, Tensor, Any, Noise], Any]
"""Rows x, what is seen of them, their condition and noise to completed rows."""


def _drawer(model: Any, seen: Tensor, evaluations: int) -> tuple[Draw, Kind, str, int | None]:
    """How this model completes rows: the best way that it has."""
    if has(model, Marginal):
        draw = lambda x, seen, y, noise: model.sample_given(1, x, seen, y, noise=noise)  # noqa: E731
        return draw, Kind.EXACT, "the model's own conditional", None
    if not has(model, Denoiser):
        require(model, Ordered, "impute")
        return _in_order(model, seen), Kind.EXACT, "site after site", None
    gauge = Gauge(model, "impute")
    steps = evaluations // (1 + SOLVES)
    if steps < 2:
        raise ValueError(
            f"evaluations is {evaluations}; accepts {2 * (1 + SOLVES)} or more, {1 + SOLVES} for each step"
        )
    draw = lambda x, seen, y, noise: list(completions(gauge, x, seen, y, noise, steps))[-1]  # noqa: E731
    return draw, Kind.ESTIMATE, f"moment matching along {steps} steps", steps * (1 + SOLVES)


def completions(gauge: Gauge, x: Tensor, seen: Tensor, y: Any, noise: Noise, steps: int) -> Iterator[Tensor]:
    """Values of the space after each step of the path from noise to a completion of x (B, *shape)."""
    model = gauge.model
    known = model.scaled(x)
    z = noise.normal(known.shape[1:], dtype=known.dtype)
    path = torch.linspace(gauge.low, gauge.high, steps + 1, dtype=torch.float64)
    before = None
    for i, (t, s) in enumerate(pairwise(path)):
        x_hat = gauge.within(steered(gauge, z, t, known, seen, y))
        # SDE-DPM-Solver++(2M) (Lu et al., 2022) on even steps of 2 h; the first and the last one are of first order
        d = x_hat if before is None or i == steps - 1 else 1.5 * x_hat - 0.5 * before
        alpha, sigma, h = s.sigmoid().sqrt(), (-s).sigmoid().sqrt(), (s - t) / 2
        kept, fresh = (-h).exp() * sigma / (-t).sigmoid().sqrt(), sigma * (-torch.expm1(-2 * h)).sqrt()
        xi = noise.normal(z.shape[1:], dtype=z.dtype)
        z = float(kept) * z - float(alpha * torch.expm1(-2 * h)) * d + float(fresh) * xi
        before = x_hat
        yield rounded(model.unscaled(z / float(alpha)), model.space)


def steered(gauge: Gauge, z: Tensor, log_snr: Tensor, known: Tensor, seen: Tensor, y: Any = None) -> Tensor:
    """E[x given z and x_s = known_s], scaled, as far as `SOLVES` steps of conjugate gradients go; (B, *shape)."""
    s = (-log_snr / 2).exp().to(z.device).expand(len(z))
    v = z / float(log_snr.sigmoid().sqrt())
    x_hat = gauge.denoised(v, s, y)
    gap = torch.where(seen, known - x_hat, 0)  # solve J_ss u = gap; the answer moves by J u
    moved, p, size = torch.zeros_like(z), gap, inner(gap, gap)
    for _ in range(SOLVES):
        step = STEP * s * math.sqrt(math.prod(z.shape[1:])) / inner(p, p).sqrt().clamp(min=1e-30)
        Jp = (gauge.denoised(v + along(step, p) * p, s, y) - x_hat) / along(step, p)
        curvature = inner(p, Jp)
        length = torch.where(curvature > 0, size / curvature, 0)  # a covariance has none below 0; an error does
        moved = moved + along(length, z) * Jp
        gap = torch.where(seen, gap - along(length, z) * Jp, 0)
        size, last = inner(gap, gap), size
        p = gap + along(size / last.clamp(min=1e-30), z) * p
    return torch.where(seen, known, x_hat + moved)


def _in_order(model: Any, seen: Tensor) -> Draw:
    """One site after the other, seen ones as they came: exact where no seen site comes after one that is not."""
    space = model.space
    if len(space.shape) > 1 and space.shape[0] > 1:
        raise ValueError(f"model reads {space} in an order that it does not tell; accepts one channel, or a vector")
    flat = seen.flatten(1)
    if bool((flat[:, 1:] & ~flat[:, :-1]).any()):
        raise ValueError(
            "seen marks cells after some that are not seen; this model is Ordered, which accepts what is seen in front "
            "and completes the rest: the lower part of a picture, the end of a sequence"
        )

    def draw(x: Tensor, seen: Tensor, y: Any, noise: Noise) -> Tensor:
        cells, kept = x.flatten(1), seen.flatten(1)
        state, each = model.start(len(x), y)
        uniforms = noise.uniform((model.sites, each.observation.uniforms), dtype=each.parameters.dtype)
        for i in range(model.sites):
            value = torch.where(kept[:, i : i + 1], cells[:, i : i + 1], each.sample(uniforms[:, i]).to(cells.dtype))
            cells = torch.cat([cells[:, :i], value, cells[:, i + 1 :]], 1)
            state, each = model.step(state, value)
        return cells.reshape(x.shape)

    return draw


def _mask(space: Space, x: Any, seen: Any) -> Tensor:
    """`seen` as (B, *shape) bool on the CPU."""
    own = space.check(x, "x").seen if isinstance(space, Table) else None
    if seen is None:
        if own is None:
            raise ValueError(f"seen is None; accepts a bool mask for values of {space}, True where a cell is seen")
        return own.cpu()
    seen = torch.as_tensor(seen)
    if seen.dtype != torch.bool:
        raise TypeError(f"seen holds {str(seen.dtype).removeprefix('torch.')}; accepts bool, True where a cell is seen")
    shape = space.shape
    if len(shape) == 3 and tuple(seen.shape) == shape[1:]:
        seen = seen[None].expand(shape)
    if tuple(seen.shape) == shape:
        seen = seen[None].expand(len(x.cells) if isinstance(x, Rows) else len(x), *shape)
    if tuple(seen.shape[1:]) != shape:
        raise ValueError(f"seen has shape {tuple(seen.shape)}; accepts (n, {', '.join(map(str, shape))}), like x")
    seen = seen.cpu().contiguous()
    return seen if own is None or own.shape != seen.shape else seen & own.cpu()


def _blank(space: Space, x: Any, seen: Tensor) -> Any:
    """x with zeros where it is not seen, and so nothing that `check` could mind."""
    x = x if isinstance(x, Tensor) else torch.as_tensor(x)
    if tuple(x.shape) != tuple(seen.shape) or (isinstance(space, Reals) and not x.dtype.is_floating_point):
        return x
    return torch.where(seen.to(x.device), x, torch.zeros((), dtype=x.dtype, device=x.device))
