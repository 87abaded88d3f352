"""Ordinary differential equations, solved row by row to a tolerance on fixed grids.

    dx/dt = f(x, t),   d log |det dx(t)/dx(start)| / dt = div f.

An adaptive solver takes one step size for the whole batch: the result of a row would then depend on its neighbours, by
up to the tolerance. Here a grid is fixed, solved with Runge and Kutta's fourth-order method, and doubled; each row
keeps the first solution that the last doubling changed by no more than the tolerance. (In the limit its error is a
fifteenth of that change; on coarse grids that credit is not due.) This sees the whole error, where step-size control
sees only that of single steps, and it costs evaluations that a row of its own might have spared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

ORDER = 4
"""Of Runge and Kutta's method: the error falls with the fourth power of the number of steps."""

Answer = tuple[Tensor, Tensor]
"""x (B, ...) and log-determinants (B,), or their rates of change."""


class StepLimit(FloatingPointError):
    """An ODE was not solved to its tolerance within the steps that it may take."""


class Limits(NamedTuple):
    """How an ODE is solved: on grids from `steps` to at most `max_steps` steps, to a relative `tolerance`."""

    steps: int
    max_steps: int
    tolerance: float


class Solution(NamedTuple):
    """Where each row of x went, and how well that is known."""

    x: Tensor
    """(B, ...)."""
    log_det: Tensor
    """(B,), nats."""
    evaluations: Tensor
    """How often the right-hand side was asked for a row, on all its grids, (B,)."""
    change: Tensor
    """What the last doubling of its grid changed, relative, (B,)."""


def rk4(rate: Callable[[Tensor, Tensor], Answer], x: Tensor, start: float, end: float, steps: int) -> Answer:
    """The classical fourth-order method of Runge and Kutta on equal steps; `rate(t, x)` with t () in float64."""
    h, log_det = (end - start) / steps, x.new_zeros(x.shape[0])
    times = torch.linspace(start, end, 2 * steps + 1, dtype=torch.float64)
    for i in range(steps):
        begin, middle, after = times[2 * i : 2 * i + 3]
        k1, d1 = rate(begin, x)
        k2, d2 = rate(middle, x + h / 2 * k1)
        k3, d3 = rate(middle, x + h / 2 * k2)
        k4, d4 = rate(after, x + h * k3)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        log_det = log_det + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return x, log_det


def refined(solve: Callable[[int], Answer], limits: Limits, *, volume: bool) -> Solution:
    """Grids of twice as many steps each; a row keeps the first that moves it by no more than the tolerance.

    `solve(steps)` is the solution on one grid. With `volume` also log N(x; 0, I) + log_det has to stay within the
    tolerance. Raises `StepLimit` where the steps do not suffice.
    """
    steps = limits.steps
    x, log_det = solve(steps)
    tolerance = attainable(limits.tolerance, x.dtype)
    kept, kept_log_det = x, log_det
    done = torch.zeros(x.shape[0], dtype=torch.bool, device=x.device)
    change = torch.full_like(log_det, torch.inf)
    kept_change, asked, spent = change, torch.zeros_like(done, dtype=torch.int64), 4 * steps
    while not bool(done.all()):
        steps *= 2
        if steps > limits.max_steps:
            raise StepLimit(unsolved(limits, f"{int((~done).sum())} of {len(done)} rows", change[~done]))
        finer, finer_log_det = solve(steps)
        spent += 4 * steps
        change = relative_change(x, finer).flatten(1).amax(1)
        if volume:  # log p but for a constant: log_det leaves out what x does to it
            old, new = log_det - half_square(x), finer_log_det - half_square(finer)
            change = torch.maximum(change, relative_change(old, new))
        now = (change <= tolerance) & ~done
        kept = torch.where(now.reshape(-1, *[1] * (x.ndim - 1)), finer, kept)
        kept_log_det = torch.where(now, finer_log_det, kept_log_det)
        kept_change, asked = torch.where(now, change, kept_change), torch.where(now, spent, asked)
        done, x, log_det = done | now, finer, finer_log_det
    return Solution(kept, kept_log_det, asked, kept_change)


def relative_change(before: Tensor, after: Tensor) -> Tensor:
    """|after - before| / (1 + |after|), entry by entry."""
    return (after - before).abs() / (1 + after.abs())


def half_square(x: Tensor) -> Tensor:
    """|x|^2 / 2 of every row, (B,)."""
    return 0.5 * x.flatten(1).square().sum(1)


def attainable(tolerance: float, dtype: torch.dtype) -> float:
    """The tolerance, or what the precision allows for."""
    return max(tolerance, 64 * torch.finfo(dtype).eps)


def unsolved(limits: Limits, who: str, change: Tensor | None = None) -> str:
    """The sentence of a `StepLimit`."""
    moved = f", the last doubling moves them by {float(change.detach().max()):.1e}" if change is not None else ""
    return (
        f"the ODE is not solved to tolerance {limits.tolerance:g} in {limits.max_steps} steps ({who}{moved}); "
        "raise max_steps or tolerance, or train on: fields grow stiff with learning rates that are too high"
    )
