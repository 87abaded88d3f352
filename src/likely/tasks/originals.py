"""Pictures that are to be compressed: where they are, and their pixels just as they are."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from likely.config.data import DataConfig
from likely.data.images import OTHER_IMAGES, SUFFIXES, decode, to_array

EXACT = ("palette to RGB", "opaque alpha channel dropped", "turned as its EXIF orientation says", "1 bit to 0 and 255")
"""What reading a picture may do to it without any pixel's colour changing."""


def looked_through(path: Path) -> tuple[list[Path], dict[str, str]]:
    """The picture files at or below a path, in order, and why others are none of them that look as if they were."""
    if not path.is_dir():
        return [path] if path.is_file() and path.suffix.lower() in SUFFIXES else [], {}
    files, others = list[Path](), dict[str, str]()

    def closed(error: OSError) -> None:
        others[str(error.filename)] = str(error)

    for here, folders, names in os.walk(path, onerror=closed):
        for file in (Path(here, name) for name in (*names, *folders)):
            suffix = file.suffix.lower()
            if file.is_dir():
                if file.is_symlink():
                    others[str(file)] = f"{file} is a link to a folder; such are not followed"
            elif suffix in OTHER_IMAGES:
                others[str(file)] = f"{file} is not of an accepted format: {', '.join(SUFFIXES)}"
            elif suffix in SUFFIXES and file.is_file():
                files.append(file)
            elif suffix in SUFFIXES:
                others[str(file)] = f"{file} is no file" + (", but a link to nothing" if file.is_symlink() else "")
    return sorted(files), others


def pictures_in(path: Path, limit: int | None = None) -> tuple[list[Path], dict[str, str]]:
    """`looked_through`, of which the first `limit` are wanted. Raises `ValueError` where there is no picture."""
    if not path.exists():
        raise ValueError(f"inputs is {path}, where there is nothing; accepts a picture or a folder of them")
    files, others = looked_through(path)
    if not files:
        first = f"; the first of what is there: {next(iter(others.values()))}" if others else ""
        raise ValueError(f"inputs {path} hold no pictures; accepts {', '.join(SUFFIXES)}, or a folder of them{first}")
    return files[:limit], others if limit is None else {}


def called(file: Path, path: Path) -> str:
    """What a picture is called within the folder `path`, or where it is `path` itself."""
    return file.name if file == path else file.relative_to(path).as_posix()


def read_picture(file: Path, max_pixels: int) -> tuple[Image.Image, list[str]]:
    """A picture, and what reading it did to it. Raises `ValueError` or `OSError` naming it."""
    size = file.stat().st_size
    if size > 2**20 + 8 * max_pixels:  # twice what a bitmap has that holds so many
        raise ValueError(f"{file} has {size:,} bytes; accepts no more than {max_pixels:,} pixels (max_pixels) can need")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about sizes that max_pixels judges
        return decode(file.read_bytes(), str(file), max_pixels)


def pixels_of(file: Path, max_pixels: int = DataConfig().max_pixels) -> np.ndarray:
    """A picture (H, W, C) just as it is. Raises `ValueError` naming it where reading it would change a colour."""
    image, done = read_picture(file, max_pixels)
    changed = [what for what in done if what not in EXACT]
    if changed:
        raise ValueError(f"{file} would not come back exactly: {', '.join(changed)}")
    return to_array(image, None, None, done)
