"""Patches of photographs for learned lossy codecs: 64 x 64, from Tiny ImageNet and CIFAR-10, scaled up.

Large photographs are smoother than thumbnails, and Tiny ImageNet's are JPEGs whose 8 x 8 blocks a codec must not learn:
every patch is scaled by a factor of its own (1.12 to 2.2; CIFAR-10 by 2), cropped at random and perhaps mirrored.

    python bench/lossy_patches.py OUT.npz [--tiny 15000] [--cifar 5000]
"""

from __future__ import annotations

import argparse

import numpy as np
from PIL import Image

from likely.config.data import DataConfig
from likely.data import load

SIDE = 64


def patches(pictures: np.ndarray, count: int, scales: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """(count, 3, 64, 64) bytes from pictures (n, 3, H, W), by bicubic scaling."""
    out = np.empty((count, 3, SIDE, SIDE), np.uint8)
    for i in range(count):
        picture = pictures[i % len(pictures)].transpose(1, 2, 0)
        side = round(picture.shape[0] * np.exp(rng.uniform(*np.log(scales))))
        large = np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC))
        top, left = rng.integers(0, side - SIDE + 1, 2)
        crop = large[top : top + SIDE, left : left + SIDE]
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        if rng.random() < 0.5:
            crop = crop.swapaxes(0, 1)
        out[i] = crop.transpose(2, 0, 1)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("--tiny", type=int, default=15000)
    parser.add_argument("--cifar", type=int, default=5000)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    whole = {name: load(DataConfig(source=name)).train.x.numpy() for name in ("tinyimagenet", "cifar10")}
    x = np.concatenate(
        [
            patches(whole["tinyimagenet"], asked.tiny, (1.12, 2.2), rng),
            patches(whole["cifar10"], asked.cifar, (2.0, 2.0), rng),
        ]
    )
    x = x[rng.permutation(len(x))]
    np.savez(asked.out, x=x)
    print(f"{len(x)} patches in {asked.out}")


if __name__ == "__main__":
    main()
