"""What a run leaves behind: its ledger, its checkpoints, and the history that `fit` returns."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import safetensors
import torch

from likely import __version__
from likely.train.checkpoint import WEIGHTS, Checkpoints
from likely.train.clock import Clock, Spent
from likely.train.code import code_version
from likely.train.files import sha256, sync_folder, temporary
from likely.train.ledger import Ledger
from likely.train.progress import Progress


class Record:
    """The lines and checkpoints of a run; with `run` None the lines are kept in memory only.

    A disk that is full or fails does not end training: lines wait until they can be written, a checkpoint that could
    not be written leaves the last good one, and each failure is told in a warning of one line.
    """

    def __init__(self, run: Path | None, progress: Progress, history: list[dict[str, Any]], spent: Spent) -> None:
        self.run, self.progress, self.history = run, progress, history
        self.clock = Clock(spent)
        self.waiting: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
        self.failed = 0

    @property
    def seconds(self) -> float:
        """Seconds that the run has taken so far, restarts included, lost work not."""
        return self.clock.read()["seconds"]

    def note(self, kind: str, *, timing: Mapping[str, Any] | None = None, **fields: Any) -> None:
        """A line for the ledger, the history and whoever follows the events."""
        timing = {**self.clock.read(), **(timing or {})}
        line = {"kind": kind, **fields, "timing": timing}
        if kind in ("step", "valid", "stop"):
            self.history.append(line)
        self.progress.event(line)
        if self.run is not None:
            self.waiting.append((kind, fields, timing))
            try:
                self.flush()
            except OSError as error:
                self._warn(f"{self.run}: the ledger could not be written ({error}); its lines wait")

    def flush(self) -> None:
        """Write the lines that wait; raises `OSError`."""
        while self.waiting and self.run is not None:
            kind, fields, timing = self.waiting[0]
            Ledger(self.run).append(kind, timing=timing, **fields)
            self.waiting.pop(0)

    def checkpoint(self, step: int, files: Mapping[str, bytes], keep: int, *, last: bool) -> None:
        """Write a checkpoint. Where that fails the last good one is kept; only the `last` of a run raises `OSError`."""
        if self.run is None:
            return
        began = time.monotonic()
        try:
            self.flush()
            store = Checkpoints(self.run)
            if step not in store.steps():
                where = {**self.clock.read(), **Ledger(self.run).position()}
                store.write(step, {**files, "ledger.json": json.dumps(where).encode()}, keep)
        except OSError as error:
            self.failed += 1
            self.note("save failed", step=step, error=str(error))
            if last:
                raise
            self._warn(f"the checkpoint of step {step} could not be written ({error}); the one before it is kept")
            return
        wrote = {"write": round(time.monotonic() - began, 3)}
        self.note("checkpoint", step=step, weights=sha256(files[WEIGHTS]), timing=wrote)

    def _warn(self, text: str) -> None:
        warnings.warn(text, RuntimeWarning, stacklevel=4)


def create(run: Path, start: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Make a run folder with its ledger's first line and the checkpoint of step 0: there, whole, or not at all."""
    run.parent.mkdir(parents=True, exist_ok=True)
    new = temporary(run)
    shutil.rmtree(new, ignore_errors=True)
    try:
        (new / "checkpoints").mkdir(parents=True)
        Ledger(new).append("start", **start)
        where = {**Clock({}).read(), **Ledger(new).position()}
        Checkpoints(new).write(0, {**files, "ledger.json": json.dumps(where).encode()}, keep=2)
        sync_folder(new)
        new.rename(run)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    sync_folder(run.parent)


def restart(run: Path, step: int, files: Mapping[str, bytes]) -> tuple[list[dict[str, Any]], Spent]:
    """Check that the ledger is the checkpoint's, add a restart line; the history up to here, and what was spent.

    Raises `ValueError` when lines that the checkpoint has seen are gone or others.
    """
    where, ledger = json.loads(files["ledger.json"]), Ledger(run)
    lines = ledger.lines()
    if not ledger.went_through(where):
        raise ValueError(f"{ledger.path} is not the ledger of this run: the checkpoint of step {step} saw other lines")
    after = 1 + next(i for i, line in enumerate(lines) if line["sha256"] == where["last"])
    spent = max((line["timing"].get("seconds", 0.0) for line in lines[after:]), default=0.0)
    times = sum(line["kind"] == "restart" for line in lines) + 1
    timing = {"seconds": where["seconds"], "lost_seconds": round(max(0.0, spent - where["seconds"]), 3)}
    ledger.append("restart", step=step, restarts=times, timing=timing)
    return ledger.read("step", "valid"), where


def surroundings(device: torch.device, world: int) -> dict[str, Any]:
    """Versions and machine: what the ledger's first line and every restart are run on."""
    return {
        "versions": {
            "likely": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "safetensors": safetensors.__version__,
        },
        "code": code_version(),
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "processes": world,
            "capability": torch.backends.cpu.get_cpu_capability(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        },
    }


def finite(value: float | None) -> float | None:
    """A number for JSON, which knows neither NaN nor infinity."""
    return value if value is not None and math.isfinite(value) else None


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
