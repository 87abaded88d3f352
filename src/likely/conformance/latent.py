"""L: bounds are below the truth, in order, and importance weights are weights."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from likely.conformance.enumerate import real_dims
from likely.conformance.report import Failed, Skip, promise
from likely.conformance.samples import log_weights
from likely.conformance.statistics import dominated, smallest_gap, t_limit, t_scores
from likely.conformance.subject import Subject
from likely.logprob import log_prob, scoring
from likely.noise import Noise
from likely.space import Reals
from likely.verbs import Bounded, Exact, Latent, Weighted, has

ROWS, DRAWS = 8, 4096
"""Rows that bounds are compared on, and draws for each."""


def _rows(subject: Subject, n: int) -> Any:
    """Some rows: the first states of an enumerable space (spread), else structured and random ones."""
    every = subject.states()
    if every is not None:
        size = subject.space.len(every)
        return subject.space.take(every, torch.linspace(0, size - 1, min(n, size)).round().long())
    return subject.wider(subject.data(n)[0])


def elbos(subject: Subject, model: Any, x: Any, y: Any, k: int) -> Tensor:
    """k draws of the bound for each row, (n, k)."""
    n, done = subject.space.len(x), []
    with scoring(model):
        for start in range(0, k, 256):
            noise = Noise(subject.seed + 91, torch.arange(n), range(start, min(start + 256, k)))
            done.append(model.elbo(x, subject.repeated(y, n), noise=noise).double().reshape(n, -1))
    return torch.cat(done, 1)


class Draws(NamedTuple):
    """Draws of one copy under one condition, which several checks share: (DRAWS, ROWS) each."""

    state: str
    bounds: Tensor | None
    weights: Tensor | None
    log_p: Tensor | None
    """(ROWS,), where quadrature over z finds it."""


def shared(subject: Subject) -> list[Draws]:
    """The draws of every copy, under at most 3 conditions; made once for a subject."""
    if not subject.shared:
        for state, model in subject.variants().items():
            for y in subject.conditions()[:3]:
                x = _rows(subject, ROWS)
                bounds = elbos(subject, model, x, y, DRAWS).T if has(model, Bounded) else None
                weights = log_weights(subject, model, x, y, DRAWS).T if has(model, Weighted) else None
                subject.shared.append(Draws(state, bounds, weights, truth(subject, model, x, y)))
    return subject.shared


def truth(subject: Subject, model: Any, x: Any, y: Any) -> Tensor | None:
    """log p(x) by quadrature over z, where the model shows its prior and likelihood and z has at most 2 dimensions.

    A trapezoid rule over 12 standard deviations either way, which converges faster than any power of the step; None
    where halving the step moves log p by more than 1e-7 (a decoder with kinks, a very sharp likelihood).
    """
    if not has(model, Latent):
        return None
    with scoring(model):
        try:
            prior = model.prior(subject.repeated(y, 1))
            z = prior.sample(Noise(subject.seed + 92, 2048))
        except (TypeError, AttributeError):
            return None
        if not isinstance(z, Tensor) or not z.dtype.is_floating_point or z[0].numel() > 2:
            return None
        shape, z = z.shape[1:], z.flatten(1).double()
        d, n = z.shape[1], subject.space.len(x)
        m = {1: 2001, 2: 161}[d]
        axes = [
            torch.linspace(-12, 12, m, dtype=torch.float64) * s + c for c, s in zip(z.mean(0), z.std(0), strict=True)
        ]
        grid = torch.cartesian_prod(*axes).reshape(-1, *shape)
        step = math.prod(float(axis[1] - axis[0]) for axis in axes)
        log_z = prior.log_prob(grid).double().reshape(-1) + math.log(step)
        use = log_z > log_z.max() - 60
        grid, log_z, position = grid[use], log_z[use], use.nonzero()[:, 0]
        total = []
        for i in range(n):
            row = subject.space.take(x, torch.full((len(grid),), i))
            value = model.likelihood(grid, subject.repeated(y, len(grid))).log_prob(row).double()
            total.append(value.reshape(len(grid)) + log_z)
    every = torch.stack(total)
    coarse = (position % m % 2 == 0) & (position // m % 2 == 0 if d == 2 else True)
    fine, rough = every.logsumexp(1), every[:, coarse].logsumexp(1) + d * math.log(2)
    return fine if float((fine - rough).abs().max()) < 1e-7 else None


@promise
def ordered_bounds(subject: Subject) -> str:
    """L1 The bounds stand in order: E[ELBO] <= E[IWAE_2] <= ... <= E[IWAE_64] <= log p.

    Paired one-sided t-tests at 1e-6 over 4096 draws a row, 8 rows. log p is by quadrature over z (2 dimensions at
    most); without it, over an enumerable space, the sum of exp E[bound] must be at most one. The door's k draws are
    the log-mean-exp of the model's own weights, or the mean of its bounds, within 1e-6.
    """
    subject.need(Bounded, Weighted)
    every = shared(subject)
    worst, limit = -math.inf, t_limit(len(every) * ROWS * 9, 1)
    for state, bounds, weights, log_p in every:
        steps: list[Tensor] = []  # (draws, n): each must have a mean of at most zero
        if bounds is not None and log_p is not None:
            steps.append(bounds - log_p)
        if bounds is not None and weights is not None:
            steps.append(bounds.reshape(-1, 2, bounds.shape[1]).mean(1) - _iwae(weights, 2))
        if weights is not None:
            for k in (1, 2, 4, 8, 16, 32):
                steps.append(_iwae(weights, k).reshape(-1, 2, weights.shape[1]).mean(1) - _iwae(weights, 2 * k))
            if log_p is not None:
                steps.append(_iwae(weights, 64) - log_p)
        worst = max([worst, *(float(t_scores(step).nan_to_num(math.inf).max()) for step in steps)])
        if worst > limit:
            raise Failed(f"a bound is above the next: t = {worst:.1f} ({state}); accepts {limit:.1f}")
    if subject.states() is not None and has(subject.model, Bounded):
        for state, model in subject.variants().items():
            for y in subject.conditions()[:3]:
                _sum_of_bounds(subject, model, state, y)
    for model in subject.variants().values():
        _door(subject, model)
    exact = sum(draws.log_p is not None for draws in every)
    return f"t <= {worst:.1f} of {limit:.1f}; log p exact in {exact} of {len(every)} cases"


def _iwae(log_weight: Tensor, k: int) -> Tensor:
    """Log-mean-exp over groups of k draws, (draws / k, n)."""
    return log_weight.reshape(-1, k, log_weight.shape[1]).logsumexp(1) - math.log(k)


def _sum_of_bounds(subject: Subject, model: Any, state: str, y: Any) -> None:
    every = subject.enumerable()
    k = max(128, min(2048, 50_000 // subject.space.len(every)) // 64 * 64)
    draws = elbos(subject, model, every, y, k)
    mean = draws.mean(1, keepdim=True)
    linear = (mean.exp() * (1 + draws - mean)).sum(0)  # mean: sum of exp(mean); its spread to first order
    if float(linear.mean()) > 1:
        score = float(t_scores(linear, 1.0))
        if score > t_limit(1, 1):
            total = float(linear.mean())
            raise Failed(f"the sum over states of exp E[elbo] is {total:.4f}, t = {score:.1f} above 1 ({state})")


def _door(subject: Subject, model: Any) -> None:
    x = _rows(subject, 4)
    y = subject.repeated(subject.conditions()[0], subject.space.len(x))
    reading = log_prob(model, x, y, k=20, seed=subject.seed)
    noise = Noise(subject.seed, subject.space.len(x), 20)
    with scoring(model):
        if has(model, Exact):
            return
        if has(model, Weighted):
            mine = model.log_weight(x, y, noise=noise).double().reshape(-1, 20).logsumexp(1) - math.log(20)
        else:
            mine = model.elbo(x, y, noise=noise).double().reshape(-1, 20).mean(1)
    gap = float(((reading.nats - mine).abs() / (1 + mine.abs())).max())
    if not gap <= 1e-6:
        raise Failed(f"the door's reading with k = 20 is off by {gap:.1e} from the model's own draws; accepts 1e-6")


@promise
def same_bound(subject: Subject) -> str:
    """L3 The two forms of the bound agree: the mean of log_weight is the mean of elbo.

    A Monte Carlo KL equals its closed form, and no beta or free bits are left in what is reported. Paired t-tests at
    1e-6 in all, 4096 draws on 8 rows; the difference that would show with power 0.999 is reported.
    """
    subject.need(Bounded)
    if not has(subject.model, Weighted):
        raise Skip("not Weighted: nothing to compare with")
    worst, gap, comparisons = 0.0, 0.0, 0
    for _, bounds, weights, _ in shared(subject):
        gaps = bounds - weights  # ty: ignore[unsupported-operator]  (both verbs are there)
        comparisons += gaps.shape[1]
        worst = max(worst, float(t_scores(gaps).abs().nan_to_num(math.inf).max()))
        gap = max(gap, smallest_gap(gaps, ROWS))
    limit = t_limit(comparisons)
    if not worst <= limit:
        raise Failed(f"|t| = {worst:.1f} between elbo and log_weight; accepts {limit:.1f}")
    return f"|t| <= {worst:.1f} of {limit:.1f}; a difference of {gap:.3f} nats would show"


@promise
def unbiased_weights(subject: Subject) -> str:
    """L4 Importance weights are unbiased: E[exp log_weight] = p(x), so they sum to one over all states.

    Over an enumerable space: t-test of sum_x w(x) against 1 with at least 128 draws a state (100,000 in all), 1e-6 in
    all. Over at most 8 reals: E[w(x) / r(x)] = 1 for x from a wide Student t, 100,000 draws. Where log p is known by
    quadrature over z, also E[w(x)] = p(x) on 8 rows. Copies whose weights are too skewed for a t-test (one draw in
    64 blocks dominates) are left out and counted.
    """
    subject.need(Weighted)
    found, skewed, gap, totals = [], 0, 0.0, 0
    for state, model in subject.variants().items():
        for place, y in enumerate(subject.conditions()[:3]):
            for values in _identities(subject, state, place, model, y):
                totals += 1
                if dominated(values):
                    skewed += 1
                    continue
                found.append((float(t_scores(values, 1.0).abs().max()), state, float(values.mean())))
                gap = max(gap, smallest_gap(values))
    if not found:
        raise Skip(f"all {totals} sums of weights are dominated by single draws: no power")
    worst, state, mean = max(found)
    limit = t_limit(len(found) * ROWS)
    if not worst <= limit:
        raise Failed(f"the weights' total is {mean:.4f} ({state}), |t| = {worst:.1f} off 1; accepts {limit:.1f}")
    skips = f"; {skewed} too skewed to judge" if skewed else ""
    return f"|t| <= {worst:.1f} of {limit:.1f} over {len(found)} totals; {gap:.3f} off would show{skips}"


def _identities(subject: Subject, state: str, place: int, model: Any, y: Any) -> list[Tensor]:
    """Arrays (draws, ...) with an expectation of exactly one."""
    found = []
    every = subject.states()
    if every is not None:
        size = subject.space.len(every)
        k = max(128, min(8192, 100_000 // size) // 64 * 64)
        found.append(log_weights(subject, model, every, y, k).exp().sum(0))
    elif isinstance(subject.space, Reals) and real_dims(subject.space) <= 8:
        x, log_r = subject.proposals(state, place, 100_000)
        found.append((log_weights(subject, model, x, y, 1)[:, 0] - log_r).exp())
    draws = shared(subject)[list(subject.variants()).index(state) * len(subject.conditions()[:3]) + place]
    if draws.log_p is not None and draws.weights is not None:
        found.append((draws.weights - draws.log_p).exp())
    if not found:
        raise Skip(f"{subject.space} is too large, and no quadrature over z")
    return found


@promise
def diffusion_terms(subject: Subject) -> str:
    """L6 A diffusion bound is the sum of its terms, a drawn time stands for all times, and the log-SNR falls.

    For models with `elbo_terms`, `cost_at` and a `schedule`. Draw by draw, elbo is minus the sum of the terms, and the
    prior's is a constant that is not negative. The mean of the diffusion term is that of `cost_at` over all steps (of
    more than 64, over steps drawn evenly), or over evenly spaced times: t-tests at 1e-6, 4096 draws or more on 8 rows.
    `log_snr` falls over 1001 times, `time` inverts it within 1e-9, and `slope` is its derivative within 1e-4.
    """
    subject.need(Bounded)
    model = subject.model
    if not all(hasattr(model, name) for name in ("elbo_terms", "cost_at", "schedule")):
        raise Skip("no `elbo_terms`, `cost_at` and `schedule`: no diffusion model")
    worst, gap, comparisons = 0.0, 0.0, 0
    for state, model in subject.variants().items():
        _falls(model.schedule, state)
        for y in subject.conditions()[:3]:
            if y is None and subject.takes_y:
                continue  # log p(x) of a joint has a bound over all classes
            drawn, costs = _costs(subject, model, _rows(subject, ROWS), y)
            worst = max(worst, float(t_scores(drawn - costs).abs().nan_to_num(math.inf).max()))
            gap, comparisons = max(gap, smallest_gap(drawn - costs, ROWS)), comparisons + drawn.shape[1]
    limit = t_limit(comparisons)
    if not worst <= limit:
        raise Failed(f"|t| = {worst:.1f} between drawn times and all times; accepts {limit:.1f}")
    return f"|t| <= {worst:.1f} of {limit:.1f}; a difference of {gap:.3f} nats would show"


def _costs(subject: Subject, model: Any, x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """Draws of the diffusion term, and of `cost_at` over all times, (k, n) each; the terms add up, or `Failed`."""
    n, T = subject.space.len(x), model.config.steps
    even = T is None or T > 64
    k = 4096 if even else 64 * T * -(-64 // T)
    place = torch.arange(k).reshape(-1, 64).T.flatten()  # each of 64 blocks of draws runs through all times
    t = (place + 0.5) / k if T is None else (place % T + 1) / T
    t = t.double().repeat(n)
    if T is not None and even:
        t = (Noise(subject.seed + 94, n, k).integers(T).double() + 1) / T
    y = subject.repeated(y, n)
    with scoring(model):
        terms = model.elbo_terms(x, y, noise=Noise(subject.seed + 95, n, k))
        bound = model.elbo(x, y, noise=Noise(subject.seed + 95, n, k))
        costs = model.cost_at(x, t, y, noise=Noise(subject.seed + 96, n, k))
    off = float((bound + terms.prior + terms.diffusion + terms.reconstruction).abs().max())
    if not off <= 1e-9 * (1 + float(bound.abs().max())):
        raise Failed(f"elbo and minus the sum of its terms differ by {off:.1e} nats")
    prior = terms.prior.reshape(n, k)
    if not (float(prior.min()) >= 0 and bool((prior == prior[:, :1]).all())):
        raise Failed(f"the prior's term is no KL: {float(prior.min()):.3g} to {float(prior.max()):.3g} over draws")
    return terms.diffusion.double().reshape(n, k).T, costs.double().reshape(n, k).T


def _falls(schedule: Any, state: str) -> None:
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    with torch.no_grad():
        log_snr, slope = schedule.log_snr(t), schedule.slope(t)
        back, middle = schedule.time(log_snr), torch.linspace(0.01, 0.99, 98, dtype=torch.float64) + 1.3e-4
        rise = (schedule.log_snr(middle + 1e-7) - schedule.log_snr(middle - 1e-7)) / 2e-7
        wrong = float((rise / schedule.slope(middle) - 1).abs().max())
    if not (bool((log_snr.diff() < 0).all()) and bool((slope < 0).all())):
        raise Failed(f"the schedule's log-SNR does not fall everywhere ({state})")
    off = float((back - t).abs().max())
    if not off <= 1e-9:
        raise Failed(f"the schedule's time is off by {off:.1e} from the inverse of log_snr ({state}); accepts 1e-9")
    if not wrong <= 1e-4:
        raise Failed(f"the schedule's slope is off by {wrong:.1e} from the derivative of log_snr ({state})")
