"""Patches of photographs for learned lossy codecs, from Tiny ImageNet, CIFAR-10 and, if named, large photographs.

Large photographs are smoother than thumbnails, and Tiny ImageNet's are JPEGs whose 8 x 8 blocks a codec must not learn:
every thumbnail is scaled by a factor of its own (to 1.12 to 2.2 times 64 pixels; CIFAR-10 by 2), cropped at random and
perhaps mirrored. `--photos` are scikit-image's own (folder `skimage/data`), scaled down a little.

    python bench/lossy_patches.py OUT.npz [--side 128] [--tiny 15000] [--cifar 5000] [--photos FOLDER --crops 4000]

On patches of 64 x 64 nearly every latent sees a border, and a codec that learned from these alone is poor on whole
photographs: bench/results/lossy_borders.jsonl.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from likely.config.data import DataConfig
from likely.data import load

PHOTOS = ("astronaut", "chelsea", "coffee", "ihc", "motorcycle_left", "motorcycle_right")


def patches(
    pictures: list[np.ndarray], count: int, side: int, scales: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """(count, 3, side, side) bytes from pictures (3, H, W), by bicubic scaling; none is made smaller than a patch."""
    out = np.empty((count, 3, side, side), np.uint8)
    for i in range(count):
        picture = pictures[i % len(pictures)].transpose(1, 2, 0)
        scale = max(np.exp(rng.uniform(*np.log(scales))), side / min(picture.shape[:2]))
        height, width = (round(scale * length) for length in picture.shape[:2])
        large = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))
        top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
        crop = large[top : top + side, left : left + side]
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        if rng.random() < 0.5:
            crop = crop.swapaxes(0, 1)
        out[i] = crop.transpose(2, 0, 1)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--tiny", type=int, default=15000)
    parser.add_argument("--cifar", type=int, default=5000)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--crops", type=int, default=4000)
    asked = parser.parse_args()
    rng, found, more = np.random.default_rng(0), [], asked.side / 64
    for name, count, scales in (("tinyimagenet", asked.tiny, (1.12, 2.2)), ("cifar10", asked.cifar, (2.0, 2.0))):
        thumbnails = list(load(DataConfig(source=name)).train.x.numpy()) if count else []
        found.append(patches(thumbnails, count, asked.side, (scales[0] * more, scales[1] * more), rng))
    if asked.photos is not None:
        photos = [np.asarray(Image.open(asked.photos / f"{name}.png").convert("RGB")) for name in PHOTOS]
        found.append(patches([x.transpose(2, 0, 1) for x in photos], asked.crops, asked.side, (0.5, 1.0), rng))
    x = np.concatenate(found)
    x = x[rng.permutation(len(x))]
    np.savez(asked.out, x=x)
    print(f"{len(x)} patches in {asked.out}")


if __name__ == "__main__":
    main()
