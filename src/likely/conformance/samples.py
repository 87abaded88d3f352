"""P: draws are draws from the density, whatever the batching, for every condition."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from likely.conformance.enumerate import index_of, real_dims
from likely.conformance.report import Failed, Skip, promise
from likely.conformance.statistics import (
    FALSE_FAIL,
    dkw_limit,
    dominated,
    draws_needed,
    g_test,
    smallest_gap,
    t_limit,
    t_scores,
)
from likely.conformance.subject import Subject
from likely.logprob import sample, scoring
from likely.noise import Noise
from likely.space import Reals
from likely.verbs import Exact, Joint, Samples, Weighted, has

STATES = ("perturbed",)
"""Which copies are sampled: moved parameters show what initial ones, often symmetric, hide."""


def _state(subject: Subject) -> str:
    return list(subject.variants("given", *STATES))[-1]


@promise
def discrete_draws(subject: Subject) -> str:
    """P1 Discrete draws have the enumerated probabilities.

    G-test for every condition, 1e-6 in all. As many draws as see an effect of w = 0.1 (one half of the mass off by
    10 %) with power 0.999, at most 200,000. A model with importance weights in place of a density is compared by
    t-tests: the share of draws in each of 24 random halves of the space against the mean weights summed there.
    """
    subject.need(Samples)
    subject.need(Exact, Weighted)
    count = subject.space.len(subject.enumerable())
    state, conditions = _state(subject), subject.conditions()
    if "Exact" not in subject.verbs:
        return _against_weights(subject, state)
    # a joint model's classes are drawn as well: also from the trained copy, which has seen some more often than others
    cases = [(state, place) for place in range(len(conditions))]
    if has(subject.model, Joint) and "trained" in subject.variants():
        cases.append(("trained", len(conditions) - 1))
    draws, worst, where = draws_needed(count, comparisons=len(cases)), 1.0, ""
    for state, place in cases:
        drawn = subject.draws(state, place, draws)
        subject.space.check(drawn, "sample")
        counts = torch.bincount(index_of(subject.space, drawn), minlength=count)
        p_value, freedom = g_test(counts, subject.log_table(state, place).exp())
        if p_value <= worst:
            worst, where = p_value, f"{state}, condition {place} of {len(conditions)}, {freedom} degrees of freedom"
    if worst < FALSE_FAIL / len(cases):
        raise Failed(f"G-test p = {worst:.1e} with {draws} draws ({where}); accepts {FALSE_FAIL / len(cases):.0e}")
    return f"smallest p = {worst:.2g} with {draws} draws ({where})"


def _against_weights(subject: Subject, state: str) -> str:
    every = subject.enumerable()
    count, conditions = subject.space.len(every), subject.conditions()
    halves = (Noise(subject.seed + 61, 24).uniform((count,)) < 0.5).double()
    draws, k = 30_000, max(128, min(4096, 100_000 // count) // 64 * 64)
    worst = gap = 0.0
    model = subject.wide(state)
    for place, y in enumerate(conditions):
        drawn = subject.draws(state, place, draws)
        subject.space.check(drawn, "sample")
        mine = halves[:, index_of(subject.space, drawn)].T
        weights = log_weights(subject, model, every, y, k).exp()  # (S, k)
        truth = (halves @ weights).T
        score = (_mean(mine) - _mean(truth)) / (_error(mine).square() + _error(truth).square()).sqrt()
        worst = max(worst, float(score.abs().nan_to_num(math.inf).max()))
        gap = max(gap, smallest_gap(mine), smallest_gap(truth))
    limit = t_limit(24 * len(conditions))
    if worst > limit:
        raise Failed(f"|t| = {worst:.1f} between draws and weights in a half of the space; accepts {limit:.1f}")
    return f"|t| <= {worst:.1f} of {limit:.1f} in 24 halves; a shift of {gap:.3f} in probability would show"


def log_weights(subject: Subject, model: Any, x: Any, y: Any, k: int) -> Tensor:
    """k log-weights for each row, (n, k), in pieces."""
    n, step, done = subject.space.len(x), min(k, 512), []
    rows = max(1, 65_536 // step)
    with scoring(model):
        for low in range(0, n, rows):
            piece = subject.space.take(x, slice(low, low + rows))
            m = subject.space.len(piece)
            ids = torch.arange(low, low + m)
            parts = []
            for start in range(0, k, step):
                noise = Noise(subject.seed + 62, ids, range(start, min(start + step, k)))
                values = model.log_weight(piece, subject.repeated(y, m), noise=noise)
                parts.append(values.double().reshape(m, -1))
            done.append(torch.cat(parts, 1))
    return torch.cat(done)


def _mean(values: Tensor) -> Tensor:
    return values.double().mean(0)


def _error(values: Tensor) -> Tensor:
    return values.double().std(0) / math.sqrt(len(values))


@promise
def real_draws(subject: Subject) -> str:
    """P2 Real draws have the distribution functions of the density, and its entropy.

    1-D marginals and 32 random projections of 20,000 draws against 200,000 stratified points, by the inequality of
    Dvoretzky, Kiefer and Wolfowitz at 1e-6 in all, plus 0.002 for the strata: a distance of 0.05 is seen with near
    certainty. The mean of log p over draws is minus the entropy by quadrature (t-test at 1e-6). Up to 3 real
    dimensions. A model with importance weights in place of a density (up to 8 dimensions): the share of 30,000 draws
    in each of 24 half-spaces against E[w(x) / r(x)] there, x from a wide Student t, t-tests at 1e-6 in all.
    """
    subject.need(Samples)
    subject.need(Exact, Weighted)
    if "Exact" not in subject.verbs:
        return _half_spaces(subject)
    d = subject.integrable()
    state, draws, conditions = _state(subject), 20_000, subject.conditions()
    directions = torch.eye(d, dtype=torch.float64)
    if d > 1:
        directions = torch.cat([directions, Noise(subject.seed + 63, 32).normal((d,), dtype=torch.float64)])
    worst, scores = -math.inf, []
    for place, y in enumerate(conditions):
        drawn = subject.draws(state, place, draws)
        subject.space.check(drawn, "sample")
        points, mass = subject.strata(state, place)
        if not abs(float(mass.sum()) - 1) < 0.01:
            raise Failed(f"the density has mass {float(mass.sum()):.4f}: there is nothing to compare draws with")
        real = subject.reals_of(drawn)
        worst = max(worst, *(_distance(real @ each, points @ each, mass) for each in directions))
        entropy = sum(
            float((n.mass * torch.where(n.mass > 0, n.log_p, 0.0)).sum()) for n in subject.nodes(state, place)
        )
        scores.append(float(t_scores(subject.log_p(subject.wide(state), drawn, y), entropy)))
    limit = dkw_limit(draws, len(directions) * len(conditions)) + 0.002
    if not worst <= limit:
        raise Failed(f"a distribution function is off by {worst:.3f}; accepts {limit:.3f} for {draws} draws")
    score = max(scores, key=abs)
    if not abs(score) <= t_limit(len(scores)):
        raise Failed(f"the mean log p of draws is not minus the entropy: t = {score:.1f}")
    return f"distance {worst:.4f} of {limit:.4f} over {len(directions)} projections; entropy t = {score:.1f}"


def _half_spaces(subject: Subject) -> str:
    d = real_dims(subject.space)
    if not isinstance(subject.space, Reals) or d > 8:
        raise Skip(f"{subject.space} is not real with at most 8 dimensions")
    worst, gap, skewed, conditions = 0.0, 0.0, 0, subject.conditions()
    for state, model in subject.variants().items():
        for place, y in enumerate(conditions):
            x, log_r = subject.proposals(state, place, 100_000)
            weight = (log_weights(subject, model, x, y, 1)[:, 0] - log_r).exp()
            if dominated(weight[:, None]):
                skewed += 1
                continue
            real, drawn = subject.reals_of(x), subject.reals_of(subject.draws(state, place, 30_000))
            directions = Noise(subject.seed + 64, 24).normal((d,), dtype=torch.float64)
            edges = (drawn[:24] * directions).sum(1)  # through 24 of the draws
            mine = ((drawn[24:] @ directions.T) > edges).double()
            truth = ((real @ directions.T) > edges).double() * weight[:, None]
            score = (_mean(mine) - _mean(truth)) / (_error(mine).square() + _error(truth).square()).sqrt()
            worst = max(worst, float(score.abs().nan_to_num(math.inf).max()))
            gap = max(gap, smallest_gap(mine), smallest_gap(truth))
    if skewed == len(subject.variants()) * len(conditions):
        raise Skip("the weights of every copy are dominated by single draws: no power")
    limit = t_limit(24 * len(conditions) * len(subject.variants()))
    if worst > limit:
        raise Failed(f"|t| = {worst:.1f} between draws and weights in a half-space; accepts {limit:.1f}")
    return f"|t| <= {worst:.1f} of {limit:.1f} in 24 half-spaces; a shift of {gap:.3f} in probability would show"


def _distance(draws: Tensor, points: Tensor, mass: Tensor) -> float:
    """Largest distance between the distribution functions of draws and of weighted points."""
    draws, n = draws.sort().values, len(draws)
    bucket = torch.searchsorted(draws, points)
    truth = torch.zeros(n + 1, dtype=torch.float64).index_add_(0, bucket, mass).cumsum(0)[:-1]
    step = torch.arange(n + 1, dtype=torch.float64) / n
    return float(torch.maximum((truth - step[1:]).abs(), (truth - step[:-1]).abs()).max())


@promise
def cells(subject: Subject) -> str:
    """P3 Draws in two dimensions fall into random cells as often as the density says.

    48 cells around the first draws (each point belongs to its nearest), their probabilities from 200,000 stratified
    points, 20,000 further draws, G-test at 1e-6 in all: an effect of w = 0.1 is seen with power 0.999, also where no
    projection shows it.
    """
    subject.need(Samples)
    subject.need(Exact)
    if subject.integrable() != 2 or not isinstance(subject.space, Reals):
        raise Skip("not two real dimensions")
    state, conditions, worst = _state(subject), subject.conditions(), 1.0
    for place in range(len(conditions)):
        points, mass = subject.strata(state, place)
        real = subject.reals_of(subject.draws(state, place, 20_000))
        centres = real[:48]
        owner = torch.cdist(points, centres).argmin(1)
        share = torch.zeros(48, dtype=torch.float64).index_add_(0, owner, mass)
        counts = torch.bincount(torch.cdist(real[48:], centres).argmin(1), minlength=48)
        worst = min(worst, g_test(counts, share / share.sum())[0])
    if worst < FALSE_FAIL / len(conditions):
        raise Failed(f"G-test over 48 cells: p = {worst:.1e}; accepts {FALSE_FAIL:.0e}")
    return f"smallest p = {worst:.2g} over {len(conditions)} conditions"


@promise
def conditional_draws(subject: Subject) -> str:
    """P4 Draws given y are judged by the exact p(y given x) as the density says.

    The mean posterior over draws of each class equals the one by enumeration, t-tests at 1e-6 in all; 20,000 draws a
    class see a shift of about 0.02 in probability. (For every condition alone, P1 to P3 compare draws and density.)
    """
    subject.need(Joint)
    subject.need(Samples)
    every, state = subject.enumerable(), _state(subject)
    model, conditions = subject.wide(state), subject.conditions()
    subject.need(Exact)
    with scoring(model):
        table = model.log_posterior(every).double().exp()
    worst, gap = 0.0, 0.0
    for place in range(len(conditions)):
        drawn = subject.draws(state, place, 20_000)
        with scoring(model):
            values = model.log_posterior(drawn).double().exp()
        truth = subject.log_table(state, place).exp() @ table
        worst = max(worst, float(t_scores(values, truth).abs().max()))
        gap = max(gap, smallest_gap(values))
    limit = t_limit(len(conditions) * table.shape[1])
    if not worst <= limit:
        raise Failed(f"|t| = {worst:.1f} between the posterior of draws and its expectation; accepts {limit:.1f}")
    return f"|t| <= {worst:.1f} of {limit:.1f}; a shift of {gap:.3f} would show"


@promise
def batched_draws(subject: Subject) -> str:
    """P5 A draw does not depend on how many others are made with it.

    Through the door, in the model's own dtype, bit by bit: 10 draws are the first 10 of 100, and draws 60 .. 80 made
    alone are the same. Called directly with the same row ids in another order, the draws follow the ids (up to 1 % of
    rows may differ for integers, 1e-4 for reals: matrix products round differently at other places).
    """
    subject.need(Samples)
    model, space = subject.copied(), subject.space
    for y in subject.conditions()[:2]:
        every = sample(model, 100, subject.repeated(y, 100), seed=subject.seed)
        space.check(every, "sample")
        for low, high in ((0, 10), (60, 80)):
            piece = sample(model, high - low, subject.repeated(y, high - low), seed=subject.seed, first=low)
            if not same(piece, space.take(every, slice(low, high))):
                raise Failed(f"draws {low} .. {high} alone are not those of the same numbers among 100, bit by bit")
        ids, wide = torch.arange(64), subject.wide("given")
        order = (ids * 27 + 5) % 64
        with scoring(wide):
            plain = wide.sample(64, subject.repeated(y, 64), noise=Noise(subject.seed, ids))
            moved = wide.sample(64, subject.repeated(y, 64), noise=Noise(subject.seed, order))
        a, b = flat(space.take(plain, order)), flat(moved)
        near = ((a - b).abs() <= 1e-4 * (1 + a.abs())).all(1)
        if not float(near.double().mean()) >= 0.98:
            raise Failed(f"{int((~near).sum())} of 64 draws change when their row ids come in another order")
    return "10 of 100 and 60 .. 80 alone bit-equal; draws follow their ids"


def flat(x: Any) -> Tensor:
    """The numbers of a value, (B, dims) float64."""
    x = x.cells if hasattr(x, "cells") else x
    return x.reshape(x.shape[0], -1).double()


def same(a: Any, b: Any) -> bool:
    """Bit-equality of two values."""
    if isinstance(a, tuple):
        return all(same(u, v) for u, v in zip(a, b, strict=True))
    return a.dtype == b.dtype and torch.equal(a, b)
