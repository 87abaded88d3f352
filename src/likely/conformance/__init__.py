"""The public test suite that every family must pass, and that anyone's model can be put through.

`check(model)` finds out which verbs a model has and what its space is, and tries to catch it breaking a promise: a
density that does not sum to one, samples from another distribution, a bound above the truth, a score that depends on
its neighbours in the batch. `CHECKS` lists what is tried, by id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from likely.conformance import (  # noqa: F401
    codes,
    contractions,
    density,
    flows,
    general,
    joint,
    latent,
    learning,
    lossy,
    samples,
    saving,
)
from likely.conformance.report import CHECKS, Outcome, Report, attempt, chosen
from likely.conformance.subject import Subject
from likely.space import Space
from likely.verbs import name_of, verbs

__all__ = ["CHECKS", "Outcome", "Report", "check"]


def check(
    model: Any,
    *,
    only: str | Iterable[str] | None = None,
    seed: int = 0,
    progress: Callable[[Outcome], None] | None = None,
) -> Report:
    """Put a model through every check that applies to its verbs and its space; the model itself is left as it is.

    `only` takes ids of `CHECKS` or their first letters ("D", ["G2", "P1"]). `seed` fixes every draw, so a report can
    be repeated; a statistical check fails a right model with probability 1e-6 over seeds. `progress` is called with
    each outcome. Spaces of at most 4096 states are enumerated, densities over at most 3 real numbers integrated; on
    anything larger these checks are skipped, with that reason, and the others run.

    A model that breaks its promises gets a report that says so. Raises `TypeError` for what is no model (no `space`,
    or none of the verbs) and `ValueError` for an id that does not exist.
    """
    if not isinstance(getattr(model, "space", None), Space):
        raise TypeError(f"model is {type(model).__name__} without a `space`; accepts a model with a likely.space.Space")
    if not hasattr(model, "condition"):
        raise TypeError(f"model is {type(model).__name__} without `condition`; accepts a Space there, or None")
    if not verbs(model):
        raise TypeError(f"model is {type(model).__name__} with no verb of likely.verbs; accepts a model with one")
    subject, outcomes = Subject(model, seed), []
    for test in chosen(only):
        outcome = attempt(test, subject)
        outcomes.append(outcome)
        if progress is not None:
            progress(outcome)
    return Report(name_of(model), str(model.space), verbs(model), seed, tuple(outcomes))
