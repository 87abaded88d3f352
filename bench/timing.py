"""Racing our code against a rival's: interleaved, one thread, process CPU time. Import this before numpy or torch."""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

RESULTS = Path(__file__).parent / "results"


class Timing(NamedTuple):
    """Seconds of the fastest of `repeats` runs (CPU seconds of this process, and wall), and how far they spread."""

    cpu: float
    wall: float
    spread: float
    """(median - minimum) / minimum of the CPU seconds."""
    repeats: int


def race(cases: dict[str, Callable[[], Any]], repeats: int = 7) -> dict[str, Timing]:
    """Time every case `repeats` times, in turns so that a busy machine hits all alike, after one run unmeasured."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    gc.collect()
    gc.disable()
    try:
        for turn in range(-1, repeats):
            for name, case in cases.items():
                cpu, wall = time.process_time(), time.perf_counter()
                case()
                cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
                if turn >= 0:
                    times[name].append((cpu, wall))
    finally:
        gc.enable()
    done = {}
    for name, each in times.items():
        cpu = [c for c, _ in each]
        best = min(cpu)
        done[name] = Timing(best, min(w for _, w in each), (statistics.median(cpu) - best) / max(best, 1e-9), repeats)
    return done


def train_step(model: Any, loss: Callable[[], Any], rate: float = 1e-4) -> Callable[[], None]:
    """A step of Adam, to be raced."""
    import torch  # not before the number of threads is set

    optimiser = torch.optim.Adam(model.parameters(), lr=rate)

    def step() -> None:
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()

    return step


def against(bench: str, case: str, rival: str, times: dict[str, Timing], **more: Any) -> dict[str, Any]:
    """A row for `record` from a race between the cases "ours" and "rival"."""
    ours, other = times["ours"], times["rival"]
    return {
        "bench": bench,
        "case": case,
        "ours_s": round(ours.cpu, 6),
        "rival_s": round(other.cpu, 6),
        "ratio": round(ours.cpu / other.cpu, 4),
        "spread_ours": round(ours.spread, 3),
        "spread_rival": round(other.spread, 3),
        "repeats": ours.repeats,
        "clock": "process CPU seconds, minimum of repeats, interleaved",
        "rival": rival,
        **more,
    }


def record(path: Path, row: dict[str, Any], packages: tuple[str, ...] = ()) -> None:
    """Append a row as a JSON line, with versions, threads, machine and date; print it as well."""
    row = row | {
        "versions": {"python": platform.python_version()} | {p: version(p) for p in ("torch", "numpy", *packages)},
        "threads": int(os.environ["OMP_NUM_THREADS"]),
        "machine": {"cpu": _processor(), "cores": os.cpu_count(), "system": platform.system()},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(row, ensure_ascii=False)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    print(line)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
