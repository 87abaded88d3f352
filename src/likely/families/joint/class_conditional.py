"""The joint p(x, y) = p(y) p(x given y): a density for every class, and how likely each class is.

It answers what a classifier answers, p(y given x) = p(x, y) / p(x), and what a classifier cannot:
p(x) = sum_y p(y) p(x given y), whether anything like x was ever seen
("On discriminative vs. generative classifiers", Ng and Jordan, 2002; "Deep Generative Modeling", Tomczak, 2024, ch. 6).

What the joint can promise follows from its parts. Over `Exact` parts p(x) and p(y given x) are exact. Over
`Weighted` parts, w_y with E[w_y] = p(x given y), the sum over classes of p(y) w_y has expectation p(x): its logarithm
is an importance weight again, while each log p(y) + log w_y is only a bound and a posterior made of them is an
estimate. Parts that are merely `Bounded` are refused: a log-sum-exp of noisy bounds bounds nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from likely.config.joint import Joint as JointConfig
from likely.families import Tiny
from likely.noise import Noise
from likely.space import Integers, Reals, Space
from likely.verbs import ClosedForm, Exact, Trainable, Weighted, has, name_of


class _ClassConditional(nn.Module, ABC):
    """p(y) and p(x given y). Abstract; made by `ClassConditional`, which picks the class that keeps its promises."""

    def __init__(self, parts: Sequence[nn.Module], condition: Integers, config: JointConfig | None) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.space: Space = parts[0].space
        self.condition, self.config = condition, config
        self.logits = nn.Parameter(torch.zeros(condition.levels))  # of p(y)

    def prepare(self, x: Any, y: Any = None, *, noise: Noise) -> None:
        """Starts p(y) at the class frequencies (one more of each), and the parts at their data-dependent start."""
        y = _labelled(y)
        with torch.no_grad():
            count = torch.bincount(y[y >= 0], minlength=self.condition.levels).to(self.logits) + 1
            self.logits.copy_((count / count.sum()).log())
        if self._shared:  # a start only sets scales: rows without a label go in as of any class
            y = torch.where(y < 0, torch.arange(len(y), device=y.device) % self.condition.levels, y)
        for label, part in enumerate(self.parts):
            if hasattr(part, "prepare"):
                rows = torch.arange(len(y)) if self._shared else (y == label).nonzero()[:, 0]
                part.prepare(self.space.take(x, rows), y if self._shared else None, noise=noise.at(rows))

    def after_step(self) -> None:
        for part in self.parts:
            if hasattr(part, "after_step"):
                part.after_step()

    def sample(self, n: int, y: Any = None, *, noise: Noise) -> Any:
        """n draws of x; without y the class is drawn from p(y) first."""
        if y is None:
            gumbel = noise.gumbel((self.condition.levels,), dtype=self.logits.dtype)
            y = (self.logits + gumbel).argmax(1)
        if self._shared:
            return self.parts[0].sample(n, y, noise=noise)
        draws, order = [], []
        for label, part in enumerate(self.parts):
            rows = (y == label).nonzero()[:, 0]
            draws.append(part.sample(len(rows), noise=noise.at(rows)))
            order.append(rows)
        return self.space.take(self.space.concat(draws), torch.cat(order).argsort())

    @property
    def one_for_all(self) -> nn.Module | None:
        """The one conditional model p(x given y) that serves all classes, if it is one."""
        return self.parts[0] if self._shared else None

    @property
    def _shared(self) -> bool:
        """Whether one conditional model serves all classes."""
        return self.parts[0].condition is not None

    @abstractmethod
    def _marginal(self, x: Any, noise: Noise) -> Tensor:
        """log p(x) or its log-weight, with gradients; (B,) nats."""

    def log_prior(self) -> Tensor:
        """log p(y), (K,) nats."""
        return self.logits.log_softmax(0)

    def _given(self, verb: str, x: Any, y: Tensor, noise: Noise | None = None) -> Tensor:
        """The verb of p(x given y), for each row its own y; (B * k,).

        Batches of separate parts are filled up to B rows, so that a row's score is the same whatever the others' y.
        """
        if self._shared:
            return getattr(self.parts[0], verb)(x, y, **({} if noise is None else {"noise": noise}))
        draws = 1 if noise is None else noise.draws
        out = self.logits.new_zeros(len(y), draws)
        for label, part in enumerate(self.parts):
            rows = (y == label).nonzero()[:, 0]
            if not len(rows):
                continue
            full = torch.cat([rows, rows[:1].expand(len(y) - len(rows))])
            values = getattr(part, verb)(self.space.take(x, full), **_drawn(noise, full)).reshape(-1, draws)
            out = out.index_put((rows,), values[: len(rows)].to(out.dtype))
        return out.flatten()

    def _every(self, verb: str, x: Any, noise: Noise | None = None) -> Tensor:
        """log p(y) + the verb of p(x given y) for every y, (B * k, K); the classes share their noise."""
        count, classes = self.space.len(x), self.condition.levels
        if not self._shared:
            rows = torch.arange(count, device=self.logits.device)
            each = [getattr(part, verb)(x, **_drawn(noise, rows)).to(self.logits.dtype) for part in self.parts]
            return torch.stack(each, 1) + self.log_prior()
        rows = torch.arange(count, device=self.logits.device).repeat_interleave(classes)
        y = torch.arange(classes, device=self.logits.device).repeat(count)
        values = getattr(self.parts[0], verb)(self.space.take(x, rows), y, **_drawn(noise, rows))
        draws = 1 if noise is None else noise.draws
        values = values.reshape(count, classes, draws).transpose(1, 2).reshape(count * draws, classes)
        return values + self.log_prior()


class _Density(_ClassConditional):
    """Over `Exact` parts: `Exact` and `Joint`."""

    def _marginal(self, x: Any, noise: Noise) -> Tensor:
        return self.log_prob(x)

    def log_prob(self, x: Any, y: Any = None) -> Tensor:
        """log p(x), or log p(x given y); (B,) nats."""
        return self._every("log_prob", x).logsumexp(1) if y is None else self._given("log_prob", x, y)

    def log_posterior(self, x: Any) -> Tensor:
        """log p(y given x) for every y; (B, K) nats."""
        return self._every("log_prob", x).log_softmax(1)

    def log_joint(self, x: Any, *, noise: Noise) -> tuple[Tensor, Tensor]:
        """`log_prob` of x and `log_posterior` in one pass: (B,) and (B, K)."""
        every = self._every("log_prob", x)
        return every.logsumexp(1), every.log_softmax(1)


class _ByGradient(_ClassConditional):
    """Over `Trainable` parts: trained on -log p(x, y), and on -log p(x) where y is -1. Abstract."""

    players = ("model",)
    unlabelled = True

    def loss(self, x: Any, y: Any = None, *, player: str = "model", noise: Noise) -> Tensor:
        """Mean of -log p(y) - log p(x given y) (or the part's own loss for the latter), nats per row.

        A row without a label, y = -1, has -log p(x), or its bound by the weights, in that place.
        """
        y = _labelled(y)
        known, missing = (y >= 0).nonzero()[:, 0], (y < 0).nonzero()[:, 0]
        loss = self.log_prior().new_zeros(())
        if len(missing):
            marginal = self._marginal(self.space.take(x, missing), noise.at(missing))
            loss = loss - len(missing) / len(y) * marginal.mean()
            if not len(known):
                return loss
            x, y, noise = self.space.take(x, known), y[known], noise.at(known)
        share = len(known) / (len(known) + len(missing))
        return loss + share * self._loss(x, y, player, noise)

    def _loss(self, x: Any, y: Tensor, player: str, noise: Noise) -> Tensor:
        """The loss of rows that all have labels."""
        loss = -self.log_prior()[y].mean()
        if self._shared:
            return loss + self.parts[0].loss(x, y, player=player, noise=noise)
        for label, part in enumerate(self.parts):
            rows = (y == label).nonzero()[:, 0]
            if len(rows):
                share = len(rows) / len(y)
                loss = loss + share * part.loss(self.space.take(x, rows), player=player, noise=noise.at(rows))
        return loss


class GradientJoint(_ByGradient, _Density):
    """Exact parts that learn by gradient."""


class ClosedFormJoint(_Density):
    """Exact parts that learn by EM; p(y) is the smoothed class frequency."""

    def statistics(self, x: Any, y: Any = None) -> dict[str, Tensor]:
        """The parts' statistics, and the classes counted; "log_prob" is the sum of log p(x, y)."""
        y = _labelled(y)
        total: dict[str, Tensor] = {"classes": torch.bincount(y, minlength=self.condition.levels).double()}
        log_prob = self.log_prior().detach().double()[y].sum()
        for label, part in enumerate(self.parts):
            rows = (y == label).nonzero()[:, 0]
            own = part.statistics(x, y) if self._shared else part.statistics(self.space.take(x, rows))
            total |= {f"{label}.{name}": value for name, value in own.items()}
            log_prob = log_prob + own["log_prob"]
        return total | {"log_prob": log_prob, "count": torch.tensor(float(len(y)), dtype=torch.float64)}

    def absorb(self, statistics: dict[str, Tensor]) -> None:
        """One step of EM in every part, and p(y) from the counts."""
        count = statistics["classes"] + 1
        with torch.no_grad():
            self.logits.copy_((count / count.sum()).log())
        for label, part in enumerate(self.parts):
            prefix = f"{label}."
            part.absorb({n.removeprefix(prefix): v for n, v in statistics.items() if n.startswith(prefix)})


class BoundJoint(_ByGradient):
    """Over `Weighted` parts: `Weighted`, `Bounded` and `JointBound`."""

    def _marginal(self, x: Any, noise: Noise) -> Tensor:
        return self.log_weight(x, noise=noise)

    def log_weight(self, x: Any, y: Any = None, *, noise: Noise) -> Tensor:
        """log sum_y p(y) w_y, whose exponential has expectation p(x), or log w_y for a given y; (B * k,) nats."""
        return self._every("log_weight", x, noise).logsumexp(1) if y is None else self._given("log_weight", x, y, noise)

    def elbo(self, x: Any, y: Any = None, *, noise: Noise) -> Tensor:
        """The log-weight, a lower bound in expectation by Jensen's inequality; (B * k,) nats."""
        return self.log_weight(x, y, noise=noise)

    def log_joint_bound(self, x: Any, *, noise: Noise) -> Tensor:
        """log p(y) + log w_y for every y; (B * k, K) nats."""
        return self._every("log_weight", x, noise)

    def log_joint(self, x: Any, *, noise: Noise) -> tuple[Tensor, Tensor]:
        """`log_weight` of x and `log_joint_bound` in one pass: (B * k,) and (B * k, K)."""
        every = self._every("log_weight", x, noise)
        return every.logsumexp(1), every


def ClassConditional(
    parts: nn.Module | Sequence[nn.Module], config: JointConfig | None = None
) -> GradientJoint | ClosedFormJoint | BoundJoint:
    """The joint over one conditional model, or over one unconditional model a class.

    Raises `ValueError` for parts that do not fit together, `TypeError` for parts whose density is neither `Exact`
    nor `Weighted`, or that cannot be trained.
    """
    models = [parts] if isinstance(parts, nn.Module) else list(parts)
    if not models:
        raise ValueError("parts is empty; accepts one conditional model, or one unconditional model a class")
    if len({model.space for model in models}) > 1:
        raise ValueError(f"parts are about different spaces: {', '.join(str(m.space) for m in models)}")
    if len(models) == 1:
        condition = models[0].condition
        if not (isinstance(condition, Integers) and condition.shape == ()):
            raise ValueError(f"parts is one model with condition {condition}; accepts labels, Integers((), classes)")
    else:
        if any(model.condition is not None for model in models):
            raise ValueError("parts are several conditional models; accepts one of these, or unconditional ones")
        condition = Integers((), len(models))
    every = lambda verb: all(has(model, verb) for model in models)  # noqa: E731
    if every(Exact) and every(Trainable):
        return GradientJoint(models, condition, config)
    if every(Exact) and every(ClosedForm):
        return ClosedFormJoint(models, condition, config)
    if every(Weighted) and every(Trainable):
        return BoundJoint(models, condition, config)
    names = ", ".join(sorted({name_of(model) for model in models}))
    raise TypeError(f"parts are {names}; a joint accepts Exact or Weighted parts that are Trainable or ClosedForm")


def model(config: JointConfig, space: Space, condition: Space | None, build: Callable[..., nn.Module]) -> nn.Module:
    """The joint of a config: one conditional part serves all classes, or they are `separate`."""
    if not (isinstance(condition, Integers) and condition.shape == ()):
        raise ValueError(f"condition is {condition}; a joint accepts labels, Integers((), classes)")
    if config.separate:
        return ClassConditional([build(config.part, space, None) for _ in range(condition.levels)], config)
    return ClassConditional(build(config.part, space, condition), config)


def _drawn(noise: Noise | None, rows: Tensor) -> dict[str, Noise]:
    """The argument `noise` of a verb for some rows, where it takes one."""
    return {} if noise is None else {"noise": noise.at(rows)}


def _labelled(y: Any) -> Tensor:
    if y is None:
        raise ValueError("y is None; a joint p(x, y) learns from labels")
    return y


def _tiny(space: Space, separate: bool = False, **part: Any) -> Tiny:
    return Tiny(JointConfig.model_validate({"part": part, "separate": separate}), space, Integers((), 3))


TINY = {
    "autoregressive": _tiny(Integers((2, 2), 2), family="autoregressive", width=6, layers=1, kernel=3),
    "mixture": _tiny(Integers((2, 2), 3), family="mixture", components=2),
    "mixture of Gaussians": _tiny(Reals((2,)), family="mixture", components=2, covariance="full"),
    "flow": _tiny(Reals((2,)), family="flow", depth=2, width=6, hidden=1),
    "vae": _tiny(Integers((2, 2), 2), family="vae", latent=2, hidden=(6,)),
    "autoregressive, separate": _tiny(Integers((2, 2), 2), True, family="autoregressive", width=6, layers=1, kernel=3),
    "mixture, separate": _tiny(Integers((2, 2), 3), True, family="mixture", components=2),
    "vae, separate": _tiny(Integers((2, 2), 2), True, family="vae", latent=2, hidden=(6,)),
}
