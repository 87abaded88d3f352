"""Neural fields as files: bits, PSNR and MS-SSIM of what the file decodes to, and seconds, beside JPEG, WebP, JPEG XL.

    LIKELY_DATA=... python bench/field.py crops 300        # 256 x 256 from the middle of four pictures, 300 steps
    LIKELY_DATA=... python bench/field.py whole 200        # a whole picture, 768 x 512

Each rival writes the same picture at the quality whose file comes nearest to ours in size (a search over its whole
range of qualities); its own size and quality stand in the row. Nothing is estimated: every file is decoded.
"""

from __future__ import annotations

import io
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from timing import RESULTS, record

import numpy as np
import pillow_jxl  # noqa: F401  (JPEG XL for Pillow)
import torch
from PIL import Image

from likely.coding import container
from likely.coding.fidelity import ms_ssim, psnr
from likely.coding.field import file

CASES = {
    "crops": [(number, 256, lam) for lam in (1e-3, 4e-3) for number in (1, 3, 5, 7)],
    "whole": [(3, None, lam) for lam in (1e-3, 4e-3)],
}


def picture(number: int, size: int | None) -> np.ndarray:
    """(3, H, W)."""
    path = Path(os.environ["LIKELY_DATA"]) / f"kodak/kodim{number:02}.webp"
    image = Image.open(path).convert("RGB")
    if size is not None:
        left, top = (image.width - size) // 2, (image.height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def measured(x: np.ndarray, y: np.ndarray, size: int) -> dict[str, Any]:
    a, b = (torch.from_numpy(p.copy())[None] for p in (x, y))
    return {
        "bytes": size,
        "bpp": round(8 * size / x[0].size, 4),
        "psnr": round(float(psnr(a, b)), 3),
        "ms_ssim": round(float(ms_ssim(a, b)), 5),
    }


def rival(x: np.ndarray, target: int, kind: str, **options: Any) -> dict[str, Any]:
    """The quality in 1 .. 99 whose file is nearest to `target` bytes."""
    image, files = Image.fromarray(x.transpose(1, 2, 0)), {}

    def size(quality: int) -> int:
        if quality not in files:
            buffer = io.BytesIO()
            image.save(buffer, kind, quality=quality, **options)
            files[quality] = buffer.getvalue()
        return len(files[quality])

    low, high = 1, 99
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) < target else (low, middle)
    best = min((low, high), key=lambda q: abs(size(q) - target))
    start = time.process_time()
    size_again = io.BytesIO()
    image.save(size_again, kind, quality=best, **options)
    encode = time.process_time() - start
    start = time.process_time()
    found = np.asarray(Image.open(io.BytesIO(files[best])).convert("RGB"))
    decode = time.process_time() - start
    row = measured(x, found.transpose(2, 0, 1), size(best)) | {"quality": best}
    return row | {"encode_s": round(encode, 4), "decode_s": round(decode, 4)}


def main() -> None:
    torch.set_num_threads(1)
    what, steps = sys.argv[1], int(sys.argv[2])
    for number, size, lam in CASES[what]:
        x = picture(number, size)
        cpu = time.process_time()
        blob = file.compress(x, lam=lam, steps=steps)
        encode = time.process_time() - cpu
        cpu = time.process_time()
        y = file.decompress(blob)
        decode = time.process_time() - cpu
        told = file.describe(container.read(blob))
        parts = {key: told[key] for key in ("weights_bytes", "latents_bytes", "container_bytes")}
        row = {
            "bench": "field",
            "case": f"kodim{number:02}, {what}",
            "shape": list(x.shape),
            "lam": lam,
            "steps": steps,
        }
        row |= {"ours": measured(x, y, len(blob)) | parts}
        row["ours"] |= {"encode_s": round(encode, 2), "decode_s": round(decode, 3)}
        row["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        row |= {
            "JPEG": rival(x, len(blob), "JPEG", optimize=True),
            "WebP": rival(x, len(blob), "WEBP", method=6),
            "JPEG XL": rival(x, len(blob), "JXL", effort=7),
            "clock": "process CPU seconds, once each",
        }
        record(RESULTS / "field.jsonl", row, ("pillow", "pillow-jxl-plugin"))


if __name__ == "__main__":
    main()
