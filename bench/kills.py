"""`kill -9` at random moments of training with frequent checkpoints, then resume: is anything lost, are results equal?

    python bench/kills.py [--kills 50] [--seed 0]

Each process is forked from this one, trains a small network with dropout, weight average, validation and noise in its
loss (a checkpoint every second step), and is killed at a random moment: half of the kills after a random time, half
inside a random write, fsync or rename of a save. Killed runs are resumed, up to three more kills each, until one
finishes; its files must then equal those of the run that nobody killed, byte for byte. One JSON line goes to
bench/results/kills.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import tempfile
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from likely.noise import Noise
from likely.space import Integers
from likely.train import Ledger, fit
from likely.train.checkpoint import Checkpoints
from likely.train.ledger import same

STEPS = 40
FIELDS: dict[str, Any] = {"batch": 32, "accumulate": 2, "ema": 0.95, "lr": 0.01, "log_every": 3, "valid_every": 5}
FIELDS |= {"threads": 1, "save_every": 2, "save_seconds": None, "patience": 99}
COMPARED = ("model.safetensors", "resume.safetensors", "state.json")


class Net(nn.Module):
    """Six bits, the last three given the first three, with dropout and noise in the loss."""

    players = ("model",)
    condition = None
    space = Integers((6,), 2)

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first = nn.Parameter(torch.zeros(3))
            self.net = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 3))

    def log_prob(self, x: Tensor, y: Any = None) -> Tensor:
        x = x.float()
        logits = torch.cat([self.first.expand(len(x), 3), self.net(x[:, :3])], 1)
        return -nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)

    def loss(self, x: Tensor, y: Any = None, *, player: str = "model", noise: Noise) -> Tensor:
        return (0.1 * (noise.normal((3,)) * self.first).sum(1) - self.log_prob(x)).mean()


def data() -> Any:
    """300 rows to train on and 60 to validate."""
    u = Noise(0, 360).uniform((6,))
    x = torch.cat([u[:, :3] < 0.3, (u[:, :3] < 0.3) ^ (u[:, 3:] < 0.1)], 1).to(torch.uint8)
    return SimpleNamespace(train=SimpleNamespace(x=x[:300], y=None), valid=SimpleNamespace(x=x[300:], y=None))


def train(run: Path) -> None:
    """Start the run, or go on with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a checkpoint that is not whole would be warned about: nothing may be lost
        fit(Net(), data(), steps=STEPS, run=run, resume=True, progress=False, **FIELDS)


def child(run: Path, call: int | None) -> int:
    """Fork a process that trains; with `call`, it kills itself inside that write, fsync or rename. Its id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        if call is not None:
            _kill_inside(call)
        train(run)
        status = 0
    finally:
        os._exit(status)


def _kill_inside(call: int) -> None:
    left = [call]

    def armed(real: Any) -> Any:
        def killing(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                if real is write and len(arguments[1]) > 1:  # leave half of it on the disk
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return killing

    write = os.write
    os.write, os.fsync, os.rename = armed(os.write), armed(os.fsync), armed(os.rename)
    Path.rename = armed(Path.rename)
    os.pwrite = armed(os.pwrite)


def differences(run: Path, whole: Path) -> list[str]:
    """What differs between a finished run and the unbroken one."""
    (step, files), (last, wanted) = Checkpoints(run).newest(), Checkpoints(whole).newest()
    found = [name for name in COMPARED if files[name] != wanted[name]]
    kinds = ("start", "step", "valid", "stop")
    if same(Ledger(run).read(*kinds)) != same(Ledger(whole).read(*kinds)):
        found.append("ledger.jsonl")
    return found + ([] if step == last else ["step"])


def measure(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill `kills` times; how many runs that made, what was lost and how many ended byte-equal."""
    choose, began = random.Random(seed), time.monotonic()
    whole = folder / "whole"
    train(folder / "warm-up")  # what is imported and compiled at first use, so that children start quickly
    began_run = time.monotonic()
    train(whole)
    takes = time.monotonic() - began_run
    made = {"kills": 0, "runs": 0, "byte_equal": 0, "lost": 0, "restarts": 0}
    differ: list[str] = []
    places = {"at a time": 0, "in a write": 0}
    while made["kills"] < kills:
        run = folder / f"run-{made['runs']}"
        for turn in range(5):
            wanted = turn < 4 and made["kills"] < kills
            inside = choose.random() < 0.5
            pid = child(run, choose.randrange(1, 120) if wanted and inside else None)
            if wanted and not inside:
                time.sleep(choose.uniform(0.02, takes))
                os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
            if os.WIFSIGNALED(status):
                made["kills"] += 1
                places["in a write" if inside else "at a time"] += 1
            elif os.waitstatus_to_exitcode(status):
                made["lost"] += 1  # a resumed run that could not go on
                break
            else:
                break
        made["runs"] += 1
        if Checkpoints(run).steps():
            made["restarts"] += sum(line["kind"] == "restart" for line in Ledger(run).lines())
            found = differences(run, whole)
            made["byte_equal"] += not found
            differ += found
        if not differ:
            shutil.rmtree(run, ignore_errors=True)
    seconds = {"unbroken_seconds": round(takes, 3), "seconds": round(time.monotonic() - began, 1)}
    return {**made, "places": places, "differ": differ, **seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.kills, options.seed)
    found |= {"seed": options.seed, "steps": STEPS, "torch": torch.__version__, "machine": platform.platform()}
    results = Path(__file__).parent / "results" / "kills.jsonl"
    results.parent.mkdir(exist_ok=True)
    with results.open("a") as file:
        file.write(json.dumps(found) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
