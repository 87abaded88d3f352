"""DAED on Fashion-MNIST: a first step of .001 and of .1 beside the unsplit model, and denoisers that change data sets.

`python3 do.py bench daed [--runs runs/diffusion]`. Every model has the budget of `bench/diffusion.py`; the unsplit one
is its run fashion-mnist-v. Two rows for the split models (bound in its three terms, kernel distances), one for each
pair (trained on, used on) of Fashion-MNIST and MNIST: mean absolute error of x_hat in grey levels at each noise level.
Pictures: draws of each, of the Fashion-MNIST generator with MNIST's denoiser and the reverse, and the profile of the
bound over log-SNR: where generation ends and denoising begins.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from timing import RESULTS, record  # first: it sets the number of threads
import torch
from diffusion import DATA, trained
from features import classifier
from PIL import Image

import likely as lk
from likely.families.diffusion.daed import fit_width, log_snr_of, parts_of, split
from likely.tasks.distance import kernel_distance
from likely.tasks.profile import profile
from likely.tasks.pictures import BLUE, GREY, ORANGE, blank_figure, grid, plain_axes

BETAS = (0.001, 0.1)
IMAGES = Path(__file__).parent.parent / "docs" / "images"
CASE = DATA["fashion-mnist"]


def scored(name: str, model: Any, data: Any, features: Any, named: str, spent: dict[str, Any]) -> Any:
    """One row: the bound in three terms and the kernel distance of draws; returns the draws."""
    rows = data.test.x[: CASE["rows"]]
    bound = lk.log_prob(model, rows, k=CASE["k"])
    bits, error = bound.mean_bits_per_dim
    drawn = lk.sample(model, CASE["draws"], seed=0)
    found = kernel_distance(features(drawn), features(data.test.x[:2000]), named)
    record(
        RESULTS / "daed.jsonl",
        {
            "bench": "daed",
            "case": name,
            "data": data.name,
            "model": CASE["model"],
            "train": CASE["train"],
            "parameters": sum(p.numel() for p in model.parameters()),
            **spent,
            "first_log_snr": round(float(model.schedule.high), 4),
            "bits_per_dim": round(bits, 4),
            "stderr": round(error, 4),
            "bits_kind": str(bound.kind.of_bits),
            "rows": len(rows),
            "k": CASE["k"],
            **_parts(model, rows[:256]),
            "evaluations": model.config.sampler.evaluations,
            "kernel_distance": round(found.value, 5),
            "kernel_distance_stderr": round(found.stderr, 5),
            "features": named,
        },
    )
    return drawn


def _parts(model: Any, rows: Any) -> dict[str, float]:
    """Denoiser, generator and entropy in bits per dimension of -log p, over rows with 8 draws each."""
    with torch.no_grad():
        parts = parts_of(model.eval(), rows, noise=lk.Noise(0, len(rows), 8))
    scale = -1 / (model.space.dims * math.log(2))
    return {f"{name}_bits": round(float(part.mean()) * scale, 4) for name, part in parts._asdict().items()}


def main() -> None:
    """Train what is not there, then all rows and pictures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=Path, default=Path("runs/diffusion"))
    runs = parser.parse_args().runs
    torch.set_num_threads(1)
    fashion, mnist = lk.load("fashion-mnist"), lk.load("mnist")
    named, features = classifier(fashion)
    unsplit, spent = trained("v", fashion, CASE, runs / "fashion-mnist-v")
    draws = {"unsplit": scored("unsplit", unsplit, fashion, features, named, spent)}
    for beta in BETAS:
        model, spent = trained(f"daed-{beta}", fashion, CASE, runs / f"fashion-mnist-daed-{beta}")
        draws[f"beta {beta}"] = scored(f"beta {beta}", model, fashion, features, named, spent)
    digits, _ = trained("v", mnist, CASE, runs / "mnist-v")
    models, sets = {"fashion-mnist": unsplit, "mnist": digits}, {"fashion-mnist": fashion, "mnist": mnist}
    profiles = {}
    for learned, model in models.items():
        for used, data in sets.items():
            found = profiles[learned, used] = profile(model, data.test.x[:256], points=24)
            record(
                RESULTS / "daed.jsonl",
                {
                    "bench": "daed",
                    "case": "transfer",
                    "trained_on": learned,
                    "used_on": used,
                    "log_snr": [round(float(v), 3) for v in found.log_snr],
                    "error_grey_levels": [round(float(v), 3) for v in found.error],
                    "bits_per_log_snr": [round(float(v), 5) for v in found.kl],
                    "divide_log_snr": round(found.divide, 3),
                    "rows": 256,
                },
            )
    at = log_snr_of(0.1)
    for name, (high, low, data) in {
        "Fashion-MNIST generates, MNIST denoises": (unsplit, digits, fashion),
        "MNIST generates, Fashion-MNIST denoises": (digits, unsplit, mnist),
    }.items():
        model = split(high, low, at)
        fit_width(model, data.valid.x[:256], noise=lk.Noise(1, 256))
        exchanged = lk.log_prob(model, data.test.x[:256], k=8).mean_bits_per_dim
        own = split(high, high, at)
        fit_width(own, data.valid.x[:256], noise=lk.Noise(1, 256))
        kept = lk.log_prob(own, data.test.x[:256], k=8).mean_bits_per_dim
        row = {"bench": "daed", "case": "exchange", "what": name, "first_log_snr": round(at, 4), "rows": 256, "k": 8}
        row |= {"bits_per_dim": round(exchanged[0], 4), "own_denoiser_bits_per_dim": round(kept[0], 4)}
        record(RESULTS / "daed.jsonl", row | {"bits_kind": "<="})
        draws[name] = lk.sample(model, 32, seed=0)
    strips = [grid(drawn[:32], fashion.space, columns=32, scale=1) for drawn in draws.values()]
    tall = Image.new(strips[0].mode, (strips[0].width, sum(s.height + 6 for s in strips)), 255)
    for i, strip in enumerate(strips):
        tall.paste(strip, (0, i * (strip.height + 6)))
    tall.save(IMAGES / "daed-draws.png")
    curves(profiles)


def curves(profiles: dict[tuple[str, str], Any]) -> None:
    """The bound's integrand, and the error of denoisers at home and away, over log-SNR."""
    figure = blank_figure(10.4, 3.6)
    left, right = figure.subplots(1, 2)
    plain_axes(left, "log-SNR (noise on the left, data on the right)", "bits/dim for one unit of log-SNR")
    plain_axes(right, "log-SNR", "mean absolute error, grey levels")
    home = profiles["fashion-mnist", "fashion-mnist"]
    left.plot(home.log_snr, home.kl, color=BLUE, linewidth=2)
    left.axvline(home.divide, color=GREY, linestyle="--")
    left.annotate("half of all bits", (home.divide, 0.9 * float(home.kl.max())), color=GREY, fontsize=9)
    for beta in BETAS:
        left.axvline(log_snr_of(beta), color=ORANGE, linestyle=":")
        left.annotate(f"β₁ = {beta}", (log_snr_of(beta), 0.05 * float(home.kl.max())), color=ORANGE, fontsize=9)
    for (learned, used), found in profiles.items():
        colour, line = BLUE if used == "fashion-mnist" else ORANGE, "-" if learned == used else "--"
        right.plot(found.log_snr, found.error, line, color=colour, label=f"{learned} on {used}")
    right.set_yscale("log")
    right.legend(frameon=False, fontsize=9)
    figure.savefig(IMAGES / "daed-profile.png", dpi=110)


if __name__ == "__main__":
    main()
