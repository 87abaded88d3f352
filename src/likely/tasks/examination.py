"""Decisions whose truth is known: how often right, which were kept back, where it was sure and wrong.

And the other way round: how sure one has to be for the answers to be wrong at most so often.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from likely.tasks.decide import Decisions
from likely.tasks.metrics import Figure
from likely.tasks.selective import Calibration, RiskCoverage, augrc, calibration, error_threshold, risk_coverage

SHOWN = 12
"""Rows in the gallery of what was sure and wrong."""


@dataclass(frozen=True)
class Examination:
    """What decisions on rows with known classes are worth. Wrong is a row whose most likely class is not y.

    `curves` and `augrc` have a key for each thing that one could trust: "p(y given x)", "p(x)" and "both", the lesser
    of the two p-values. `sure_but_wrong` are rows, the surest first.
    """

    rows: int
    accuracy: float
    answered: float
    """Share of the rows that got a class."""
    accuracy_answered: float | None
    curves: dict[str, RiskCoverage]
    augrc: dict[str, Figure]
    calibration: Calibration
    sure_but_wrong: Tensor

    def to_json(self) -> dict[str, Any]:
        """The figures; of the curves the risk at ten coverages."""
        at = [i / 10 for i in range(1, 11)]
        return {
            "rows": self.rows,
            "accuracy": self.accuracy,
            "answered": self.answered,
            "accuracy_answered": self.accuracy_answered,
            "trust": {
                name: {
                    "aurc": curve.aurc,
                    "augrc": self.augrc[name].to_json(),
                    "risk_at_coverage": {f"{share:g}": curve.risk_at(share) for share in at},
                }
                for name, curve in self.curves.items()
            },
            "calibration": self.calibration.to_json(),
            "sure_but_wrong": self.sure_but_wrong.tolist(),
        }

    def __str__(self) -> str:
        kept = "none answered" if self.accuracy_answered is None else f"{self.accuracy_answered:.1%} of them right"
        return (
            f"{self.accuracy:.1%} of {self.rows} right; {self.answered:.1%} answered, {kept}; "
            f"AUGRC {self.augrc['p(y given x)']}; calibration error {self.calibration.root:.3f} (debiased)"
        )


def examine(decisions: Decisions, y: Tensor, *, seed: int = 0) -> Examination:
    """Compare decisions with the classes y (n,), n of at least 2."""
    posterior, n = decisions.posterior, len(decisions)
    if tuple(y.shape) != (n,) or n < 2:
        raise ValueError(f"y has shape {tuple(y.shape)}; accepts ({n},), a class for each decision, at least two")
    wrong = posterior.label != y
    given = decisions.label >= 0
    odds, sure = posterior.log_odds, posterior.nats.max(1).values.exp().clamp(max=1)
    trust = {
        "p(y given x)": odds,
        "p(x)": decisions.p_value,
        "both": torch.minimum(decisions.p_value, decisions.p_sure),
    }
    order = odds.argsort(descending=True, stable=True)
    return Examination(
        n,
        float((~wrong).double().mean()),
        float(given.double().mean()),
        float((~wrong)[given].double().mean()) if given.any() else None,
        {name: risk_coverage(each, wrong) for name, each in trust.items()},
        {name: augrc(each, wrong, seed=seed) for name, each in trust.items()},
        calibration(sure, ~wrong),
        order[wrong[order]][:SHOWN],
    )


def limit_risk(
    decisions: Decisions, known: Decisions, y: Tensor, risk: float, *, confidence: float = 0.95
) -> tuple[Decisions, float]:
    """Decisions with fewer answers: so few that at most the share `risk` of the answers is wrong, and the threshold.

    `known` are decisions on rows with classes y that took part in nothing else, by the same model and calibration.
    With chance `confidence` over these rows the promise holds for rows like them. The threshold is one on the log-odds
    of the most likely class; infinite where no answer can be promised.
    """
    asked = ~known.novel
    odds, wrong = known.posterior.log_odds[asked], (known.posterior.label != y)[asked]
    threshold = error_threshold(odds, wrong, risk, confidence=confidence)
    return replace(decisions, unsure=decisions.unsure | (decisions.posterior.log_odds <= threshold)), threshold
