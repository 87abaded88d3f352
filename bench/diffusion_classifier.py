"""The diffusion classifier on digits: accuracy against draws, with the same noise for every class and without, and what
elimination saves. `python3 do.py bench diffusion_classifier [--steps N] [--rows N] [--run FOLDER]`

One model, the preset `digits` given the class; EMA weights; the book's test split. Of the bound of every class 64 draws
are made with the same noise for all classes, and 16 with noise of its own for each; k draws are then the first k of
them, the second k and so on: a row's accuracy at k is the mean over such groups (one group at 64). The
elimination runs on the same draws (`likely.elimination.race`), so the columns differ by the rule alone. `evaluations`
are looks at the network for each row: K k without elimination.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch
from timing import RESULTS, record

import likely as lk
from likely.elimination import ROWS, race
from likely.logprob import BATCH, ELIMINATE, batched, log_joint

PATH = RESULTS / "diffusion_classifier.jsonl"
TRAIN = {"batch": 64, "lr": 2e-3, "ema": 0.995, "valid_every": 0, "threads": 1}


def learned(data: lk.Data, steps: int, run: Path | None) -> tuple[Any, float | None]:
    """The model after `steps` steps, and the CPU seconds of them: None where some of them were in `run` already."""
    begun = run is not None and run.exists()
    model = lk.build("diffusion", data.space, data.condition, preset="digits")
    start = time.process_time()
    lk.fit(model, data, steps=steps, run=run, resume=run is not None, progress=False, **TRAIN)
    return model, None if begun else time.process_time() - start


def bounds(model: Any, x: torch.Tensor, most: int, apart: bool) -> torch.Tensor:
    """The first draws of log p(y) + the bound for every class, (n, K, most); `apart`: each class has its own noise."""
    every = []
    for label in range(model.condition.levels):
        seed, pieces = label if apart else 0, []
        for start in range(0, most, 16):

            def call(x: Any, y: Any, ids: Any, label=label, seed=seed, piece=range(start, start + 16)) -> torch.Tensor:
                among = torch.full((BATCH, 1), label)
                noise = lk.Noise(seed, ids, piece)
                return model.log_joint_bound(x, among=among, noise=noise).double().reshape(BATCH, 16)

            pieces.append(batched(model, call, x))
        every.append(torch.cat(pieces, 1))
    return torch.stack(every, 1)


def decided(values: torch.Tensor, k: int, errors: float) -> tuple[torch.Tensor, torch.Tensor]:
    """log p(y given x) (groups, n, K) from each k draws of values, and the draws that it took."""
    nats, drawn = [], []
    for start in range(0, values.shape[2], k):
        group = values[:, :, start : start + k]
        if not errors:
            nats.append(group.mean(2).log_softmax(1))
            drawn.append(torch.full(group.shape[:2], k))
            continue
        parts = []
        for low in range(0, len(group), ROWS):
            part = group[low : low + ROWS]

            def scores(rows: Any, labels: Any, piece: range, part=part) -> torch.Tensor:
                return part[rows, labels][:, piece.start : piece.stop]

            parts.append(race(scores, len(part), part.shape[1], k, errors))
        nats.append(torch.cat([score for score, _ in parts]).log_softmax(1))
        drawn.append(torch.cat([each for _, each in parts]))
    return torch.stack(nats), torch.stack(drawn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--run", type=Path, help="keep the model there, and take it from there if it is there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = lk.load("digits")
    model, seconds = learned(data, arguments.steps, arguments.run)
    x, y = data.test.x[: arguments.rows], data.test.y[: arguments.rows]
    common = {
        "bench": "diffusion_classifier",
        "data": data.name,
        "rows": len(x),
        "model": {"family": "diffusion", "preset": "digits", "steps": arguments.steps, **TRAIN},
        "train_cpu_s": None if seconds is None else round(seconds, 1),
    }
    for noise, most in (("paired", 64), ("apart", 16)):
        start = time.process_time()
        values = bounds(model, x, most, noise == "apart")
        seconds = time.process_time() - start
        best = values.gather(1, y[:, None, None].expand(-1, 1, most))
        gaps = (best - values).std(2).scatter(1, y[:, None], math.nan)
        for k in (1, 4, 16, 64)[: 4 if most == 64 else 3]:
            for errors in (0.0, 2.0, 3.0, 4.0, 6.0) if k > 4 and noise == "paired" else (0.0,):
                nats, drawn = decided(values, k, errors)
                right = (nats.argmax(2) == y).double().mean(0)
                row = {
                    "case": f"{noise}, k={k}" + (f", eliminate={errors:g}" if errors else ""),
                    "noise": noise,
                    "k": k,
                    "eliminate": errors,
                    "accuracy": round(float(right.mean()), 4),
                    "accuracy_stderr": round(float(right.std()) / math.sqrt(len(x)), 4),
                    "class_nats": round(float(-nats.gather(2, y.expand(len(nats), -1)[..., None]).mean()), 4),
                    "evaluations": round(float(drawn.double().sum(2).mean()), 1),
                    "sd_of_difference_nats": round(float(gaps.nanmedian()), 2),
                    "cpu_s_per_1000_evaluations": round(1000 * seconds / values.numel(), 4),
                }
                record(PATH, common | row)
    for errors in (0.0, ELIMINATE):  # the door itself: p(x) and p(y given x), with the default number of draws
        start = time.process_time()
        reading, posterior = log_joint(model, x[:128], eliminate=errors)
        seconds = time.process_time() - start
        row = {
            "case": f"door, k={posterior.k}, eliminate={errors:g}",
            "rows": 128,
            "accuracy": round(float((posterior.label == y[:128]).double().mean()), 4),
            "bits_per_dim_at_most": round(reading.mean_bits_per_dim[0], 4),
            "saved": round(posterior.saved, 4),
            "cpu_s": round(seconds, 2),
        }
        record(PATH, common | row)


if __name__ == "__main__":
    main()
