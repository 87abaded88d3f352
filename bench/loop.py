"""What the training loop adds to a bare loop of the same work: rows, noise, checks, metrics, a ledger on the disk.

    python bench/loop.py

A step of about 10 ms of processor time. Processor seconds, not wall time, so that a busy machine does not matter; what
each further step costs (a long run less a short one), so that start and checkpoints, reported apart, do not; the median
of several pairs. One JSON line goes to bench/results/loop.jsonl; the aim is a ratio below 1.05.
"""

from __future__ import annotations

import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from likely.noise import Noise
from likely.space import Reals
from likely.train import fit

STEPS, BATCH, WIDTH = 60, 64, 560
FIELDS: dict[str, Any] = {"batch": BATCH, "threads": 1, "valid_every": 0, "save_seconds": None, "lr": 1e-4}


class Net(nn.Module):
    """A network that takes about 10 ms a step on one core."""

    players = ("model",)
    condition = None
    space = Reals((WIDTH,))

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(*[m for _ in range(6) for m in (nn.Linear(WIDTH, WIDTH), nn.ReLU())])

    def loss(self, x: Tensor, y: Any = None, *, player: str = "model", noise: Noise) -> Tensor:
        return (self.net(x) - x).square().mean()


def bare(x: Tensor, steps: int) -> None:
    """The same updates with nothing around them."""
    model, noise = Net(), Noise(0, BATCH)
    adam = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    for step in range(steps):
        rows = torch.arange(step * BATCH, (step + 1) * BATCH) % len(x)
        loss = model.loss(x[rows], noise=noise)
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        adam.step()
        loss.item()


def seconds(work: Any) -> tuple[float, float]:
    """Processor seconds of each further step, and those of everything else."""
    spent = []
    for steps in (STEPS, 3 * STEPS):
        began = time.process_time()
        work(steps)
        spent.append(time.process_time() - began)
    step = (spent[1] - spent[0]) / (2 * STEPS)
    return step, spent[0] - STEPS * step


def main() -> None:
    torch.set_num_threads(1)
    x = Noise(0, 5000).normal((WIDTH,))
    data = SimpleNamespace(train=SimpleNamespace(x=x, y=None))
    bare(x, 2)
    pairs = []
    with tempfile.TemporaryDirectory() as folder:

        def fitted(steps: int) -> None:
            run = Path(folder) / str(time.monotonic_ns())
            fit(Net(), data, steps=steps, run=run, progress=lambda event: None, **FIELDS)

        for _ in range(5):
            pairs.append((seconds(lambda steps: bare(x, steps)), seconds(fitted)))
    ratios = [looped[0] / alone[0] for alone, looped in pairs]
    found: dict[str, Any] = {"bare_ms": 1e3 * statistics.median(alone[0] for alone, _ in pairs)}
    found |= {"ratio": statistics.median(ratios), "spread": [min(ratios), max(ratios)]}
    found |= {"start_and_two_checkpoints_ms": 1e3 * statistics.median(looped[1] - alone[1] for alone, looped in pairs)}
    found |= {"torch": torch.__version__, "machine": platform.platform()}
    results = Path(__file__).parent / "results" / "loop.jsonl"
    results.parent.mkdir(exist_ok=True)
    with results.open("a") as file:
        file.write(json.dumps(found) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
