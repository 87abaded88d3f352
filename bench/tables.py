"""Flows and a Gaussian mixture on five UCI tables, beside zuko's flows of equal size in the same run.

Five random splits (80/10/10 by seed) of each table; every column standardised by its training part; log-likelihood of
the test part in nats of standardised units, mean and standard error over the splits. All flows have the same
optimiser, steps, batches (the same rows in the same order) and stopping: Adam with a cosine schedule, the weights
that were best on the validation part, an end when these are PATIENCE steps old. The mixture (full covariances, EM)
takes its number of components by the validation part.

Some columns hold few distinct values, or one value again and again. On such a column a density over the reals can grow
without limit, so that the log-likelihood says how fine a spike a model can make, not which model is better: rows say
how many distinct values each column has and how often its commonest comes, and `comparable` is false where a column
has fewer distinct values than a twentieth of the rows, or one value in more than a hundredth of them.

    LIKELY_DATA=... nice -n 5 .venv-rivals/bin/python bench/tables.py
    ... bench/tables.py --sets energy --splits 1 --steps 50 --out /tmp/tables.jsonl      a look
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
from pathlib import Path

import timing  # first: it sets the number of threads
import numpy as np
import torch
import zuko
from torch import Tensor, nn

import likely as lk
from likely.noise import Noise
from likely.registry import build
from likely.space import Reals

SETS = ("kin40k", "energy", "concrete", "protein", "bike")
LAYERS, WIDTH, BINS, BATCH, RATE, CLIP, EVERY, PATIENCE = 4, 64, 8, 256, 3e-3, 10.0, 50, 200
COMPONENTS, ROUNDS = (8, 32), 40
MASKED = {"architecture": "autoregressive", "depth": LAYERS, "width": WIDTH}
COMMON = {"hidden": 2, "activation": "relu", "prior": "normal", "bins": BINS}


class Zuko(nn.Module):
    """A flow of zuko under the names that `train` uses."""

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.flow = flow

    def log_prob(self, x: Tensor) -> Tensor:
        return self.flow().log_prob(x)


def flows(d: int, seed: int) -> dict[str, tuple[nn.Module, dict]]:
    """The flows over d dimensions with what each is; the coupling is as wide as the autoregressive spline is large."""
    torch.manual_seed(seed)
    hidden = {"transforms": LAYERS, "hidden_features": (WIDTH, WIDTH)}
    rivals = {"zuko NSF": zuko.flows.NSF(d, bins=BINS, **hidden), "zuko MAF": zuko.flows.MAF(d, **hidden)}
    fields = {"spline-ar": MASKED | {"coupling": "spline"}, "maf": MASKED}
    target = size(build("flow", Reals((d,)), **COMMON, **fields["spline-ar"]))
    coupling = {"coupling": "spline", "mixing": "linear", "depth": 2 * LAYERS}
    widths = range(16, 512)
    wide = next(w for w in widths if size(build("flow", Reals((d,)), **COMMON, **coupling, width=w)) >= target)
    fields["spline coupling"] = coupling | {"width": wide}
    ours = {k: (build("flow", Reals((d,)), seed=seed, **COMMON, **f), COMMON | f) for k, f in fields.items()}
    return ours | {k: (Zuko(f), hidden | ({"bins": BINS} if "NSF" in k else {})) for k, f in rivals.items()}


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def table(name: str) -> np.ndarray:
    with np.load(Path(os.environ["LIKELY_DATA"]) / "tabular" / f"uci_{name}.npz") as file:
        return file["X"].astype(np.float64)


def split(x: np.ndarray, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Standardised training, validation and test rows."""
    x = x[np.random.default_rng(seed).permutation(len(x))]
    a, b = int(0.8 * len(x)), int(0.9 * len(x))
    mean, deviation = x[:a].mean(0), x[:a].std(0)
    x = torch.from_numpy((x - mean) / np.where(deviation > 0, deviation, 1)).float()
    return x[:a], x[a:b], x[b:]


@torch.no_grad()
def mean_log_prob(model: nn.Module, x: Tensor) -> float:
    return float(torch.cat([model.log_prob(piece) for piece in x.split(4096)]).double().mean())


def train(model: nn.Module, parts: tuple[Tensor, ...], steps: int, seed: int) -> int:
    """Train; the model ends with the weights that were best on the validation part. The step they are from."""
    x, valid = parts[:2]
    if hasattr(model, "prepare"):
        model.prepare(x, noise=Noise(seed, len(x)))
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    rng = np.random.default_rng(1000 + seed)
    best, at, weights = mean_log_prob(model, valid[:2000]), 0, copy.deepcopy(model.state_dict())
    for step in range(1, steps + 1):
        rows = torch.from_numpy(rng.integers(len(x), size=BATCH))
        optimiser.zero_grad()
        (-model.log_prob(x[rows]).mean()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        schedule.step()
        if step % EVERY == 0 or step == steps:
            now = mean_log_prob(model, valid[:2000])
            if now > best:
                best, at, weights = now, step, copy.deepcopy(model.state_dict())
            if step - at >= PATIENCE:
                break
    model.load_state_dict(weights)
    return at


def mixture(parts: tuple[Tensor, ...], seed: int) -> tuple[nn.Module, dict]:
    """The mixture whose number of components is best on the validation part."""
    x, valid = parts[:2]
    found = []
    for components in COMPONENTS:
        fields = {"components": components, "covariance": "full", "variance_floor": 1e-3}
        model = build("mixture", Reals((x.shape[1],)), seed=seed, **fields)
        model.prepare(x, noise=Noise(seed, len(x)))
        last = -np.inf
        with torch.no_grad():
            for _ in range(ROUNDS):
                seen = model.statistics(x)
                now = float(seen["log_prob"].sum() / seen["count"].sum())
                model.absorb(seen)
                if now - last < 1e-3:
                    break
                last = now
        found.append((mean_log_prob(model, valid), model, fields))
    return max(found, key=lambda each: each[0])[1:]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sets", nargs="*", default=SETS)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--out", type=Path, default=timing.RESULTS / "tables.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.sets:
        rows: dict[str, list[dict]] = {}
        whole = table(name)
        n, d = whole.shape
        counts = [np.unique(column, return_counts=True)[1] for column in whole.T]
        distinct, commonest = [len(c) for c in counts], [round(float(c.max() / n), 4) for c in counts]
        for seed in range(args.splits):
            parts = split(whole, seed)
            test = parts[2]
            cases: dict[str, tuple[nn.Module, dict] | None] = {"mixture": None} | flows(d, seed)
            for model_name, case in cases.items():
                began = time.process_time()
                model, fields = case or mixture(parts, seed)
                stopped = train(model, parts, args.steps, seed) if case else None
                seconds = time.process_time() - began
                reading = None if isinstance(model, Zuko) else lk.log_prob(model, test)
                value = mean_log_prob(model, test) if reading is None else float(reading.nats.mean())
                rows.setdefault(model_name, []).append(
                    {
                        "split": seed,
                        "test_nats": round(value, 4),
                        "best_step": stopped,
                        "cpu_seconds": round(seconds, 1),
                        "parameters": size(model),
                        "kind": "=" if reading is None else str(reading.kind),
                        "fields": fields,
                    }
                )
                print(f"{name} split {seed} {model_name}: {value:.3f} ({seconds:.0f} s)", flush=True)
        few = [i for i in range(d) if distinct[i] < n / 20 or commonest[i] > 0.01]
        note = "no column with few distinct values"
        if few:
            note = f"columns {few} hold few distinct values or one very often: densities can grow without limit there, "
            note += "so that this is no ranking"
        for model_name, splits in rows.items():
            values = [split["test_nats"] for split in splits]
            row = {
                "bench": "tables",
                "set": name,
                "model": model_name,
                "test_nats": round(statistics.mean(values), 4),
                "stderr": round(statistics.stdev(values) / len(values) ** 0.5, 4) if len(values) > 1 else None,
                "kind": splits[0]["kind"],
                "unit": "nats a row, standardised columns",
                "each": [{k: v for k, v in split.items() if k not in ("kind", "fields")} for split in splits],
                "fields": [split["fields"] for split in splits] if model_name == "mixture" else splits[0]["fields"],
                "rows": n,
                "dims": d,
                "distinct": distinct,
                "commonest": commonest,
                "comparable": not few,
                "note": note,
                "training": {
                    "steps": args.steps,
                    "batch": BATCH,
                    "optimiser": f"Adam {RATE}, cosine to 0, clip {CLIP}",
                    "patience": PATIENCE,
                    "validated_every": EVERY,
                }
                if model_name != "mixture"
                else {"EM_rounds_at_most": ROUNDS, "components_tried": COMPONENTS},
            }
            timing.record(args.out, row, ("zuko",))


if __name__ == "__main__":
    main()
