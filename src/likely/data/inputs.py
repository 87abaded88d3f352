"""New inputs for a trained model: pictures brought to its space, or data that live there already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from likely.config.data import DataConfig
from likely.data.door import load
from likely.data.images import SUFFIXES, stack
from likely.space import Integers, Reals, Space


def load_inputs(source: str | Path, space: Space, *, split: str = "test", real: bool = False) -> tuple[Any, list[str]]:
    """Rows of `space` and what to call them: from a picture, a folder of pictures, or one split of a data set.

    Pictures are scaled to cover the space's height and width, cropped at the centre, made grey or coloured, and
    their 256 levels brought to the space's. With `real`, data of real numbers in the space's shape, such as noisy
    ones, will do as well. Raises `ValueError` naming the file or data that do not fit.
    """
    path = Path(source).expanduser()
    files = _pictures(path)
    if files:
        if not isinstance(space, Integers) or len(space.shape) != 3 or space.shape[0] not in (1, 3):
            raise ValueError(f"inputs are pictures; the model's data are {space}")
        channels, height, width = space.shape
        mode = "grey" if channels == 1 else "rgb"
        pairs = ((str(file), file.read_bytes()) for file in files)
        x, _ = stack(pairs, len(files), mode=mode, size=(height, width), max_pixels=DataConfig().max_pixels)
        if space.levels != 256:
            x = (x.double() * ((space.levels - 1) / 255)).round().long()
        return space.check(x, "inputs"), [file.name for file in files]
    data = load(DataConfig(source=str(source)))
    if data.space != space and not (real and data.space == Reals(space.shape)):
        raise ValueError(f"inputs {data.name} live in {data.space}; the model's data in {space}")
    rows = getattr(data, split)
    return rows.x, [f"{data.name} {split} {i}" for i in range(len(rows))]


def _pictures(path: Path) -> list[Path]:
    """The picture at a path, or those anywhere under it in order of their paths; none if it is something else."""
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return [path]
    if not path.is_dir():
        return []
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
