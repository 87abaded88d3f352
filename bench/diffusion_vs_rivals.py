"""Whole diffusion models: a training step and 20-evaluation sampling, against diffusers, denoising-diffusion-pytorch,
torchcfm and flow-matching.

Three channels at 32 x 32, batch 16, float32, one thread, parameters within 3 % of the rival's (the networks are those
of `bench/diffusion_nets.py`). A training step takes bytes, and goes from there by each library's own code: scaling,
times, noising, network, loss, backward, AdamW (fused on both sides). Sampling is 16 pictures of bytes from noise with
20 evaluations: `likely`'s default, DPM-Solver++(2M), against each rival's DDIM.

For flow matching both sides have the very same network, so that only the objective is raced: a U-Net on pictures, and
a tiny MLP on points in the plane, where nothing but overhead is to be seen.

Run it where the rivals are installed beside `likely`:

    python3 -m venv .venv-rivals && .venv-rivals/bin/pip install -e . diffusers==0.42.1 flow-matching==1.0.10
    .venv-rivals/bin/pip install --no-deps denoising-diffusion-pytorch==2.3.4 ema-pytorch einops accelerate pytorch-fid
    .venv-rivals/bin/pip install --no-deps torchcfm==1.0.7 POT scipy
    .venv-rivals/bin/python bench/diffusion_vs_rivals.py
"""

from __future__ import annotations

import timing  # first: it sets the number of threads
import argparse
import copy
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from diffusion_nets import nets
from torch import Tensor, nn

from likely.config.diffusion import PRESETS
from likely.config.diffusion import Diffusion as Config
from likely.families.diffusion import Diffusion
from likely.noise import Noise
from likely.registry import build
from likely.space import Integers, Reals

BATCH, SIDE, EVALUATIONS = 16, 32, 20
SPACE = Integers((3, SIDE, SIDE), 256)
RESULTS = timing.RESULTS / "diffusion_vs_rivals.jsonl"
PACKAGES = ("diffusers", "denoising-diffusion-pytorch", "torchcfm", "flow-matching")

Loss = Callable[[Tensor], Tensor]
Step = Callable[[], None]


def step(net: nn.Module, loss: Loss, x: Tensor) -> Step:
    """Loss, backward and AdamW."""
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)

    def run() -> None:
        optimiser.zero_grad()
        loss(x).backward()
        optimiser.step()

    return run


def repeated(run: Step, calls: int) -> Step:
    def several() -> None:
        for _ in range(calls):
            run()

    return several


def size(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def likely_loss(model: Any) -> Loss:
    """Each step has noise of its own."""
    counter = iter(range(10**9))
    return lambda x: model.loss(x, noise=Noise(next(counter), x.shape[0]))


def with_diffusers(net: nn.Module) -> tuple[Loss, Callable[[], Tensor]]:
    """As in its training example and its DDIM pipeline."""
    from diffusers import DDIMScheduler, DDPMScheduler

    noising, drawing = DDPMScheduler(num_train_timesteps=1000), DDIMScheduler(num_train_timesteps=1000)
    drawing.set_timesteps(EVALUATIONS)

    def loss(x: Tensor) -> Tensor:
        x = x.float() / 127.5 - 1
        noise, t = torch.randn_like(x), torch.randint(0, 1000, (x.shape[0],))
        return nn.functional.mse_loss(net(noising.add_noise(x, noise, t), t, return_dict=False)[0], noise)

    @torch.no_grad()
    def sample() -> Tensor:
        z = torch.randn(BATCH, *SPACE.shape)
        for t in drawing.timesteps:
            z = drawing.step(net(z, t).sample, t, z, eta=0.0).prev_sample
        return (z / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)

    return loss, sample


def with_lucidrains(net: nn.Module) -> tuple[Loss, Callable[[], Tensor]]:
    """GaussianDiffusion as it comes (it predicts v); sampling without the progress bar."""
    from denoising_diffusion_pytorch import denoising_diffusion_pytorch as rival

    rival.tqdm = lambda steps, **_: steps
    model = rival.GaussianDiffusion(net, image_size=SIDE, timesteps=1000, sampling_timesteps=EVALUATIONS)
    return (
        lambda x: model(x.float() / 255),
        lambda: model.sample(batch_size=BATCH).mul(255).round().to(torch.uint8),
    )


def pictures(repeats: int, sampling_repeats: int) -> None:
    x = Noise(0, BATCH).integers(256, SPACE.shape)
    for name, (rival, made) in nets().items():
        rival_loss, rival_sample = (with_diffusers if name == "diffusers" else with_lucidrains)(made["rival"])
        models = {order: Diffusion(Config(), SPACE, None, made[order]) for order in ("same order", "efficient")}
        steps = {order: step(model, likely_loss(model), x) for order, model in models.items()}
        steps["rival"] = step(made["rival"], rival_loss, x)
        about = {"batch": BATCH, "shape": SPACE.shape, "optimiser": "AdamW, fused, on both sides"}
        write("training step", rival, timing.race(steps, repeats), made, about)
        for net in made.values():
            net.eval()
        draws: dict[str, Callable[[], Any]] = {
            order: torch.no_grad()(lambda model=model: model.sample(BATCH, noise=Noise(0, BATCH)))
            for order, model in models.items()
        }
        draws["rival"] = rival_sample
        about = {"draws": BATCH, "shape": SPACE.shape, "evaluations": EVALUATIONS, "samplers": "dpmpp_2m, DDIM"}
        write("sampling", rival, timing.race(draws, sampling_repeats), made, about)


def write(case: str, rival: str, times: dict[str, timing.Timing], made: dict[str, nn.Module], about: Any) -> None:
    for order in ("same order", "efficient"):
        pair = {"ours": times[order], "rival": times["rival"]}
        row = timing.against("diffusion_vs_rivals", f"{case}, {order}", rival, pair)
        sizes = {"parameters_ours": size(made[order]), "parameters_rival": size(made["rival"])}
        timing.record(RESULTS, row | about | sizes, PACKAGES)


def with_torchcfm(net: nn.Module, scaled: Callable[[Tensor], Tensor]) -> Loss:
    from torchcfm import ConditionalFlowMatcher

    matcher = ConditionalFlowMatcher(sigma=0.0)

    def loss(x: Tensor) -> Tensor:
        x = scaled(x)
        t, z, velocity = matcher.sample_location_and_conditional_flow(torch.randn_like(x), x)
        return (net(z, t) - velocity).square().mean()

    return loss


def with_flow_matching(net: nn.Module, scaled: Callable[[Tensor], Tensor]) -> Loss:
    from flow_matching.path import CondOTProbPath

    path = CondOTProbPath()

    def loss(x: Tensor) -> Tensor:
        x = scaled(x)
        sample = path.sample(t=torch.rand(x.shape[0]), x_0=torch.randn_like(x), x_1=x)
        return (net(sample.x_t, sample.t) - sample.dx_t).square().mean()

    return loss


def flow_matching(repeats: int) -> None:
    unet = {"width": 32, "multipliers": (1, 2, 2), "blocks": (1,), "attention": (2,)}
    cases = {
        "U-Net": (build("diffusion", SPACE, **_flow_matching(unet)), BATCH, 1),
        "MLP in the plane": (
            build("diffusion", Reals((2,)), **_flow_matching({"net": "mlp", "width": 64, "blocks": (3,)})),
            256,
            20,
        ),
    }
    for case, (model, batch, calls) in cases.items():
        noise = Noise(0, batch)
        bytes_ = isinstance(model.space, Integers)
        x = noise.integers(256, model.space.shape) if bytes_ else noise.normal(model.space.shape)
        scaled: Callable[[Tensor], Tensor] = (lambda x: x.float() / 127.5 - 1) if bytes_ else (lambda x: x)
        theirs = {"torchcfm": with_torchcfm, "flow-matching": with_flow_matching}
        steps = {"likely": step(model, likely_loss(model), x)}
        for rival, objective in theirs.items():
            net = copy.deepcopy(model.core.net)
            steps[rival] = step(net, objective(net, scaled), x)
        times = timing.race({name: repeated(run, calls) for name, run in steps.items()}, repeats)
        for rival in theirs:
            pair = {"ours": times["likely"], "rival": times[rival]}
            row = timing.against(
                "diffusion_vs_rivals", f"flow matching step, {case}", f"{rival} {version(rival)}", pair
            )
            about = {"batch": batch, "shape": model.space.shape, "calls": calls, "parameters": size(model)}
            timing.record(RESULTS, row | about, PACKAGES)


def _flow_matching(fields: dict[str, Any]) -> dict[str, Any]:
    preset = PRESETS["flow-matching"]
    return {name: getattr(preset, name) for name in ("schedule", "prediction")} | fields


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sampling-repeats", type=int, default=3)
    parser.add_argument("--only", choices=("pictures", "flow-matching"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if asked.only != "pictures":
        flow_matching(asked.repeats)
    if asked.only != "flow-matching":
        pictures(asked.repeats, asked.sampling_repeats)


if __name__ == "__main__":
    main()
