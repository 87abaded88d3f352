"""Out of distribution: the failing baseline and every fix, near and far, both ways.

`python3 do.py bench ood [MODEL/INSIDE ...] [--seconds S] [--rows N]`; `LIKELY_DATA` names the folder of the data. A
model gets S CPU-seconds of training, the background of its likelihood ratio as many in all (a half for the four
mutation rates, a half for the best one). The scores are fitted to N held-out rows and measured on N test rows and N
strangers of each set; no stranger takes part in any choice. Sizes, colours and levels of all sets, the inside one
among them, come about by one rule (`likely.tasks.detect.strangers.adapt`), which stands in every row.

Rows that are there already for the same model, inside set, seconds and number of rows are not measured again.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from typing import Any

import torch
from timing import RESULTS, record

import likely as lk
from likely.registry import FAMILIES
from likely.space import Integers
from likely.tasks.detect import compare
from likely.tasks.detect.background import tuned
from likely.tasks.detect.strangers import adapt
from likely.verbs import Joint, has

PATH = RESULTS / "ood.jsonl"
GREY16, GREY28, COLOUR = Integers((1, 16, 16), 32), Integers((1, 28, 28), 256), Integers((3, 32, 32), 256)

INSIDE: dict[str, tuple[str, Integers, tuple[str, ...], int]] = {
    "cifar10-16": ("cifar10", GREY16, ("tinyimagenet", "mnist"), 8000),
    "fashion-mnist": ("fashion-mnist", GREY28, ("mnist", "omniglot"), 54_000),
    "mnist": ("mnist", GREY28, ("fashion-mnist", "omniglot"), 54_000),
    "omniglot": ("omniglot", GREY28, ("mnist", "fashion-mnist"), 54_000),
    "cifar10": ("cifar10", COLOUR, ("tinyimagenet", "mnist"), 30_000),
}
"""inside -> the data, the space they are brought to, the sets from elsewhere, the most training rows."""

IMAGES = {"ema": 0.99, "lr": 2e-3, "betas": (0.9, 0.99), "threads": 1, "valid_every": 0}
PIXELS = {"network": "pixelcnn", "width": 32, "layers": 5, "kernel": 7, "inner_kernel": 3, "dilations": (1,)}
DENSE = {  # a small i-DenseNet on images, of which some hundred steps fit into two CPU minutes
    "trunk": {"family": "residual", "blocks": 2, "levels": 3, "growth": 16, "score_terms": 10},
    "width": 32,
}
MODELS: dict[str, dict[str, Any]] = {
    "pixelcnn": {"family": "autoregressive", "preset": "small", "train": {**IMAGES, "batch": 16}},
    "glow": {"family": "flow", "preset": "small", "train": {**IMAGES, "batch": 64}},
    "hybrid": {"family": "hybrid", "preset": "default", "model": DENSE, "train": {**IMAGES, "batch": 32, "lr": 5e-3}},
}


def data_of(inside: str) -> lk.Data:
    """An inside set in the space of its case."""
    source, space, _, most = INSIDE[inside]
    data = lk.load(source, limit=most)
    parts, rule = {}, ""
    for part in ("train", "valid", "test"):
        own = getattr(data, part)
        x, rule = adapt(own.x, data.space, space, source)
        parts[part] = replace(own, x=x)
    facts = {"name": inside, "rule": rule, "rows": {part: len(own) for part, own in parts.items()}}
    return replace(data, name=inside, space=space, record=facts, **parts)


def run(name: str, inside: str, seconds: float, rows: int) -> None:
    """Train, tune the background, compare, write one row."""
    case, data = MODELS[name], data_of(inside)
    fields = dict(case.get("model", {}))
    if name == "pixelcnn" and data.space.levels <= 32:
        fields |= {**PIXELS, "observation": "categorical"}
    condition = data.condition if case["family"] in ("hybrid", "joint") else None

    def make() -> Any:
        return lk.build(case["family"], data.space, condition, preset=case["preset"], **fields)

    def cpu(steps: int) -> float:
        began = time.process_time()
        lk.fit(make(), data, steps=steps, progress=False, **case["train"])
        return time.process_time() - began

    cpu(5)  # what comes once in a process
    few, more = cpu(20), cpu(60)  # the difference leaves out what comes once a run; never less than half of the mean
    steps = max(20, int(seconds / max((more - few) / 40, more / 120)))
    model, began = make(), time.process_time()
    result = lk.fit(model, data, steps=steps, progress=False, **case["train"])
    if result.signal is not None:
        raise SystemExit(128 + result.signal)
    trained, began = time.process_time() - began, time.process_time()
    second, background, _ = tuned(model, make, data, max(4, steps // 2), fields=case["train"], progress=False)
    tuning, began = time.process_time() - began, time.process_time()

    held, own = data.valid.x[:rows], data.test.x[:rows]
    strangers = {}
    for other in INSIDE[inside][2]:
        found = lk.load(other)
        strangers[other] = (found.test.x[:rows], found.space)
    answer = compare(model, own, held, strangers, background=second).to_json()
    accuracy = (
        lk.evaluate(model, replace(data.test, x=own, y=data.test.y[:rows])).accuracy if has(model, Joint) else None
    )
    record(
        PATH,
        {
            "bench": "ood",
            "case": f"{name}/{inside}",
            "space": str(data.space),
            "inside_rule": data.record["rule"],
            "family": case["family"],
            "preset": case["preset"],
            "model": fields,
            "train": case["train"],
            "train_rows": len(data.train),
            "parameters": sum(p.numel() for p in model.parameters()),
            "steps": steps,
            "seconds": seconds,
            "rows": rows,
            "train_cpu_s": round(trained, 1),
            "background_cpu_s": round(tuning, 1),
            "score_cpu_s": round(time.process_time() - began, 1),
            "background": background,
            "accuracy": accuracy,
            **answer,
        },
        packages=("pillow", "scikit-learn"),
    )


def done(case: str, seconds: float, rows: int) -> bool:
    """Whether a row for this is there."""
    lines = PATH.read_text().splitlines() if PATH.exists() else []
    return any((r["case"], r["seconds"], r["rows"]) == (case, seconds, rows) for r in map(json.loads, lines))


def main() -> None:
    """Run the cases named on the command line, or those that two slow cores can do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="MODEL/INSIDE")
    parser.add_argument("--seconds", type=float, default=180.0, help="CPU-seconds of training a model")
    parser.add_argument("--rows", type=int, default=1000, help="rows scored of each set")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    every = [f"{name}/{inside}" for inside in INSIDE if inside != "cifar10" for name in MODELS]
    for case in asked.cases or every:
        name, _, inside = case.partition("/")
        if name not in MODELS or inside not in INSIDE:
            raise SystemExit(
                f"case is {case!r}; accepts one of {', '.join(MODELS)}, a slash, one of {', '.join(INSIDE)}"
            )
        if MODELS[name]["family"] not in FAMILIES:
            print(f"{case}: no family {MODELS[name]['family']} here")
        elif done(case, asked.seconds, asked.rows):
            print(f"{case}: is there")
        else:
            run(name, inside, asked.seconds, asked.rows)


if __name__ == "__main__":
    main()
