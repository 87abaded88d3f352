"""Test bits per dimension of every family after the same ten CPU-minutes on Fashion-MNIST, on one thread.

`python3 do.py bench fashion_mnist [CASE ...]`; `LIKELY_DATA` names the folder of the data. The number of steps is set
from the speed of the first ones, so that the learning rate's schedule ends with the budget. Scored on all 10,000 test
images unless a case says otherwise, in the kind that the family can keep; for orientation JPEG XL needs 3.66 bits
(all images in one mosaic) and PNG 5.18 (an image a file).
"""

from __future__ import annotations

import math
import sys
import time
from types import SimpleNamespace
from typing import Any

import torch
from timing import RESULTS, record

import likely as lk
from likely.verbs import ClosedForm, has

BUDGET = 600.0
"""CPU seconds of training."""

IMAGES = {"ema": 0.99, "lr": 2e-3, "betas": (0.9, 0.99)}

CASES: dict[str, dict[str, Any]] = {
    "mixture": {"family": "mixture", "preset": "large", "train": {"pass_rows": 8192}},
    "autoregressive": {
        "family": "autoregressive",
        "preset": "small",
        "train": {**IMAGES, "batch": 16, "precision": "bfloat16"},
    },
    "vae": {"family": "vae", "preset": "small", "k": 64, "rows": 2000, "train": {**IMAGES, "batch": 64}},
    "flow": {"family": "flow", "preset": "small", "k": 16, "train": {**IMAGES, "batch": 64}},
    "joint": {
        "family": "joint",
        "preset": "autoregressive",
        "model": {"part": "autoregressive:small"},
        "rows": 1000,
        "train": {**IMAGES, "batch": 16, "precision": "bfloat16"},
    },
}


def run(name: str, case: dict[str, Any], data: Any) -> None:
    """Train, score, write one row."""
    family, preset = case["family"], case["preset"]
    condition = data.condition if family == "joint" else None
    fields = {"threads": 1, "valid_every": 0, **case["train"]}

    def model() -> Any:
        return lk.build(family, data.space, condition, preset=preset, **case.get("model", {}))

    closed = has(model(), ClosedForm)
    first = 1 if closed else 150  # steps timed; twice as many minus these leave out what comes once
    began = time.process_time()
    lk.fit(model(), data, steps=first, progress=False, **fields)
    begun = time.process_time() - began
    began = time.process_time()
    lk.fit(model(), data, steps=2 * first, progress=False, **fields)
    each = (time.process_time() - began - begun) / first
    steps = max(1, int((BUDGET - begun) / each))

    trained, began, wall = model(), time.process_time(), time.perf_counter()
    result = lk.fit(trained, data, steps=steps, **fields)  # EM may converge earlier
    cpu, wall = time.process_time() - began, time.perf_counter() - wall
    if result.signal is not None:
        raise SystemExit(128 + result.signal)
    rows = case.get("rows", len(data.test))
    test = SimpleNamespace(x=data.test.x[:rows], y=data.test.y[:rows])
    began = time.process_time()
    scored = lk.evaluate(trained, test, k=case.get("k", 1)).to_json()
    if not math.isfinite(scored["bits_per_dim"]):
        raise ValueError(f"{name} scored {scored['bits_per_dim']}")
    record(
        RESULTS / "fashion_mnist.jsonl",
        {
            "bench": "fashion_mnist",
            "case": name,
            "preset": preset,
            "model": case.get("model", {}),
            "train": case["train"],
            "parameters": sum(p.numel() for p in (*trained.parameters(), *trained.buffers())),
            "steps": result.step,
            "train_cpu_s": round(cpu, 1),
            "train_wall_s": round(wall, 1),
            "score_cpu_s": round(time.process_time() - began, 1),
            **scored,
        },
    )


def main() -> None:
    """Run the cases named on the command line, or all."""
    torch.set_num_threads(1)
    names = sys.argv[1:] or list(CASES)
    data = lk.load("fashion-mnist")
    for name in names:
        if name not in CASES:
            raise SystemExit(f"case is {name!r}; accepts {', '.join(CASES)}")
        run(name, CASES[name], data)


if __name__ == "__main__":
    main()
