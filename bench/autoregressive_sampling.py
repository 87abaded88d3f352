"""Cached sampling against the naive sampler, which runs the whole network for every site, on 28x28 grey images.

The naive sampler does the same work for each of its 784 passes; some of them are timed and multiplied.
Run: python bench/autoregressive_sampling.py [network ...]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from timing import RESULTS, race, record

from likely.noise import Noise
from likely.registry import build
from likely.space import Integers

PASSES, REPEATS = 4, 3
MODELS: dict[str, dict[str, Any]] = {
    "made": {"preset": "made", "observation": "logistic"},
    "causal": {"preset": "default", "observation": "logistic"},
    "pixelcnn": {"preset": "small"},
}


def naive_passes(model: Any, n: int) -> Callable[[], None]:
    """The first `PASSES` steps of the naive sampler."""

    def run() -> None:
        each = model.observation
        u = Noise(0, n).uniform((model.sites, each.uniforms))
        x = torch.zeros(n, each.channels, model.sites, dtype=torch.int64)
        for i in range(PASSES):
            parameters = model.network(model.features(x.unflatten(2, each.sites))).flatten(2)
            x[:, :, i] = each.sample(parameters[:, :, i], u[:, i])

    return run


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    space = Integers((1, 28, 28), 256)
    for name in names:
        model = build("autoregressive", space, **MODELS[name]).eval()
        for n in (16, 64):
            with torch.no_grad():
                cases = {"cached": lambda: model.sample(n, noise=Noise(0, n)), "naive": naive_passes(model, n)}  # noqa: B023
                times = race(cases, REPEATS)
            cached, naive = times["cached"].cpu, times["naive"].cpu * model.sites / PASSES
            row = {
                "bench": "autoregressive_sampling",
                "case": f"{name}, 28x28, batch {n}",
                "parameters": sum(p.numel() for p in model.parameters()),
                "cached_s": round(cached, 4),
                "naive_s": round(naive, 2),
                "ratio": round(cached / naive, 5),
                "times_faster": round(naive / cached, 1),
                "spread_cached": round(times["cached"].spread, 3),
                "spread_naive": round(times["naive"].spread, 3),
                "repeats": REPEATS,
                "naive_passes_timed": PASSES,
                "clock": "process CPU seconds, minimum of repeats, interleaved",
            }
            record(RESULTS / "autoregressive.jsonl", row)


if __name__ == "__main__":
    main(sys.argv[1:] or list(MODELS))
