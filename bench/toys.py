"""Flows on two-dimensional toys of known entropy: test nats after one equal budget, and pictures of the densities.

`python3 do.py bench toys [TOY ...]` (checkerboard, circles and moons unless told). Every model gets the same CPU
seconds; the number of steps is set from the speed of the first ones, so that the learning rate's schedule ends with
the budget. Scores are exact (the residual flows' by their full Jacobian) on 10,000 fresh points, once, at the end: no
model can truly be below the entropy, and a mean more than .03 nats below it is a log-determinant that is wrong.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from timing import RESULTS, record  # first: it sets the number of threads
import torch

import likely as lk
from likely.data.toys import TOYS, draw
from likely.tasks.pictures import densities

BUDGET = 90.0
"""CPU seconds of training, a model and toy."""
POINTS = 10_000
PICTURE = Path(__file__).parent.parent / "docs" / "images" / "toys.png"
TRAIN = {"batch": 256, "lr": 2e-3, "betas": (0.9, 0.99), "ema": 0.99, "weight_decay": 0.0, "threads": 1}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "coupling": ("flow", {"preset": "toys2d", "width": 56}),
    "spline": ("flow", {"preset": "spline", "width": 64, "depth": 8}),
    "residual flow": ("residual", {"preset": "toys2d-residual"}),
    "i-DenseNet": ("residual", {"preset": "toys2d", "growth": 52}),
}
"""Of about equal numbers of parameters, 41,000 to 46,000."""


def trained(family: str, fields: dict[str, Any], data: Any) -> tuple[Any, dict[str, Any]]:
    """The model after its budget, and what the budget came to."""
    first = 60
    clocks = []
    for steps in (1, first, 2 * first):  # the first one pays for what comes once
        began = time.process_time()
        lk.fit(lk.build(family, data.space, **fields), data, steps=steps, valid_every=0, progress=False, **TRAIN)
        clocks.append(time.process_time() - began)
    each = (clocks[2] - clocks[1]) / first
    model, began, wall = lk.build(family, data.space, **fields), time.process_time(), time.perf_counter()
    result = lk.fit(model, data, steps=max(1, int(BUDGET / each)), valid_every=0, **TRAIN)
    if result.signal is not None:
        raise SystemExit(128 + result.signal)
    spent = {"train_cpu_s": time.process_time() - began, "train_wall_s": time.perf_counter() - wall}
    return model, {"steps": result.step} | {key: round(value, 1) for key, value in spent.items()}


def main() -> None:
    """One row for every toy and model; the picture shows every density beside the true one."""
    torch.set_num_threads(1)
    names = sys.argv[1:] or ["checkerboard", "circles", "moons"]
    pictures: dict[str, dict[str, Any]] = {}
    for name in names:
        toy, data = TOYS[name], lk.load(name)
        x, _ = draw(name, POINTS, seed=12_345)
        pictures[name] = {"the data": toy.log_density}
        for title, (family, fields) in MODELS.items():
            model, spent = trained(family, fields, data)
            reading = lk.log_prob(model, x)
            gap = -reading.mean - toy.entropy
            row = {
                "bench": "toys",
                "toy": name,
                "model": title,
                "parameters": sum(p.numel() for p in model.parameters()),
                **spent,
                "rows": len(reading),
                "nats": -reading.mean,
                "nats_stderr": reading.stderr,
                "kind": reading.kind.value,
                "entropy": toy.entropy,
                "above_entropy": gap,
            }
            record(RESULTS / "toys.jsonl", row)
            if gap < -0.03:
                raise ValueError(f"{title} on {name} is {-gap:.3f} nats below the entropy: its log p is wrong")
            pictures[name][title] = lambda points, model=model: lk.log_prob(model, points.float()).nats
    if set(names) == {"checkerboard", "circles", "moons"}:
        PICTURE.parent.mkdir(parents=True, exist_ok=True)
        densities(pictures, {name: TOYS[name].half_width for name in names}).savefig(PICTURE, dpi=120)


if __name__ == "__main__":
    main()
