"""Draws of digits in one and two steps: a mean flow and consistency tuning beside diffusion at 1, 2, 5, 20 evaluations.

`python3 do.py bench fewstep`: one network, one optimiser, and the same CPU seconds of training on one thread for each
of the three (--budget, 40): a diffusion model; a mean flow from scratch; a diffusion model for half of them, tuned for
the other half. The steps that fit are measured first. Runs go to --runs (runs/fewstep); one that is there already is
not trained again. Picture: the first sixteen draws of seed 0 of each, not selected.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from timing import RESULTS, record  # first: it sets the number of threads
import torch
from features import classifier
from torch import nn

import likely as lk
from likely.tasks.distance import kernel_distance
from likely.tasks.pictures import grid

NET = {"width": 16, "multipliers": (1, 2)}
INNER = {**NET, "schedule": "edm", "prediction": "edm", "times": "lognormal"}
TRAIN = {"batch": 64, "ema": 0.995, "threads": 1, "valid_every": 0, "seed": 0}
LR = {"diffusion": 2e-3, "meanflow": 2e-3, "consistency": 1e-3}
STAGES, DRAWS = 8, 1000
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "diffusion": [{"evaluations": n} for n in (1, 2, 5, 20)],
    "meanflow": [{"evaluations": n} for n in (1, 2)],
    "consistency": [{"again": ()}, {"again": (0.8,)}],
}


def trained(
    family: str, make: Callable[[int], nn.Module], data: Any, budget: float, run: Path, start: Path | None = None
) -> tuple[Any, dict[str, Any]]:
    """The model after `budget` CPU seconds, from its folder where it is there already; make(steps) is untrained."""
    spent = run / "spent.json"
    if not spent.exists():
        clocks, first = [], 15
        for steps in (1, first, 2 * first):  # the first one pays for what comes once
            began = time.process_time()
            lk.fit(make(steps), data, steps=steps, start=start, progress=False, lr=LR[family], **TRAIN)
            clocks.append(time.process_time() - began)
        steps = int(budget * first / (clocks[2] - clocks[1]))
        began, wall = time.process_time(), time.perf_counter()
        lk.fit(make(steps), data, steps=steps, start=start, run=run, progress=False, lr=LR[family], **TRAIN)
        told = {"steps": steps, "train_cpu_s": round(time.process_time() - began, 1)}
        spent.write_text(json.dumps(told | {"train_wall_s": round(time.perf_counter() - wall, 1)}))
    return lk.load_model(run), json.loads(spent.read_text())


def main() -> None:
    """One row a model and a number of evaluations, and one picture."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--budget", type=float, default=40.0)
    parser.add_argument("--runs", type=Path, default=Path("runs/fewstep"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = lk.load("digits")
    name, features = classifier(data)
    real = features(data.test.x)
    floor = kernel_distance(features(data.train.x[:DRAWS]), real, name)

    def diffusion(steps: int) -> nn.Module:
        return lk.build("diffusion", data.space, **INNER)

    def flow(steps: int) -> nn.Module:
        return lk.build("meanflow", data.space, **NET)

    def tuned(steps: int) -> nn.Module:
        return lk.build("consistency", data.space, diffusion=INNER, stage_steps=max(1, steps // STAGES))

    half, short = given.budget / 2, given.runs / "diffusion-half"
    models = {
        "diffusion": trained("diffusion", diffusion, data, given.budget, given.runs / "diffusion"),
        "meanflow": trained("meanflow", flow, data, given.budget, given.runs / "meanflow"),
    }
    first = trained("diffusion", diffusion, data, half, short)[1]
    model, spent = trained("consistency", tuned, data, half, given.runs / "consistency", short)
    models["consistency"] = model, spent | {"start": first}
    strips = []
    for family, (model, spent) in models.items():
        for settings in SETTINGS[family]:
            drawn = lk.sample(model.drawn(**settings), DRAWS, seed=0)
            found = kernel_distance(features(drawn), real, name)
            strips.append(drawn[:16])
            row = {
                "bench": "fewstep",
                "data": "digits",
                "family": family,
                "evaluations": settings.get("evaluations", 1 + len(settings.get("again", ()))),
                "parameters": sum(p.numel() for p in model.parameters()),
                "budget_cpu_s": given.budget,
                **spent,
                "lr": LR[family],
                "features": name,
                "kernel_distance": {"value": round(found.value, 5), "stderr": round(found.stderr, 5)},
                "kernel_distance_of_training_rows": {"value": round(floor.value, 5), "stderr": round(floor.stderr, 5)},
                "draws": DRAWS,
            }
            record(RESULTS / "fewstep.jsonl", row)
    picture = grid(torch.cat(strips), data.space, columns=16, scale=4)
    picture.save(Path(__file__).parent.parent / "docs" / "images" / "fewstep-digits.png")


if __name__ == "__main__":
    main()
