"""J and N: what a joint model says about classes fits what it says about x; what has no density gives no number."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from likely.conformance.general import readings
from likely.conformance.report import Failed, Skip, promise
from likely.conformance.statistics import t_limit, t_scores
from likely.conformance.subject import Subject
from likely.logprob import can_eliminate, log_joint, log_posterior, log_prob, sample, scoring
from likely.noise import Noise
from likely.verbs import Bounded, Estimated, Exact, Joint, JointBound, Samples, Trainable, Unnormalised, Weighted, has


@promise
def no_density(subject: Subject) -> str:
    """N1 A model without a density gets a `TypeError` from the door, never a number.

    The error says what is needed and what the model can do. A model with a density gives one finite number a row.
    """
    model = subject.copied()
    x, y = subject.some(4)
    if any(has(model, verb) for verb in (Exact, Weighted, Bounded, Estimated, Unnormalised)):
        reading = log_prob(model, x, y)
        if reading.nats.shape != (4,) or not bool(reading.nats.isfinite().all()):
            raise Failed(f"the door gives {reading.nats.tolist()} for 4 rows; accepts 4 finite numbers")
        return f"has a density, kind '{reading.kind.value}'"
    try:
        log_prob(model, x, y)
    except TypeError as error:
        return f"refused: {error}"
    raise Failed("the door gave a number for a model without a density; accepts a TypeError")


@promise
def identities(subject: Subject) -> str:
    """J1 log p(x, y) is the same both ways, and the class posterior sums to one.

    log p(y | x) + log p(x) = log p(x | y) + log p(y) with one log p(y) for all x, and sum_y p(x | y) p(y) = p(x),
    within 1e-6 in float64 (p(y) is read off the identity and must sum to one as well); sum_y p(y | x) = 1 within 1e-9.
    A joint with `given_y = False` has no p(x | y) and refuses y in its other verbs with a `ValueError`.
    A `JointBound` over an enumerable space: the sum over x and y of exp E[bound] is at most one (one-sided t-test at
    1e-6, 512 draws).
    """
    if has(subject.model, JointBound) and not has(subject.model, Joint):
        return _bound(subject)
    subject.need(Joint)
    x = subject.states()
    x = subject.wider(subject.some(256)[0]) if x is None else x
    n, sums, worst, where = subject.space.len(x), 0.0, 0.0, ""
    for state, model in subject.variants().items():
        with scoring(model):
            posterior = model.log_posterior(x).double()
        sums = max(sums, float((posterior.logsumexp(1).exp() - 1).abs().max()))
        if not (has(model, Exact) and subject.takes_y):
            continue
        total = subject.log_p(model, x, None)
        given = torch.stack([subject.log_p(model, x, torch.tensor([c])) for c in range(posterior.shape[1])], 1)
        log_p_y = posterior + total[:, None] - given  # (n, K), each column one number
        gap = float((log_p_y - log_p_y.mean(0)).abs().max())
        gap = max(gap, float((log_p_y.exp().sum(1) - 1).abs().max()))
        gap = max(gap, float(((given + log_p_y.mean(0)).logsumexp(1) - total).abs().max()))
        if not gap <= worst:
            worst, where = gap, state
    if not sums <= 1e-9:
        raise Failed(f"|sum_y p(y | x) - 1| = {sums:.2e}; accepts 1e-9")
    if not worst <= 1e-6:
        raise Failed(f"log p(y | x) + log p(x) - log p(x | y) is no log p(y): off by {worst:.2e} ({where})")
    if not subject.takes_y:
        _refuses(subject)
        return f"posterior sums within {sums:.1e} over {n} rows; no p(x | y), and it says so"
    return f"posterior sums within {sums:.1e}, identities within {worst:.1e} over {n} rows"


@promise
def rows_posterior(subject: Subject) -> str:
    """J3 p(y | x) does not depend on the other rows, and both doors at once give what each gives.

    Through the door bit by bit, in the model's own dtype: an exact posterior of 67 rows in another order and in
    pieces; `log_joint` against `log_prob` and `log_posterior` with 3 draws. Where classes can drop out early: the first
    rows alone, and every draw where nothing drops out.
    """
    subject.need(Joint, JointBound)
    model, n = subject.copied(), 67
    x, take = subject.some(n)[0], subject.space.take
    every = log_posterior(model, x, 3, seed=subject.seed).nats
    if any(has(model, verb) for verb in (Exact, Weighted, Bounded, Estimated, Unnormalised)):
        reading, posterior = log_joint(model, x, 3, seed=subject.seed)
        same = torch.equal(reading.nats, log_prob(model, x, k=3, seed=subject.seed).nats)
        if not (same and torch.equal(posterior.nats, every)):
            raise Failed("`log_joint` is not, bit by bit, what `log_prob` and `log_posterior` give")
    if not has(model, Joint):
        if not can_eliminate(model):
            return "both doors at once bit-equal"
        _eliminated(subject, model, x)
        return "both doors at once bit-equal; so is every row where classes drop out early"
    order = (torch.arange(n) * 29 + 11) % n
    for rows in (order, torch.arange(1), torch.arange(1, 4), torch.arange(4, n)):
        if not torch.equal(log_posterior(model, take(x, rows)).nats, every[rows]):
            raise Failed("p(y | x) of a row changes with the other rows, or their order; accepts the same bits")
    return f"{n} rows bit-equal in any order and batching; both doors at once bit-equal"


@promise
def missing_labels(subject: Subject) -> str:
    """J4 A row without a label has the loss of its x: the labels are summed out.

    For an exact joint that learns from rows with y = -1: -loss(x, -1) is the log-sum-exp over y of -loss(x, y) under
    the same noise, for each of 6 rows alone, within 1e-8 in float64; and 6 rows of which 3 have a label have the mean
    of what they have alone.
    """
    subject.need(Joint)
    subject.need(Trainable)
    if not getattr(subject.model, "unlabelled", False):
        raise Skip("does not learn from rows without a label")
    n, classes = 6, subject.condition.levels  # ty: ignore[unresolved-attribute]
    x, y = subject.data(n)
    x, worst = subject.wider(x), 0.0
    y = torch.where(torch.arange(n) % 2 == 0, y, -1)
    for model in subject.variants().values():

        def loss(rows: torch.Tensor, labels: torch.Tensor, model: Any = model) -> torch.Tensor:
            return model.loss(subject.space.take(x, rows), labels, noise=Noise(subject.seed, n).at(rows)).double()

        with scoring(model):
            alone = []
            for i in range(n):
                row = torch.tensor([i])
                each = torch.stack([loss(row, torch.tensor([c])) for c in (*range(classes), -1)])
                worst = max(worst, float((each[-1] + (-each[:-1]).logsumexp(0)).abs() / (1 + each[-1].abs())))
                alone.append(each[int(y[i])])
            mean = torch.stack(alone).mean()
            worst = max(worst, float((loss(torch.arange(n), y) - mean).abs() / (1 + mean.abs())))
    if not worst <= 1e-8:
        raise Failed(f"the loss of a row without a label is off by {worst:.1e} from the sum over labels; accepts 1e-8")
    return f"labels summed out within {worst:.1e}"


def _eliminated(subject: Subject, model: Any, x: Any) -> None:
    k, errors = 24, 2.0
    reading, every = log_joint(model, x, k, eliminate=errors, seed=subject.seed)
    for n in (1, 5, 66):
        few, part = log_joint(model, subject.space.take(x, slice(0, n)), k, eliminate=errors, seed=subject.seed)
        if not (torch.equal(part.nats, every.nats[:n]) and torch.equal(few.nats, reading.nats[:n])):
            raise Failed(f"with classes dropping out, {n} rows alone and among others differ; accepts the same bits")
    plain = log_posterior(model, x, k, seed=subject.seed).nats
    kept = log_posterior(model, x, k, eliminate=1e9, seed=subject.seed).nats
    gap = float(((plain.exp() - kept.exp()).abs()).max())
    if not gap <= 1e-3:
        raise Failed(f"p(y | x) with nothing dropped is off by {gap:.1e} from the mean of all draws; accepts 1e-3")


def _refuses(subject: Subject) -> None:
    """A model without p(x given y) takes no y, neither through the doors nor in its own verbs."""
    model, (x, y) = subject.copied(), subject.data(4)
    noise = {"noise": Noise(subject.seed, 4)}
    calls: dict[str, Callable[[], Any]] = {"log_prob (the door)": lambda: log_prob(model, x, y)}
    if has(model, Samples):
        calls["sample (the door)"] = lambda: sample(model, 4, y, seed=0)
        calls["sample"] = lambda: model.sample(4, y, **noise)
    for name, noisy in readings(model):
        calls[name] = lambda name=name, noisy=noisy: getattr(model, name)(x, y, **(noise if noisy else {}))
    for name, call in calls.items():
        try:
            with scoring(model):
                call()
        except ValueError:
            continue
        raise Failed(f"{name} takes y, but the model says given_y = False; accepts a ValueError")


def _bound(subject: Subject) -> str:
    every, k = subject.states(), 512
    if every is None:
        raise Skip(f"{subject.space} is too large to enumerate")
    n, worst = subject.space.len(every), -math.inf
    for model in subject.variants("given", "trained").values():
        values = []
        with scoring(model):
            for start in range(0, k, 8):
                noise = Noise(subject.seed + 71, torch.arange(n), range(start, start + 8))
                values.append(model.log_joint_bound(every, noise=noise).double().reshape(n, 8, -1))
        draws = torch.cat(values, 1)  # (n, k, K)
        # exp is convex: plug-in exp(mean) overshoots by half its variance, so judge by the gradient at the mean
        mean = draws.mean(1, keepdim=True)
        linear = (mean.exp() * (1 + draws - mean)).sum((0, 2))
        worst = max(worst, float(t_scores(linear, 1.0)) if float(linear.mean()) > 1 else -math.inf)
    limit = t_limit(1, 1)
    if worst > limit:
        raise Failed(f"sum over x and y of exp E[bound] is above one: t = {worst:.1f}; accepts {limit:.1f}")
    return "sum over x and y of exp E[bound] is at most one"
