"""Five diffusion models at one equal budget: bits per dimension, both ways, and samples at few and many evaluations.

`python3 do.py bench diffusion [DATA] [KIND ...]`: digits (100 CPU seconds each) and fashion-mnist (420 each, DDPM, VDM,
EDM, v and flow matching unless told; one thread). The presets differ in schedule, prediction, weighting and decoder,
and share network, steps, optimiser and average of weights. Runs go to --runs (runs/diffusion); one that is there
already is not trained again. Pictures: the first eight draws of seed 0 at 5, 10, 20 and 50 evaluations, not selected.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from timing import RESULTS, record  # first: it sets the number of threads
import torch
from features import classifier
from PIL import Image

import likely as lk
from likely.families.diffusion import ProbabilityFlow
from likely.ode import StepLimit
from likely.tasks.distance import kernel_distance
from likely.tasks.pictures import grid

KINDS = ("v", "vdm", "edm", "flow-matching", "ddpm")
EVALUATIONS = (5, 10, 20, 50)
FLOW = {"divergence": "hutchinson", "tolerance": 3e-3, "steps": 16, "max_steps": 128}
"""The tolerance is relative: of log p, some hundredths of a bit a dimension at most."""
DATA: dict[str, dict[str, Any]] = {
    "digits": {
        "budget": 100.0,
        "model": {"width": 32, "multipliers": (1, 2), "attention": (1,)},
        "train": {"batch": 64, "lr": 2e-3, "ema": 0.995},
        "rows": 297,
        "k": 64,
        "flow_rows": 64,
        "draws": 500,
    },
    "fashion-mnist": {
        "budget": 420.0,
        "model": {"width": 24, "multipliers": (1, 2, 4), "attention": (2,), "order": "efficient"},
        "train": {"batch": 64, "lr": 1e-3, "ema": 0.999, "precision": "bfloat16"},
        "rows": 1000,
        "k": 16,
        "flow_rows": 64,
        "draws": 500,
    },
}


def trained(kind: str, data: Any, case: dict[str, Any], run: Path) -> tuple[Any, dict[str, Any]]:
    """The model of a kind after its budget, from the run's folder where it is there already."""
    fields = {"threads": 1, "valid_every": 0, "seed": 0, **case["train"]}
    spent = run / "spent.json"
    if spent.exists():
        return lk.load_model(run), json.loads(spent.read_text())

    def model() -> Any:
        return lk.build("diffusion", data.space, preset=kind, **case["model"])

    first, clocks = 40, []
    for steps in (1, first, 2 * first):  # the first one pays for what comes once
        began = time.process_time()
        lk.fit(model(), data, steps=steps, progress=False, **fields)
        clocks.append(time.process_time() - began)
    each = (clocks[2] - clocks[1]) / first
    began, wall = time.process_time(), time.perf_counter()
    result = lk.fit(model(), data, steps=int(case["budget"] / each), run=run, **fields)
    if result.signal is not None:
        raise SystemExit(128 + result.signal)
    told = {"steps": result.step, "train_cpu_s": round(time.process_time() - began, 1)}
    told |= {"train_wall_s": round(time.perf_counter() - wall, 1)}
    spent.write_text(json.dumps(told))
    return lk.load_model(run), told


def main() -> None:
    """One row a kind and data set, and one picture a data set."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?", choices=DATA, default="digits")
    parser.add_argument("kinds", nargs="*", default=KINDS)
    parser.add_argument("--runs", type=Path, default=Path("runs/diffusion"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    case, data = DATA[arguments.data], lk.load(arguments.data)
    name, features = classifier(data)
    real = features(data.test.x[:2000])
    floor = kernel_distance(features(data.train.x[: case["draws"]]), real, name)
    strips = []
    for kind in arguments.kinds:
        model, spent = trained(kind, data, case, arguments.runs / f"{arguments.data}-{kind}")
        rows = data.test.x[: case["rows"]]
        bound = lk.log_prob(model, rows, k=case["k"])
        terms = _terms(model, rows)
        began = time.process_time()
        flow = solved(model, data.test.x[: case["flow_rows"]])
        flow_s = time.process_time() - began
        distances, strip = {}, []
        for evaluations in EVALUATIONS:
            drawn = lk.sample(model.drawn(evaluations=evaluations), case["draws"], seed=0)
            found = kernel_distance(features(drawn), real, name)
            distances[str(evaluations)] = {"value": round(found.value, 5), "stderr": round(found.stderr, 5)}
            strip.append(drawn[:8])
        strips.append(grid(torch.cat(strip), data.space, columns=32, scale=1 if arguments.data != "digits" else 3))
        bits, error = bound.mean_bits_per_dim
        record(
            RESULTS / "diffusion.jsonl",
            {
                "bench": "diffusion",
                "data": arguments.data,
                "kind": kind,
                "model": case["model"],
                "train": case["train"],
                "parameters": sum(p.numel() for p in model.parameters()),
                **spent,
                "bits_per_dim": round(bits, 4),
                "stderr": round(error, 4),
                "bits_kind": str(bound.kind.of_bits),
                "rows": len(rows),
                "k": case["k"],
                "terms_bits_per_dim": terms,
                **flow,
                "flow_rows": case["flow_rows"],
                "flow_cpu_s": round(flow_s, 1),
                "features": name,
                "kernel_distance": distances,
                "kernel_distance_of_training_rows": {"value": round(floor.value, 5), "stderr": round(floor.stderr, 5)},
                "draws": case["draws"],
            },
        )
    if len(strips) == len(KINDS):
        tall = Image.new(strips[0].mode, (strips[0].width, sum(s.height + 6 for s in strips)), 255)
        for i, strip in enumerate(strips):
            tall.paste(strip, (0, i * (strip.height + 6)))
        tall.save(Path(__file__).parent.parent / "docs" / "images" / f"diffusion-{arguments.data}.png")


def solved(model: Any, rows: Any) -> dict[str, Any]:
    """The probability flow's bits per dimension; None where its ODE is too stiff for so many steps."""
    try:
        flow = lk.log_prob(ProbabilityFlow(model, **FLOW), rows)
    except StepLimit as error:
        return {"flow_bits_per_dim": None, "flow_stderr": None, "flow_kind": "~", "flow_note": str(error)}
    bits, error = (round(value, 4) for value in flow.mean_bits_per_dim)
    return {"flow_bits_per_dim": bits, "flow_stderr": error, "flow_kind": flow.kind.of_bits, "flow_note": flow.note}


def _terms(model: Any, rows: Any) -> dict[str, float]:
    """The bound's three terms, bits per dimension, over 256 rows and 16 draws each."""
    rows, total = rows[:256], torch.zeros(3, dtype=torch.float64)
    with torch.no_grad():
        for start in range(0, len(rows), 64):
            part = rows[start : start + 64]
            ids = torch.arange(start, start + len(part))
            terms = model.eval().elbo_terms(part, noise=lk.Noise(0, ids, 16))
            total += torch.stack([term.double().sum() / 16 for term in terms])
    bits = total / len(rows) / (model.space.dims * torch.log(torch.tensor(2.0)))
    return dict(zip(("prior", "diffusion", "reconstruction"), (round(float(b), 4) for b in bits), strict=True))


if __name__ == "__main__":
    main()
