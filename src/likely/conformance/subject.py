"""The model under test: copies of it that checks may change, its small space laid out, and draws, each made once."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from likely.config.base import FamilyConfig
from likely.conformance.enumerate import (
    REAL_DIMS,
    Nodes,
    assemble,
    category_codes,
    integrate,
    real_dims,
    states,
    stratify,
)
from likely.conformance.report import Skip
from likely.logprob import scoring
from likely.noise import Noise
from likely.registry import FAMILIES, build
from likely.space import Integers, Reals, Rows, Space, Table
from likely.verbs import ClosedForm, Joint, JointBound, Samples, Trainable, has, name_of, takes_y, verbs

CHUNK = 1 << 15
"""Rows that go through a tiny model in one call."""
DRAWS = 16_384
"""Draws that show a quadrature where the mass is."""


class Subject:
    """What the checks ask about a model. Nothing here changes the model that was handed in.

    Copies in float64 have three states: "given", as it came; "perturbed", every parameter moved by seeded noise, so
    that layers that start at zero take part; "trained", a few steps on structured rows.
    """

    def __init__(self, model: Any, seed: int) -> None:
        self.model, self.seed = model, seed
        self.space: Space = model.space
        self.condition: Space | None = model.condition
        self.takes_y = takes_y(model)
        self.verbs = verbs(model)
        self.copied = cache(self._copied)
        self.wide = cache(self._wide)
        self.states = cache(lambda: states(self.space))
        self.log_table = cache(self._log_table)
        self.nodes = cache(self._nodes)
        self.strata = cache(self._strata)
        self.draws = cache(self._draws)
        self.shared: list[Any] = []

    # What there is -----------------------------------------------------------------------------------------------

    def need(self, *protocols: Any) -> None:
        """Skip a check unless the model has one of these verbs."""
        if not any(has(self.model, protocol) for protocol in protocols):
            raise Skip(f"not {' or '.join(protocol.__name__ for protocol in protocols)}")

    def enumerable(self) -> Any:
        """All states; skips where there are too many."""
        every = self.states()
        if every is None:
            raise Skip(f"{self.space} has more than 4096 states or real parts: too large to enumerate")
        return every

    def integrable(self) -> int:
        """The number of real dimensions; skips where quadrature cannot go."""
        d = real_dims(self.space)
        if not 1 <= d <= REAL_DIMS or len(category_codes(self.space)) > 64:
            raise Skip(f"{self.space} is not small and real: quadrature takes 1 to {REAL_DIMS} real dimensions")
        return d

    @property
    def registered(self) -> FamilyConfig | None:
        """The config, when the registry can build this model again."""
        config = getattr(self.model, "config", None)
        return config if isinstance(config, FamilyConfig) and config.family in FAMILIES else None

    def rebuilt(self, seed: int = 1) -> nn.Module:
        """The same model built anew from its config, with other initial parameters."""
        config = self.registered
        if config is None:
            raise Skip(f"{name_of(self.model)} is not built by the registry")
        return build(config, self.space, self.condition, seed=seed)

    def conditions(self) -> list[Any]:
        """One-row conditions to ask for: every label (at most 10), and None where the model has a p(x).

        None alone for a joint without p(x given y).
        """
        condition = self.condition
        if condition is None or not self.takes_y:
            return [None]
        if isinstance(condition, Integers) and not condition.shape:
            found: list[Any] = [torch.tensor([label]) for label in range(min(condition.levels, 10))]
        else:
            rows = inputs(condition, 3, self.seed + 17)
            found = [condition.take(rows, slice(i, i + 1)) for i in range(3)]
        return found + [None] * (has(self.model, Joint) or has(self.model, JointBound))

    def repeated(self, y: Any, n: int) -> Any:
        """A one-row condition for n rows."""
        return None if y is None else self.condition.take(y, torch.zeros(n, dtype=torch.int64))  # ty: ignore

    def some(self, n: int) -> tuple[Any, Any]:
        """n rows all over the space, with a condition each (None where verbs take none)."""
        x = inputs(self.space, n, self.seed)
        return x, inputs(self.condition, n, self.seed + 1) if self.takes_y else None

    def data(self, n: int = 32) -> tuple[Any, Any]:
        """n structured rows to learn from: few prototypes, each near its label, so that there is something to learn."""
        noise = Noise(self.seed + 2, n)
        y = None if self.condition is None else inputs(self.condition, n, self.seed + 3)
        if isinstance(self.condition, Integers):  # low labels more often than high ones
            y = torch.minimum(y, inputs(self.condition, n, self.seed + 9))
        kind = noise.integers(3) if not isinstance(y, Tensor) or y.ndim != 1 else y % 3
        every = inputs(self.space, 3, self.seed + 4)
        x = self.space.take(every, kind)
        if isinstance(self.space, Reals):
            return x + 0.3 * noise.normal(self.space.shape), y
        other = self.space.take(inputs(self.space, n, self.seed + 5), slice(None))
        moved = noise.uniform(self.space.shape) < 0.1  # a tenth of the cells say something else
        if isinstance(x, Rows):
            return Rows(torch.where(moved, other.cells, x.cells), x.seen), y
        return torch.where(moved, other, x), y

    def _units(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of draws, the units of a real model that has seen data; without draws 0 and 1."""
        if not has(self.model, Samples):
            return torch.zeros(()), torch.ones(())
        n = 256
        condition = inputs(self.condition, n, self.seed + 8) if self.takes_y else None
        with scoring(self.copied()):
            drawn = self.copied().sample(n, condition, noise=Noise(self.seed + 8, n)).float()
        deviation = drawn.std(0)
        fine = bool(drawn.isfinite().all()) and bool((deviation > 0).all())
        return (drawn.mean(0), deviation) if fine else (torch.zeros(()), torch.ones(()))

    # Copies ------------------------------------------------------------------------------------------------------

    def _copied(self) -> Any:
        return copy.deepcopy(self.model)

    def _wide(self, state: str) -> Any:
        model = copy.deepcopy(self.model)
        if not isinstance(model, nn.Module):
            if state == "given":
                return model
            raise Skip(f"{name_of(model)} is no torch module: no parameters to move")
        model = model.double().eval()
        if state == "perturbed":
            perturb(model, self.seed)
        elif state == "trained":
            x, y = self.data(64)
            if isinstance(x, Tensor) and x.dtype.is_floating_point:
                mean, deviation = self._units()
                x = mean + deviation * x
            train(model, self.wider(x), y, 30, self.seed)
            model.eval()
        return model

    def wider(self, x: Any) -> Any:
        """A value with float64 numbers where it has real ones."""
        if isinstance(x, Rows):
            return Rows(x.cells.double(), x.seen)
        return x.double() if x.dtype.is_floating_point else x

    def variants(self, *names: str) -> dict[str, Any]:
        """The float64 copies that this model has of "given", "perturbed", "trained"."""
        found = {}
        for name in names or ("given", "perturbed", "trained"):
            if name == "trained" and not (has(self.model, Trainable) or has(self.model, ClosedForm)):
                continue
            if name != "given" and not isinstance(self.model, nn.Module):
                continue
            found[name] = self.wide(name)
        return found

    # Tables, nodes, draws ------------------------------------------------------------------------------------------

    def log_p(self, model: Any, x: Any, y: Any) -> Tensor:
        """log_prob of many rows under a one-row condition, in pieces."""
        n, done = self.space.len(x), []
        with scoring(model):
            for start in range(0, n, CHUNK):
                piece = self.space.take(x, slice(start, start + CHUNK))
                done.append(model.log_prob(piece, self.repeated(y, self.space.len(piece))).double())
        return torch.cat(done)

    def _log_table(self, state: str, place: int) -> Tensor:
        """log p of every state, (S,), under the condition at `place` of `conditions()`."""
        return self.log_p(self.wide(state), self.enumerable(), self.conditions()[place])

    def _nodes(self, state: str, place: int) -> list[Nodes]:
        """Quadrature of p(x given y), for every combination of a table's categories."""
        d, codes = self.integrable(), category_codes(self.space)
        centre, scale = self.frame(state, place)
        budget = int({1: 2e5, 2: 1e6, 3: 1.2e6}[d] / len(codes) ** 0.5)
        near = [self._drawn_with(state, place, code) for code in codes]
        return [
            integrate(self.density(state, place, code), centre, scale, budget=budget, draws=draws, of=DRAWS)
            for code, draws in zip(codes, near, strict=True)
        ]

    def _drawn_with(self, state: str, place: int, code: Tensor) -> Tensor:
        """The real numbers of those of the model's draws that have these categories, (n, r)."""
        if not has(self.model, Samples):
            return torch.empty(0, real_dims(self.space), dtype=torch.float64)
        drawn = self.draws(state, place, DRAWS)
        real = self.reals_of(drawn)
        if not isinstance(drawn, Rows):
            return real
        columns = self.space.columns  # ty: ignore[unresolved-attribute]
        return real[(drawn.cells[:, [c.categories is not None for c in columns]] == code).all(1)]

    def _strata(self, state: str, place: int) -> tuple[Tensor, Tensor]:
        """Real parts (n, r) of stratified points and the mass that each stands for, over all categories."""
        self.integrable()
        centre, scale = self.frame(state, place)
        codes = category_codes(self.space)
        parts = [
            stratify(self.density(state, place, code), centre, scale, 200_000 // len(codes), self.seed + 6)
            for code in codes
        ]
        points, mass = (torch.cat(part) for part in zip(*parts, strict=True))
        return points[mass > 1e-13], mass[mass > 1e-13]

    def density(self, state: str, place: int, code: Tensor) -> Callable[[Tensor], Tensor]:
        """log p as a function of the real numbers of x, the categories being `code`."""
        model, y = self.wide(state), self.conditions()[place]
        return lambda real: self.log_p(model, assemble(self.space, real, code.expand(len(real), -1)), y)

    def frame(self, state: str, place: int) -> tuple[Tensor, Tensor]:
        """Where a real density lives: the mean of its draws and the Cholesky factor of their covariance.

        Without draws it is searched for around 0 at scale 1.
        """
        d = real_dims(self.space)
        if not has(self.model, Samples):
            return torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)
        drawn = self.draws(state, place, 4096)
        real = self.reals_of(drawn)
        spread = torch.cov(real.T).reshape(d, d)
        ridge = 1e-9 * spread.diagonal().mean() * torch.eye(d, dtype=torch.float64)
        return real.mean(0), torch.linalg.cholesky(spread + ridge)

    def proposals(self, state: str, place: int, n: int) -> tuple[Tensor, Tensor]:
        """n rows x from a Student t with 5 degrees of freedom, 1.5 times as wide as the model's draws, and log r(x)."""
        centre, scale = self.frame(state, place)
        return self._proposed(centre[None], 1.5 * scale[None], n)

    def near(self, state: str, place: int, n: int) -> tuple[Tensor, Tensor]:
        """n rows x and log r(x) for a density with narrow peaks: r is a mixture of Student t around 512 of its draws.

        Each is 2.5 times as wide as the draws around it are spread.
        """
        centre, scale = self.around(state, place, 512, 6)
        return self._proposed(centre, 2.5 * scale, n)

    def around(self, state: str, place: int, count: int, neighbours: int) -> tuple[Tensor, Tensor]:
        """The first `count` of 4096 draws (count, d), and Cholesky factors (count, d, d) of the covariance of the draws
        nearest to each, `neighbours` (d + 1) of them."""
        real = self.reals_of(self.draws(state, place, 4096))
        d, centre = real.shape[1], real[:count]
        local = real[torch.cdist(centre, real).topk(neighbours * (d + 1), largest=False).indices]
        local = local - local.mean(1, keepdim=True)
        spread = local.mT @ local / (local.shape[1] - 1)
        ridge = 1e-6 * spread.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(d, dtype=torch.float64)
        return centre, torch.linalg.cholesky(spread + ridge)

    def _proposed(self, centre: Tensor, scale: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """n rows from an even mixture of Student t with 5 degrees of freedom, centre (m, d), scale (m, d, d)."""
        (m, d), noise = centre.shape, Noise(self.seed + 93, n)
        chi = noise.normal((5,), dtype=torch.float64).square().sum(1)
        t = noise.normal((d,), dtype=torch.float64) * (5 / chi).sqrt()[:, None]
        which = noise.integers(m)
        x = centre[which] + (scale[which] @ t[:, :, None])[:, :, 0]
        constant = math.lgamma((5 + d) / 2) - math.lgamma(5 / 2) - d / 2 * math.log(5 * math.pi)
        log_volume = scale.diagonal(dim1=1, dim2=2).log().sum(1)
        inverse, log_r = torch.linalg.inv(scale), []
        for piece in x.split(max(1, (1 << 22) // (m * d))):
            away = torch.einsum("mij,nmj->nmi", inverse, piece[:, None] - centre).square().sum(2)
            log_r.append((constant - (5 + d) / 2 * torch.log1p(away / 5) - log_volume).logsumexp(1) - math.log(m))
        return x.reshape(n, *self.space.shape), torch.cat(log_r)

    def reals_of(self, x: Any) -> Tensor:
        """The real numbers of each row, (n, r) float64."""
        if isinstance(x, Rows):
            columns = self.space.columns  # ty: ignore[unresolved-attribute]
            return x.cells[:, [c.categories is None for c in columns]].double()
        return x.reshape(x.shape[0], -1).double()

    def _draws(self, state: str, place: int, n: int) -> Any:
        """n draws under a condition, by the model's own `sample`, in pieces."""
        model, y, done = self.wide(state), self.conditions()[place], []
        with scoring(model):
            for start in range(0, n, CHUNK):
                ids = torch.arange(start, min(start + CHUNK, n))
                noise = Noise(self.seed + 1000 + place, ids)
                done.append(model.sample(len(ids), self.repeated(y, len(ids)), noise=noise))
        return self.space.concat(done)

    def each(self, measure: Callable[[str, int, Any], float], *names: str) -> tuple[float, str]:
        """The largest of a measurement over copies and conditions, and where it was."""
        worst, where = -math.inf, ""
        for state in self.variants(*names):
            for place, y in enumerate(self.conditions()):
                value = measure(state, place, y)
                if not value <= worst:  # a NaN counts as the worst
                    worst, where = value, f"{state}{'' if y is None else f', y = {describe(y)}'}"
        return worst, where


def describe(y: Any) -> str:
    """A one-row condition in a message."""
    return str(y[0].tolist() if isinstance(y, Tensor) else y)


def inputs(space: Space, n: int, seed: int) -> Any:
    """n rows spread over a space: uniform integers and categories, standard normal reals."""
    noise = Noise(seed, n)
    if isinstance(space, Integers):
        x = noise.integers(space.levels, space.shape)
        return x.to(torch.uint8) if space.levels <= 256 and space.shape else x
    if isinstance(space, Reals):
        return noise.normal(space.shape)
    if isinstance(space, Table):
        columns = [
            noise.normal(dtype=torch.float32) if c.categories is None else noise.integers(len(c.categories)).float()
            for c in space.columns
        ]
        return Rows(torch.stack(columns, 1), torch.ones(n, len(columns), dtype=torch.bool))
    raise Skip(f"no way to make rows of {space}")


def perturb(model: nn.Module, seed: int) -> None:
    """Move every parameter by noise of half its root mean square, at least 0.1: an update, with its `after_step`."""
    with torch.no_grad():
        for i, parameter in enumerate(p for p in model.parameters() if p.requires_grad and p.numel()):
            size = max(0.5 * float(parameter.square().mean().sqrt()), 0.1)
            step = Noise(seed + 100 + i, 1).normal(parameter.shape, dtype=torch.float64)[0]
            parameter.add_((size * step).to(parameter.dtype))
    if hasattr(model, "after_step"):
        model.after_step()  # ty: ignore


def train(model: Any, x: Any, y: Any, steps: int, seed: int, *, prepare: bool = True) -> list[float]:
    """A plain loop, full batch: Adam at 1e-2 for `Trainable`, EM for `ClosedForm`; the loss before each step."""
    n, losses = model.space.len(x), []
    if prepare and hasattr(model, "prepare"):
        model.train()
        model.prepare(x, y, noise=Noise(seed + 7, n))
    if has(model, ClosedForm) and not has(model, Trainable):
        for _ in range(min(steps, 10)):
            with torch.no_grad():
                statistics = model.statistics(x, y)
                losses.append(-float(statistics["log_prob"].sum() / statistics["count"].sum()))
                model.absorb(statistics)
        return losses
    model.train()
    players = model.players
    of = {p: list(model.player_parameters(p) if len(players) > 1 else model.parameters()) for p in players}
    optimisers = {p: torch.optim.Adam([w for w in of[p] if w.requires_grad], lr=1e-2) for p in players}
    for step in range(steps):
        for player in players:
            optimisers[player].zero_grad()
            loss = model.loss(x, y, player=player, noise=Noise(seed + 8 + step, n))
            loss.backward()
            optimisers[player].step()
            losses.append(float(loss.detach()))
        if hasattr(model, "after_step"):
            model.after_step()
    return losses
