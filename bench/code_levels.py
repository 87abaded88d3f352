"""Why input complexity finds blurred photographs, or does not: whose bits the codec counts.

CIFAR-10 as 16x16 grey of 32 levels, every pixel the mean of four, cut to its five high bits, and a PixelCNN of these
(`bench/ood.py`'s). Its log p is about 32 levels. The code length may be that of the same 32 levels, as in
`likely detect`, with the formats' headers or without; or that of the 256 levels before the cut, which counts three low
bits that log p knows nothing of: they are noise in a photograph, and smooth in a blurred one. AUROC of
log2 p + code length against blurred copies (blurred at 256 levels, then cut), 300 test rows; about two CPU minutes.
"""

from __future__ import annotations

import io
import math
import time
from dataclasses import replace

from timing import RESULTS, record  # first: it sets the number of threads
import torch
import torch.nn.functional as F
from ood import MODELS, PIXELS
from PIL import Image
from torch import Tensor

import likely as lk
from likely.space import Integers
from likely.tasks.codecs import code_lengths
from likely.tasks.metrics import auroc

STEPS, ROWS = 1200, 300
FINE, COARSE = Integers((1, 16, 16), 256), Integers((1, 16, 16), 32)
BINOMIAL = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=torch.float64) / 16
GAUSS = torch.exp(-(torch.arange(-7, 8, dtype=torch.float64) ** 2) / 8)
BLURS = {"binomial 1 4 6 4 1, once": BINOMIAL, "Gaussian, two pixels": GAUSS / GAUSS.sum()}


def shrunk(x: Tensor) -> Tensor:
    """Colours (n, 3, 32, 32) to luma (n, 1, 16, 16) of 256 levels."""
    luma = (x.double() * x.new_tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]).sum(1, keepdim=True)
    return F.avg_pool2d(luma, 2).round().long()


def blurred(x: Tensor, kernel: Tensor) -> Tensor:
    reach, x = len(kernel) // 2, x.double()
    for shape, pad in (((1, 1, -1, 1), (0, 0, reach, reach)), ((1, 1, 1, -1), (reach, reach, 0, 0))):
        x = F.conv2d(F.pad(x, pad, mode="reflect"), kernel.reshape(shape))
    return x.round().long()


def with_headers(x: Tensor) -> Tensor:
    """Bits of the shorter of the PNG and the lossless WebP file of each row."""
    sizes = []
    for pixels in x[:, 0].to(torch.uint8).numpy():
        files = [io.BytesIO(), io.BytesIO()]
        Image.fromarray(pixels).save(files[0], "PNG", optimize=True)
        Image.fromarray(pixels).convert("RGB").save(files[1], "WEBP", lossless=True, quality=100, method=4)
        sizes.append(8.0 * min(file.tell() for file in files))
    return torch.tensor(sizes, dtype=torch.float64)


def main() -> None:
    """Train, score, write one row a blur."""
    torch.set_num_threads(1)
    source = lk.load("cifar10", limit=8000)
    fine = {name: shrunk(getattr(source, name).x) for name in ("train", "valid", "test")}
    parts = {name: replace(getattr(source, name), x=x // 8) for name, x in fine.items()}
    data = replace(source, space=COARSE, **parts)
    model = lk.build("autoregressive", COARSE, preset="small", observation="categorical", **PIXELS)
    began = time.process_time()
    if lk.fit(model, data, steps=STEPS, progress=False, **MODELS["pixelcnn"]["train"]).signal is not None:
        raise SystemExit(1)
    trained = time.process_time() - began
    inside = fine["test"][:ROWS]
    codes = {
        "32 levels, headers off": lambda x: code_lengths(x // 8, COARSE),
        "32 levels, whole files": lambda x: with_headers(x // 8),
        "256 levels, headers off": lambda x: code_lengths(x, FINE),
        "256 levels, whole files": with_headers,
    }
    nats = lk.log_prob(model, inside // 8).nats
    for name, kernel in BLURS.items():
        outside = blurred(inside, kernel)
        other = lk.log_prob(model, outside // 8).nats
        found = {
            key: auroc(nats / math.log(2) + code(inside), other / math.log(2) + code(outside))
            for key, code in codes.items()
        }
        row = {
            "bench": "code_levels",
            "blur": name,
            "steps": STEPS,
            "rows": ROWS,
            "train_cpu_s": round(trained, 1),
            "bits_per_dim_inside": float(-nats.mean() / math.log(2) / 256),
            "bits_per_dim_blurred": float(-other.mean() / math.log(2) / 256),
            "auroc_nll": auroc(nats, other),
            "auroc_complexity": {key: round(value, 3) for key, value in found.items()},
        }
        record(RESULTS / "code_levels.jsonl", row, packages=("pillow",))


if __name__ == "__main__":
    main()
