"""G1-G3, G5, G8, G9: what every model promises, whatever its verbs: shapes, rows on their own, no side effects."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from likely.conformance.report import Failed, Skip, promise
from likely.conformance.samples import flat
from likely.conformance.saving import SCORES, digest
from likely.conformance.subject import Subject, perturb
from likely.logprob import log_prob, sample, scoring
from likely.noise import Noise
from likely.space import Integers, Reals, Rows, Table
from likely.verbs import Bounded, Estimated, Exact, Samples, Trainable, Unnormalised, Weighted, has


def readings(model: Any) -> Iterator[tuple[str, bool]]:
    """The verbs that give one number a row, and whether they take noise."""
    names = {Exact: "log_prob", Weighted: "log_weight", Bounded: "elbo", Estimated: "log_prob_estimate"}
    for verb, name in names.items():
        if has(model, verb):
            yield name, verb is not Exact
    if has(model, Unnormalised):
        yield "energy", False


def _scores(subject: Subject) -> None:
    subject.need(*SCORES)


@promise
def shapes(subject: Subject) -> str:
    """G1 Shapes, dtypes and devices are as the verbs say, for 0, 1 and 5 rows.

    Scores are (B,), with k draws (B k,), finite, of the parameters' dtype and on their device; draws are checked
    values of the space; a loss is a scalar, the mean over rows: the same rows twice give the same loss.
    """
    model, made = subject.copied(), []
    tensors = list(model.parameters()) if isinstance(model, nn.Module) else []
    dtype = tensors[0].dtype if tensors else None
    for rows in (0, 1, 5):
        x, y = subject.some(rows)
        with scoring(model):
            for name, noisy in readings(model):
                for k in (1, 3) if noisy else (1,):
                    noise = {"noise": Noise(subject.seed, rows, k)} if noisy else {}
                    value = getattr(model, name)(x, y, **noise)
                    if value.shape != (rows * k,) or not bool(value.isfinite().all()):
                        raise Failed(
                            f"{name} of {rows} rows, k = {k}: {_shown(value)}; accepts {rows * k} finite numbers"
                        )
                    if dtype is not None and (value.dtype != dtype or value.device != tensors[0].device):
                        raise Failed(f"{name} answers in {value.dtype} on {value.device}, its parameters are {dtype}")
                    made.append(name)
            if has(model, Samples):
                drawn = model.sample(rows, y, noise=Noise(subject.seed, rows))
                subject.space.check(drawn, "sample")
                if subject.space.len(drawn) != rows:
                    raise Failed(f"sample of {rows} has {subject.space.len(drawn)} rows")
                made.append("sample")
        if has(model, Trainable) and rows:
            y = subject.data(rows)[1]
            for player in model.players:
                value = model.loss(x, y, player=player, noise=Noise(subject.seed, rows)).detach()
                if value.shape != () or not bool(value.isfinite()):
                    raise Failed(f"loss of {rows} rows, player {player!r}: {_shown(value)}; accepts a finite scalar")
                made.append("loss")
                twice = subject.space.concat([x, x])
                double = None if y is None else subject.condition.concat([y, y])  # ty: ignore
                ids = torch.arange(rows).repeat(2)
                again = model.loss(twice, double, player=player, noise=Noise(subject.seed, ids)).detach()
                if not abs(float(again) - float(value)) <= 1e-4 * (1 + abs(float(value))):
                    raise Failed(f"the same rows twice have loss {float(again):.4f}, once {float(value):.4f}: no mean")
    return f"0, 1 and 5 rows of {', '.join(dict.fromkeys(made))}"


def _shown(value: Tensor) -> str:
    return f"shape {tuple(value.shape)}, {int((~value.isfinite()).sum())} not finite"


@promise
def rows_alone(subject: Subject) -> str:
    """G2 A row's score does not depend on the other rows.

    Through the door bit by bit, as given and with parameters moved: 67 rows in another order, and in pieces of 1, 3 and
    63, with their own row ids. Called directly, without the canonical batch: rows scored one by one agree with the
    batch within 1e-6 in float64.
    """
    _scores(subject)
    n = 67
    x, y = subject.some(n)
    if isinstance(subject.space, Reals):  # easy rows beside hard ones
        far = (torch.arange(n) % 5 == 1).reshape(-1, *[1] * len(subject.space.shape))
        x = torch.where(far, 10 * x, x)
    take = subject.space.take
    of = lambda index: None if y is None else subject.condition.take(y, index)  # noqa: E731  # ty: ignore
    copies = [subject.copied()]
    if isinstance(subject.model, nn.Module):
        copies.append(copy.deepcopy(subject.model))
        perturb(copies[1], subject.seed)
    for model in copies:
        k = 1 if has(model, Exact) else 3
        every = log_prob(model, x, y, k, seed=subject.seed).nats
        order = (torch.arange(n) * 29 + 11) % n
        moved = log_prob(model, take(x, order), of(order), k, seed=subject.seed, rows=order).nats
        if not torch.equal(moved, every[order]):
            off = int((moved != every[order]).sum())
            raise Failed(f"{off} of {n} scores change when the rows come in another order")
        start = 0
        for size in (1, 3, 63):
            ids = torch.arange(start, start + size)
            piece = log_prob(model, take(x, ids), of(ids), k, seed=subject.seed, rows=ids).nats
            if not torch.equal(piece, every[ids]):
                raise Failed(f"a piece of {size} rows is scored differently from the same rows among {n}")
            start += size
    wide, worst = subject.wide("given"), 0.0
    x = subject.wider(x)
    with scoring(wide):
        for name, noisy in readings(wide):
            whole = _read(wide, name, noisy, subject, x, y, torch.arange(n))
            for i in (0, 1, 40, 66):
                one = torch.tensor([i])
                alone = _read(wide, name, noisy, subject, take(x, one), of(one), one)
                worst = max(worst, float(((alone - whole[i]).abs() / (1 + whole[i].abs())).max()))
    if not worst <= 1e-6:
        raise Failed(f"a row scored alone differs by {worst:.1e} from itself in a batch; accepts 1e-6")
    return f"{n} rows bit-equal in any order and batching; alone within {worst:.1e} in float64"


def _read(model: Any, name: str, noisy: bool, subject: Subject, x: Any, y: Any, ids: Tensor) -> Tensor:
    noise = {"noise": Noise(subject.seed, ids)} if noisy else {}
    return getattr(model, name)(x, y, **noise)


@promise
def odd_inputs(subject: Subject) -> str:
    """G3 Extreme rows get finite scores.

    All zero, all at the top, a checkerboard, uniform noise; for reals 0, 30 of either sign, alternating. In the model's
    own dtype.
    """
    _scores(subject)
    model, space = subject.copied(), subject.space
    x, y = subject.some(4)
    if isinstance(space, Integers):
        board = (torch.arange(space.dims).reshape(space.shape) % 2) * (space.levels - 1)
        x = torch.stack([torch.zeros_like(board), torch.full_like(board, space.levels - 1), board, x[3].long()])
    elif isinstance(space, Table):
        real = torch.tensor([column.categories is None for column in space.columns])
        x = Rows(torch.where(real, torch.tensor([0.0, 30.0, -30.0, 1.0])[:, None], x.cells), x.seen)
    else:
        sign = 1.0 - 2.0 * (torch.arange(space.dims).reshape(space.shape) % 2)
        x = torch.stack([sign * 0, sign.abs() * 30, sign.abs() * -30, sign * 10]).to(x.dtype)
    value = log_prob(model, x, y, seed=subject.seed).nats
    if not bool(value.isfinite().all()):
        raise Failed(f"scores of zeros, top, checkerboard, noise are {value.tolist()}; accepts finite numbers")
    return f"scores {', '.join(f'{v:.3g}' for v in value.tolist())}"


@promise
def quiet(subject: Subject) -> str:
    """G5 The global random state is left alone, and training mode never leaks into a score.

    The states of torch, numpy and random are the same after every verb, a training step included; a model left in
    training mode scores and draws the same bytes through the door, and is in training mode afterwards.
    """
    model = subject.copied()
    before = _global_state()
    plain = digest(model, subject)
    if has(model, Trainable):
        x, y = subject.data(8)
        learner = subject.rebuilt(1) if subject.registered is not None else model
        learner.train()
        if hasattr(learner, "prepare"):
            learner.prepare(x, y, noise=Noise(1, 8))
        for player in learner.players:
            learner.loss(x, y, player=player, noise=Noise(2, 8))
        learner.eval()
    if not all(_equal(a, b) for a, b in zip(before, _global_state(), strict=True)):
        raise Failed("the global random state moved while scoring, drawing or in a training step")
    if isinstance(model, nn.Module):
        other = subject.rebuilt(1) if subject.registered is not None else model
        other.load_state_dict(model.state_dict())
        plain = digest(other, subject)
        other.train()
        if digest(other, subject) != plain:
            raise Failed("a model left in training mode scores or draws differently through the door")
        if not other.training:
            raise Failed("the door left the model in evaluation mode")
        other.eval()
    return "global random state untouched; training mode does not leak"


def _global_state() -> tuple[Any, ...]:
    return torch.get_rng_state(), np.random.get_state()[1], random.getstate()  # noqa: NPY002


def _equal(a: Any, b: Any) -> bool:
    return bool((a == b).all()) if hasattr(a, "all") else a == b


@promise
def precision(subject: Subject) -> str:
    """G8 float32 and float64 agree: at most 12 wrong bits on log p.

    The same float32 parameters and rows, widened: |difference| <= 2^12 eps (1 + |log p|), on 64 rows where the model
    draws. Only readings without noise: float32 and float64 noise are cut at different bits.
    """
    subject.need(Exact, Unnormalised)
    model, wide = subject.copied(), subject.wide("given")
    tensors = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
    if not tensors or tensors[0].dtype != torch.float32:
        raise Skip("no float32 parameters")
    x, y = subject.some(64)
    name = "log_prob" if has(model, Exact) else "energy"
    with scoring(model), scoring(wide):
        if has(model, Samples):
            x = model.sample(64, y, noise=Noise(subject.seed, 64))
        narrow, exact = getattr(model, name)(x, y).double(), getattr(wide, name)(subject.wider(x), y)
    gap = ((narrow - exact).abs() / (1 + exact.abs())).max()
    bits = math.log2(max(float(gap) / torch.finfo(torch.float32).eps, 2.0**-9))
    if not bits <= 12:
        raise Failed(f"{bits:.1f} wrong bits in float32; accepts 12")
    return f"{max(bits, 0.0):.1f} wrong bits"


@promise
def leaves_nothing(subject: Subject) -> str:
    """G9 Scoring and drawing leave no state, and scores carry no graph.

    Parameters, buffers and every other tensor that hangs on the model are the same bytes before and after three calls,
    and no new ones appear; answers of the door require no gradient.
    """
    model = subject.copied()
    x, y = subject.some(5)

    def use() -> None:
        if any(has(model, verb) for verb in SCORES) and log_prob(model, x, y, 2).nats.requires_grad:
            raise Failed("scores require a gradient")
        if has(model, Samples):
            drawn = sample(model, 5, y, seed=0)
            if flat(drawn).requires_grad:
                raise Failed("draws require a gradient")

    use()
    before = _tensors(model)
    for _ in range(3):
        use()
    after = _tensors(model)
    if before.keys() != after.keys():
        raise Failed(f"scoring adds or drops {', '.join(sorted(before.keys() ^ after.keys())[:3])}")
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    if changed:
        raise Failed(f"scoring changes {', '.join(changed[:3])}")
    return f"{len(before)} tensors unchanged"


def _tensors(model: Any) -> dict[str, Tensor]:
    """Every tensor that hangs on a model: in the state of its modules and in their other attributes."""
    found: dict[str, Tensor] = {}
    parts = model.named_modules() if isinstance(model, nn.Module) else [("", model)]
    for name, part in parts:
        items = list(vars(part).items()) if hasattr(part, "__dict__") else []
        for key, value in items:
            pieces = (
                value.items()
                if isinstance(value, dict)
                else enumerate(value)
                if isinstance(value, list)
                else [("", value)]
            )
            for sub, piece in pieces:
                if isinstance(piece, Tensor):
                    found[f"{name}.{key}.{sub}"] = piece.detach().clone()
    return found
