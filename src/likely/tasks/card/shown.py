"""The first 64 samples of a seed that nobody chose: drawn, hashed one by one and together, and put on the page.

A hash is about values, never about a picture file. What is shown can be turned back into values, so whoever has a card
can check its pictures against the hashes in the ledger without the model, and with the model draw them again.
"""

from __future__ import annotations

import base64
import hashlib
import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from likely.logprob import BATCH, sample
from likely.space import Integers, Rows, Space, Table
from likely.tasks.describe import blank
from likely.tasks.pictures import is_picture, picture
from likely.tasks.samples import digest
from likely.verbs import Samples, require, takes_y

N = 64
"""Samples on a card: one canonical batch."""


def settings_of(model: Any) -> dict[str, Any]:
    """What a draw depends on besides weights and seed: number, conditions asked for, and how the model draws.

    Classes are asked for in turn; other conditions are rows of their space that are always the same.
    """
    sampler = getattr(model.config, "sampler", None)
    labels = None
    if takes_y(model):
        classes = isinstance(model.condition, Integers) and not model.condition.shape
        labels = (torch.arange(N) % model.condition.levels if classes else blank(model.condition, N)).tolist()
    how = None if sampler is None else sampler.model_dump(mode="json")
    return {"n": N, "y": labels, "sampler": how, "canonical_batch": BATCH}


def draw(model: Any, settings: dict[str, Any], seed: int) -> Any:
    """The samples in order. Raises `TypeError` for a model that does not sample."""
    require(model, Samples, "sample")
    labels = None if settings["y"] is None else torch.tensor(settings["y"])
    return sample(model, settings["n"], labels, seed=seed)


def hashes(x: Any, space: Space) -> list[str]:
    """SHA-256 of each value."""
    return [digest(space.take(x, slice(i, i + 1))) for i in range(space.len(x))]


def together(each: list[str]) -> str:
    """One SHA-256 for all: of their hashes, one a line, in order."""
    return hashlib.sha256("\n".join(each).encode()).hexdigest()


def encode(x: Any, space: Space) -> dict[str, Any]:
    """Values as JSON: small PNG pictures where they are pictures of at most 256 levels, else numbers."""
    if is_picture(space) and isinstance(space, Integers) and space.levels <= 256:
        return {"as": "png", "values": [_png(picture(value, space)) for value in x]}
    if isinstance(x, Rows):
        return {"as": "cells", "values": x.cells.tolist(), "seen": x.seen.tolist()}
    return {"as": "numbers", "values": x.tolist(), "type": str(x.dtype).removeprefix("torch.")}


def decode(shown: dict[str, Any], space: Space) -> Any:
    """The values that `encode` was given. Raises `ValueError` where they are none of this space."""
    try:
        if shown["as"] == "png" and isinstance(space, Integers):
            pixels = torch.stack([_pixels(text) for text in shown["values"]])
            levels = (pixels.double() * ((space.levels - 1) / 255)).round().to(torch.uint8)
            return space.check(levels.reshape(len(levels), *space.shape), "the samples on the card")
        if shown["as"] == "cells" and isinstance(space, Table):
            cells = torch.tensor(shown["values"], dtype=torch.float64)
            return Rows(cells, torch.tensor(shown["seen"], dtype=torch.bool))
        if shown["as"] == "numbers" and not isinstance(space, Table):
            kind = torch.int64 if isinstance(space, Integers) else torch.float64
            return space.check(torch.tensor(shown["values"], dtype=kind), "the samples on the card")
    except (KeyError, TypeError, RuntimeError, OSError, ValueError) as error:
        raise ValueError(f"the samples on the card cannot be read: {error}") from error
    raise ValueError(f"the samples on the card are {shown['as']!r}, which is no form of values of {space}")


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _pixels(text: str) -> Tensor:
    """(C, H, W) grey levels of a PNG, which is at most a small picture."""
    with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=("PNG",)) as image:
        if image.width * image.height > 2**22 or image.mode not in ("L", "RGB"):
            raise ValueError(f"a picture of {image.width} x {image.height} in mode {image.mode}")
        array = np.array(image)
    array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(array))


def distance(a: Any, b: Any) -> list[float]:
    """How far values lie from each other, row by row: the largest difference of a cell, in raw units."""
    if isinstance(a, Rows):
        a, b = a.cells.where(a.seen, 0), b.cells.where(b.seen, 0)
    return (a.double() - b.double()).abs().reshape(len(a), -1).amax(1).tolist()
