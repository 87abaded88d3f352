"""A draw as a film: the states on a sampler's way from noise to data, or a picture that appears site after site.

A model shows its way where it has `path(z, y, *, noise)`, the states from noise z (B, *shape), with `unscaled` for raw
units, and where the last state is not yet the draw `decode(z0, y, *, noise)`: the diffusion family. One that is
`Ordered` draws its sites in an order, and its film uncovers them so. The last frame is the draw that
`likely.logprob.sample` gives for the same seed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from likely.logprob import BATCH, check_condition, device_of, sample, scoring
from likely.noise import Noise
from likely.space import Integers
from likely.tasks.denoise import rounded
from likely.tasks.pictures import grid, is_picture
from likely.verbs import Ordered, Samples, has, name_of, require

FRAMES = 60
"""Frames that a film has at most."""


def has_film(model: Any) -> bool:
    """Whether a model's draws have a way that can be shown."""
    return _has_path(model) or has(model, Ordered, Samples)


def film(model: Any, n: int, y: Any = None, *, seed: int) -> Iterator[Tensor]:
    """Values of the space (n, *shape) on the way to n draws, the last of which are those of `sample(model, n, y)`.

    n is at most 64. Raises `TypeError` for a model whose draws have no way, `ValueError` for bad n or y.
    """
    require(model, Samples, "film")
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= BATCH:
        raise ValueError(f"n is {n!r}; accepts 1 .. {BATCH} draws")
    y = check_condition(model, y, n)
    if _has_path(model):
        yield from _along_path(model, n, y, seed)
    elif has(model, Ordered):
        yield from _uncovered(model, n, y, seed)
    else:
        raise TypeError(f"film needs a model with a path or an order of its sites; {name_of(model)} draws in one go")


def _has_path(model: Any) -> bool:
    base = getattr(model, "model", model)  # settings for drawing wrap the model itself
    return has(model, Samples) and callable(getattr(model, "path", None)) and hasattr(base, "unscaled")


def _along_path(model: Any, n: int, y: Any, seed: int) -> Iterator[Tensor]:
    base, device = getattr(model, "model", model), device_of(model)
    noise = Noise(seed, torch.arange(BATCH, device=device))
    kind = next((p.dtype for p in base.parameters() if p.dtype.is_floating_point), torch.get_default_dtype())
    given = None if y is None else model.condition.pad(y, BATCH).to(device)
    z = noise.normal(model.space.shape, dtype=kind)
    path = model.path(z, given, noise=noise)
    while True:
        with scoring(model):  # not around the yield: what others do between two frames is not ours
            state = next(path, None)
            if state is None:
                break
            z = state
            frame = rounded(base.unscaled(z), model.space)[:n].cpu()
        yield frame
    if hasattr(base, "decode"):
        with scoring(model):
            last = base.decode(z, given, noise=noise)[:n].cpu()
        yield last


def _uncovered(model: Any, n: int, y: Any, seed: int) -> Iterator[Tensor]:
    x = sample(model, n, y, seed=seed)
    sites = model.to_sites(x)
    count = sites.shape[-1]
    for done in sorted({round(count * i / FRAMES) for i in range(FRAMES + 1)}):
        hidden = sites.clone()
        hidden[..., done:] = 0
        yield model.from_sites(hidden)


def animation(frames: list[Tensor], space: Integers, *, seconds: float = 3.0, scale: int | None = None) -> bytes:
    """Frames (n, *shape) as an animated WebP, lossless, n pictures side by side; the last frame stays a while.

    Raises `ValueError` for values that are no pictures.
    """
    if not is_picture(space) or not frames:
        raise ValueError(f"{len(frames)} frames of {space}; a film is made of one picture or more")
    sheets = [grid(frame, space, scale=scale).convert("RGB") for frame in thinned(frames)]
    each = max(20, round(1000 * seconds / len(sheets)))
    buffer = io.BytesIO()
    times = [each] * (len(sheets) - 1) + [1500]
    _save(sheets, buffer, times)
    return buffer.getvalue()


def thinned(frames: list[Any], most: int = FRAMES) -> list[Any]:
    """At most so many of the frames, evenly, first and last among them."""
    if len(frames) <= most:
        return frames
    return [frames[round(i * (len(frames) - 1) / (most - 1))] for i in range(most)]


def _save(sheets: list[Image.Image], buffer: io.BytesIO, times: list[int]) -> None:
    first, rest = sheets[0], sheets[1:]
    first.save(buffer, "WEBP", save_all=True, append_images=rest, duration=times, loop=0, lossless=True)
