"""G6, G10: gradients are those of the loss, reach every parameter, and learn."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from likely.conformance.report import Failed, Skip, promise
from likely.conformance.statistics import smallest_gap, t_limit, t_scores
from likely.conformance.subject import Subject, perturb, train
from likely.logprob import scoring
from likely.noise import Noise
from likely.verbs import ClosedForm, Trainable, has


@promise
def gradients(subject: Subject) -> str:
    """G6 Every parameter gets a finite gradient, and it is the gradient of the loss that is reported.

    On the perturbed copy no trainable parameter's gradient is missing or entirely zero, and the loss notices y.
    Along 6 random directions the central difference of the loss under fixed noise (h = 1e-5, float64; the best of
    three steps, as networks may have kinks) is the gradient's projection within 1e-6 relative; targets of a model that
    is `self_taught` come from a copy that stays as it is. Where gradients pass
    straight through roundings, that holds of each parameter by itself or else the loss is flat along it, bit for bit:
    it stands behind a rounding. Not all may. Where the model says `gradient_in_expectation`, both are means over 64
    noises of 4 copies of the rows, along 3 directions: a t-test of their differences. The gap that it sees, of a
    typical projection, is said.
    """
    subject.need(Trainable)
    model = copy.deepcopy(subject.wide("perturbed")).train()
    x, y = subject.data(24)
    x = subject.wider(x)
    worst = 0.0
    for player in model.players:
        own = model.player_parameters(player) if len(model.players) > 1 else model.parameters()
        parameters = [p for p in own if p.requires_grad]
        names = {id(p): name for name, p in model.named_parameters()}

        # a target that is held still for the gradient has to stand still when the parameters move
        held = {"teacher": copy.deepcopy(model)} if getattr(model, "self_taught", False) else {}

        def loss(player: str = player, held: dict[str, Any] = held) -> Tensor:
            return model.loss(x, y, player=player, noise=Noise(subject.seed + 5, 24), **held)

        if y is not None:
            turned = subject.condition.take(y, torch.arange(23, -1, -1))  # ty: ignore[unresolved-attribute]
            other = model.loss(x, turned, player=player, noise=Noise(subject.seed + 5, 24))
            if float(other.detach()) == float(loss().detach()):
                raise Failed(f"the loss of {player!r} is the same with other conditions")
        found = torch.autograd.grad(loss(held={}), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, found, strict=True):
            name = names.get(id(parameter), "?")
            if gradient is None or not bool(gradient.any()):
                raise Failed(f"parameter {name} gets {'no' if gradient is None else 'a zero'} gradient of {player!r}")
            if not bool(gradient.isfinite().all()):
                raise Failed(f"parameter {name} gets a gradient that is not finite")
        size = math.sqrt(sum(float(g.square().sum()) for g in found))
        if getattr(model, "straight_through", False):
            exact = [(p, g) for p, g in zip(parameters, found, strict=True) if not _flat(loss, p, subject.seed)]
            if not exact:
                raise Failed("the loss is flat along every parameter; accepts roundings behind some of them alone")
            parameters, found = zip(*exact, strict=True)
        if getattr(model, "gradient_in_expectation", False):
            return _in_expectation(subject, model, parameters, x, y)
        for number in range(6):
            noise = Noise(subject.seed + 200 + number, 1)
            direction = [noise.normal(p.shape, dtype=torch.float64)[0].to(p.dtype) for p in parameters]
            expected = sum(float((g * v).sum()) for g, v in zip(found, direction, strict=True))
            worst = max(
                worst, min(_slope_gap(loss, parameters, direction, expected, size, h) for h in (1e-5, 1e-6, 1e-4))
            )
    if not worst <= 1e-6:
        raise Failed(f"the gradient differs from the loss's own slope by {worst:.1e} relative; accepts 1e-6")
    return f"all parameters reached; slopes within {worst:.1e}"


def _flat(loss: Callable[[], Tensor], parameter: Tensor, seed: int) -> bool:
    """Whether small moves of a parameter, both ways, leave the loss as it is, bit for bit."""
    step = 1e-9 * Noise(seed + 300, 1).normal(parameter.shape, dtype=torch.float64)[0].to(parameter.dtype)
    kept, values = parameter.detach().clone(), []
    with torch.no_grad():
        for sign in (0, 1, -1):
            parameter.copy_(kept + sign * step)
            values.append(float(loss()))
        parameter.copy_(kept)
    return values[0] == values[1] == values[2]


def _in_expectation(subject: Subject, model: nn.Module, parameters: list[Tensor], x: Any, y: Any) -> str:
    """The t-test for a gradient that is the loss's only on average over the noise."""
    copies, h, n = torch.arange(24).repeat(4), 1e-5, 64
    x, y = subject.space.take(x, copies), None if y is None else subject.condition.take(y, copies)  # ty: ignore
    size = torch.zeros((), dtype=torch.float64)
    directions = []
    for number in range(3):
        noise = Noise(subject.seed + 200 + number, 1)
        direction = [noise.normal(p.shape, dtype=torch.float64)[0] for p in parameters]
        length = math.sqrt(sum(float(v.square().sum()) for v in direction))
        directions.append([(v / length).to(p.dtype) for v, p in zip(direction, parameters, strict=True)])
    gaps = []
    for draw in range(n):

        def loss(draw: int = draw) -> Tensor:
            return model.loss(x, y, noise=Noise(subject.seed + 300 + draw, len(copies)))

        found = torch.autograd.grad(loss(), parameters)
        size = size + sum(g.square().sum() for g in found)
        projections = [sum((g * v).sum() for g, v in zip(found, d, strict=True)) for d in directions]
        gaps.append([float(p) - _slope(loss, parameters, d, h) for p, d in zip(projections, directions, strict=True)])
    difference = torch.tensor(gaps, dtype=torch.float64)
    typical = math.sqrt(float(size) / n / sum(p.numel() for p in parameters))  # of a projection on a random direction
    worst, limit = float(t_scores(difference).abs().max()), t_limit(3)
    if not worst <= limit:
        raise Failed(f"t = {worst:.1f} for the mean gradient against the mean loss's slope; accepts {limit:.1f}")
    seen = smallest_gap(difference, 3) / typical
    return f"all parameters reached; mean slopes agree, |t| <= {worst:.1f} of {limit:.1f}; sees a gap of {seen:.1%}"


def _slope_gap(
    loss: Callable[[], Tensor],
    parameters: list[Tensor],
    direction: list[Tensor],
    expected: float,
    size: float,
    h: float,
) -> float:
    """Relative gap between a central difference along `direction` and the `expected` slope."""
    slope = _slope(loss, parameters, direction, h)
    return abs(slope - expected) / (abs(expected) + 0.1 * size + 1e-12)


def _slope(loss: Callable[[], Tensor], parameters: list[Tensor], direction: list[Tensor], h: float) -> float:
    """The central difference of the loss along `direction`."""
    values = []

    def move(by: float) -> None:
        for parameter, step in zip(parameters, direction, strict=True):
            parameter.add_(step, alpha=by)

    with torch.no_grad():
        for by in (h, -2 * h):
            move(by)
            values.append(float(loss()))
        move(h)
    return (values[0] - values[1]) / (2 * h)


@promise
def learns(subject: Subject) -> str:
    """G10 Training lowers the loss on a little data, beyond five standard deviations of chance.

    200 full-batch steps of Adam at 1e-2 on 32 structured rows, from perturbed parameters; the loss before and after
    over the same 64 noises: it falls in the mean, and under so many of them (54) that a fair coin would show as many
    with probability 1e-8. (No t-test: the loss of an untrained model may have no variance.) A learner in closed form
    gains by its start and 10 passes of EM, and no pass loses more than 1 % of that (smoothed statistics climb a
    penalised likelihood, not quite this one). What stands behind a rounding is held: its gradient is a substitute,
    which over few levels raises the loss as often as not.
    """
    if not isinstance(subject.model, nn.Module):
        raise Skip("no torch module")
    subject.need(Trainable, ClosedForm)
    model = copy.deepcopy(subject.model)
    x, y = subject.data(32)
    if not has(model, Trainable):
        x = subject.wider(x)
        first = model.double().statistics(x, y)
        before = -float(first["log_prob"].sum() / first["count"].sum())
        losses = train(model, x, y, 10, subject.seed)
        gained = before - losses[-1]
        slip = max(b - a for a, b in itertools.pairwise(losses))
        if not (gained > 0 and slip <= 0.01 * gained):
            raise Failed(f"EM goes from {before:.4f} to {losses[-1]:.4f} nats a row, and once up by {slip:.1e}")
        return f"start and EM: {before:.3f} to {losses[-1]:.3f} nats a row, never up by more than {max(slip, 0.0):.1e}"
    if len(model.players) > 1:
        raise Skip("players against each other: no single loss falls")

    def loss() -> Tensor:
        with scoring(model):
            return torch.stack([model.loss(x, y, noise=Noise(9000 + i, 32)).double() for i in range(64)])

    train(model, x, y, 0, subject.seed)  # the data-dependent start; moved off, for it may leave nothing to learn
    perturb(model, subject.seed)
    model.eval()
    before = loss()
    if getattr(model, "straight_through", False):
        _hold_rounded(model, loss)
    train(model, x, y, 200, subject.seed, prepare=False)
    model.eval()
    gain = before - loss()
    falls = int((gain > 1e-6).sum())
    told = f"{float(before.mean()):.4f} by {-float(gain.mean()):.4f} in the mean, and down under {falls} of 64 noises"
    if not (falls >= 54 and float(gain.mean()) > 0):
        raise Failed(f"200 steps change the loss from {told}; accepts down in the mean and under 54")
    return f"200 steps change the loss from {told}"


@torch.no_grad()
def _hold_rounded(model: nn.Module, loss: Callable[[], Tensor]) -> None:
    """Freezes every parameter along which the loss is flat, bit for bit."""
    before = loss()
    for parameter in [p for p in model.parameters() if p.requires_grad]:
        kept = parameter.clone()
        parameter.add_(1e-4 * parameter.abs().clamp(min=0.1))
        parameter.requires_grad_(not torch.equal(loss(), before))
        parameter.copy_(kept)
