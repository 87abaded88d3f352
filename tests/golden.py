"""How the files in tests/golden were made, which must decode for ever: `python tests/golden.py FOLDER`.

Those of version 1 were written by likely at commit be13b79, but for bits-back, whose bits are stirred since (before
the first release), and for joints, which are younger. Nothing here is run by the tests; a file in the folder is
never made again, a new scheme gets a new one.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from likely import registry
from likely.logprob import sample
from likely.train import load_model, save

ROWS = {  # name: family, tiny instance, rows
    "sequential": ("autoregressive", "pixelcnn, colour, logistic", 30),
    "mixture": ("mixture", "categorical", 30),
    "labels": ("autoregressive", "pixelcnn, logistic, labels", 30),
    "two-part": ("vae", "categorical", 5),
    "bits-back": ("vae", "mixture", 60),
    "integer-flow": ("integer-flow", "image", 30),
    "local-bits-back": ("flow", "dequantised, variational image", 120),
    "joint": ("joint", "autoregressive, separate", 30),
    "joint-unlabelled": ("joint", "mixture", 30),
    "joint-latent": ("joint", "vae, separate", 60),
}


def shaken(family: str, name: str) -> Any:
    """A tiny instance away from where it starts."""
    tiny = registry.tiny(family)[name]
    model = registry.build(tiny.config, tiny.space, tiny.condition, seed=1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def rows(folder: Path) -> None:
    """Files of version 1."""
    from likely.coding import Codec

    for name, (family, instance, n) in ROWS.items():
        weights = save(shaken(family, instance), folder / f"{name}.safetensors")
        model: Any = load_model(weights)
        y = torch.arange(n) % model.condition.levels if model.condition is not None else None
        x = sample(model, n, y, seed=0)
        x[-1] = torch.arange(x[-1].numel()).reshape(x[-1].shape) % model.space.levels  # likely or not
        y = None if name in ("joint-unlabelled", "joint-latent") else y
        blob = Codec(
            model, group=7, chunk=None if name in ("bits-back", "joint-latent", "local-bits-back") else 20
        ).compress(x, y)
        (folder / f"{name}.lkz").write_bytes(blob)
        np.savez_compressed(folder / f"{name}.npz", x=x.numpy(), **({} if y is None else {"y": y.numpy()}))


def pictures(folder: Path) -> None:
    """A file of version 2, of pictures of any sizes."""
    from likely.coding import Picture, Pictures
    from likely.space import Integers

    model = registry.build("pyramid", Integers((3, 16, 16), 256), width=4, hidden=1, components=2, seed=1)
    weights = save(model, folder / "tiles.safetensors")
    y, x, c = np.ogrid[:33, :21, :3]
    colour = (90 + 60 * np.sin(y / 9 + c) + 40 * np.cos(x / 7 - c)).clip(0, 255).astype(np.uint8)
    noise = (((y * 7919 + x * 104729 + c * 1299709) ** 2 // 64) % 256).astype(np.uint8)
    made = {"a": colour, "b/grey": colour[:20, :, 0], "c": noise, "d": colour[:1], "e": colour[:20]}
    with (folder / "tiles.lkz").open("wb") as file:
        codec = Pictures(load_model(weights), side=16, group=2, chunk=500)
        codec.write([Picture.of(pixels, name) for name, pixels in made.items()], file, notes={"for": "ever"})
    np.savez_compressed(folder / "tiles.npz", **{f"x{k}": pixels for k, pixels in enumerate(made.values())})


if __name__ == "__main__":
    (pictures if len(sys.argv) > 2 else rows)(Path(sys.argv[1]))
