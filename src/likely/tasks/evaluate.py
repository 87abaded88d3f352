"""How likely are these data, and how good are the answers about their classes?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from likely.logprob import ELIMINATE, Kind, LogProb, Posterior, log_joint, log_prob
from likely.space import Integers, Table
from likely.verbs import Joint, JointBound, has


@dataclass(frozen=True)
class Evaluation:
    """What a model says of a set of data.

    `log_prob` is about x (given y where the model is conditional and no joint); `posterior` and what is derived from
    it is there only where the model has one and labels were given.
    """

    log_prob: LogProb
    given: bool
    posterior: Posterior | None = None
    y: Tensor | None = None

    @property
    def accuracy(self) -> float | None:
        """Share of rows whose most likely class is y."""
        if self.posterior is None or self.y is None:
            return None
        return float((self.posterior.label == self.y).double().mean())

    @property
    def class_nats(self) -> float | None:
        """Mean -log p(y given x), nats."""
        if self.posterior is None or self.y is None:
            return None
        return float(-self.posterior.nats.gather(1, self.y[:, None]).mean())

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        reading = self.log_prob
        record: dict[str, Any] = {
            "about": "x given y" if self.given else "x",
            "rows": len(reading),
            "nats": _finite(reading.mean),
            "nats_stderr": _finite(reading.stderr),
            "kind": reading.kind.value,
            "k": reading.k,
            "dims": reading.space.dims,
            "space": str(reading.space),
        }
        if reading.note:
            record["note"] = reading.note
        if reading.kind is not Kind.UNNORMALISED and not isinstance(reading.space, Table):
            bits, error = reading.mean_bits_per_dim
            record |= {
                "bits_per_dim": _finite(bits),
                "bits_per_dim_stderr": _finite(error),
                "bits_kind": reading.kind.of_bits,
            }
        if self.posterior is not None and self.accuracy is not None:
            record |= {
                "accuracy": self.accuracy,
                "class_nats": _finite(self.class_nats),
                "posterior_kind": self.posterior.kind.value,
            }
        return record

    def __str__(self) -> str:
        reading = self.log_prob
        name = "log p(x given y)" if self.given else "log p(x)"
        parts = [f"{name} {reading.kind} {reading.mean:.2f} ± {reading.stderr:.2f} nats"]
        if reading.kind is not Kind.UNNORMALISED and not isinstance(reading.space, Table):
            unit = "" if isinstance(reading.space, Integers) else " (a density: depends on the units of x)"
            parts.append(str(reading) + unit)
        if self.posterior is not None and self.accuracy is not None:
            parts.append(f"accuracy {self.accuracy:.3f}, -log p(y given x) {self.posterior.kind} {self.class_nats:.3f}")
        return "; ".join([*parts, f"{len(reading)} rows"])


def evaluate(
    model: Any,
    data: Any,
    k: int | None = None,
    *,
    eliminate: float = ELIMINATE,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Score rows `data.x` (with `data.y` where the model has classes): the mean of log p with its kind and error.

    `progress` is called with the rows done, from the beginning again where the posterior is a second pass. A model that
    is conditional without being a joint is asked for p(x given y). Raises `ValueError` for empty data
    or where labels are needed and absent, `TypeError` for a model without any log-probability.
    """
    x = model.space.check(data.x, "data.x")
    if not model.space.len(x):
        raise ValueError("data is empty; accepts at least one row")
    joint = has(model, Joint) or has(model, JointBound)
    given = model.condition is not None and not joint
    if not joint or data.y is None:
        return Evaluation(log_prob(model, x, data.y if given else None, k, seed=seed, progress=progress), given)
    y = model.condition.check(data.y, "data.y").long()
    reading, posterior = log_joint(model, x, k, eliminate=eliminate, seed=seed, progress=progress)
    return Evaluation(reading, given, posterior, y)


def _finite(value: float | None) -> float | None:
    """JSON has no NaN and no infinity."""
    return None if value is None or not math.isfinite(value) else value


def kept_accuracy(trust: Tensor, right: Tensor, keep: int) -> float:
    """Share of right answers among the `keep` most trusted, expected over the order of ties; 0 .. 1.

    trust is (n,), right (n,) bool. Raises `ValueError` unless 1 <= keep <= n.
    """
    if not 1 <= keep <= len(trust):
        raise ValueError(f"keep is {keep}; accepts 1 .. {len(trust)}")
    edge = trust.sort(descending=True).values[keep - 1]
    above, tied = trust > edge, trust == edge
    share = (keep - int(above.sum())) / int(tied.sum())
    return (float(right[above].sum()) + share * float(right[tied].sum())) / keep
