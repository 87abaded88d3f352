"""What training shows while it runs: a bar on the terminal, or events for whoever asks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from torch import cuda
from torch import device as Device

Events = Callable[[dict[str, Any]], None]
EVERY = 0.2
"""Seconds between two updates."""


class Progress:
    """`show` is None (a bar if standard error is a terminal), True (a bar), False (nothing), or a function that gets
    events: dicts of JSON values with a "kind", namely every line of the ledger and, a few times a second, "progress"
    with step, steps, loss, bits_per_dim, seconds, left (seconds), memory (bytes)."""

    def __init__(self, show: bool | Events | None, *, steps: int, first: int, device: Device) -> None:
        self.steps, self.first, self.device = steps, first, device
        self.events = show if callable(show) else None
        self.start = self.shown = time.monotonic()
        self.bar: Any = None
        if show is True or (show is None and sys.stderr.isatty()):
            self.bar, self.task = _bar(steps, first)

    def step(self, step: int, loss: float, bits: float | None) -> None:
        """After update number `step`."""
        now = time.monotonic()
        if (self.bar is None and self.events is None) or (now - self.shown < EVERY and step < self.steps):
            return
        self.shown = now
        taken = now - self.start
        left = taken / max(1, step - self.first) * (self.steps - step)
        if self.bar is not None:
            what = f"loss {loss:.3f}" if bits is None else f"{bits:.3f} bits/dim"
            self.bar.update(self.task, completed=step, what=what, memory=f"{memory(self.device) / 2**20:,.0f} MB")
        if self.events is not None:
            event = {"kind": "progress", "step": step, "steps": self.steps, "loss": loss, "bits_per_dim": bits}
            self.events({**event, "seconds": taken, "left": left, "memory": memory(self.device)})

    def event(self, line: dict[str, Any]) -> None:
        """A line of the ledger."""
        if self.events is not None:
            self.events(line)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self.bar is not None:
            self.bar.stop()


def memory(device: Device) -> int:
    """Most memory used so far, in bytes: of the GPU where training is on one, else of this process."""
    if device.type == "cuda":
        return cuda.max_memory_allocated(device)
    try:
        import resource
    except ModuleNotFoundError:  # not a POSIX system
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _bar(steps: int, first: int) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[what]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[memory]}"),
    )
    bar = Progress(*columns, console=Console(stderr=True), refresh_per_second=4)
    bar.start()
    return bar, bar.add_task("train", total=steps, completed=first, what="", memory="")
