"""D: a density is a density. Sums over all states, integrals over R^d, conditionals, marginals, units."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from likely.conformance.enumerate import Nodes, index_of, integrate, real_dims
from likely.conformance.report import Failed, Skip, promise
from likely.conformance.statistics import dominated, draws_needed, g_test, t_limit, t_scores
from likely.conformance.subject import Subject
from likely.logprob import log_prob, scoring
from likely.noise import Noise
from likely.observation import Observation
from likely.space import Integers, Reals
from likely.verbs import Exact, Marginal, Ordered, Samples, has

LN2 = math.log(2)


@promise
def discrete_mass(subject: Subject) -> str:
    """D1 The probabilities of all states sum to one.

    |sum - 1| <= 1e-9 in float64, for every condition, as given, perturbed, trained, and trained and loaded into a
    model built anew; <= 1e-5 in float32.
    """
    subject.need(Exact)
    every = subject.enumerable()

    def gap(state: str, place: int, y: Any) -> float:
        return abs(float(subject.log_table(state, place).exp().sum()) - 1)

    worst, where = subject.each(gap)
    if subject.registered is not None:
        state = list(subject.variants())[-1]
        again = subject.rebuilt().double().eval()
        again.load_state_dict(subject.wide(state).state_dict())
        for place, y in enumerate(subject.conditions()):
            change = float((subject.log_p(again, every, y) - subject.log_table(state, place)).abs().max())
            if not change == 0:
                raise Failed(f"the {state} model, loaded into a new one, has log p off by {change:.1e}")
    if not worst <= 1e-9:
        raise Failed(f"|sum - 1| = {worst:.2e} ({where}); accepts 1e-9")
    narrow = max(abs(float(subject.log_p(subject.copied(), every, y).exp().sum()) - 1) for y in subject.conditions())
    if not narrow <= 1e-5:
        raise Failed(f"|sum - 1| = {narrow:.2e} in float32; accepts 1e-5")
    return f"|sum - 1| <= {worst:.1e}, float32 {narrow:.1e}, over {subject.space.len(every)} states"


@promise
def continuous_mass(subject: Subject) -> str:
    """D2 The density integrates to one.

    Up to 3 real dimensions: adaptive quadrature (with a sum over a table's categories), |integral - 1| <= 1e-6 plus
    the error that the quadrature itself reports (at most 1e-3). A copy whose draws have a standard deviation above 3
    times what their quartiles say has tails that no box holds: there up to 1e-3 of the mass may be missing. Where the
    quadrature does not settle within 1e-3, as over many kinks, reals are judged as in more dimensions:
    Up to 8: E_r[p(x) / r(x)] = 1 for x from a wide Student t around the model's draws, or from many narrow ones where
    single x dominate that mean, and E_p[1{x in ball} / p(x)] = volume of the ball for 3 centres and radii; 50,000
    draws each, t-tests at 1e-6, which see a missing or surplus mass of a few per cent.
    """
    subject.need(Exact)
    d = real_dims(subject.space)
    if d > 3 and isinstance(subject.space, Reals):
        return _wide_mass(subject, d)
    subject.integrable()
    rough = 0.0

    def gap(state: str, place: int, y: Any) -> float:
        nonlocal rough
        parts = subject.nodes(state, place)
        error = sum(nodes.error for nodes in parts)
        rough = max(rough, error)
        mass = sum(float(nodes.mass.sum()) for nodes in parts)
        outside = 1e-3 if _heavy(subject, state, place) and mass < 1 else 0.0
        rough = max(rough, outside)
        return abs(mass - 1) - (error if error <= 1e-3 else 0.0) - outside

    worst, where = subject.each(gap)
    if not worst <= 1e-6 and rough > 1e-3 and isinstance(subject.space, Reals) and has(subject.model, Samples):
        return f"the quadrature does not settle ({rough:.0e}); {_wide_mass(subject, d)}"
    if not worst <= 1e-6:
        raise Failed(f"|integral - 1| = {worst:.2e} beyond the quadrature's error {rough:.1e} ({where}); accepts 1e-6")
    return f"|integral - 1| <= {max(worst, 0) + rough:.1e}, of which {rough:.1e} is what the quadrature allows for"


def _heavy(subject: Subject, state: str, place: int) -> bool:
    if not has(subject.model, Samples):
        return False
    real = subject.reals_of(subject.draws(state, place, 4096))
    low, high = real.quantile(torch.tensor([0.25, 0.75], dtype=torch.float64), 0)
    return bool((real.std(0) > 3 * (high - low) / 1.349).any())  # 1.349 deviations between a normal's quartiles


def _wide_mass(subject: Subject, d: int) -> str:
    if d > 8:
        raise Skip(f"{d} real dimensions: importance sampling and balls go up to 8")
    subject.need(Samples)
    n, scores, weak = 50_000, [], 0
    variants = subject.variants()
    for state in variants:
        for place, y in enumerate(subject.conditions()):
            x, log_r = subject.proposals(state, place, n)
            weight = (subject.log_p(variants[state], x, y) - log_r).exp()
            if dominated(weight[:, None]):  # peaks too narrow for one wide proposal
                x, log_r = subject.near(state, place, n)
                weight = (subject.log_p(variants[state], x, y) - log_r).exp()
            drawn = subject.draws(state, place, n)
            real, log_p = subject.reals_of(drawn), subject.log_p(variants[state], drawn, y)
            strong = [] if dominated(weight[:, None]) else [weight]
            strong += islice(_balls(subject, state, place, real, log_p), 3)
            weak += 4 - len(strong)
            scores += [float(t_scores(values, 1.0)) for values in strong]
    if not scores:
        raise Skip("the weights of every copy are dominated by single draws: no power")
    worst, limit = max(scores, key=abs), t_limit(len(scores))
    if not abs(worst) <= limit:
        raise Failed(f"t = {worst:.1f} for the mass by importance sampling or in a ball; accepts |t| <= {limit:.1f}")
    told = f"; {weak} more are dominated by single draws" if weak else ""
    return f"|t| <= {abs(worst):.1f} of {limit:.1f} over {len(scores)} identities{told}"


def _balls(subject: Subject, state: str, place: int, real: Tensor, log_p: Tensor) -> Iterator[Tensor]:
    """1{x in ball} / (p(x) volume) of draws, which have expectation 1: balls around some of them, round where the 400
    or so draws nearest to each are. Those of whose sum one draw carries more than a fiftieth are left out."""
    d = real.shape[1]
    for centre, factor in zip(*subject.around(state, place, 24, 400 // (d + 1)), strict=True):
        away = torch.linalg.solve_triangular(factor, (real - centre).T, upper=False).norm(dim=0)
        volume = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1) + d * math.log(1.2)
        values = torch.where(away < 1.2, (-log_p - volume - factor.diagonal().log().sum()).exp(), 0.0)
        if float(values.max()) <= 0.02 * float(values.sum()):
            yield values


def observation_of(subject: Subject, model: Any) -> Observation | None:
    """The observation at the end of a model: its attribute, or that of its first conditional."""
    found = getattr(model, "observation", None)
    if isinstance(found, Observation):
        return found
    if has(model, Ordered):
        with scoring(model):
            found = model.start(1, subject.repeated(subject.conditions()[0], 1))[1].observation
    return found if isinstance(found, Observation) else None


def values_at_a_site(observation: Observation) -> Tensor | None:
    """Every value of one site, (V, C); None for reals or too many."""
    space, c = observation.space, observation.channels
    if not isinstance(space, Integers) or space.levels**c > 5000:
        return None
    return torch.tensor(list(itertools.product(range(space.levels), repeat=c)), dtype=torch.int64)


@promise
def conditionals(subject: Subject) -> str:
    """D3 Each conditional sums to one, whatever its parameters.

    10,000 random parameters of the observation, of scale 1, 10 and 100 and with single entries of 1000:
    |sum - 1| <= 1e-9 in float64. Channels beyond 5000 joint values are skipped.
    """
    observation = observation_of(subject, subject.wide("given"))
    if observation is None:
        raise Skip("no observation")
    values = values_at_a_site(observation)
    if values is None:
        raise Skip("the observation is real or has more than 5000 values at a site")
    noise, worst = Noise(subject.seed + 41, 10_000), 0.0
    parameters = noise.normal((observation.parameters,), dtype=torch.float64)
    parameters *= 10.0 ** noise.integers(3)[:, None]
    spike = noise.integers(observation.parameters)[:, None] == torch.arange(observation.parameters)
    parameters = torch.where(spike & (noise.uniform()[:, None] < 0.2), parameters.sign() * 1000, parameters)
    step = max(1, 400_000 // len(values))
    for start in range(0, len(parameters), step):
        some = parameters[start : start + step]
        shape = (len(some), len(values))
        wide = some[:, None].expand(*shape, -1).flatten(0, 1)
        x = values[None].expand(*shape, -1).flatten(0, 1)
        total = observation.log_prob(wide, x).reshape(shape).logsumexp(1).exp()
        worst = max(worst, float((total - 1).abs().nan_to_num(math.inf).max()))
    if not worst <= 1e-9:
        raise Failed(f"|sum - 1| = {worst:.2e} over the {len(values)} values of a site; accepts 1e-9")
    return f"|sum - 1| <= {worst:.1e} over 10,000 parameters and {len(values)} values"


@promise
def chain(subject: Subject) -> str:
    """D4 The steps of an ordered model multiply to its density, and see only what came before.

    Over every state (128 spread ones of a larger space) the log p of the steps add up to log_prob within 1e-9 in
    float64. With the later half of the values changed, the parameters of every earlier step, and the earlier entries
    of `log_prob_sites` where the model shows it, keep their bits.
    """
    subject.need(Ordered)
    subject.need(Exact)
    worst, off, where = 0.0, 0.0, ""
    x = _spread(subject, 128)
    n = subject.space.len(x)
    for state, model in subject.variants().items():
        for y in subject.conditions():
            values = site_values(model, x)
            steps, parameters = walk(subject, model, values, y)
            gap = (steps.sum(1) - subject.log_p(model, x, y)).abs().max()
            if not float(gap) <= worst:
                worst, where = float(gap), state
            half = model.sites // 2
            late = (torch.arange(model.sites) >= half)[:, None]
            _, changed = walk(subject, model, torch.where(late, values.flip(0), values), y)
            for i in range(half + 1):
                off = max(off, float((parameters[i] - changed[i]).abs().max()))
            if hasattr(model, "log_prob_sites"):
                off = max(off, _leak(subject, model, x, y))
    if not worst <= 1e-9:
        raise Failed(f"the steps' log p add up to log_prob within {worst:.2e} only ({where}); accepts 1e-9")
    if off != 0:
        raise Failed(f"a step moves by {off:.1e} with values that come later; accepts exactly 0")
    return f"|sum of steps - log_prob| <= {worst:.1e} over {n} rows; later values move nothing"


def _spread(subject: Subject, most: int) -> Any:
    every = subject.states()
    if every is None:
        return subject.some(64)[0]
    size = subject.space.len(every)
    return subject.space.take(every, torch.linspace(0, size - 1, min(most, size)).round().long())


def _leak(subject: Subject, model: Any, x: Tensor, y: Any) -> float:
    """How far log p of a site moves when the value of a later one changes, each site in turn."""
    n, worst = x.shape[0], 0.0
    condition = subject.repeated(y, n)
    with scoring(model):
        plain = model.log_prob_sites(x, condition)
        for i in range(1, model.sites):
            values = site_values(model, x).clone()
            values[:, i] = values.flip(0)[:, i]
            moved = model.from_sites(values.transpose(1, 2))
            worst = max(worst, float((model.log_prob_sites(moved, condition) - plain)[:, :i].abs().max()))
    return worst


def site_values(model: Any, x: Tensor) -> Tensor:
    """The values of every site in the order of the steps, (B, sites, C)."""
    return model.to_sites(x).transpose(1, 2)


def walk(subject: Subject, model: Any, values: Tensor, y: Any) -> tuple[Tensor, list[Tensor]]:
    """log p of every step (B, sites) and the parameters of its conditional, given the values (B, sites, C)."""
    n, steps, parameters = values.shape[0], [], []
    with scoring(model):
        state, conditional = model.start(n, subject.repeated(y, n))
        for i in range(model.sites):
            if conditional is None:
                raise Failed(f"`step` ends after {i} of {model.sites} sites")
            steps.append(conditional.log_prob(values[:, i]))
            parameters.append(conditional.parameters.clone())
            state, conditional = model.step(state, values[:, i])
    if conditional is not None:
        raise Failed(f"after the last of {model.sites} sites `step` still gives a conditional; accepts None")
    return torch.stack(steps, 1), parameters


@promise
def marginals(subject: Subject) -> str:
    """D5 Marginals and conditional draws are those of the density.

    log_marginal with everything seen is log_prob and with nothing seen 0, within 1e-9. In enumerable spaces 8 random
    masks agree with brute-force sums within 1e-9, in small real ones with quadrature over one coordinate within 1e-6;
    `sample_given` keeps the seen cells and passes a G-test at 1e-6 against the exact conditional, with the draws that
    see an effect of w = 0.1 at power 0.999.
    """
    subject.need(Marginal)
    x, _ = subject.some(16)
    x = subject.wider(x)
    shape, worst, n = subject.space.shape, 0.0, subject.space.len(x)
    for model in subject.variants().values():
        for y in subject.conditions():
            full = torch.ones(n, *shape, dtype=torch.bool)
            with scoring(model):
                everything = model.log_marginal(x, full, subject.repeated(y, n))
                nothing = model.log_marginal(x, ~full, subject.repeated(y, n))
            worst = max(worst, float((everything - subject.log_p(model, x, y)).abs().max()), float(nothing.abs().max()))
    if not worst <= 1e-9:
        raise Failed(f"log_marginal of all or nothing is off by {worst:.2e}; accepts 1e-9")
    if subject.states() is not None:
        return _discrete_marginals(subject)
    if isinstance(subject.space, Reals):
        return _real_marginals(subject, worst)
    return f"all and nothing seen within {worst:.1e}"


def _discrete_marginals(subject: Subject) -> str:
    every, shape, worst = subject.enumerable(), subject.space.shape, 0.0
    masks = Noise(subject.seed + 51, 8).uniform(shape) < 0.5
    flat = every.cells if hasattr(every, "cells") else every.reshape(len(every), -1)
    for state, model in subject.variants("given", "perturbed").items():
        for place, y in enumerate(subject.conditions()):
            log_p = subject.log_table(state, place)
            for mask in masks:
                rows = subject.space.take(every, torch.arange(0, len(flat), max(1, len(flat) // 16)))
                cells = rows.cells if hasattr(rows, "cells") else rows.reshape(subject.space.len(rows), -1)
                agree = ((cells[:, None] == flat[None]) | ~mask.flatten()).all(2)
                truth = torch.where(agree, log_p, -math.inf).logsumexp(1)
                n = len(cells)
                with scoring(model):
                    mine = model.log_marginal(rows, mask.expand(n, *shape), subject.repeated(y, n))
                worst = max(worst, float((mine - truth).abs().max()))
    if not worst <= 1e-9:
        raise Failed(f"log_marginal differs from the sum over states by {worst:.2e}; accepts 1e-9")
    state = list(subject.variants("given", "perturbed"))[-1]
    model, y, mask = subject.wide(state), subject.conditions()[0], masks[0]
    draws = draws_needed(len(flat))
    row = subject.space.take(every, slice(1, 2))
    noise = Noise(subject.seed + 52, 1, draws)
    with scoring(model):
        drawn = model.sample_given(draws, row, mask[None], subject.repeated(y, 1), noise=noise)
    cells = row.cells if hasattr(row, "cells") else row.reshape(1, -1)
    agree = ((flat == cells) | ~mask.flatten()).all(1)
    truth = torch.where(agree, subject.log_table(state, 0), -math.inf).softmax(0)
    p_value, freedom = g_test(torch.bincount(index_of(subject.space, drawn), minlength=len(flat)), truth)
    if p_value < 1e-6:
        raise Failed(f"sample_given is not the conditional: G-test p = {p_value:.1e} with {draws} draws")
    return f"brute-force sums within {worst:.1e}; sample_given p = {p_value:.2f}, {freedom} degrees of freedom"


def _real_marginals(subject: Subject, worst: float) -> str:
    """One coordinate integrated out, the others seen; its conditional draws show the quadrature where the mass is."""
    d = subject.space.dims
    if d < 2 or not has(subject.model, Samples):
        return f"all and nothing seen within {worst:.1e}"
    gap, rough, scores = 0.0, 0.0, []
    for state, model in subject.variants().items():
        for place, y in enumerate(subject.conditions()):
            rows = subject.reals_of(subject.draws(state, place, 4096))[:4]
            for row, hidden in itertools.product(rows, range(min(d, 3))):
                drawn, nodes = _along(subject, model, row, hidden, y)
                error = nodes.error if nodes.error <= 1e-3 else 0.0
                gap = max(gap, abs(math.log(float(nodes.mass.sum()))) - error)
                rough = max(rough, error)
                # E[f(x_hidden)] given the seen ones
                centre, spread, share = drawn.mean(), drawn.std(), nodes.mass / nodes.mass.sum()
                at, mine = (nodes.x[:, 0] - centre) / spread, (drawn - centre) / spread
                truth = torch.stack([share @ at, share @ at.square()])
                scores.append(float(t_scores(torch.stack([mine, mine.square()], 1), truth).abs().max()))
    if not gap <= 1e-6:
        raise Failed(f"log_marginal differs from the integral over one coordinate by {gap:.2e}; accepts 1e-6")
    score, limit = max(scores), t_limit(2 * len(scores))
    if not score <= limit:
        raise Failed(f"sample_given is not the conditional: |t| = {score:.1f} for its first moments")
    allowed = f", of which {rough:.1e} is what the quadrature allows for" if rough > 1e-9 else ""
    return f"integrals within {max(gap, 0) + rough:.1e}{allowed}; sample_given moments |t| = {score:.1f} of {limit:.1f}"


def _along(subject: Subject, model: Any, row: Tensor, hidden: int, y: Any) -> tuple[Tensor, Nodes]:
    """Draws (n,) of one coordinate given the others of a row (d,), and a quadrature over it of p(x) / p(the others)."""
    n, d, shape = 8192, len(row), subject.space.shape
    kept = torch.arange(d) != hidden
    seen, noise = kept.reshape(1, *shape), Noise(subject.seed + 53, 1, n)
    with scoring(model):
        drawn = model.sample_given(n, row.reshape(1, *shape), seen, y, noise=noise).reshape(n, d)
        others = float(model.log_marginal(row.reshape(1, *shape), seen, y))
    if not bool((drawn[:, kept] == row[kept]).all()):
        raise Failed("sample_given changes cells that were seen; accepts exactly their values")

    def log_p(value: Tensor) -> Tensor:
        x = row.repeat(len(value), 1)
        x[:, hidden] = value[:, 0]
        return subject.log_p(model, x.reshape(-1, *shape), y) - others

    mine = drawn[:, hidden]
    return mine, integrate(log_p, mine.mean()[None], mine.std()[None, None], draws=mine[:, None], of=n, budget=200_000)


@promise
def units(subject: Subject) -> str:
    """D6 Bits per dimension are nats over dims ln 2, and the door gives the model's own numbers.

    The door's nats equal log_prob of the same rows within 1e-6 relative (the model's own dtype), its bits per
    dimension equal -nats / (dims ln 2) within 1e-12. That scaling or dequantising inside the model is paid for by the
    log-Jacobian is what D1, D2 and L4 show: their sums are over the raw space.
    """
    subject.need(Exact)
    model = subject.copied()
    x, y = subject.some(10)
    reading = log_prob(model, x, y)
    with scoring(model):
        mine = model.log_prob(x, y).double()
    gap = float(((reading.nats - mine).abs() / (1 + mine.abs())).max())
    bits = -mine / math.prod(subject.space.shape) / LN2
    off = float(((reading.bits_per_dim - bits).abs() / (1 + bits.abs())).max())
    if not (gap <= 1e-6 and off <= 1e-6):
        raise Failed(f"the door is off by {gap:.1e} in nats and {off:.1e} in bits per dimension; accepts 1e-6")
    return f"door and model agree within {gap:.1e}"
