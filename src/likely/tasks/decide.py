"""Which class, how sure, and have I seen its kind before?

p(x, y) = p(y given x) p(x). A row gets a class only if p(x) says that it could have come from where the training
data came from. That is judged by a conformal p-value against held-out rows
("Testing for outliers with conformal p-values", Bates, Candes, Lei, Romano, Sesia, 2023): with n held-out scores of
which r are as low as this one's, (1 + r) / (n + 1) is super-uniform for rows like those held out. Both tails count,
since p(x) is often *higher* on inputs simpler than any training datum ("Do deep generative models know what they
don't know?", Nalisnick et al., 2019): p = 2 min(low, high), which is super-uniform by the union bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from likely.logprob import ELIMINATE, LogProb, Posterior, log_joint
from likely.tasks.conformal import conformal
from likely.tasks.standing import Calibration, calibrate, resolves, two_sided
from likely.verbs import Joint, JointBound, require


@dataclass(frozen=True)
class Decisions:
    """A verdict a row.

    `p_value` (n,) is the conformal p-value of log p(x), `p_sure` (n,) that of the log-odds of the most likely class;
    `novel` and `unsure` (n,) bool are what the chosen rates make of them.
    """

    posterior: Posterior
    log_prob: LogProb
    p_value: Tensor
    p_sure: Tensor
    novel: Tensor
    unsure: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.log_prob)

    @property
    def label(self) -> Tensor:
        """The class of each row, -1 where none is given; (n,)."""
        return self.posterior.label.where(~(self.novel | self.unsure), -1)

    def take(self, index: slice | Tensor) -> Decisions:
        """The decisions on some of the rows."""
        rows = (self.log_prob.nats, self.p_value, self.p_sure, self.novel, self.unsure)
        nats, *rest = (each[index] for each in rows)
        return Decisions(self.posterior.take(index), replace(self.log_prob, nats=nats), *rest, self.classes)

    def verdict(self, i: int) -> str:
        """The verdict on row i as a sentence."""
        name = self.classes[int(self.posterior.label[i])]
        sure = f"p(y given x) {self.posterior.kind} {float(self.posterior.nats[i].max().exp()):.3f}"
        if self.novel[i]:
            return f"not like anything I was trained on (p-value {float(self.p_value[i]):.3f}; {name} with {sure})"
        if self.unsure[i]:
            return f"no class is clear (nearest {name}, {sure}; p-value {float(self.p_value[i]):.3f})"
        return f"{name} ({sure}; p-value {float(self.p_value[i]):.3f})"

    def to_json(self) -> list[dict[str, Any]]:
        """One object a row."""
        return [
            {
                "sentence": self.verdict(i),
                "verdict": "novel" if self.novel[i] else "unsure" if self.unsure[i] else "class",
                "class": None if self.label[i] < 0 else self.classes[int(self.label[i])],
                "nearest": self.classes[int(self.posterior.label[i])],
                "p_y_given_x": float(self.posterior.nats[i].max().exp()),
                "posterior_kind": self.posterior.kind.value,
                "log_prob": float(self.log_prob.nats[i]),
                "log_prob_kind": self.log_prob.kind.value,
                "p_value": float(self.p_value[i]),
            }
            for i in range(len(self))
        ]


def decide(
    model: Any,
    x: Any,
    held_out: Any,
    *,
    novelty: float = 0.05,
    unsure: float = 0.0,
    k: int | None = None,
    eliminate: float = ELIMINATE,
    seed: int = 0,
    classes: tuple[str, ...] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Decisions:
    """Give each row of x a class, or say that it is unlike the training data, or that no class is clear.

    `held_out` are rows of the model's space that it was not trained on, and from nowhere else: they calibrate. What
    `calibrate` made of them will do as well, and then its k, `eliminate` and `seed` hold. Of rows like them at most the
    share `novelty` is called novel, and at most the share `unsure` is left without a class for want of a clear one.
    `classes` names the classes. k draws a row and `eliminate` are those of `likely.logprob.log_posterior`. `progress`
    is called with the number of held-out rows scored, which is most of the work.

    Raises `TypeError` for a model without p(y given x), `ValueError` for rates outside [0, 1) or so low that
    `held_out` is too small to resolve them.
    """
    require(model, (Joint, JointBound), "decide")
    x = model.space.check(x, "x")
    if not isinstance(held_out, Calibration):
        held_out = model.space.check(held_out, "held_out")
    n = len(held_out) if isinstance(held_out, Calibration) else model.space.len(held_out)
    for name, rate, tails in (("novelty", novelty, 2), ("unsure", unsure, 1)):
        resolves(rate, n, tails, name)
    classes = classes or tuple(str(c) for c in range(model.condition.levels))
    if len(classes) != model.condition.levels:
        raise ValueError(f"classes has {len(classes)} names; the model has {model.condition.levels} classes")
    if isinstance(held_out, Calibration):
        known = held_out
    else:
        known = calibrate(model, held_out, k=k, eliminate=eliminate, seed=seed, progress=progress)
    reading, posterior = log_joint(model, x, known.k, eliminate=known.eliminate, seed=known.seed)
    p_value = two_sided(reading.nats, known.log_prob.nats)
    p_sure = conformal(posterior.log_odds, known.log_odds)
    return Decisions(posterior, reading, p_value, p_sure, p_value <= novelty, p_sure <= unsure, classes)
