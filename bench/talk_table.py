"""The talk's table: Coupling, + 1x1 conv, Residual blocks, Dense blocks; lambda 0, 1/D, 1; accuracy and bits/dim.

    python bench/talk_table.py                                digits and Fashion-MNIST, ten minutes a cell
    python bench/talk_table.py --data digits --budget 60      one minute a cell
    python bench/talk_table.py --data cifar10 --clock wall --budget 3600 --runs runs/talk    on an accelerator
    python bench/talk_table.py --table                        the table of what is in the file, nothing trained

Every cell is a `hybrid` with the same head, about as many parameters as the others (the width of each trunk is chosen
for that) and the same budget in seconds, of this process's CPU time or of the wall; the steps that fit into it differ,
stand beside the numbers, and favour coupling layers, which are cheap. Bits are one draw of the dequantised bound
(k = 1) in every row, because more draws tighten the bound of coupling layers and not that of residual flows. With
lambda 0 nothing trains the density, and its bits are recorded but not shown.

A line per cell goes to bench/results/talk_table.jsonl; a cell that stands there already is skipped, so a stopped table
goes on where it was. With --runs each cell's training is a run folder, and goes on as well.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from timing import RESULTS, record

import likely as lk
from likely.registry import FAMILIES

PATH = RESULTS / "talk_table.jsonl"

LAMS: tuple[Any, ...] = (0, "1/D", 1)

TALK = {
    "Coupling": ((89.77, None), (87.58, 4.30), (67.62, 3.54)),
    "+ 1x1 conv": ((90.82, None), (87.96, 4.09), (67.38, 3.47)),
    "Residual blocks": ((91.78, None), (90.47, 3.62), (70.32, 3.39)),
    "Dense blocks": ((92.40, None), (90.79, 3.49), (75.67, 3.31)),
}
"""Accuracy in per cent and bits/dim of the talk on CIFAR-10, at full size: lambda 0, 1/D, 1."""


class Row(NamedTuple):
    """A trunk, and the field that makes it larger: parameters are made equal by it, in steps of `step`."""

    trunk: dict[str, Any]
    grows: str
    step: int = 2


COUPLING = {"family": "flow", "architecture": "realnvp", "activation": "relu"}
RESIDUAL = {"family": "residual"}
ROWS = {
    "Coupling": Row(COUPLING | {"mixing": "reversal"}, "width"),
    "+ 1x1 conv": Row(COUPLING | {"mixing": "linear"}, "width"),
    "Residual blocks": Row(RESIDUAL | {"block": "residual", "activation": "lipswish"}, "width"),
    "Dense blocks": Row(RESIDUAL | {"block": "dense", "activation": "concatenated"}, "growth"),
}


class Scale(NamedTuple):
    """How large everything is on a data set."""

    parameters: int
    """Of the trunk, as nearly as the rows can."""
    width: int
    """Of the head."""
    levels: int
    depth: int
    """Couplings or residual blocks in a level."""
    rows: int
    """Test rows that are scored: the first ones."""
    train: dict[str, Any]


IMAGES = {"batch": 64, "lr": 1e-3, "ema": 0.99, "betas": (0.9, 0.99)}
SCALES = {
    "digits": Scale(100_000, 64, 2, 4, 447, IMAGES),
    "fashion-mnist": Scale(60_000, 32, 3, 2, 1000, IMAGES | {"batch": 32}),
    "cifar10": Scale(2_000_000, 256, 3, 8, 10_000, IMAGES),
}


def trunk_of(name: str, scale: Scale, data: Any) -> dict[str, Any]:
    """The config of a row's trunk: the largest whose parameters are not above what is wanted."""
    row = ROWS[name]
    blocks = {"blocks": scale.depth} if row.trunk["family"] == "residual" else {"depth": scale.depth}
    fixed = row.trunk | blocks | {"levels": scale.levels}

    def size(n: int) -> int:
        fields = {key: value for key, value in fixed.items() if key != "family"} | {row.grows: n * row.step}
        return count(lk.build(row.trunk["family"], data.space, **fields))

    low, high = 1, 2
    while size(high) <= scale.parameters:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) <= scale.parameters else (low, middle)
    return fixed | {row.grows: low * row.step}


def count(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


def cells(arguments: argparse.Namespace) -> Iterator[tuple[str, str, Any]]:
    """(data, row, lambda) of everything that was asked for and can be built."""
    for data in arguments.data:
        for name in arguments.rows:
            if ROWS[name].trunk["family"] not in FAMILIES:
                print(f"{name}: there is no family {ROWS[name].trunk['family']!r} here; skipped")
                continue
            for lam in arguments.lams:
                yield data, name, lam


def key(line: dict[str, Any]) -> tuple[Any, ...]:
    """What makes a cell the same cell."""
    return tuple(str(line[name]) for name in ("data", "row", "lam", "budget_s", "clock", "seed"))


def done() -> list[dict[str, Any]]:
    """The cells that are in the file."""
    return [json.loads(line) for line in PATH.read_text().splitlines()] if PATH.exists() else []


def seconds(clock: str) -> float:
    return time.process_time() if clock == "cpu" else time.perf_counter()


def fit(model: Any, data: Any, **fields: Any) -> Any:
    """`likely.fit`, where a signal ends the script."""
    result = lk.fit(model, data, **fields)
    if result.signal is not None:
        raise SystemExit(128 + result.signal)
    return result


def run(cell: dict[str, Any], data: Any, runs: Path | None) -> None:
    """Train a cell, score it, write its line."""
    name, lam, scale, seed, clock = cell["row"], cell["lam"], SCALES[cell["data"]], cell["seed"], cell["clock"]
    trunk = trunk_of(name, scale, data)
    fields = {"threads": 1, "valid_every": 0, "seed": seed, "progress": False, **scale.train}

    def model() -> Any:
        return lk.build("hybrid", data.space, data.condition, trunk=trunk, lam=lam, width=scale.width, seed=seed)

    began = seconds(clock)
    fit(model(), data, steps=1, **fields)  # the data-dependent start, and whatever comes once
    first = seconds(clock) - began
    tried = 4
    while True:  # until the trial is long enough to time, or as much as the budget can spare
        began = seconds(clock)
        fit(model(), data, steps=1 + tried, **fields)
        each = max(seconds(clock) - began - first, 1e-6) / tried
        if each * tried > min(5.0, cell["budget_s"] / 10) or tried >= 1024:
            break
        tried *= 4
    steps = max(1, int((cell["budget_s"] - first) / each))

    trained, folder, resume = model(), None, False
    if runs is not None:  # the steps of the first attempt hold
        folder = runs / "-".join(key(cell)).replace("/", "_").replace(" ", "_")
        plan = runs / f"{folder.name}.json"
        runs.mkdir(parents=True, exist_ok=True)
        if plan.exists():
            steps = json.loads(plan.read_text())["steps"]
        plan.write_text(json.dumps({"steps": steps}))
        resume = folder.exists()
    cpu, wall = time.process_time(), time.perf_counter()
    result = fit(trained, data, steps=steps, run=folder, resume=resume, **fields)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    test = SimpleNamespace(x=data.test.x[: scale.rows], y=data.test.y[: scale.rows])
    scored = lk.evaluate(trained, test, k=1).to_json()
    accuracy = scored["accuracy"]
    record(
        PATH,
        {
            "bench": "talk_table",
            **cell,
            "trunk": trunk,
            "train": scale.train,
            "head_width": scale.width,
            "parameters": count(trained),
            "parameters_trunk": count(trained.trunk),
            "steps": result.step,
            "rows_seen": result.step * scale.train["batch"],
            "train_rows": len(data.train),
            "train_cpu_s": round(cpu, 1),
            "train_wall_s": round(wall, 1),
            "resumed": resume,
            "device": str(next(trained.parameters()).device),
            "accuracy_stderr": math.sqrt(accuracy * (1 - accuracy) / scored["rows"]),
            **scored,
        },
    )


def table(lines: list[dict[str, Any]]) -> str:
    """Markdown of every (data, budget) in the file, with the talk's order and ours."""
    shown = []
    for group in dict.fromkeys((line["data"], line["budget_s"], line["clock"], line["seed"]) for line in lines):
        mine = {
            (line["row"], str(line["lam"])): line
            for line in lines
            if (line["data"], line["budget_s"], line["clock"], line["seed"]) == group
        }
        data, budget, clock, seed = group
        shown.append(f"### {data}: {budget:g} {clock} seconds a cell, seed {seed}\n")
        head = ["trunk", "parameters", *(f"lambda {lam}: accuracy (bits/dim); steps" for lam in LAMS)]
        shown += [f"| {' | '.join(head)} |", "|---|---:|" + "---|" * len(LAMS)]
        for name in ROWS:
            own = [mine.get((name, str(lam))) for lam in LAMS]
            if any(own):
                size = next(line["parameters"] for line in own if line)
                shown.append(f"| {name} | {size:,} | {' | '.join(map(shown_cell, own))} |")
        shown.append("")
        for place, lam in enumerate(LAMS):
            shown += orders(mine, place, lam)
        shown.append("")
    return "\n".join(shown)


def shown_cell(line: dict[str, Any] | None) -> str:
    if line is None:
        return ""
    bits = line.get("bits_per_dim")
    density = "" if str(line["lam"]) == "0" or bits is None else f" ({line['bits_kind']} {bits:.3f})"
    return f"{100 * line['accuracy']:.2f} ± {100 * line['accuracy_stderr']:.2f}{density}; {line['steps']:,}"


def orders(mine: dict[tuple[str, str], dict[str, Any]], place: int, lam: Any) -> Iterator[str]:
    """Best first, the talk's and ours, of the rows that we have; `~` joins what two standard errors do not tell
    apart."""
    names = [name for name in ROWS if (name, str(lam)) in mine]
    if len(names) < 2:
        return
    here = {name: mine[name, str(lam)] for name in names}
    measures = [("accuracy", "accuracy", 0, -1)]
    if str(lam) != "0" and all(line.get("bits_per_dim") is not None for line in here.values()):
        measures.append(("bits/dim", "bits_per_dim", 1, 1))
    for measure, field, index, sign in measures:
        theirs = sorted(names, key=lambda name: sign * TALK[name][place][index])
        own = sorted(names, key=lambda name: sign * here[name][field])
        text = own[0]
        for a, b in itertools.pairwise(own):
            error = math.hypot(*(here[name][f"{field}_stderr"] for name in (a, b)))
            text += f" {'>' if abs(here[a][field] - here[b][field]) > 2 * error else '~'} {b}"
        verdict = "the same" if own == theirs else "another"
        yield (
            f"- lambda {lam}, {measure}, best first: the talk (CIFAR-10, full size) {' > '.join(theirs)}; "
            f"here {text}: {verdict} order."
        )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", nargs="+", default=["digits", "fashion-mnist"], choices=list(SCALES))
    parser.add_argument("--budget", type=float, default=600.0, help="seconds of training a cell")
    parser.add_argument("--clock", default="cpu", choices=["cpu", "wall"], help="whose seconds")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--lams", nargs="+", default=[str(lam) for lam in LAMS], choices=[str(lam) for lam in LAMS])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, help="keep a run folder of each cell here, to go on with")
    parser.add_argument("--table", action="store_true", help="only print what is in the file")
    arguments = parser.parse_args()
    arguments.lams = [lam for lam in LAMS if str(lam) in arguments.lams]
    return arguments


def main() -> None:
    """Run the cells that are not in the file yet, and print the table."""
    arguments, loaded = parsed(), {}
    torch.set_num_threads(1)
    for data, name, lam in [] if arguments.table else cells(arguments):
        cell = {"data": data, "row": name, "lam": lam, "budget_s": arguments.budget, "clock": arguments.clock}
        cell |= {"seed": arguments.seed}
        if key(cell) in {key(line) for line in done()}:
            continue
        loaded[data] = loaded.get(data) or lk.load(data)
        run(cell, loaded[data], arguments.runs)
    print(table(done()))


if __name__ == "__main__":
    main()
