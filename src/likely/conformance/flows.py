"""F: bijections are bijections, and their log-determinants are those of their Jacobians."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from likely.conformance.report import Failed, Skip, promise
from likely.conformance.statistics import BLOCKS, smallest_gap, t_limit, t_scores
from likely.conformance.subject import Subject
from likely.logprob import scoring
from likely.noise import Noise
from likely.space import Integers, Reals
from likely.verbs import Estimated, Exact, Invertible, Samples, Trainable, has


def _flat(z: Any) -> Tensor:
    parts = z if isinstance(z, tuple | list) else [z]
    return torch.cat([part.reshape(part.shape[0], -1) for part in parts], 1)


def _points(subject: Subject, state: str, place: int, n: int) -> Any:
    """Half the rows where the model draws, half three times as far from the middle."""
    if isinstance(subject.space, Integers):
        return subject.some(n)[0]
    if not has(subject.model, Samples):
        return 3 * Noise(subject.seed + 81, n).normal(subject.space.shape, dtype=torch.float64)
    drawn = subject.draws(state, place, 4096 if has(subject.model, Exact) else 256)
    middle, drawn = drawn.mean(0), drawn[:n]
    far = (torch.arange(n) % 2 == 1).reshape(-1, *[1] * (drawn.ndim - 1))
    return torch.where(far, middle + 3 * (drawn - middle), drawn)


@promise
def round_trips(subject: Subject) -> str:
    """F1 decode(encode(x)) is x, and encode(decode(z)) is z.

    Within 1e-10 in float64 and 1e-4 in float32, relative to 1 + |x|, on 64 rows, half of them three times as far out
    as the model draws. Exactly, for integers. A model that solves one direction to a stated `tolerance` has 100 times
    that. In float64 x may be further off where encode contracts so much that no inverse can know better: within what
    64 roundings of z amount to, seen through the inverse of encode's autograd Jacobian, and 1e-6 at most.
    encode(decode(z)) may not.
    """
    subject.need(Invertible)
    worst, excused = {}, 0
    for precision, limit in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        worst[precision] = 0.0
        limit = max(limit, 100 * getattr(subject.model, "tolerance", 0.0))
        for state in subject.variants():
            model = subject.wide(state)
            if precision == torch.float32:
                # far-out rows of a moved float32 model measure conditioning, not correctness: given parameters only
                if state != "given":
                    continue
                model = subject.copied()
                if any(p.dtype != torch.float32 for p in model.parameters()):
                    continue
            for place, y in enumerate(subject.conditions()):
                x = _points(subject, state, place, 64)
                x = x.to(precision) if x.dtype.is_floating_point else x
                condition = subject.repeated(y, 64)
                with scoring(model):
                    z = model.encode(x, condition)
                    back = model.decode(z, condition)
                    again = model.encode(back, condition)
                gaps = ((back.double() - x.double()).abs() / (1 + x.double().abs())).flatten(1).amax(1)
                over = (gaps > limit).nonzero()[:, 0]
                if len(over) and precision == torch.float64:
                    spared = over[gaps[over] <= _rounding(subject, model, x, z, condition, over)]
                    excused += len(spared)
                    gaps[spared] = 0.0
                there = ((_flat(again) - _flat(z)).abs() / (1 + _flat(z).abs())).max()
                value = max(float(gaps.max().nan_to_num(math.inf)), float(there.nan_to_num(math.inf)))
                worst[precision] = max(worst[precision], value)
        if not worst[precision] <= limit:
            raise Failed(f"a round trip is off by {worst[precision]:.2e} in {precision}; accepts {limit:.0e}")
    told = f", but for {excused} rows where encode contracts too far for float64" if excused else ""
    return f"float64 within {worst[torch.float64]:.1e}{told}, float32 within {worst[torch.float32]:.1e}"


def _rounding(subject: Subject, model: Any, x: Tensor, z: Any, y: Any, rows: Tensor) -> Tensor:
    """How far 64 roundings of z can move these rows of x, relative to 1 + |x|, and at most 1e-6.

    By 1 over the least singular value of d encode / d x. 0 where there is no such derivative.
    """
    if not isinstance(subject.space, Reals) or subject.space.dims > 64:
        return torch.zeros(len(rows), dtype=torch.float64)
    condition = None if y is None else subject.condition.take(y, rows)  # ty: ignore
    jacobian = torch.autograd.functional.jacobian(lambda v: _flat(model.encode(v, condition)).sum(0), x[rows])
    least = torch.linalg.svdvals(jacobian.reshape(-1, len(rows), subject.space.dims).transpose(0, 1))[:, -1]
    reach = 64 * torch.finfo(torch.float64).eps * (1 + _flat(z)[rows].abs()).amax(1) / least
    return (reach / (1 + x[rows].flatten(1).abs()).amin(1)).clamp(max=1e-6)


@promise
def log_determinant(subject: Subject) -> str:
    """F2 log_prob is the density of z = encode(x) plus the log-determinant that autograd finds.

    log_prob(x) - slogdet(d encode / d x) is the base's log-density of z within 1e-8 in float64, on 16 rows, where the
    model gives a `base_log_prob(z, y)`; without one the base is taken to be standard normal. J J_inv = I within 1e-8
    with the autograd Jacobian of decode. Up to 64 dimensions.
    """
    subject.need(Invertible)
    subject.need(Exact)
    d = subject.space.dims
    if not isinstance(subject.space, Reals) or d > 64:
        raise Skip(f"{subject.space}: autograd Jacobians are for reals of at most 64 dimensions")
    worst, product, where = 0.0, 0.0, ""
    for state, model in subject.variants().items():
        for place, y in enumerate(subject.conditions()):
            x = _points(subject, state, place, 16)[::2]
            n = len(x)
            condition = subject.repeated(y, n)
            jacobian = torch.autograd.functional.jacobian(lambda v: _flat(model.encode(v, condition)).sum(0), x)  # noqa: B023
            jacobian = jacobian.reshape(-1, n, d).transpose(0, 1)
            with scoring(model):
                z, value = model.encode(x, condition), model.log_prob(x, condition)
            base = getattr(model, "base_log_prob", None)
            if base is None:
                log_base = (-0.5 * _flat(z).square() - 0.5 * math.log(2 * math.pi)).sum(1)
            else:
                with scoring(model):
                    log_base = base(z, condition)
            gap = float((value - log_base - torch.linalg.slogdet(jacobian).logabsdet).abs().max())
            if not gap <= worst:
                worst, where = gap, state
            if isinstance(z, Tensor):
                back = torch.autograd.functional.jacobian(lambda v: _flat(model.decode(v, condition)).sum(0), z)  # noqa: B023
                back = back.reshape(-1, n, d).transpose(0, 1)
                eye = torch.eye(d, dtype=torch.float64)
                scale = 1 + jacobian.norm(dim=(1, 2)) * back.norm(dim=(1, 2))
                product = max(product, float(((jacobian @ back - eye).norm(dim=(1, 2)) / scale).max()))
    if not worst <= 1e-8:
        raise Failed(f"log_prob and autograd's log-determinant differ by {worst:.2e} nats ({where}); accepts 1e-8")
    if not product <= 1e-8:
        raise Failed(f"the Jacobians of encode and decode are not inverse: off by {product:.2e}; accepts 1e-8")
    return f"log_prob within {worst:.1e} nats of autograd's, J J_inv within {product:.1e} of I"


@promise
def permutes(subject: Subject) -> str:
    """F3 An integer bijection permutes the full set of states.

    Exhaustive, no tolerance: no two states share a code, and every code decodes to its state.
    """
    subject.need(Invertible)
    if not isinstance(subject.space, Integers):
        raise Skip("not over integers")
    every = subject.enumerable()
    for model in subject.variants().values():
        for y in subject.conditions():
            condition = subject.repeated(y, len(every))
            with scoring(model):
                z = _flat(model.encode(every, condition))
                back = model.decode(model.encode(every, condition), condition)
            if len(torch.unique(z, dim=0)) != len(every):
                raise Failed(f"{len(every)} states have {len(torch.unique(z, dim=0))} codes; accepts as many")
            if not torch.equal(back.long(), every.long()):
                raise Failed("some code decodes to another state than its own")
    return f"{len(every)} states permuted"


@promise
def estimates(subject: Subject) -> str:
    """F4 The mean of an unbiased estimate is log p: the density of z = encode(x) plus autograd's log-determinant.

    On 8 rows and on their mean, given, perturbed and trained, with 4096 draws each (1024 beyond two dimensions):
    t-tests at 1e-6, the base standard normal. Where it learns by gradient without a `surrogate`, minus the loss has
    the mean of log p as well. The shift of the mean over rows that is seen is said. Up to 64 dimensions.
    """
    subject.need(Estimated)
    subject.need(Invertible)
    d, n = subject.space.dims, 8
    k = 4096 if d <= 2 else 1024
    if not subject.model.unbiased:
        raise Skip("a consistent estimate, not an unbiased one")
    if not isinstance(subject.space, Reals) or d > 64:
        raise Skip(f"{subject.space}: autograd Jacobians are for reals of at most 64 dimensions")
    values, where = [], []
    for state, model in subject.variants().items():
        for place, y in enumerate(subject.conditions()):
            x, condition = _points(subject, state, place, n), subject.repeated(y, n)
            truth = _by_autograd(model, x, condition, d)
            with scoring(model):
                drawn = model.log_prob_estimate(x, condition, noise=Noise(subject.seed + 60, n, k))
                drawn = drawn.double().reshape(n, BLOCKS, -1).mean(2).T - truth
                values += [drawn, drawn.mean(1, keepdim=True)]
                where += [f"log_prob_estimate, {state}"] * (n + 1)
                if has(model, Trainable) and not getattr(model, "surrogate", False):
                    noises = [Noise(subject.seed + 500 + i, n, k // BLOCKS) for i in range(BLOCKS)]
                    losses = torch.stack([model.loss(x, condition, noise=noise) for noise in noises])
                    values.append((-losses.double() - truth.mean())[:, None])
                    where.append(f"loss, {state}")
    every = torch.cat(values, 1)
    means = torch.cat([value for value in values if value.shape[1] == 1], 1)
    scores, limit = t_scores(every).abs(), t_limit(every.shape[1])
    worst = int(scores.argmax())
    if not float(scores[worst]) <= limit:
        raise Failed(f"{where[worst]}: t = {float(scores[worst]):.1f} against autograd; accepts |t| <= {limit:.1f}")
    return (
        f"|t| <= {float(scores[worst]):.1f} of {limit:.1f}; sees a shift of {smallest_gap(means, len(where)):.2g} nats"
    )


def _by_autograd(model: Any, x: Tensor, condition: Any, d: int) -> Tensor:
    """log p of x (n, ...), the base standard normal, (n,)."""
    n = len(x)
    jacobian = torch.autograd.functional.jacobian(lambda v: _flat(model.encode(v, condition)).sum(0), x)
    with scoring(model):
        z = _flat(model.encode(x, condition))
    log_det = torch.linalg.slogdet(jacobian.reshape(-1, n, d).transpose(0, 1)).logabsdet
    return log_det - 0.5 * z.square().sum(1) - 0.5 * math.log(2 * math.pi) * d


@promise
def converges(subject: Subject) -> str:
    """F5 An ODE's log p converges at the expected order, to the density of its own map.

    For models with `order`, `tolerance` and `log_prob_at(x, y, steps=, noise=)`. On grids of 16, 32 and 64 steps the
    changes of log p, and so its error, fall by 2^order each time, or more: the slope is at least `order` - 0.5 (where
    the changes are not rounding error). The reading is within 100 times the tolerance of 128 steps. Its mean over 128
    draws is the log-density of z = encode(x) (standard normal) plus the log-determinant by autograd, within 1000 times
    the tolerance: a reading without noise exactly so, others by t-tests at 1e-6. Relative to 1 + |log p|; 8 rows, up
    to 16 dimensions.
    """
    subject.need(Estimated)
    model = subject.model
    if not all(hasattr(model, name) for name in ("order", "tolerance", "log_prob_at")):
        raise Skip("no `order`, `tolerance` and `log_prob_at`: solves no ODE")
    d = subject.space.dims
    if not isinstance(subject.space, Reals) or d > 16:
        raise Skip(f"{subject.space}: autograd Jacobians are for reals of at most 16 dimensions")
    slopes, far, off, scores = [], 0.0, 0.0, []
    for state, model in subject.variants().items():
        for place, y in enumerate(subject.conditions()):
            x, n, noise = _points(subject, state, place, 8), 8, Noise(subject.seed + 82, 8)
            condition = subject.repeated(y, n)
            with scoring(model):
                grid = torch.stack(
                    [model.log_prob_at(x, condition, steps=s, noise=noise.flat()) for s in (16, 32, 64, 128)]
                )
                reading = model.log_prob_estimate(x, condition, noise=noise.flat())
                many = Noise(subject.seed + 83, n, 128)
                draws = model.log_prob_estimate(x, condition, noise=many).reshape(n, -1)
            size = 1 + reading.abs()
            change = (grid.diff(dim=0).abs() / size).amax(1)
            if float(change[1]) > 1e-11:
                slopes.append(float((change[0] / change[1]).log2()))
            far = max(far, float(((reading - grid[-1]).abs() / size).max()))
            gap = draws - _by_autograd(model, x, condition, d)[:, None]
            noisy = draws.std(1) > 1e-9
            off = max([off, *(gap.mean(1).abs() / size)[~noisy].tolist()])
            scores += [float(t_scores(each, 0.0)) for each in gap[noisy]]
    order, tolerance = subject.model.order, subject.model.tolerance
    wrong = [slope for slope in slopes if not slope >= order - 0.5]
    if wrong:
        raise Failed(f"twice the steps change log p by 2^-{wrong[0]:.2f}; accepts 2^-{order - 0.5} and less")
    if not far <= 100 * tolerance:
        raise Failed(f"the reading is {far:.1e} from that with 128 steps; accepts {100 * tolerance:.0e}")
    if not off <= 1000 * tolerance:
        raise Failed(f"log p differs from autograd's log-determinant by {off:.1e}; accepts {1000 * tolerance:.0e}")
    worst = max(map(abs, scores), default=0.0)
    if scores and not worst <= t_limit(len(scores)):
        raise Failed(f"mean log p is not that of autograd's log-determinant: |t| = {worst:.1f}")
    found = f"{min(slopes):.2f} to {max(slopes):.2f}" if slopes else "not seen above rounding"
    return f"order {found}; reading within {far:.1e}; log-determinant within {off:.1e}, |t| <= {worst:.1f}"
