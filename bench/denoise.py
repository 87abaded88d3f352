"""Denoising with unknown noise: the estimate of its deviation, and what it costs, on a diffusion run.

`python3 do.py bench denoise RUN DATA SD ...`: for each standard deviation, in grey levels, the ratio of the estimated
to the true one over test rows (mean and root-mean-square error), the same of the usual blind estimate (median of the
finest diagonal Haar coefficients over .6745; "Ideal spatial adaptation by wavelet shrinkage", Donoho and Johnstone,
1994), PSNR before and after with sd given and estimated, and the error that the model expects beside the true one.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from timing import RESULTS, record  # first: it sets the number of threads
import torch
from torch import Tensor

import likely as lk


def haar(v: Tensor) -> Tensor:
    """The blind estimate, (n,), for pictures (n, C, H, W) of even sides."""
    finest = (v[..., ::2, ::2] - v[..., ::2, 1::2] - v[..., 1::2, ::2] + v[..., 1::2, 1::2]) / 2
    return finest.flatten(1).abs().median(1).values / 0.6745


def main() -> None:
    """A row for each standard deviation."""
    torch.set_num_threads(1)
    run, data, *sds = sys.argv[1:]
    model, rows = lk.load_model(run), 64
    clean = lk.load(data).test.x[:rows].double()
    for sd in map(float, sds):
        noisy = clean + sd * lk.Noise(5, rows).normal(clean.shape[1:], dtype=torch.float64)
        began = time.process_time()
        found = lk.denoise(model, noisy, clean=clean)
        spent = time.process_time() - began
        given = lk.denoise(model, noisy, sd, clean=clean)
        ratios = {"estimate": found.sd / sd, "haar": haar(noisy) / sd}
        row: dict[str, Any] = {"bench": "denoise", "data": data, "sd": sd, "rows": rows}
        for name, ratio in ratios.items():
            row |= {f"{name}_ratio": float(ratio.mean()), f"{name}_error": float((ratio - 1).square().mean().sqrt())}
        row |= {"psnr_before": float(given.psnr[0].mean()), "psnr_given": float(given.psnr[1].mean())}
        row |= {"psnr_estimated": float(found.psnr[1].mean())}
        row |= {"expected": float(given.expected_error.square().mean().sqrt())}
        row |= {"error": float(given.error.square().mean().sqrt()), "cpu_s": spent}
        record(RESULTS / "denoise.jsonl", {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})


if __name__ == "__main__":
    main()
