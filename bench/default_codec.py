"""Train the model behind `likely compress --default`: a pyramid on small and full-size photographs.

    python bench/default_codec.py --photos FOLDER --out default.safetensors

Data: CIFAR-10's training images (no licence stated, research use) and Tiny ImageNet's validation images (ImageNet's
terms: research), halved to rid them of their JPEG, from $LIKELY_DATA; photographs that are not JPEG from scikit-image's
package (`pip download --no-deps scikit-image`, folder `skimage/data`), with what its documentation says of each:
astronaut public domain (NASA); camera, brick, grass, gravel, cell, chelsea, coffee CC0; coins, ihc no known copyright
restrictions; motorcycle_left and _right the Middlebury 2014 stereo benchmark; moon nothing stated.
Held out: the last 64 rows of each set, and `coffee`.

The weights in the package are one run of this script, with `--wall 105` on a shared processor: 39 CPU minutes. What it
was stopped by is a clock, so that a second run ends elsewhere, though near. Its settings, the share of 0.3 of
pictures with halved chroma among them, were fixed before it began; that there are any at all goes back to an earlier
model and a look at the first eight Kodak images, on which a codec that never saw halved chroma was further behind
JPEG XL than on `coffee`. Otherwise neither the Kodak images nor CIFAR-10's test images were looked at.
bench/results/default_codec.jsonl has how it went.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

from timing import RESULTS, record  # first: it sets the number of threads
import numpy as np
import torch
from PIL import Image

import likely as lk
from likely.logprob import scoring
from likely.noise import Noise
from likely.space import Integers

COLOUR = ("astronaut", "chelsea", "ihc", "motorcycle_left", "motorcycle_right")
GREY = ("camera", "coins", "moon", "brick", "grass", "gravel", "cell")
HELD = 64
CROP = 64


def photo(path: Path) -> torch.Tensor:
    """(3, H, W) uint8; grey ones are colour ones whose channels agree."""
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1).copy())


def halved(x: torch.Tensor) -> torch.Tensor:
    """Means of 2x2 pixels, rounded."""
    x = x[..., : x.shape[-2] // 2 * 2, : x.shape[-1] // 2 * 2].float()
    return torch.nn.functional.avg_pool2d(x, 2).round().to(torch.uint8)


def subsampled(x: torch.Tensor) -> torch.Tensor:
    """Crops (n, 3, H, W) as a camera's file or a film scanner keeps them: differences to the luma at half the size."""
    x = x.float()
    luma = (x * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True).round()
    small = torch.nn.functional.avg_pool2d(x - luma, 2).round()
    chroma = torch.nn.functional.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
    return (luma + chroma).round().clamp(0, 255).to(torch.uint8)


class Data:
    """Crops to learn from, and rows to be judged by."""

    def __init__(self, photos: Path, chroma: float) -> None:
        self.chroma = chroma
        small = {"cifar10": lk.load("cifar10").train.x, "tinyimagenet": halved(lk.load("tinyimagenet").train.x)}
        self.small = torch.cat([x[:-HELD] for x in small.values()])
        self.colour = [photo(photos / f"{name}.png") for name in COLOUR]
        self.colour += [halved(x) for x in self.colour]
        self.grey = [photo(photos / f"{name}.png") for name in GREY]
        coffee = photo(photos / "coffee.png")
        tiles = coffee[:, 8:392, 44:556].unfold(1, 128, 128).unfold(2, 128, 128).reshape(3, -1, 128, 128)
        self.held = {name: x[-HELD:] for name, x in small.items()} | {"coffee": tiles.transpose(0, 1)}
        size = lambda images: torch.tensor([float(x[0].numel()) for x in images]) ** 0.75  # noqa: E731
        self.odds = {"colour": size(self.colour), "grey": size(self.grey)}

    def batch(self, step: int, pixels: int) -> torch.Tensor:
        """(n, C, H, W), C = 1 for a grey batch: of eight batches three of small images, one grey."""
        noise = Noise(step, 1)
        kind = "small" if step % 8 in (0, 3, 6) else "grey" if step % 8 == 5 else "colour"
        if kind == "small":
            x = self.small[noise.integers(len(self.small), (pixels // 1024,))[0]]
        else:
            images, n = getattr(self, kind), pixels // CROP**2
            chosen = torch.multinomial(self.odds[kind], n, True, generator=torch.Generator().manual_seed(step))
            u = noise.uniform((2, n))[0]
            crops = []
            for i, place in enumerate(chosen.tolist()):
                image = images[place]
                top, left = (int(u[a, i] * (image.shape[a + 1] - CROP + 1)) for a in (0, 1))
                crops.append(image[:, top : top + CROP, left : left + CROP])
            x = torch.stack(crops)
            # an eighth of the grey ones are seen as colour images
            x = x[:, :1] if kind == "grey" and step % 64 != 5 else x
        if kind == "colour" and noise.uniform()[0] < self.chroma:
            x = subsampled(x)
        turn = noise.integers(8)[0]
        x = x.flip(2) if turn & 1 else x
        x = x.flip(3) if turn & 2 else x
        return x.transpose(2, 3) if turn & 4 else x


def judged(model: torch.nn.Module, held: dict[str, torch.Tensor]) -> dict[str, float]:
    """Bits a dimension of what was held out."""
    found = {}
    with scoring(model):
        for name, x in held.items():
            part = model.at(Integers(tuple(x.shape[1:]), 256))
            found[name] = float(-part.log_prob(x).mean() / math.log(2) / part.space.dims)
    return found


def tell(given: argparse.Namespace, model: torch.nn.Module, data: Data, line: dict[str, Any]) -> None:
    """How far it is, as a line of the results; those for the package go into the checkout."""
    about = {"bench": "default_codec", "fields": given.fields}
    rates = {name: round(rate, 4) for name, rate in judged(model, data.held).items()}
    record(given.results, about | line | {"bits_per_dim": rates})


def train(model: torch.nn.Module, data: Data, given: argparse.Namespace) -> None:
    """Adam until the CPU minutes or those of the clock are over, whichever comes first; the rate falls by the same."""
    lr, minutes, wall = given.lr, given.minutes, given.wall
    optimiser = torch.optim.Adam(model.parameters(), lr=lr, betas=(0.9, 0.99))
    start, clock, step, said = time.process_time(), time.perf_counter(), 0, 0.0
    while True:
        cpu, passed = (time.process_time() - start) / 60, (time.perf_counter() - clock) / 60
        spent = max(cpu / minutes, passed / wall)
        if spent >= 1:
            break
        rate = lr * min(1.0, step / 50) * (0.5 + 0.5 * math.cos(math.pi * spent))
        for group in optimiser.param_groups:
            group["lr"] = rate
        x = data.batch(step, given.pixels)
        part = model.at(Integers(tuple(x.shape[1:]), 256))
        model.train()
        # three levels hold 63 of 64 pixels
        loss = part.loss_of_finest(x, 3) if step % 4 else part.loss(x, noise=Noise(step, len(x)))
        loss = loss / part.space.dims
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        if passed >= said:
            said += given.every
            tell(given, model, data, {"step": step, "cpu_minutes": round(cpu, 2)})
            if given.out:
                given.out.unlink(missing_ok=True)
                lk.save(model, given.out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="scikit-image's folder skimage/data")
    parser.add_argument("--minutes", type=float, default=60, help="CPU minutes")
    parser.add_argument("--wall", type=float, default=float("inf"), help="minutes of the clock, at most")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--pixels", type=int, default=16384, help="pixels of a batch")
    parser.add_argument("--every", type=float, default=5, help="minutes between two judgements")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--chroma", type=float, default=0.3, help="share of colour batches with halved chroma")
    parser.add_argument("--results", type=Path, default=RESULTS / "default_codec.jsonl")
    parser.add_argument("fields", nargs="*", default=["width=96"], help="fields of the pyramid")
    given = parser.parse_args()
    torch.set_num_threads(1)
    fields = {name: int(value) for name, value in (field.split("=") for field in given.fields)}
    model = lk.build("pyramid", Integers((3, 32, 32), 256), **fields)
    data = Data(given.photos, given.chroma)
    train(model, data, given)
    model.settle()
    tell(given, model, data, {"step": "end"})
    if given.out:
        given.out.unlink(missing_ok=True)
        lk.save(model, given.out)


if __name__ == "__main__":
    main()
