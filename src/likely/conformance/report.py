"""What a check is, what comes of it, and the report of a whole run."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from likely.conformance.subject import Subject

Test = Callable[["Subject"], str]


class Skip(Exception):
    """Raised by a check that does not apply to a subject; the message says why."""


class Failed(Exception):
    """Raised by a check that found a broken promise; the message gives the numbers."""


@dataclass(frozen=True)
class Check:
    """One promise and the function that tries to catch a model breaking it.

    The function returns what it measured, or raises `Skip` or `Failed`; its docstring states the promise, the
    tolerance and, for a statistical check, the sample size with the argument for its power.
    """

    id: str
    title: str
    test: Test


CHECKS: dict[str, Check] = {}
"""Every check by its id."""
_ORDER = "GDFLPCJN"


def promise(test: Test) -> Test:
    """Put a check into `CHECKS`; the first line of its docstring is "ID Title."."""
    line = (test.__doc__ or "").strip().splitlines()[0]
    name, _, title = line.partition(" ")
    if name in CHECKS:
        raise ValueError(f"check {name} is there already; accepts one test for each id")
    CHECKS[name] = Check(name, title.rstrip("."), test)
    return test


def chosen(only: str | Iterable[str] | None) -> list[Check]:
    """The checks that `only` names, ids or first letters of ids, in the order in which they run; all for None."""
    ordered = sorted(CHECKS.values(), key=lambda check: (_ORDER.index(check.id[0]), len(check.id), check.id))
    if only is None:
        return ordered
    names = [only] if isinstance(only, str) else list(only)
    for name in names:
        if not any(key == name or key[0] == name for key in CHECKS):
            near = difflib.get_close_matches(str(name), CHECKS, 1, 0.3)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"only names {name!r}; accepts {', '.join(CHECKS)} or their first letters{hint}")
    return [check for check in ordered if check.id in names or check.id[0] in names]


@dataclass(frozen=True)
class Outcome:
    """What came of one check: its numbers, or the reason why it was skipped or failed."""

    id: str
    title: str
    status: Literal["passed", "skipped", "failed"]
    detail: str
    seconds: float


def attempt(check: Check, subject: Subject) -> Outcome:
    """Run one check. A model that raises has failed it, with the error as the detail."""
    began = time.perf_counter()
    status: Literal["passed", "skipped", "failed"] = "passed"
    try:
        detail = check.test(subject)
    except Skip as reason:
        status, detail = "skipped", str(reason)
    except Failed as reason:
        status, detail = "failed", str(reason)
    except Exception as error:  # whatever a broken model raises belongs into the report
        status, detail = "failed", f"{type(error).__name__}: {error}"
    return Outcome(check.id, check.title, status, detail, time.perf_counter() - began)


@dataclass(frozen=True)
class Report:
    """The outcomes of a run over one model; `str` of it is a table."""

    model: str
    space: str
    verbs: tuple[str, ...]
    seed: int
    outcomes: tuple[Outcome, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """The outcomes that failed."""
        return tuple(outcome for outcome in self.outcomes if outcome.status == "failed")

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return asdict(self) | {"passed": self.passed}

    def __str__(self) -> str:
        count = {status: sum(o.status == status for o in self.outcomes) for status in ("passed", "failed", "skipped")}
        head = f"{self.model} over {self.space}: {', '.join(self.verbs)}"
        tail = ", ".join(f"{number} {status}" for status, number in count.items())
        rows = [f"{o.id:<4} {o.status:<8} {o.seconds:6.2f} s  {o.title}: {o.detail}" for o in self.outcomes]
        return "\n".join([head, *rows, f"{tail} (seed {self.seed})"])
