"""The doors: a log-likelihood that says what it is, and samples that a seed fixes.

Every score and every draw goes through batches of one size, `BATCH` rows, filled up where rows are wanting: the
result for a row then does not depend on what else was in the batch, bit for bit.
"""

from __future__ import annotations

import math
import secrets
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from likely.elimination import ROWS, bound_of_mixture, race
from likely.noise import Noise
from likely.space import Integers, Space
from likely.verbs import (
    Bounded,
    Estimated,
    Exact,
    Joint,
    JointBound,
    Samples,
    Unnormalised,
    Weighted,
    has,
    name_of,
    require,
    takes_y,
)

BATCH = 64
"""Rows of the canonical batch."""
DRAWS = 16
"""Draws a row that go through a model in one call; more are taken in pieces of this size."""
ELIMINATE = 2.0
"""Standard errors behind the best at which tasks drop a class: they are those of independent draws, and evenly spread
times make the true ones several times smaller (bench/diffusion_classifier.py)."""


class Kind(StrEnum):
    """What a number is worth as a log p: the sign between log p and the number."""

    EXACT = "="
    BOUND = ">="
    ESTIMATE = "~"
    UNNORMALISED = "+c"

    @property
    def of_bits(self) -> str:
        """The same relation for bits, which carry the opposite sign."""
        return "<=" if self is Kind.BOUND else self.value


@dataclass(frozen=True)
class LogProb:
    """log p(x) of some rows, and what that is worth.

    `nats` is (n,) float64; `kind` says whether log p equals it, is at least it, is about it, or is it up to a
    constant; `k` is the number of draws a row that went in (1 for exact readings). `note` is what the model says of
    its readings, in its `reading_note`: a solver and its tolerance, and what they took since its `start_reading`, if it
    has that.
    """

    nats: Tensor
    kind: Kind
    space: Space
    k: int = 1
    note: str = ""

    def __len__(self) -> int:
        return self.nats.shape[0]

    @property
    def bits_per_dim(self) -> Tensor:
        """-log2 p / dims, (n,): code length for integers, for reals a density in the units of x (may be negative).

        Raises `TypeError` for an unnormalised density, which has none.
        """
        if self.kind is Kind.UNNORMALISED:
            raise TypeError("bits_per_dim of an unnormalised density does not exist: its constant is unknown")
        return -self.nats / (self.space.dims * math.log(2))

    @property
    def mean(self) -> float:
        """Mean over rows, nats."""
        return float(self.nats.mean())

    @property
    def stderr(self) -> float:
        """Standard error of `mean`, nats: the spread between rows; NaN for fewer than two."""
        return float(self.nats.std() / math.sqrt(len(self))) if len(self) > 1 else math.nan

    @property
    def mean_bits_per_dim(self) -> tuple[float, float]:
        """Mean bits per dimension and its standard error."""
        return float(self.bits_per_dim.mean()), self.stderr / (self.space.dims * math.log(2))

    def comparable(self, other: LogProb) -> None:
        """Raise `ValueError` where ranking this reading against `other` would say more than the numbers do."""
        if self.space != other.space:
            raise ValueError(f"other is about {other.space}, this is about {self.space}: their bits do not compare")
        if self.kind != other.kind or self.kind is Kind.UNNORMALISED:
            raise ValueError(f"other is a '{other.kind}' reading, this a '{self.kind}': they do not rank each other")

    def __str__(self) -> str:
        notes = [f"k={self.k}"] * (self.k > 1) + [self.note] * bool(self.note)
        draws = f" ({', '.join(notes)})" if notes else ""
        if self.kind is Kind.UNNORMALISED:
            return f"log p = {self.mean:.2f} + c nats{draws}"
        mean, error = self.mean_bits_per_dim
        return f"bpd {self.kind.of_bits} {mean:.3f} ± {error:.3f}{draws}"


def log_prob(
    model: Any,
    x: Any,
    y: Any = None,
    k: int | None = None,
    *,
    seed: int = 0,
    rows: Tensor | None = None,
    progress: Callable[[int], None] | None = None,
) -> LogProb:
    """log p(x), or log p(x given y): the best reading that the model has, tagged with what it is.

    In order: `Exact`; `Weighted`, the log-mean-exp of k draws; `Bounded` and `Estimated`, their mean over k draws;
    `Unnormalised`. x is (n, *shape) in the model's space, y (n,) in its condition. `rows` are the ids that fix each
    row's noise (default 0 .. n-1); `progress` is called with the number of rows done. k is 1 where not given; for p(x)
    of a joint made of bounds it is what the model prefers (`JointBound`). The model is scored in evaluation mode,
    without gradients and outside autocast.

    Raises `ValueError` or `TypeError` naming x, y or k when they do not fit the model.
    """
    require(model, (Exact, Weighted, Bounded, Estimated, Unnormalised), "log_prob")
    k = draws_of(model, k) if y is None else draws_of(None, k)
    x = model.space.check(x, "x")
    n = model.space.len(x)
    y = check_condition(model, y, n)
    if has(model, Exact):
        kind, k, reading = Kind.EXACT, 1, lambda x, y, noise: model.log_prob(x, y)
    elif has(model, Weighted):
        kind, reading = Kind.BOUND, lambda x, y, noise: model.log_weight(x, y, noise=noise)
    elif has(model, Bounded):
        kind, reading = Kind.BOUND, lambda x, y, noise: model.elbo(x, y, noise=noise)
    elif has(model, Estimated):
        kind, reading = Kind.ESTIMATE, lambda x, y, noise: model.log_prob_estimate(x, y, noise=noise)
    else:
        kind, k, reading = Kind.UNNORMALISED, 1, lambda x, y, noise: -model.energy(x, y)

    def draws(x: Any, y: Any, ids: Tensor) -> Tensor:
        return _averaged(lambda piece: reading(x, y, Noise(seed, ids, piece)), k, weights=has(model, Weighted))

    if hasattr(model, "start_reading"):
        model.start_reading()
    nats = batched(model, draws, x, y, rows=rows, progress=progress)
    return LogProb(nats, kind, model.space, k, getattr(model, "reading_note", ""))


@dataclass(frozen=True)
class Posterior:
    """log p(y given x) for every class, (n, K) float64 nats: exact (`=`), or an estimate made of bounds (`~`).

    `k` is the number of draws a row; `drawn` (n, K) says how many of them each class had, where some had fewer.
    """

    nats: Tensor
    kind: Kind
    k: int = 1
    drawn: Tensor | None = None

    @property
    def saved(self) -> float:
        """Share of all draws of all classes that was not needed."""
        if self.drawn is None or not self.drawn.numel():
            return 0.0
        return 1 - float(self.drawn.double().mean()) / self.k

    def take(self, index: slice | Tensor) -> Posterior:
        """The posterior of some of the rows."""
        return replace(self, nats=self.nats[index], drawn=None if self.drawn is None else self.drawn[index])

    @property
    def label(self) -> Tensor:
        """The most likely class of each row, (n,)."""
        return self.nats.argmax(1)

    @property
    def log_odds(self) -> Tensor:
        """log p - log(1 - p) of the most likely class, (n,): orders rows where p itself has rounded to 1."""
        first = self.nats.max(1)
        rest = self.nats.scatter(1, first.indices[:, None], -math.inf)
        return first.values - rest.logsumexp(1)


def log_posterior(
    model: Any,
    x: Any,
    k: int | None = None,
    *,
    eliminate: float = 0.0,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Posterior:
    """log p(y given x) for every y: exact for a `Joint`; for a `JointBound` an estimate from k draws of its bounds.

    The draws of a `Weighted` model are importance weights and are averaged as such; other bounds as they are. k is what
    the model prefers where not given. `eliminate`, where not 0 and where the model can (`can_eliminate`), spares draws:
    a class gets no more of them once it is worse than the best by so many standard errors of their paired difference,
    and stays as far behind as it was; what a row gets does not depend on the other rows.
    """
    require(model, (Joint, JointBound), "log_posterior")
    k = draws_of(model, k)
    x = model.space.check(x, "x")
    if _eliminates(model, eliminate):
        return _raced(model, x, k, eliminate, seed, progress)
    if has(model, Joint):
        nats = batched(model, lambda x, y, ids: model.log_posterior(x).double(), x, progress=progress)
        return Posterior(nats.reshape(-1, model.condition.levels), Kind.EXACT)

    def draws(x: Any, y: Any, ids: Tensor) -> Tensor:
        reading = lambda piece: model.log_joint_bound(x, noise=Noise(seed, ids, piece))  # noqa: E731
        return _averaged(reading, k, weights=has(model, Weighted))

    nats = batched(model, draws, x, progress=progress).reshape(-1, model.condition.levels)
    return Posterior(nats.log_softmax(1), Kind.ESTIMATE, k)


def log_joint(
    model: Any,
    x: Any,
    k: int | None = None,
    *,
    eliminate: float = 0.0,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> tuple[LogProb, Posterior]:
    """`log_prob` of x and `log_posterior`, bit for bit, in one pass where the model can.

    It can where it has a method `log_joint(x, *, noise)` with both answers: (B,) `log_prob` and (B, K) `log_posterior`
    of an `Exact` `Joint`, or one draw each of (B * k,) `log_weight` (`elbo` where there is none) and (B * k, K)
    `log_joint_bound` of a `JointBound`. Without one, `progress` runs through the rows twice.

    With `eliminate` (see `log_posterior`) the posterior is the guess that bounds log p(x) on k further draws, so log p
    is a bound as before, by other draws than those of `log_prob`.
    """
    k = draws_of(model, k)
    exact, weights = has(model, Exact, Joint), has(model, Weighted)
    bounds = has(model, JointBound) and (weights or has(model, Bounded)) and not has(model, Exact)
    bounds = bounds and not has(model, Joint)
    if bounds and _eliminates(model, eliminate):
        posterior = _raced(model, model.space.check(x, "x"), k, eliminate, seed, progress)
        return _guessed(model, model.space.check(x, "x"), posterior, seed), posterior
    if not ((exact or bounds) and hasattr(model, "log_joint")):
        reading = log_prob(model, x, k=k, seed=seed, progress=progress)
        return reading, log_posterior(model, x, k, seed=seed, progress=progress)
    x, k = model.space.check(x, "x"), 1 if exact else k
    pieces = _pieces(k)

    def draws(x: Any, y: Any, ids: Tensor) -> Tensor:
        values = [model.log_joint(x, noise=Noise(seed, ids, piece)) for piece in pieces]
        of_x, of_y = (
            _average([value[place].double() for value in values], pieces, weights=weights) for place in (0, 1)
        )
        return torch.cat([of_x[:, None], of_y], 1)

    nats = batched(model, draws, x, progress=progress).reshape(-1, 1 + model.condition.levels)
    of_x, of_y = nats[:, 0].contiguous(), nats[:, 1:].contiguous()
    if exact:
        return LogProb(of_x, Kind.EXACT, model.space), Posterior(of_y, Kind.EXACT)
    return LogProb(of_x, Kind.BOUND, model.space, k), Posterior(of_y.log_softmax(1), Kind.ESTIMATE, k)


def can_eliminate(model: Any) -> bool:
    """Whether classes can be asked for one by one (`some_classes`), and their draws are averaged."""
    return has(model, JointBound) and getattr(model, "some_classes", False) and not has(model, Weighted)


def _eliminates(model: Any, eliminate: float) -> bool:
    if isinstance(eliminate, bool) or not eliminate >= 0:
        raise ValueError(f"eliminate is {eliminate!r}; accepts standard errors, a number above 0, or 0 for off")
    return eliminate > 0 and can_eliminate(model)


def _raced(model: Any, x: Any, k: int, errors: float, seed: int, progress: Callable[[int], None] | None) -> Posterior:
    """The posterior by elimination: pairs (row, class) still in the race are packed into canonical batches."""
    n, classes, nats, drawn = model.space.len(x), model.condition.levels, [], []
    for start in range(0, n, ROWS):
        size = min(ROWS, n - start)

        def scores(rows: Tensor, labels: Tensor, piece: range, start: int = start) -> Tensor:
            def call(x: Any, y: Any, ids: Tensor) -> Tensor:
                bounds = model.log_joint_bound(x, among=y[:, None], noise=Noise(seed, ids, piece))
                return bounds.double().reshape(BATCH, len(piece))

            return batched(model, call, model.space.take(x, start + rows), labels, rows=start + rows)

        def tell(share: float, start: int = start, size: int = size) -> None:
            if progress is not None:
                progress(start + int(share * size))

        for done, values in zip((nats, drawn), race(scores, size, classes, k, errors, tell), strict=True):
            done.append(values)
    score = torch.cat(nats) if nats else torch.zeros(0, classes, dtype=torch.float64)
    draws = torch.cat(drawn) if drawn else torch.zeros(0, classes, dtype=torch.int64)
    return Posterior(score.log_softmax(1), Kind.ESTIMATE, k, draws)


def _guessed(model: Any, x: Any, posterior: Posterior, seed: int) -> LogProb:
    """log p(x) from the guess that a posterior is, on as many draws of a noise that it did not see."""
    apart = seed + (1 << 64)

    def draws(x: Any, y: Any, ids: Tensor) -> Tensor:
        log_r = posterior.nats.to(ids.device)[ids]
        reading = lambda piece: bound_of_mixture(model, x, log_r, noise=Noise(apart, ids, piece))  # noqa: E731
        return _averaged(reading, posterior.k, weights=False)

    return LogProb(batched(model, draws, x), Kind.BOUND, model.space, posterior.k, getattr(model, "reading_note", ""))


def draws_of(model: Any, k: int | None) -> int:
    """k, checked; where it is None what a `JointBound` prefers in its attribute `draws`, else 1."""
    if k is None:
        k = getattr(model, "draws", 1) if model is not None and has(model, JointBound) else 1
    _check_draws(k)
    return k


def _check_draws(k: Any) -> None:
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k is {k!r}; accepts the number of draws a row, 1 or more")


def _averaged(reading: Callable[[range], Tensor], k: int, *, weights: bool) -> Tensor:
    """k draws of (BATCH * k, ...) in pieces of `DRAWS`: their log-mean-exp if they are log-weights, else their mean."""
    pieces = _pieces(k)
    return _average([reading(piece).double() for piece in pieces], pieces, weights=weights)


def _pieces(k: int) -> list[range]:
    """The numbers of k draws, in pieces that go through a model in one call."""
    return [range(i, min(i + DRAWS, k)) for i in range(0, k, DRAWS)]


def _average(values: list[Tensor], pieces: list[range], *, weights: bool) -> Tensor:
    """What `_averaged` makes of the pieces' values (BATCH * draws, ...)."""
    k = pieces[-1].stop
    every = torch.cat([v.reshape(BATCH, len(p), *v.shape[1:]) for v, p in zip(values, pieces, strict=True)], 1)
    return every.logsumexp(1) - math.log(k) if weights else every.mean(1)


def batched(
    model: Any,
    call: Callable[[Any, Any, Tensor], Tensor],
    x: Any,
    y: Any = None,
    *,
    rows: Tensor | None = None,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """`call(x, y, ids)` over checked rows in canonical batches, in evaluation mode and without gradients.

    `call` gets `BATCH` rows on the model's device and returns (BATCH, ...); the answers come back on the CPU.
    """
    space: Space = model.space
    n, device, done = space.len(x), device_of(model), []
    ids = torch.arange(n) if rows is None else rows
    if ids.shape != (n,):
        raise ValueError(f"rows has shape {tuple(ids.shape)}; accepts {n} row ids, one for each row of x")
    with scoring(model):
        for start in range(0, n, BATCH):
            here = torch.arange(start, min(start + BATCH, n))
            fill = torch.cat([here, here[:1].expand(BATCH - len(here))])
            condition = None if y is None else model.condition.to(model.condition.take(y, fill), device)
            answer = call(space.to(space.take(x, fill), device), condition, ids[fill].to(device))
            done.append(answer[: len(here)].cpu())
            if progress is not None:
                progress(start + len(here))
    return torch.cat(done) if done else torch.zeros(0, dtype=torch.float64)


def sample(
    model: Any,
    n: int,
    y: Any = None,
    *,
    seed: int | None = None,
    first: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Any:
    """n draws in the model's space, on the CPU; draw i depends on (seed, first + i) alone.

    y is None, one condition for all draws, or n of them. Without a seed a fresh one is taken from the operating
    system. Raises `TypeError` for a model that does not sample, `ValueError` for a bad n or y.
    """
    require(model, Samples, "sample")
    if isinstance(n, bool) or not isinstance(n, int) or n < 0:
        raise ValueError(f"n is {n!r}; accepts the number of draws, 0 or more")
    seed = secrets.randbits(62) if seed is None else seed
    if isinstance(y, int) and isinstance(model.condition, Integers):
        y = torch.full((n,), y)
    y = check_condition(model, y, n)
    device, done = device_of(model), []
    with scoring(model):
        for start in range(0, n, BATCH):
            count = min(BATCH, n - start)
            ids = torch.arange(first + start, first + start + BATCH, device=device)
            here = None
            if y is not None:
                piece = model.condition.take(y, slice(start, start + count))
                here = model.condition.to(model.condition.pad(piece, BATCH), device)
            draws = model.sample(BATCH, here, noise=Noise(seed, ids))
            done.append(model.space.to(model.space.take(draws, slice(0, count)), "cpu"))
            if progress is not None:
                progress(start + count)
    if not done:
        with scoring(model):
            empty = None if y is None else model.condition.to(y, device)
            return model.space.to(model.sample(0, empty, noise=Noise(seed, torch.arange(0, device=device))), "cpu")
    return model.space.concat(done)


@cache
def _products_by_row() -> None:
    """Warn, once, where a row's product depends on its place in the matrix: see `likely.__init__`."""
    for inner in (5, 7, 9, 10):
        x, w = (
            torch.arange(BATCH * inner).reshape(BATCH, inner).sin(),
            torch.arange(4 * inner).reshape(4, inner).cos().T,
        )
        if not torch.equal((x @ w).flip(0), x.flip(0) @ w):
            warnings.warn(
                "matrix products of this process depend on a row's place, so the last bits of scores depend on the "
                "batch: import likely before computing with torch, or set MKL_CBWR=AUTO",
                RuntimeWarning,
                stacklevel=2,
            )
            return


@contextmanager
def scoring(model: Any) -> Iterator[None]:
    """Evaluation mode, no gradients and no autocast; the model's own mode is put back afterwards."""
    _products_by_row()
    module = model if isinstance(model, nn.Module) else nn.Identity()
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad(), torch.autocast(device_of(model).type, enabled=False):
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def check_condition(model: Any, y: Any, n: int, *, learning: bool = False) -> Any:
    """y as a checked value of the model's condition with n rows; None where p(x) is meant.

    Only a joint model has a p(x) beside its p(x given y): every other conditional model needs y. One with
    `given_y = False` takes y in `learning` only.
    """
    condition = model.condition
    if y is not None and condition is not None and not (learning or takes_y(model)):
        raise ValueError(
            f"y was given, but {name_of(model)} has p(y given x) and p(x) and no normalised p(x given y); leave y out"
        )
    if y is None:
        if condition is not None and not (has(model, Joint) or has(model, JointBound)):
            raise ValueError(f"y is None, but {name_of(model)} models p(x given y); give y in {condition}")
        return None
    if condition is None:
        raise ValueError(f"y was given, but {name_of(model)} models p(x) without a condition; leave y out")
    y = condition.check(y, "y")
    if condition.len(y) != n:
        raise ValueError(f"y has {condition.len(y)} rows; accepts {n}, one for each row of x")
    return y.long() if isinstance(condition, Integers) else y


def device_of(model: Any) -> torch.device:
    """Where a model's parameters (or, failing these, its buffers) live."""
    if isinstance(model, nn.Module):
        for tensor in (*model.parameters(), *model.buffers()):
            return tensor.device
    return torch.device("cpu")
