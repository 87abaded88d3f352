"""The hybrid p(x, y) = p(y given x) p(x): a classifier that reads the features of an invertible density.

With z = f(x) the invertible trunk, p(x) = p(z) |det dz/dx| and p(y given x) = softmax(head(features of f at x)). Both
are trained together, on

    E [ -log p(y given x) - lam log p(x) ],    lam = 0, 1/D, 1 or anything else of at least 0,

where rows without a label, y = -1, have the second term only. lam is a weight of this loss and nothing more: every
answer is about p(y given x), p(x) and their product. What a hybrid has not is a p(x given y): that is
p(y given x) p(x) / p(y) with p(y) = E p(y given x), an integral over all x. So its verbs take no y.

"Hybrid Models with Deep and Invertible Features" (Nalisnick et al., 2019); "Residual Flows for Invertible Generative
Modeling" (Chen, Behrmann, Duvenaud, Jacobsen, 2019), section 5.4, whose classifier reads every scale; "Invertible
DenseNets with Concatenated LipSwish" (Perugachi-Diaz, Tomczak, Bhulai, 2021).
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from likely.config.hybrid import Hybrid as HybridConfig
from likely.config.hybrid import weight
from likely.families import Tiny
from likely.families.joint.head import Head
from likely.logprob import scoring
from likely.noise import Noise
from likely.space import Integers, Reals, Space
from likely.verbs import (
    Bounded,
    Estimated,
    Exact,
    Invertible,
    Samples,
    Trainable,
    Weighted,
    has,
    name_of,
    require,
    verbs,
)


class _Hybrid(nn.Module, ABC):
    """A trunk and a head. Abstract; made by `Hybrid`, which picks the class that keeps the trunk's promises.

    Verbs here: Trainable, Samples, Joint.
    """

    players = ("model",)
    surrogate = True
    """The loss is weighted and has the labels in it: its bits would be those of nothing."""
    given_y = False
    """There is no normalised p(x given y)."""
    unlabelled = True
    """Rows with y = -1 take part in training."""

    def __init__(self, trunk: nn.Module, head: nn.Module, lam: float, detached: bool, config: Any) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head
        self.space, self.condition = trunk.space, head.condition
        self.lam, self.detached, self.config = lam, detached, config
        # what is said of a gradient is said of the trunk's; the density's own part is there where lam is
        self.straight_through = getattr(trunk, "straight_through", False)
        self.gradient_in_expectation = bool(lam) and getattr(trunk, "gradient_in_expectation", False)

    @property
    def of_x(self) -> nn.Module:
        """The model of p(x) alone."""
        return self.trunk

    def log_posterior(self, x: Any) -> Tensor:
        """log p(y given x) for every y, (B, K) nats: exact, as the features of a row depend on the row alone."""
        return self.head(features(self.trunk, x)).log_softmax(1)

    def sample(self, n: int, y: Any = None, *, noise: Noise) -> Any:
        """n draws of x from p(x). There are none given y: rejecting draws until one looks like y has no end that is
        sure to come."""
        _no(y)
        return self.trunk.sample(n, noise=noise)

    def loss(self, x: Any, y: Any = None, *, player: str = "model", noise: Noise) -> Tensor:
        """Mean over all rows of -log p(y given x) - lam log p(x), nats (of the trunk's own loss for the latter).

        y is (B,), -1 where it is unknown. The classifier reads what its answers read: over bytes the middle of every
        cell, in a pass of its own beside that of the dequantised x, whose noise it would otherwise learn to expect and
        then miss. Elsewhere one pass serves both. With lam = 0 there is no density to pay for.
        """
        if y is None:
            raise ValueError("y is None; a hybrid learns from labels, with -1 for those that are unknown")
        density: Any = 0.0
        if self.lam and hasattr(self.trunk, "loss_and_features"):
            density, read = self.trunk.loss_and_features(x, noise=noise)
        else:
            density = self.trunk.loss(x, noise=noise) if self.lam else 0.0
            read = features(self.trunk, noise.expand(x))
        read = [f.detach() for f in read] if self.detached else read
        y = noise.expand(y)
        log_p = self.head(read).log_softmax(1).gather(1, y.clamp(min=0)[:, None])[:, 0]
        return -torch.where(y < 0, 0.0, log_p).mean() + self.lam * density

    def prepare(self, x: Any, y: Any = None, *, noise: Noise) -> None:
        """The trunk's data-dependent start, which needs no labels."""
        if hasattr(self.trunk, "prepare"):
            self.trunk.prepare(x, noise=noise)

    def after_step(self) -> None:
        """The trunk's own, where it has one."""
        if hasattr(self.trunk, "after_step"):
            self.trunk.after_step()

    def training_state(self) -> dict[str, Tensor]:
        """The trunk's own."""
        return self.trunk.training_state() if hasattr(self.trunk, "training_state") else {}


class HybridExact(_Hybrid):
    """Over an `Exact` trunk: a flow on reals, an integer flow. Verbs: also Exact."""

    def log_prob(self, x: Any, y: Any = None) -> Tensor:
        """log p(x), (B,) nats."""
        _no(y)
        return self.trunk.log_prob(x)

    def log_joint(self, x: Any, *, noise: Noise) -> tuple[Tensor, Tensor]:
        """`log_prob` and `log_posterior`, in one pass where the trunk can: (B,) and (B, K)."""
        if not hasattr(self.trunk, "log_prob_and_features"):
            return self.log_prob(x), self.log_posterior(x)
        log_p, read = self.trunk.log_prob_and_features(x)
        return log_p, self.head(read).log_softmax(1)


class HybridWeighted(_Hybrid):
    """Over a `Weighted` trunk: a dequantised coupling flow. Verbs: also Bounded and Weighted."""

    def log_weight(self, x: Any, y: Any = None, *, noise: Noise) -> Tensor:
        """The trunk's log-weight, whose exponential has expectation p(x); (B * k,) nats."""
        _no(y)
        return self.trunk.log_weight(x, noise=noise)

    def elbo(self, x: Any, y: Any = None, *, noise: Noise) -> Tensor:
        """The trunk's bound on log p(x), (B * k,) nats."""
        _no(y)
        return self.trunk.elbo(x, noise=noise)


class HybridBound(_Hybrid):
    """Over a trunk that is `Bounded` only: a dequantised residual flow. Verbs: also Bounded."""

    def elbo(self, x: Any, y: Any = None, *, noise: Noise) -> Tensor:
        """The trunk's bound on log p(x), (B * k,) nats."""
        _no(y)
        return self.trunk.elbo(x, noise=noise)


class HybridEstimate(_Hybrid):
    """Over an `Estimated` trunk: a residual flow on reals, an ODE. Verbs: also Estimated."""

    @property
    def unbiased(self) -> bool:
        """Whether the trunk's estimate is."""
        return bool(self.trunk.unbiased)

    def log_prob_estimate(self, x: Any, y: Any = None, *, noise: Noise) -> Tensor:
        """The trunk's estimate of log p(x), (B * k,) nats."""
        _no(y)
        return self.trunk.log_prob_estimate(x, noise=noise)


def features(trunk: nn.Module, x: Any) -> list[Tensor]:
    """What the classifier reads of each row: the trunk's `features`, or its z where it shows none; no noise in it."""
    if hasattr(trunk, "features"):
        return trunk.features(x)
    z, dtype = trunk.encode(x), next(trunk.parameters()).dtype
    return [part if part.dtype.is_floating_point else part.to(dtype) for part in _list(z)]


def Hybrid(
    trunk: nn.Module,
    head: nn.Module | Integers,
    lam: float | Literal["1/D"] = "1/D",
    *,
    detached: bool = False,
    config: HybridConfig | None = None,
) -> HybridExact | HybridWeighted | HybridBound | HybridEstimate:
    """p(y given x) p(x) on an invertible trunk, promising of p(x) what the trunk promises.

    `trunk` is an unconditional model of x that learns by gradient and is `Invertible`, or a `Dequantised` one over an
    `Invertible` density with `features`. `head` makes logits (B, K) of the list of its features and has `condition`,
    the space of the labels; given just that space, `Integers((), K)`, a `Head` is made. `lam` is the weight of
    -log p(x) in the loss, "1/D" one over the dimensions of x. `detached` lets the classifier read the features without
    moving the trunk.

    Raises `TypeError` for a trunk that is not invertible, cannot be trained or has no density, `ValueError` for a
    conditional trunk, for labels that are none, and for a lam below 0.
    """
    inside = getattr(trunk, "flow", None)
    if not (has(trunk, Invertible) or (has(inside, Invertible) and hasattr(inside, "features"))):
        raise TypeError(
            f"trunk is {name_of(trunk)} ({', '.join(verbs(trunk)) or 'no verb'}); a hybrid accepts an Invertible "
            "model, or a Dequantised one over an Invertible density with `features`"
        )
    for verb in (Trainable, Samples, (Exact, Weighted, Bounded, Estimated)):
        require(trunk, verb, "a hybrid's trunk")
    if trunk.condition is not None:
        raise ValueError(f"trunk has the condition {trunk.condition}; a hybrid accepts a model of x alone")
    lam = weight(lam)
    if isinstance(head, Integers):
        head = _head(trunk, head, 64 if config is None else config.width)
    labels = getattr(head, "condition", None)
    if not isinstance(labels, Integers) or labels.shape != ():
        raise ValueError(f"head is about {labels}; a hybrid accepts labels, Integers((), classes)")
    kinds = {Exact: HybridExact, Weighted: HybridWeighted, Bounded: HybridBound, Estimated: HybridEstimate}
    kind = next(kinds[verb] for verb in kinds if has(trunk, verb))
    return kind(trunk, head, 1 / trunk.space.dims if lam == "1/D" else float(lam), detached, config)


def model(config: HybridConfig, space: Space, condition: Space | None, build: Callable[..., nn.Module]) -> nn.Module:
    """The hybrid of a config; the trunk is built without the labels."""
    if not (isinstance(condition, Integers) and condition.shape == ()):
        raise ValueError(f"condition is {condition}; a hybrid accepts labels, Integers((), classes)")
    return Hybrid(build(config.trunk, space, None), condition, config.lam, detached=config.detached, config=config)


def _head(trunk: nn.Module, labels: Integers, width: int) -> Head:
    """A `Head` for the shapes that the trunk's features have on a row of zeros."""
    tensor = next(trunk.parameters())
    dtype = torch.int64 if isinstance(trunk.space, Integers) else tensor.dtype
    with scoring(trunk):
        read = features(trunk, torch.zeros(1, *trunk.space.shape, dtype=dtype, device=tensor.device))
    return Head([f.shape[1:] for f in read], labels, width).to(tensor.device, tensor.dtype)


def _list(z: Any) -> list[Tensor]:
    return list(z) if isinstance(z, tuple | list) else [z]


def _no(y: Any) -> None:
    """Only p(x) is here to be asked for."""
    if y is not None:
        raise ValueError(
            "y was given, but a hybrid has p(y given x) and p(x) and no normalised p(x given y); leave y out, and ask "
            "log_posterior about y"
        )


def _tiny(space: Space, trunk: dict[str, Any], **fields: Any) -> Tiny:
    config = HybridConfig.model_validate({"trunk": trunk, "width": 6, **fields})
    return Tiny(config, space, Integers((), 3))


_COUPLING: dict[str, Any] = {"family": "flow", "depth": 2, "width": 6}
_GLOW = _COUPLING | {"architecture": "glow", "mixing": "linear"}
_VARIATIONAL = _GLOW | {"dequantisation": "variational", "noise_depth": 2}
_RESIDUAL = {"family": "residual", "blocks": 2, "levels": 0, "depth": 2, "growth": 4}
_INTEGER = {"family": "integer-flow", "depth": 2, "width": 8, "hidden": 1, "components": 2}
_TWO, _BYTES = Reals((2,)), Integers((2,), 4)

TINY: dict[str, Tiny] = {
    "vector, 1/D": _tiny(_TWO, _COUPLING),
    "vector, 0": _tiny(_TWO, _COUPLING, lam=0),
    "vector, 1, linear": _tiny(_TWO, _COUPLING, lam=1, width=0),
    "image, 1/D": _tiny(Reals((1, 2, 2)), _GLOW),
    "image, 1, linear": _tiny(Reals((2, 1, 2)), _GLOW, lam=1, width=0),
    "bytes, 1/D": _tiny(_BYTES, _COUPLING),
    "bytes, 0": _tiny(_BYTES, _COUPLING | {"squash": "logit"}, lam=0),
    "byte image, 1": _tiny(Integers((1, 2, 2), 3), _VARIATIONAL, lam=1),
    "residual": _tiny(_TWO, _RESIDUAL),
    "residual, bytes": _tiny(_BYTES, _RESIDUAL, lam=1),
    "integers": _tiny(_BYTES, _INTEGER),
    "ODE, bytes": _tiny(_BYTES, {"family": "continuous-flow", "width": 6, "hidden": 1}),
}
