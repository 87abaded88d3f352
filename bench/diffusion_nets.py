"""A training step and a forward pass of U-Nets, against diffusers' UNet2DModel and denoising-diffusion-pytorch's Unet.

Three channels at 32 x 32, batch 16, float32, one thread. Each rival stands in its own usual layout, without dropout;
ours stand beside it with the same number of parameters within 3 %:

- "same order": DDPM's order of blocks, widths like the rival's;
- "efficient": Imagen's order, which puts parameters where the picture is small and so cheap.

A step is forward, backward and Adam on the squared error to a fixed target; a forward pass, without gradients, is what
20-step sampling does 20 times. With `--learn N` networks of 1.2 million parameters learn v of CIFAR-10 (cosine
schedule) for N steps of 16 pictures from the same noise; the squared error on 256 held-out pictures is written beside
the seconds: what the order of blocks costs. Run it where the rivals are installed beside `likely`:

    python3 -m venv .venv-rivals && .venv-rivals/bin/pip install -e . diffusers==0.42.1
    .venv-rivals/bin/pip install --no-deps denoising-diffusion-pytorch==2.3.4 ema-pytorch einops accelerate pytorch-fid
    .venv-rivals/bin/python bench/diffusion_nets.py

denoising-diffusion-pytorch imports torchvision, which has no build for every torch, for its trainer's pictures alone:
here an empty module stands in for it.
"""

from __future__ import annotations

import timing  # first: it sets the number of threads
import argparse
import importlib.machinery
import math
import sys
import time
import types
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from likely.data import load
from likely.nets.unet import UNet
from likely.noise import Noise

BATCH, SHAPE, REPEATS = 16, (3, 32, 32), 7
RESULTS = timing.RESULTS / "diffusion_nets.jsonl"
PACKAGES = ("diffusers", "denoising-diffusion-pytorch")


def of_diffusers(*widths: int) -> nn.Module:
    """Two blocks a level, attention at the smallest."""
    from diffusers import UNet2DModel

    plain = len(widths) - 1
    return UNet2DModel(
        sample_size=SHAPE[1],
        layers_per_block=2,
        block_out_channels=widths,
        down_block_types=["DownBlock2D"] * plain + ["AttnDownBlock2D"],
        up_block_types=["AttnUpBlock2D"] + ["UpBlock2D"] * plain,
    )


def of_lucidrains(width: int, *multipliers: int) -> nn.Module:
    """Its defaults: linear attention at every level, full attention at the smallest."""
    for name in ("torchvision", "torchvision.transforms", "torchvision.utils"):
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        sys.modules[name] = module
    for name in ("transforms", "utils"):
        setattr(sys.modules["torchvision"], name, sys.modules[f"torchvision.{name}"])
    from denoising_diffusion_pytorch.denoising_diffusion_pytorch import Unet

    return Unet(width, dim_mults=multipliers, channels=SHAPE[0])


def of_ours(**choices: Any) -> nn.Module:
    return UNet(SHAPE[0], attention=(2,), **choices)


def nets() -> dict[str, tuple[str, dict[str, nn.Module]]]:
    """Rival to its version, and itself and ours by name."""
    diffusers = {
        "rival": of_diffusers(64, 128, 128),  # 6.47 million, as "same order"
        "same order": of_ours(width=64, multipliers=(1, 2, 2), blocks=(2, 2, 2), scale=False),
        "efficient": of_ours(width=64, multipliers=(1, 2, 2), blocks=(2, 2, 3), order="efficient"),
    }
    lucidrains = {
        "rival": of_lucidrains(64, 1, 2, 4),  # 9.90 million
        "same order": of_ours(width=64, multipliers=(1, 2, 2), blocks=(2, 3, 4)),
        "efficient": of_ours(width=72, multipliers=(1, 2, 2), blocks=(1, 3, 4), order="efficient"),
    }
    return {
        name: (f"{name} {version(name)}", made)
        for name, made in (("diffusers", diffusers), ("denoising-diffusion-pytorch", lucidrains))
    }


def call(net: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """net(x, t), t in (0, 1), for any of them: ours get the log-SNR, the rivals a time of 0 .. 1000."""

    def run(x: Tensor, t: Tensor) -> Tensor:
        y = net(x, log_snr(t).float() if isinstance(net, UNet) else 1000 * t.float())
        return getattr(y, "sample", y)

    return run


def log_snr(t: Tensor) -> Tensor:
    """The cosine schedule."""
    return -2 * (math.pi / 2 * t).tan().log()


def train_step(net: nn.Module, x: Tensor, t: Tensor, target: Tensor) -> Callable[[], None]:
    f = call(net)
    return timing.train_step(net, lambda: (f(x, t) - target).square().mean())


def forward_pass(net: nn.Module, x: Tensor, t: Tensor) -> Callable[[], Tensor]:
    f = call(net)
    return torch.no_grad()(lambda: f(x, t))


def size(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def about(rival: nn.Module, ours: nn.Module) -> dict[str, Any]:
    sizes = size(ours), size(rival)
    if abs(sizes[0] / sizes[1] - 1) > 0.03:
        raise ValueError(f"parameters differ by more than 3 %: {sizes}")
    return {"batch": BATCH, "shape": SHAPE, "parameters_ours": sizes[0], "parameters_rival": sizes[1]}


def race(repeats: int) -> None:
    x, target, t = Noise(0, BATCH).normal(SHAPE), Noise(1, BATCH).normal(SHAPE), torch.linspace(0.02, 0.98, BATCH)
    for rival, made in nets().values():
        steps = {name: train_step(net, x, t, target) for name, net in made.items()}
        passes = {name: forward_pass(net, x, t) for name, net in made.items()}
        for case, cases in (("train step", steps), ("forward pass", passes)):
            times = timing.race(cases, repeats)
            for ours in ("same order", "efficient"):
                pair = {"ours": times[ours], "rival": times["rival"]}
                row = timing.against("diffusion_nets", f"{case}, {ours}", rival, pair)
                timing.record(RESULTS, row | about(made["rival"], made[ours]), PACKAGES)


def noised(x: Tensor, noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
    """z = alpha x + sigma eps, t and v = alpha eps - sigma x, times spread evenly over the batch."""
    t = (noise.uniform(dtype=torch.float64)[0] + torch.arange(len(x)) / len(x)) % 1
    t = t.clamp(1e-3, 1 - 1e-3)
    alpha, sigma = (f(math.pi / 2 * t).float()[:, None, None, None] for f in (torch.cos, torch.sin))
    eps = noise.normal(SHAPE)
    return alpha * x + sigma * eps, t, alpha * eps - sigma * x


def learn(name: str, net: nn.Module, x: Tensor, held_out: Tensor, steps: int) -> dict[str, Any]:
    """Adam with a cosine rate from 1e-3; squared error of v on the held-out pictures, and seconds a step."""
    f, spent = call(net), 0.0
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.9, 0.99))
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda i: min(1, (i + 1) / 50) * (0.51 + 0.5 * math.cos(math.pi * i / steps))
    )
    for step in range(steps):
        noise = Noise(step, BATCH)
        z, t, v = noised(x[noise.integers(len(x))], noise)
        start = time.process_time()
        optimiser.zero_grad()
        (f(z, t) - v).square().mean().backward()
        optimiser.step()
        spent += time.process_time() - start
        rate.step()
    net.eval()
    with torch.no_grad():
        errors = [
            (f(z, a) - v).square().mean().item() for z, a, v in (noised(p, Noise(0, 64)) for p in held_out.split(64))
        ]
    return {
        "bench": "diffusion_nets",
        "case": f"learns v of CIFAR-10, {name}",
        "steps": steps,
        "batch": BATCH,
        "parameters": size(net),
        "error_held_out": round(sum(errors) / len(errors), 5),
        "step_s": round(spent / steps, 4),
        "clock": "process CPU seconds, mean of all steps",
        "seed": 0,
    }


def learning(steps: int) -> None:
    """1.2 million parameters each."""
    x = 2 * (load("cifar10").train.x.float() / 127.5 - 1)  # of variance one, about
    x, held_out = x[:-256], x[-256:]
    makers = {
        "diffusers": lambda: of_diffusers(32, 32, 64),
        "same order": lambda: of_ours(width=32, multipliers=(1, 1, 2), blocks=(2, 2, 2), scale=False),
        "efficient": lambda: of_ours(width=32, multipliers=(1, 2, 2), blocks=(1, 1, 2), order="efficient"),
    }
    for name, make in makers.items():
        torch.manual_seed(0)
        timing.record(RESULTS, learn(name, make(), x, held_out, steps), PACKAGES)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--learn", type=int, default=0, metavar="STEPS", help="learn for so many steps, do not race")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    learning(asked.learn) if asked.learn else race(asked.repeats)


if __name__ == "__main__":
    main()
