"""What can be measured of a row: each statistic is a function (model, x, context) -> (n,) float64.

log_p       the best reading of log p(x) that the door has, nats
code        what the best everyday codec needs for the row, bits (`likely.tasks.codecs`)
gradient    log of the norm of d log p(x) / d parameters, of one draw where log p is a bound or an estimate
background  log p(x) of a second model that learned mutated data, nats
odds        log-odds of the most likely class, log p - log(1 - p) of max p(y given x): the order of max p
energy      -energy(x), which is log p(x) + c, nats
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from likely.logprob import ELIMINATE, batched, can_eliminate, log_joint, log_posterior, log_prob
from likely.noise import Noise
from likely.space import Integers
from likely.tasks.codecs import code_lengths
from likely.verbs import Bounded, Estimated, Exact, Joint, JointBound, Unnormalised, Weighted, has, require

READINGS = (Exact, Weighted, Bounded, Estimated, Unnormalised)
"""What the door makes a log p of, best first."""
GRADIENT_NUMBERS = 2**25
"""Most numbers that the gradients of the rows in one call may take."""


@dataclass(frozen=True)
class Context:
    """What statistics need beside model and rows: draws a row (None: what the model prefers), seed, a background model,
    who wants to know of progress (called with the number of rows done)."""

    k: int | None = None
    seed: int = 0
    background: Any = None
    progress: Callable[[int], None] | None = None


def log_p(model: Any, x: Any, context: Context) -> Tensor:
    """log p(x)."""
    if can_eliminate(model):
        reading, _ = log_joint(model, x, context.k, eliminate=ELIMINATE, seed=context.seed, progress=context.progress)
        return reading.nats
    return log_prob(model, x, k=context.k, seed=context.seed, progress=context.progress).nats


def code(model: Any, x: Any, context: Context) -> Tensor:
    """Bits of the best codec, each row by itself."""
    return code_lengths(x, model.space, context.progress)


def background(model: Any, x: Any, context: Context) -> Tensor:
    """log p(x) of the background model."""
    return log_p(context.background, x, context)


def odds(model: Any, x: Any, context: Context) -> Tensor:
    """Log-odds of the most likely class."""
    found = log_posterior(model, x, context.k, eliminate=ELIMINATE, seed=context.seed, progress=context.progress)
    return found.log_odds


def energy(model: Any, x: Any, context: Context) -> Tensor:
    """-energy(x)."""
    return batched(model, lambda x, y, ids: -model.energy(x).double(), x, progress=context.progress)


def gradient(model: Any, x: Any, context: Context) -> Tensor:
    """log |d log p(x) / d parameters|, a row at a time by `torch.func.vmap`: rows are not looped over in Python."""
    reading = _Reading(model, context.seed)
    weights = {name: p.detach() for name, p in reading.named_parameters()}
    size = sum(p.numel() for p in weights.values())

    def norm(x: Any, row: Tensor) -> Tensor:
        slope = torch.func.grad(lambda p: torch.func.functional_call(reading, p, (x, row)))(weights)
        return torch.stack([g.double().square().sum() for g in slope.values()]).sum().sqrt()

    chunk = max(1, GRADIENT_NUMBERS // size)
    rows = torch.func.vmap(norm, chunk_size=chunk)
    with warnings.catch_warnings():  # operations that vmap has to loop over cost time, and change nothing
        warnings.filterwarnings("ignore", "There is a performance drop")
        norms = batched(model, lambda x, y, ids: rows(x, ids), x, progress=context.progress)
    return norms.clamp(min=1e-300).log()


class _Reading(nn.Module):
    """log p of a single row (no batch axis) as a module, so that its parameters can be exchanged."""

    def __init__(self, model: nn.Module, seed: int) -> None:
        super().__init__()
        self.model, self.seed = model, seed

    def forward(self, x: Any, row: Tensor) -> Tensor:
        model = self.model
        x = x[None] if isinstance(x, Tensor) else type(x)(*(part[None] for part in x))
        noise = Noise(self.seed, row[None])
        if has(model, Exact):
            value = model.log_prob(x)
        elif has(model, Weighted):
            value = model.log_weight(x, noise=noise)
        elif has(model, Bounded):
            value = model.elbo(x, noise=noise)
        elif has(model, Estimated):
            value = model.log_prob_estimate(x, noise=noise)
        else:
            value = -model.energy(x)
        return value.sum()


class Statistic(NamedTuple):
    """A statistic, and what a model lacks for it: a sentence, or None where it can be had.

    `lacks` gets the model, one checked row of its space and the context.
    """

    call: Callable[[Any, Any, Context], Tensor]
    lacks: Callable[[Any, Any, Context], str | None]


def _no_verb(*verbs: Any, task: str) -> Callable[[Any, Any, Context], str | None]:
    def lacks(model: Any, row: Any, context: Context) -> str | None:
        try:
            require(model, verbs, task)
        except TypeError as error:
            return str(error)
        return None

    return lacks


def _no_log_p(model: Any, row: Any, context: Context) -> str | None:
    if model.condition is not None and not (has(model, Joint) or has(model, JointBound)):
        return "log p(x) needs a model of x; this one models p(x given y)"
    return _no_verb(*READINGS, task="log p(x)")(model, row, context)


def _no_code(model: Any, row: Any, context: Context) -> str | None:
    if not isinstance(model.space, Integers):
        return f"a code length needs integers, which a file holds without loss; this model's data are {model.space}"
    return None


def _no_gradient(model: Any, row: Any, context: Context) -> str | None:
    if (missing := _no_log_p(model, row, context)) is not None:
        return missing
    if not isinstance(model, nn.Module) or not any(p.numel() for p in model.parameters()):
        return "a gradient needs parameters to differentiate by; this model has none"
    try:
        slope = gradient(model, row, replace(context, progress=None))
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        first = str(error).strip().splitlines()[0]
        return f"this model's log p cannot be differentiated a row at a time: {first[:150]}"
    return None if bool(slope.isfinite().all()) else "the gradient of this model's log p is not finite"


def _no_background(model: Any, row: Any, context: Context) -> str | None:
    if context.background is None:
        return (
            "a likelihood ratio needs a background model, trained on mutated data; `likely detect RUN --method ratio` "
            "trains one and keeps it for later calls (in Python: `background`)"
        )
    if context.background.space != model.space:
        return f"background is about {context.background.space}, the model about {model.space}"
    return _no_log_p(context.background, row, context)


STATISTICS: dict[str, Statistic] = {
    "log_p": Statistic(log_p, _no_log_p),
    "code": Statistic(code, _no_code),
    "gradient": Statistic(gradient, _no_gradient),
    "background": Statistic(background, _no_background),
    "odds": Statistic(odds, _no_verb(Joint, JointBound, task="p(y given x)")),
    "energy": Statistic(energy, _no_verb(Unnormalised, task="an energy")),
}


def measure(model: Any, x: Any, names: tuple[str, ...], context: Context) -> dict[str, Tensor]:
    """The statistics `names` of rows x; progress counts the rows of one statistic after those of another.

    Raises `ValueError` for a statistic that is NaN somewhere.
    """
    n, values = model.space.len(x), {}
    for i, name in enumerate(names):
        here = context.progress
        tell = None if here is None else lambda done, first=i * n, here=here: here(first + done)
        values[name] = STATISTICS[name].call(model, x, replace(context, progress=tell))
        if values[name].isnan().any():
            raise ValueError(
                f"{name} of row {int(values[name].isnan().nonzero()[0])} is NaN: the model cannot score it"
            )
    return values
