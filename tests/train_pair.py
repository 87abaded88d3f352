"""One of two processes that train together; `test_train_parallel.py` starts both and compares with one process."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

sys.path.append(str(Path(__file__).parent))
from train_toys import Net, Pair, bits, synthetic

from likely.registry import FAMILIES, build, tiny
from likely.space import Reals
from likely.train import fit

FIELDS: dict[str, Any] = {"steps": 4, "batch": 16, "log_every": 1, "valid_every": 2, "threads": 1, "lr": 1e-3}
FIELDS |= {"save_every": 2, "save_seconds": None}


def instances(every: int = 4) -> dict[str, Any]:
    """Tiny instances of every registered family, in float64: each fourth one, the first always among them."""
    return {
        f"{family}, {name}": instance for family in FAMILIES for name, instance in list(tiny(family).items())[::every]
    }


def curve(model: nn.Module, data: Any, run: Path | None = None, **fields: Any) -> list[float]:
    """Losses and validation scores, step by step."""
    result = fit(model, data, run=run, **(FIELDS | fields))
    return [line["loss"] if line["kind"] == "step" else line["score"] for line in result.history[:-1]]


def built(instance: Any) -> tuple[nn.Module, Any]:
    """A tiny instance's model, and data for it."""
    model = build(instance.config, instance.space, instance.condition, dtype=torch.float64)
    return model, synthetic(instance.space, instance.condition, 50)


def curves() -> dict[str, list[float]]:
    """All curves that one process and two must agree on."""
    found = {name: curve(*built(instance)) for name, instance in instances().items()}
    found["two players"] = curve(Pair(), synthetic(Reals((2,)), None))
    model, data = built(instances()["autoregressive, made"])
    found["accumulated, averaged"] = curve(model, data, accumulate=2, ema=0.9)
    return found


def main() -> None:
    """`train_pair.py FOLDER`, with the environment that torchrun sets and a second port in SECOND_PORT."""
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    dist.init_process_group("gloo")
    found: dict[str, Any] = {"curves": curves()}

    # resuming, bit for bit: four steps against two and two
    whole, half = Net(), Net()
    fit(whole, bits(), run=folder / "whole", **FIELDS)
    fit(half, bits(), run=folder / "half", **(FIELDS | {"steps": 2, "schedule": "constant"}))
    other = Net()
    fit(other, bits(), run=folder / "other", **(FIELDS | {"schedule": "constant"}))
    fit(half, bits(), run=folder / "half", resume=True, steps=4)
    found["resumed equal"] = all(map(torch.equal, half.state_dict().values(), other.state_dict().values()))
    found["weights"] = {name: t.tolist() for name, t in whole.state_dict().items()}
    dist.destroy_process_group()

    # one process is killed: the other must notice, in the group that `fit` makes by itself
    os.environ["MASTER_PORT"] = os.environ["SECOND_PORT"]
    model = Net()
    if rank == 1:
        model.after_step = lambda: os.kill(os.getpid(), signal.SIGKILL)
        (folder / "1.json").write_text(json.dumps(found))
    try:
        fit(model, bits(), **FIELDS)
    except RuntimeError as error:
        found["noticed"] = str(error)
    (folder / "0.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
