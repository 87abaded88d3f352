"""Much smaller, and not the same: pictures to one .lkz file of a `Lossy` model, and what they decode to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from likely.coding import container
from likely.coding.files import replace, together
from likely.coding.lossy import Decoded, LossyCodec, describe
from likely.config.data import DataConfig
from likely.data import Data
from likely.data.images import to_array
from likely.tasks.compress import png
from likely.tasks.names import Names, targets
from likely.tasks.originals import EXACT, called, pictures_in, read_picture

GREY = "grey to RGB (mode=rgb)"


@dataclass(frozen=True)
class Album:
    """Pictures (C, H, W), uint8, of any sizes; `refused` says of other files why they are not among them, and `renamed`
    of which pictures the name in the file is not their own."""

    pictures: list[Tensor]
    names: list[str] | None
    label: str
    refused: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)


def gather(source: str | Path | Data, codec: LossyCodec, *, split: str = "test", limit: int | None = None) -> Album:
    """Pictures from a file or a folder, or the rows of one split of data. Raises `ValueError` where nothing fits.

    A grey picture becomes a colour one for a model of colours; a colour one is refused by a model of grey.
    """
    if isinstance(source, Data):
        if source.space != codec.space:
            raise ValueError(f"inputs {source.name} live in {source.space}; the model's data in {codec.space}")
        return Album(list(getattr(source, split).x[:limit]), None, f"{source.name}, {split}")
    path = Path(source).expanduser()
    files, refused = pictures_in(path, limit)
    if codec.space.levels != 256 or codec.space.shape[0] not in (1, 3):
        raise ValueError(f"inputs are pictures of 256 levels, grey or RGB; the model's data are {codec.space}")
    pictures, names, own = [], Names(), []
    for file in files:
        try:
            pictures.append(codec.check(_read(file, codec), str(file))[0])
            own.append(names(called(file, path)))
        except (ValueError, OSError) as error:
            refused[str(file)] = str(error)
    if not pictures:
        first = next(iter(refused.values()))
        raise ValueError(f"none of {len(refused)} pictures can be compressed with this model; the first: {first}")
    return Album(pictures, own, str(path), refused, names.changed)


def _read(file: Path, codec: LossyCodec) -> Tensor:
    """A picture (C, H, W). Raises `ValueError` naming it where reading it would change more than the codec does."""
    image, done = read_picture(file, max(codec.limit, DataConfig().max_pixels))
    mode = "rgb" if codec.space.shape[0] == 3 else None
    array = to_array(image, mode, None, done)
    changed = [what for what in done if what not in (*EXACT, GREY)]
    if changed:
        raise ValueError(f"{file} would be changed before it is coded: {', '.join(changed)}")
    return torch.from_numpy(array.transpose(2, 0, 1).copy())


def compress(
    codec: LossyCodec,
    album: Album,
    target: Path,
    rate: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Write a file, whose latents are decoded again while it is made; what it came to, as JSON values."""
    blob = codec.compress(album.pictures, rate=rate, names=album.names, progress=progress)
    target.parent.mkdir(parents=True, exist_ok=True)
    replace(target, blob)
    record = describe(container.read(blob))
    told = {"out": str(target), "inputs": album.label, "refused": album.refused, "renamed": album.renamed}
    return record | told


def decompress(
    codec: LossyCodec, blob: bytes, out: Path, progress: Callable[[int], None] | None = None
) -> tuple[Decoded, list[Path]]:
    """Write the pictures of a file into the folder `out`, under their names or numbers; the paths written.

    Nothing is written unless all was decoded and the latents compared. Raises what `likely.coding.errors` holds.
    """
    found = codec.read(blob, progress=progress)
    count = len(found.pictures)
    names = found.contents.names or [f"{number + 1:0{len(str(count))}}.png" for number in range(count)]
    paths = targets(names, count, out)
    scale = 255 // (codec.space.levels - 1) if codec.space.levels < 256 else 1
    with together(out, paths) as new:
        for picture, target in zip(found.pictures, new, strict=True):
            replace(target, png((picture * scale).numpy()))
    return found, paths
