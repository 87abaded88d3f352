"""Make pictures of any sizes smaller: a folder of them to one .lkz file, and all, one or a part of one back."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from likely.coding import Opened, Picture, Pictures
from likely.coding.files import replace, together
from likely.tasks.compress import describe
from likely.tasks.names import Names, targets
from likely.tasks.originals import called, pictures_in, pixels_of
from likely.tasks.png import Png

MOST_PIXELS = 1 << 28
"""Pixels of a picture."""
Progress = Callable[[int], None]


def compress(
    codec: Pictures, source: Path, target: Path, *, limit: int | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Write a picture, or all pictures of a folder, to a file; what it came to, as JSON values.

    One picture is in memory at a time. Those that are broken, or would not come back exactly, are named under
    `refused`, the others are coded. `progress` is called with the tiles done. Raises `ValueError` where none is left.
    """
    files, refused = pictures_in(source, limit)
    names = Names()

    def pictures() -> Iterator[Picture]:
        none = True
        for file in files:
            try:
                pixels = pixels_of(file, MOST_PIXELS)
                codec.check(pixels.transpose(2, 0, 1).shape, str(file))
            except (ValueError, OSError) as error:
                refused[str(file)] = str(error)
                continue
            none = False
            yield Picture.of(pixels, names(called(file, source)))
        if none:
            first = next(iter(refused.values()))
            raise ValueError(f"none of {len(files)} pictures can be compressed; the first: {first}")

    target.parent.mkdir(parents=True, exist_ok=True)
    replace(target, lambda file: codec.write(pictures(), file, progress=progress))
    told = {"out": str(target), "inputs": str(source), "refused": refused, "renamed": names.changed}
    return describe(target) | told


def tiles_in(source: Path, side: int, limit: int | None = None) -> int:
    """How many tiles the pictures of a folder make, as their headers say: what progress is measured by."""
    total = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about sizes that MOST_PIXELS judges
        for file in pictures_in(source, limit)[0]:
            try:
                with Image.open(file) as image:
                    width, height = image.size
                total += -(-height // side) * -(-width // side)
            except (OSError, ValueError, Image.DecompressionBombError):
                continue  # it will be named when it is read
    return total


def decompress(opened: Opened, out: Path, progress: Progress | None = None) -> list[Path]:
    """Write all pictures as PNG below the folder `out`; their paths.

    A band at a time goes to hidden files, which get their names when all was decoded and compared. Raises what
    `likely.coding.errors` holds; then nothing is left.
    """
    paths = targets(names_of(opened), len(opened), out)
    with together(out, paths) as hidden:
        bands = opened.bands(progress)
        for new, shape in zip(hidden, opened.shapes, strict=True):
            with new.open("wb") as file:
                image, rows = Png(file, shape), 0
                while rows < shape[1]:
                    band = next(bands).pixels
                    image.add(band)
                    rows += len(band)
                image.close()
                file.flush()
                os.fsync(file.fileno())
        next(bands, None)  # the end, where the content's hash is compared
    return paths


def extract(opened: Opened, out: Path, only: str | None, crop: Sequence[int] | None) -> Path:
    """Write one picture (by name, or number from 0; needless where there is one) or a part (top, left, height, width).

    Only the chunks that it touches are decoded and checked.
    """
    k = number_of(opened, only)
    _, height, width = opened.shapes[k]
    pixels = opened.crop(k, *(crop or (0, 0, height, width)))
    path = targets(names_of(opened), len(opened), out)[k]
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels

    def write(file: Any) -> None:
        image = Png(file, (pixels.shape[2], *pixels.shape[:2]))
        image.add(np.ascontiguousarray(pixels))
        image.close()

    return replace(path, write)


def number_of(opened: Opened, only: str | None) -> int:
    """The number of a picture that was asked for. Raises `ValueError` naming some that there are."""
    names = names_of(opened)
    if only is None and len(names) == 1:
        return 0
    if only in names:
        return names.index(only)
    if only is not None and only.isdecimal() and int(only) < len(names):
        return int(only)
    some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    asked = "only is missing" if only is None else f"only is {only!r}"
    raise ValueError(f"{asked}; accepts 0 .. {len(names) - 1} or a name: {some}")


def names_of(opened: Opened) -> list[str]:
    """The names of the pictures, or numbers in their place."""
    digits = len(str(len(opened) - 1))
    return opened.names or [f"{k:0{digits}}.png" for k in range(len(opened))]
