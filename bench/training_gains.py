"""What each of these gains by itself in a training step of a small diffusion U-Net on this CPU.

The U-Net of `Diffusion`'s preset "small" on bytes of 3 x 32 x 32, batch 16, one thread. Every row sets one choice
against the plain one, raced in turns: ratio below 1 is a gain. `share_of_step` is the part of a plain step that the
plain choice takes. The optimisers and the averages of the weights are raced alone, for in a whole step their
difference drowns in the noise of a busy machine; the others are whole steps (loss, backward, fused AdamW).

`torch.compile` is off unless `--compile` asks for it: `warmup_s` are the processor seconds of the first step, those of
the C++ compiler included; cold only where $TORCHINDUCTOR_CACHE_DIR names a folder that is not there yet.
"""

from __future__ import annotations

import timing  # first: it sets the number of threads
import argparse
import copy
import os
import resource
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from likely.config.diffusion import PRESETS
from likely.families.diffusion import Diffusion
from likely.noise import Noise
from likely.registry import build
from likely.space import Integers
from likely.train.ema import Average
from likely.train.learners import _compiled
from likely.train.parallel import Loss

BATCH, SPACE, DECAY = 16, Integers((3, 32, 32), 256), 0.999
RESULTS = timing.RESULTS / "training_gains.jsonl"


def model(channels_last: bool = False) -> Diffusion:
    small = PRESETS["small"]
    made = build("diffusion", SPACE, width=small.width, multipliers=small.multipliers)
    return made.to(memory_format=torch.channels_last) if channels_last else made


def step(made: nn.Module, loss: nn.Module, x: Tensor, bfloat16: bool = False) -> Callable[[], None]:
    optimiser = torch.optim.AdamW(made.parameters(), lr=1e-4, fused=True)
    counter = iter(range(10**9))

    def run() -> None:
        optimiser.zero_grad()
        rows = torch.arange(BATCH) + BATCH * next(counter)  # as in `fit`: one seed, new rows
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            value = loss(x, None, "model", Noise(0, rows))
        value.backward()
        optimiser.step()

    return run


def pictures(channels_last: bool = False) -> Tensor:
    x = Noise(0, BATCH).integers(256, SPACE.shape)
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


def whole(channels_last: bool = False, bfloat16: bool = False) -> Callable[[], None]:
    made = model(channels_last)
    return step(made, Loss(made), pictures(channels_last), bfloat16)


def optimisers() -> dict[str, Callable[[], Any]]:
    """One update each, from the gradients of one backward pass."""
    made = model()
    made.loss(pictures(), noise=Noise(0, BATCH)).backward()
    choices: dict[str, dict[str, Any]] = {"loop": {"foreach": False}, "foreach": {"foreach": True}}
    cases = {}
    for name, choice in (choices | {"fused": {"fused": True}}).items():
        own = copy.deepcopy(made)
        for mine, theirs in zip(own.parameters(), made.parameters(), strict=True):
            mine.grad = None if theirs.grad is None else theirs.grad.clone()
        cases[name] = torch.optim.AdamW(own.parameters(), lr=1e-4, **choice).step
    return cases


def averages() -> dict[str, Callable[[], Any]]:
    made = model()
    average = Average(made, DECAY)
    average.update()  # the first one copies
    own = copy.deepcopy(made)

    @torch.no_grad()
    def loop() -> None:
        for mine, theirs in zip(own.parameters(), made.parameters(), strict=True):
            mine.mul_(DECAY).add_(theirs, alpha=1 - DECAY)

    return {"loop": loop, "foreach": lambda: average.update()}


def processor_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="race the compiled step alone (60 to 110 s first)")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.compile:
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
        folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
        cache = "cold" if folder and not os.path.exists(folder) else "may hold it"
        made = model()
        compiled = _compiled(Loss(made))
        fast, began = step(made, compiled, pictures()), processor_seconds()
        fast()
        warmup = processor_seconds() - began
        times = timing.race({"ours": fast, "rival": whole()}, asked.repeats)
        if not compiled.works:
            raise RuntimeError("compiling failed, at the first step or later; the warning above says why")
        write("torch.compile of the loss", "the same step", times, {"warmup_s": round(warmup, 1), "cache": cache})
        return
    steps = {
        "plain": whole(),
        "bfloat16 autocast": whole(bfloat16=True),
        "channels last": whole(channels_last=True),
        "bfloat16 autocast and channels last": whole(channels_last=True, bfloat16=True),
    }
    times = timing.race(steps, asked.repeats)
    plain = times.pop("plain")
    for case, ours in times.items():
        write(case, "the plain step", {"ours": ours, "rival": plain}, {})
    for what, cases, base in (("AdamW", optimisers(), "loop"), ("running average of weights", averages(), "loop")):
        times = timing.race(cases, 10 * asked.repeats)
        other = times.pop(base)
        for case, ours in times.items():
            share = {"share_of_step": round(other.cpu / plain.cpu, 4)}
            write(f"{what}, {case}", f"the same, {base}", {"ours": ours, "rival": other}, share)


def write(case: str, rival: str, times: dict[str, timing.Timing], more: dict[str, Any]) -> None:
    made = model()
    about = {
        "batch": BATCH,
        "shape": SPACE.shape,
        "parameters": sum(p.numel() for p in made.parameters()),
        "tensors": len(list(made.parameters())),
    }
    timing.record(RESULTS, timing.against("training_gains", case, rival, times) | about | more)


if __name__ == "__main__":
    main()
