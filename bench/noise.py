"""What counter-based noise costs: its share of a training step, and a draw beside torch's own generator.

`python3 do.py bench noise`
"""

from __future__ import annotations

import functools
from typing import Any

from timing import RESULTS, race, record

import torch

import likely as lk

BATCH = 128


def share(family: str, preset: str, space: Any, draws: tuple[tuple[str, tuple[int, ...]], ...]) -> None:
    """A row: a training step (loss, backward, update) against the draws that its loss makes."""
    model = lk.build(family, space, preset=preset)
    x = lk.Noise(0, BATCH).integers(space.levels, space.shape)
    model.prepare(x, noise=lk.Noise(1, BATCH)) if hasattr(model, "prepare") else None
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        optimiser.zero_grad()
        model.loss(x, noise=lk.Noise(2, BATCH)).backward()
        optimiser.step()

    def noise() -> None:
        source = lk.Noise(2, BATCH)
        for kind, shape in draws:
            getattr(source, kind)(shape)

    times = race({"step": step, "noise": noise})
    record(
        RESULTS / "noise.jsonl",
        {
            "bench": "noise",
            "case": f"{family}:{preset}",
            "batch": BATCH,
            "step_s": round(times["step"].cpu, 6),
            "noise_s": round(times["noise"].cpu, 6),
            "share": round(times["noise"].cpu / times["step"].cpu, 4),
        },
    )


def main() -> None:
    """All rows."""
    torch.set_num_threads(1)
    images = lk.Integers((1, 28, 28), 256)
    share("vae", "mlp", images, (("normal", (32,)),))
    share("vae", "small", images, (("normal", (32,)),))
    share("flow", "small", images, (("uniform", (1, 28, 28)),))
    generator = torch.Generator().manual_seed(0)
    for size in (16, 784):
        cases = {
            "ours": functools.partial(lambda n: lk.Noise(0, BATCH).normal((n,)), size),
            "torch": functools.partial(lambda n: torch.randn(BATCH, n, generator=generator), size),
        }
        times = race(cases, 25)
        row = {"case": f"normal {size} x {BATCH}", "ours_s": times["ours"].cpu, "torch_s": times["torch"].cpu}
        record(RESULTS / "noise.jsonl", {"bench": "noise", **row})


if __name__ == "__main__":
    main()
