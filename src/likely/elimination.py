"""What can be made of noisy bounds on log p(x, y), one for each class y.

`race` finds the class with the highest mean, and how far the others are behind, without asking the hopeless ones again
and again. Scores are paired: draw j of every class saw the same noise, so that differences vary far less than scores,
and a class whose difference from the leader is several of its standard errors needs no further draws ("Your Diffusion
Model is Secretly a Zero-Shot Classifier", Li et al., 2023, section 3.3, which keeps the best few after each stage).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from likely.noise import Noise

ROWS = 256
"""Rows that race side by side. Their arithmetic is done at this size whatever their number, bit for bit the same."""
FIRST, MOST = 4, 16
"""Draws of the first round; each further round doubles the draws so far, by at most MOST."""


def rounds(k: int) -> list[range]:
    """Draws 0 .. k - 1 in rounds, after each of which classes may drop out."""
    found, stop = [], 0
    while stop < k:
        start, stop = stop, min(k, stop + min(max(stop, FIRST), MOST))
        found.append(range(start, stop))
    return found


def race(
    scores: Callable[[Tensor, Tensor, range], Tensor],
    n: int,
    classes: int,
    k: int,
    errors: float,
    tell: Callable[[float], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Minus how far each class is behind the best of its row, (n, classes) float64, and the draws that say so.

    scores(rows (m,), labels (m,), draws) -> (m, len(draws)) float64 are asked for the pairs still in the race, at most
    k draws a pair, n rows of at most `ROWS`. After each round a class leaves where its mean difference from the leader
    is more than `errors` standard errors; its distance stays what it was then, measured from that leader. A row with
    one class left is done. `tell` hears which share of the draws is settled.
    """
    values = torch.zeros(ROWS, classes, k, dtype=torch.float64)
    drawn = torch.zeros(ROWS, classes, dtype=torch.int64)
    running = (torch.arange(ROWS) < n)[:, None].repeat(1, classes)
    leader, behind = torch.zeros_like(drawn), torch.zeros(ROWS, classes, dtype=torch.float64)
    schedule = rounds(k)
    for piece in schedule:
        rows, labels = running.nonzero(as_tuple=True)
        if not len(rows):
            break
        stop = piece.stop
        values[rows, labels, piece.start : stop] = scores(rows, labels, piece)
        drawn[rows, labels] = stop
        so_far = values[:, :, :stop]
        first = so_far.mean(2).where(running, -math.inf).argmax(1, keepdim=True)
        gaps = so_far.gather(1, first[:, :, None].expand(-1, 1, stop)) - so_far  # paired: (ROWS, classes, stop)
        gap = gaps.mean(2)
        leader, behind = first.where(running, leader), gap.where(running, behind)
        if stop > 1:
            running = running & (gap <= errors * gaps.std(2) / math.sqrt(stop))
            running = running & (running.sum(1, keepdim=True) > 1)
        if tell is not None:
            tell(1 - float(running.sum()) / (n * classes) * (1 - stop / k))
    score = torch.zeros_like(behind)
    for _ in schedule:  # a leader that lost to a later one stands behind that one itself
        score = score.gather(1, leader) - behind
    return score[:n], drawn[:n]


def bound_of_mixture(model: Any, x: Any, log_r: Tensor, *, noise: Noise) -> Tensor:
    """A lower bound on log p(x) from any distribution r over classes, `log_r` (B, K): (B * k,) in nats.

    One draw is b(y) - log r(y) with y ~ r and b(y) a draw of `log_joint_bound`, which the model gives for one class
    alone (`some_classes`). A bound only if r was made without the noise that is drawn here; tight where r is the
    posterior.
    """
    rows = torch.arange(model.space.len(x), device=log_r.device).repeat_interleave(noise.draws)
    x, log_r, each = model.space.take(x, rows), log_r[rows], noise.flat()
    edges = log_r.double().softmax(1).cumsum(1)
    u = each.stratified()[:, None] * edges[:, -1:]
    y = (u > edges[:, :-1]).sum(1, keepdim=True)
    bound = model.log_joint_bound(x, among=y, noise=each)[:, 0]
    return bound - log_r.gather(1, y)[:, 0].to(bound)
