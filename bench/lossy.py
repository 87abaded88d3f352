"""Lossy pictures: files of a trained hyperprior beside JPEG, WebP and JPEG XL, on the 12 Kodak photographs at hand.

Every number is of a real file that was decoded: bits per pixel from its length, PSNR and MS-SSIM between the decoded
picture and the original, by the same functions for all; means over the pictures.

    python bench/lossy_patches.py small.npz --tiny 30000 --cifar 10000
    likely train hyperprior --data small.npz --out small steps=60000 batch=8 lr=6e-4 relax=round \\
        weight_decay=0 ema=0.999
    python bench/lossy_patches.py large.npz --side 128 --tiny 5000 --cifar 0 --photos skimage/data --crops 5000
    likely train hyperprior --data large.npz --out run --start small steps=4000 batch=4 lr=3e-4 relax=round \\
        weight_decay=0 ema=0.99
    python bench/lossy.py rivals
    python bench/lossy.py run [--rates 1,2,3,4] [--thrift 8]
    python bench/lossy.py borders small run                            # crops of several sizes: lossy_borders.jsonl
    python bench/lossy.py picture run                                  # docs/images/lossy.png and lossy-crop.png
"""

from __future__ import annotations

from timing import RESULTS, record

import argparse
import io
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from likely.coding import LossyCodec
from likely.coding.fidelity import ms_ssim, psnr
from likely.train import load_model

PATH = RESULTS / "lossy.jsonl"
IMAGES = Path(__file__).parent.parent / "docs" / "images"
QUALITIES = {
    "JPEG": [{"quality": q} for q in (5, 10, 20, 30, 50, 70, 85, 92)],
    "WebP": [{"quality": q, "method": 6} for q in (1, 20, 50, 80, 92)],
    "JPEG XL": [{"quality": q, "effort": 7} for q in (10, 30, 60, 80, 90)],
}
FORMATS = {"JPEG": "JPEG", "WebP": "WEBP", "JPEG XL": "JXL"}


def photographs() -> list[tuple[str, torch.Tensor]]:
    """Names and pictures (3, H, W)."""
    folder = os.environ.get("LIKELY_DATA")
    files = sorted(Path(folder or "", "kodak").glob("*"))
    if not folder or not files:
        raise SystemExit("set LIKELY_DATA to a folder with kodak/ in it")
    return [(f.stem, torch.from_numpy(np.array(Image.open(f).convert("RGB"))).permute(2, 0, 1)) for f in files]


def saved(x: torch.Tensor, name: str, settings: dict[str, Any]) -> tuple[int, torch.Tensor]:
    """Bytes of a file of a classical codec, and what it decodes to."""
    if name == "JPEG XL":
        import pillow_jxl  # noqa: F401

    buffer = io.BytesIO()
    more = {"optimize": True} if name == "JPEG" else {}
    Image.fromarray(x.permute(1, 2, 0).numpy()).save(buffer, FORMATS[name], **settings, **more)
    size = buffer.tell()
    buffer.seek(0)
    back = np.array(Image.open(buffer).convert("RGB"))
    return size, torch.from_numpy(back).permute(2, 0, 1)


def measured(code: Callable[[torch.Tensor], tuple[int, torch.Tensor]]) -> dict[str, Any]:
    """Means over the photographs, and their values one by one; always of what was decoded."""
    rows, began = [], time.process_time()
    for name, x in photographs():
        size, back = code(x)
        pair = x[None], back[None]
        figures = 8 * size / x[0].numel(), float(psnr(*pair)), float(ms_ssim(*(p.float() for p in pair)))
        rows.append([name, size, *(round(v, 5) for v in figures)])
    means = np.array([row[2:] for row in rows]).mean(0)
    spread = np.array([row[2:] for row in rows]).std(0, ddof=1) / math.sqrt(len(rows))
    return {
        "n": len(rows),
        "bpp": round(means[0], 4),
        "psnr": round(means[1], 3),
        "ms_ssim": round(means[2], 5),
        "stderr": [round(v, 4) for v in spread],
        "each": rows,
        "cpu_s": round(time.process_time() - began, 1),
    }


def rivals(names: list[str]) -> None:
    """Classical codecs at every quality."""
    for name, settings in ((name, QUALITIES[name]) for name in names):
        for setting in settings:
            found = measured(lambda x, name=name, setting=setting: saved(x, name, setting))
            record(PATH, {"bench": "lossy", "codec": name, "setting": setting, **found}, ("pillow",))


def ours(run: Path, rates: list[float], thrift: float | None) -> None:
    """A trained model at some rates."""
    codec = LossyCodec(load_model(run), thrift=thrift)
    parameters = sum(p.numel() for p in codec.model.parameters())
    for rate in rates:
        spent = {"encode": 0.0, "decode": 0.0}

        def code(x: torch.Tensor, rate: float = rate, spent: dict[str, float] = spent) -> tuple[int, torch.Tensor]:
            began = time.process_time()
            blob = codec.compress([x], rate=rate, verify=False)
            between = time.process_time()
            back = codec.decompress(blob)[0]
            spent["encode"] += between - began
            spent["decode"] += time.process_time() - between
            return len(blob), back

        found = measured(code)
        about = {"setting": {"rate": rate}, "thrift": thrift, "parameters": parameters, "trained": trained(run)}
        seconds = {f"{key}_cpu_s_each": round(value / found["n"], 2) for key, value in spent.items()}
        record(PATH, {"bench": "lossy", "codec": "hyperprior", **about, **found, **seconds})


def borders(runs: list[Path]) -> None:
    """Rate and error on crops of 64, 128 and 256 pixels, all of the same middle 512 x 256 of each photograph.

    What a codec loses on larger crops, it learned from patches on which everything is near a border.
    """
    for run in runs:
        codec = LossyCodec(load_model(run))
        for side in (64, 128, 256):
            size, error, pixels = 0, 0.0, 0
            for _, x in photographs()[::4]:
                top, left = ((length - part) // 2 for length, part in zip(x.shape[1:], (256, 512), strict=True))
                x = x[:, top : top + 256, left : left + 512]
                crops = [x[:, i : i + side, j : j + side] for i in range(0, 256, side) for j in range(0, 512, side)]
                blob = codec.compress([crop.contiguous() for crop in crops], rate=2)
                back = codec.decompress(blob)
                size += len(blob)
                error += sum(float((a.float() - b.float()).square().sum()) for a, b in zip(crops, back, strict=True))
                pixels += 256 * 512
            decibel = 10 * math.log10(255**2 * 3 * pixels / error)
            found = {"side": side, "rate": 2, "n": 3, "bpp": round(8 * size / pixels, 4), "psnr": round(decibel, 2)}
            record(RESULTS / "lossy_borders.jsonl", {"bench": "lossy_borders", "trained": trained(run), **found})


def trained(run: Path) -> list[dict[str, Any]]:
    """Steps, rows and wall seconds of a run and of the run that it started from, from their ledgers."""
    found = []
    while run is not None:
        lines = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
        start, last = (
            lines[0],
            [line for line in lines if line["kind"] in ("stop", "end", "done", "finish", "step")][-1],
        )
        recipe = start["asked"]["recipe"]
        steps = max(line.get("step", 0) for line in lines)
        found.append({"steps": steps, "batch": recipe["train"]["batch"], "seconds": round(last["timing"]["seconds"])})
        run = Path(recipe["start"]) if recipe.get("start") else None  # ty: ignore[invalid-assignment]
    return found[::-1]


def curves() -> dict[str, list[list[float]]]:
    """(bpp, PSNR, MS-SSIM) of every codec, the latest of each setting, as means over the pictures that all have."""
    latest: dict[tuple[str, str], dict[str, list[float]]] = {}
    for line in PATH.read_text().splitlines():
        row = json.loads(line)
        latest[row["codec"], json.dumps(row["setting"], sort_keys=True)] = {name: v for name, _, *v in row["each"]}
    common = set.intersection(*(set(each) for each in latest.values()))
    found: dict[str, list[list[float]]] = {}
    for (codec, _), each in latest.items():
        found.setdefault(codec, []).append(np.array([each[name] for name in common]).mean(0).tolist())
    return {codec: sorted(points) for codec, points in found.items()}


def picture(run: Path, thrift: float | None) -> None:
    """The curves; and a crop of a decoded file beside JPEG, WebP and JPEG XL in about as many bytes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    for codec, points in curves().items():
        bits, decibel, like = zip(*points, strict=True)
        style = {"marker": "o", "ms": 3, "lw": 2.2 if codec == "hyperprior" else 1}
        axes[0].plot(bits, decibel, label=codec, **style)
        axes[1].plot(bits, [-10 * math.log10(1 - v) for v in like], label=codec, **style)
    axes[0].set(xlabel="bits per pixel", ylabel="PSNR (dB)", xlim=(0, 2), ylim=(22, 42))
    axes[1].set(xlabel="bits per pixel", ylabel="MS-SSIM (-10 log10 of what lacks)", xlim=(0, 2), ylim=(6, 26))
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.suptitle("Kodak photographs: files, decoded", fontsize=10)
    figure.tight_layout()
    figure.savefig(IMAGES / "lossy.png", dpi=110)

    name, x = photographs()[6]
    codec = LossyCodec(load_model(run), thrift=thrift)
    blob = codec.compress([x], rate=2, verify=False)
    shown = [("original", 0, x), (f"hyperprior, {len(blob):,} bytes", len(blob), codec.decompress(blob)[0])]
    for rival in QUALITIES:
        tried = [saved(x, rival, {"quality": q}) for q in range(1, 60, 3)]
        size, back = min(tried, key=lambda pair: abs(pair[0] - len(blob)))
        shown.append((f"{rival}, {size:,} bytes", size, back))
    figure, axes = plt.subplots(1, len(shown), figsize=(3 * len(shown), 3.3))
    for axis, (title, size, back) in zip(axes, shown, strict=True):
        near = (
            f"\n{float(psnr(x[None], back[None])):.2f} dB, {float(ms_ssim(x[None], back[None])):.4f}" if size else "\n"
        )
        axis.imshow(back[:, 100:356, 200:456].permute(1, 2, 0).numpy())
        axis.set_title(title + near, fontsize=9)
        axis.axis("off")
    figure.suptitle(f"{name}: 256 x 256 of 768 x 512; bytes, PSNR and MS-SSIM of the whole", fontsize=9)
    figure.tight_layout()
    figure.savefig(IMAGES / "lossy-crop.png", dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", help="rivals, borders, picture, or a run folder")
    parser.add_argument("run", nargs="*", type=Path)
    parser.add_argument("--thrift", type=float, help="of the encoder; by default the model's own")
    parser.add_argument("--codecs", default=",".join(QUALITIES))
    parser.add_argument("--rates", default="1,2,3,4")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.what == "rivals":
        rivals(asked.codecs.split(","))
    elif asked.what == "picture":
        picture(asked.run[0], asked.thrift)
    elif asked.what == "borders":
        borders(asked.run)
    else:
        ours(Path(asked.what), [float(rate) for rate in asked.rates.split(",")], asked.thrift)


if __name__ == "__main__":
    main()
