"""What to hide: masks by name, and from pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from likely.noise import Noise
from likely.space import Space, Table

SIDES = ("left", "right", "top", "bottom", "center")


def hide(space: Space, what: str, rows: int, seed: int = 0) -> Tensor:
    """`seen` (rows, *shape), without one half of a picture, without its centre, without a share of all cells drawn at
    random ("random:0.5"; of a picture all channels together), or without columns of a table ("age,height")."""
    shape = space.shape
    name, _, number = what.partition(":")
    if isinstance(space, Table) and name != "random":
        columns = [column.name for column in space.columns]
        unknown = [word for word in what.split(",") if word not in columns]
        if unknown:
            raise ValueError(f"hide is {what!r}; accepts random:SHARE or columns of {', '.join(columns)}")
        return torch.tensor([column not in what.split(",") for column in columns]).expand(rows, -1).clone()
    if name == "random":
        share = _share(number, what)
        drawn = Noise(seed, rows).uniform(shape[1:] if len(shape) == 3 else shape, dtype=torch.float64) >= share
        return (drawn[:, None] if len(shape) == 3 else drawn).expand(rows, *shape).clone()
    if what not in SIDES or len(shape) not in (2, 3):
        sides = f"{', '.join(SIDES)} or " if len(shape) in (2, 3) else ""
        raise ValueError(f"hide is {what!r}; accepts {sides}random:SHARE for values of {space}")
    seen = torch.ones(rows, *shape, dtype=torch.bool)
    height, width = shape[-2:]
    tall, wide = slice(None), slice(None)
    if what in ("left", "right"):
        wide = slice(0, width // 2) if what == "left" else slice(width - width // 2, None)
    elif what in ("top", "bottom"):
        tall = slice(0, height // 2) if what == "top" else slice(height - height // 2, None)
    else:
        tall, wide = (slice(side // 4, side - side // 4) for side in (height, width))
    seen[..., tall, wide] = False
    return seen


def read_mask(path: Path, space: Space) -> Tensor:
    """`seen` for one row (*shape) from a picture that is white where cells are to be filled in, black where seen.

    It is brought to the space's size cell by cell, without grey in between. Raises `ValueError` for one of another
    shape.
    """
    if len(space.shape) not in (2, 3):
        raise ValueError(f"mask is a picture; the model's data are {space}")
    if not path.is_file():
        raise ValueError(f"mask is {path}, which is no file; accepts a picture, white where cells are to be filled in")
    height, width = space.shape[-2:]
    try:
        with Image.open(path, formats=("PNG", "BMP")) as image:
            if image.width * height != width * image.height:
                raise ValueError(
                    f"mask {path} is {image.width} wide and {image.height} high; accepts {width} by {height} or "
                    "a multiple of it"
                )
            grey = image.convert("L").resize((width, height), Image.Resampling.NEAREST)
    except OSError as error:
        raise ValueError(f"mask {path} is no PNG or BMP picture that can be read") from error
    seen = torch.from_numpy(np.asarray(grey) < 128)
    if bool(seen.all()):
        raise ValueError(f"mask {path} has no white cell; accepts white where cells are to be filled in")
    return seen.expand(space.shape).clone()


def _share(number: str, what: str) -> float:
    try:
        share = float(number)
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise ValueError(f"hide is {what!r}; accepts a share between 0 and 1, such as random:0.5")
    return share
