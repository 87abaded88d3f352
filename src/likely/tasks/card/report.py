"""What comes of checking a card, and where two cards differ."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Check:
    """What was looked at, what came of it, and a sentence on it that says where where it failed."""

    name: str
    status: Status
    sentence: str
    seconds: float = 0.0


@dataclass
class Report:
    """The checks of one card in order."""

    run: str
    checks: list[Check] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return bool(self.checks) and all(check.status != "failed" for check in self.checks)

    @property
    def seconds(self) -> float:
        """What it all took."""
        return sum(check.seconds for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        checks = [vars(check) for check in self.checks]
        return {"run": self.run, "passed": self.passed, "seconds": round(self.seconds, 3), "checks": checks}

    def __str__(self) -> str:
        sign = {"passed": "ok    ", "failed": "FAILED", "skipped": "--    "}
        lines = [f"{sign[check.status]}  {check.name}: {check.sentence}" for check in self.checks]
        bad = [check for check in self.checks if check.status == "failed"]
        told = "the card is what the run says" if not bad else f"the card is NOT what the run says: {bad[0].sentence}"
        return "\n".join([*lines, f"{told} ({self.seconds:.1f} s)"])


def difference(a: Any, b: Any, path: str = "") -> str | None:
    """The first place at which two JSON values differ, in words; None where they do not. `b` is the truth."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*b, *(key for key in a if key not in b)]:
            here = f"{path}/{key}" if path else str(key)
            if key not in a or key not in b:
                return f"{here} {'is missing' if key not in a else 'is not in the ledger'}"
            if (found := difference(a[key], b[key], here)) is not None:
                return found
        return None
    if isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            return f"{path} has {len(a)} entries, the ledger says {len(b)}"
        each = (difference(x, y, f"{path}/{i}") for i, (x, y) in enumerate(zip(a, b, strict=True)))
        return next((found for found in each if found is not None), None)
    if type(a) is type(b) and a == b:
        return None
    return f"{path} is {_short(a)}, the ledger says {_short(b)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
