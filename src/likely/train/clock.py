"""What a run spends: seconds by the clock, seconds that processors were busy, and joules where the machine tells them.

Joules come from the counters that processors of Intel's and AMD's make have for each package (RAPL, Running Average
Power Limit), where the system lets this process read them. They count the whole package, whoever used it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RAPL = Path("/sys/class/powercap")
Spent = Mapping[str, Any]
"""What was spent before: "seconds", "busy" and, where they were counted, "joules"."""


class Clock:
    """Goes on from what was `spent` before this process took over. Read it now and then: counters of joules wrap."""

    def __init__(self, spent: Spent, folder: Path = RAPL) -> None:
        self.seconds = time.monotonic() - spent.get("seconds", 0.0)
        self.busy = time.process_time() - spent.get("busy", 0.0)
        self.joules: float = spent.get("joules", 0.0)
        self.counters = [] if spent and "joules" not in spent else _counters(folder)
        self.last = [_read(path) for path, _ in self.counters]

    def read(self) -> dict[str, float]:
        """Seconds by the clock, busy seconds of all threads of this process, and joules where there are counters."""
        spent = {
            "seconds": round(time.monotonic() - self.seconds, 3),
            "busy": round(time.process_time() - self.busy, 3),
        }
        if not self.counters:
            return spent
        try:
            for i, (path, wraps) in enumerate(self.counters):
                now = _read(path)
                self.joules += (now - self.last[i]) % wraps / 1e6
                self.last[i] = now
        except (OSError, ValueError):  # half a count would be a wrong one: from here on there is none
            self.counters = []
            return spent
        return spent | {"joules": round(self.joules, 3)}


def _counters(folder: Path) -> list[tuple[Path, int]]:
    """A counter for each package, and where it wraps, in microjoules; none where one of them cannot be read."""
    try:
        packages = sorted(path for path in folder.glob("*-rapl:*") if path.name.count(":") == 1)
        found = [(path / "energy_uj", _read(path / "max_energy_range_uj") + 1) for path in packages]
        for path, _ in found:
            _read(path)
    except (OSError, ValueError):
        return []
    return found


def _read(path: Path) -> int:
    return int(path.read_text())
