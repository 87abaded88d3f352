"""Make it smaller: pictures or rows of data to one .lkz file, and back to exactly what they were."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from likely.coding import Codec, ModelMismatch, Rows, container, lossy
from likely.coding.choice import coded
from likely.coding.classes import Classes
from likely.coding.codec import write_npz
from likely.coding.container import Archive, Kind, Source
from likely.coding.field import file as field_file
from likely.coding.files import replace, together
from likely.coding.header import EXPERIMENTAL, PicturesHeader, canonical, dtype_of, header_of, model_hash
from likely.coding.opened import describe as describe_pictures
from likely.config.data import DataConfig
from likely.data import Data, load
from likely.space import Integers
from likely.tasks.names import Names, targets
from likely.tasks.originals import called, looked_through, pixels_of
from likely.train import load_model
from likely.train.checkpoint import DEFAULT
from likely.verbs import takes_y


@dataclass(frozen=True)
class Inputs:
    """Rows to compress; `names` are those of pictures, `refused` says of other files why they are not among them, and
    `renamed` of which pictures the name in the file is not their own."""

    x: Tensor
    y: Tensor | None
    names: list[str] | None
    label: str
    refused: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)


def gather(
    source: str | Path | Data,
    model: Any,
    *,
    split: str = "test",
    limit: int | None = None,
    classes: tuple[str, ...] = (),
) -> Inputs:
    """Rows of the model's space from a picture, a folder of pictures, or one split of data (loaded, or to be loaded).

    Pictures are taken as they are: one of another size, or with colours for a grey model, is refused, never resized or
    converted; the others are taken all the same. A conditional model takes a picture's class from its folder's name. A
    joint does without labels where there are none, or where no picture is in the folder of a class.
    Raises `ValueError` where nothing fits.
    """
    if isinstance(source, Data):
        data = source
    else:
        path = Path(source).expanduser()
        files, others = looked_through(path)
        if files:
            return _from_pictures(path, files[:limit], others if limit is None else {}, model, classes)
        data = load(DataConfig(source=str(source)))
    if data.space != model.space:
        raise ValueError(f"inputs {data.name} live in {data.space}; the model's data in {model.space}")
    rows = getattr(data, split)
    x, y = model.space.take(rows.x, slice(0, limit)), None
    if takes_y(model):
        if rows.y is None and not isinstance(model, Classes):
            raise ValueError(f"inputs {data.name} have no labels; this model needs them to code p(x given y)")
        y = None if rows.y is None else rows.y[:limit]
    return Inputs(x, y, None, f"{data.name}, {split}")


def _from_pictures(
    path: Path, files: list[Path], refused: dict[str, str], model: Any, classes: tuple[str, ...]
) -> Inputs:
    space = model.space
    if not isinstance(space, Integers) or len(space.shape) != 3 or space.shape[0] not in (1, 3) or space.levels != 256:
        raise ValueError(f"inputs are pictures of 256 levels; the model's data are {space}")
    arrays, labels, names, own = [], [], Names(), []
    labelled = not isinstance(model, Classes) or any(file.parent.name in classes for file in files)
    for file in files:
        try:
            array = _pixels(file, space)
            if takes_y(model) and labelled:
                labels.append(_class_of(file, classes))
            arrays.append(array)
            own.append(names(called(file, path)))
        except (ValueError, OSError) as error:
            refused[str(file)] = str(error)
    if not arrays:
        first = next(iter(refused.values()))
        raise ValueError(f"none of {len(refused)} pictures can be compressed with this model; the first: {first}")
    x = space.check(np.stack(arrays), "inputs")
    y = model.condition.check(labels, "labels") if labels else None
    return Inputs(x, y, own, str(path), refused, names.changed)


def _pixels(file: Path, space: Integers) -> np.ndarray:
    """A picture (C, H, W) of a space. Raises `ValueError` naming it where it is no value of it."""
    array = pixels_of(file).transpose(2, 0, 1)
    if array.shape != space.shape:
        found, wanted = (" x ".join(map(str, shape)) for shape in (array.shape, space.shape))
        raise ValueError(f"{file} is {found} (channels x height x width); this model codes {wanted}")
    return array


def _class_of(file: Path, classes: tuple[str, ...]) -> int:
    if file.parent.name not in classes:
        known = ", ".join(classes) or "none"
        raise ValueError(f"{file} is in a folder {file.parent.name!r}, which is no class of the model: {known}")
    return classes.index(file.parent.name)


def compress(
    codec: Codec, inputs: Inputs, target: Path, progress: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Write a file, which is decoded again while it is made; what it came to, as JSON values."""
    names = {"names": inputs.names} if inputs.names is not None else {}
    blob = codec.compress(inputs.x, inputs.y, notes=names, progress=progress)
    target.parent.mkdir(parents=True, exist_ok=True)
    replace(target, blob)
    told = {"out": str(target), "inputs": inputs.label, "refused": inputs.refused, "renamed": inputs.renamed}
    return describe(blob) | told


def decompress(
    codec: Codec, blob: bytes, out: Path, progress: Callable[[int], None] | None = None
) -> tuple[Rows, list[Path]]:
    """Write what is in a file into the folder `out`: pictures under their names, else one x.npz; the paths written.

    Nothing is written unless all was decoded and compared. Raises what `likely.coding.errors` holds.
    """
    rows = codec.read(blob, progress=progress)
    names = rows.notes.get("names")
    if names is None:
        out.mkdir(parents=True, exist_ok=True)
        return rows, [write_npz(out / "x.npz", rows, codec.space)]
    paths = targets(names, len(rows.x), out)
    with together(out, paths) as new:
        for x, target in zip(rows.x, new, strict=True):
            replace(target, png(canonical(x, codec.space)))
    return rows, paths


def png(pixels: np.ndarray) -> bytes:
    """A picture (C, H, W) as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def describe(file: bytes | Path) -> dict[str, Any]:
    """What is inside a file (its bytes, or where it is), for which no model is needed: every checksum is looked at.

    Raises `NotACodecFile`, `UnsupportedVersion`, `CorruptHeader` or `CorruptChunk`.
    """
    if isinstance(file, Path):
        with file.open("rb") as data:
            return _described(container.read(Source(data)))
    return _described(container.read(file))


def _described(archive: Archive) -> dict[str, Any]:
    if field_file.is_field(archive):
        return field_file.describe(archive)
    if lossy.is_lossy(archive):
        return lossy.describe(archive)
    header = header_of(archive)
    if isinstance(header, PicturesHeader):
        return describe_pictures(archive, header)
    archive.check()
    numbers, size = header.content.rows * header.space.dims, archive.overhead + sum(e.size for e in archive.entries)
    kinds = [entry.kind for entry in archive.entries]
    record: dict[str, Any] = {
        "bytes": size,
        "raw_bytes": numbers * np.dtype(dtype_of(header.space)).itemsize,
        "rows": header.content.rows,
        "bits_per_dim": 8 * size / numbers,
        "chunks": {kind.name.lower(): kinds.count(kind) for kind in Kind if kind in kinds},
        "container_bytes": archive.overhead,
        "checksums": "all right",
    }
    if header.coding.scheme in EXPERIMENTAL:
        record["experimental"] = True
    if header.content.nll_bits is not None:
        record["model_bits_per_dim"] = header.content.nll_bits / numbers
    return record | {"header": header.to_json(), "notes": _short(archive)}


def _short(archive: Archive) -> dict[str, Any]:
    """The notes, long lists cut to their beginning."""
    return {key: value[:8] if isinstance(value, list) else value for key, value in archive.notes().items()}


def model_for(file: Path, run: Path | None, places: Path = Path("runs")) -> tuple[str, Any]:
    """Where the model of a file is, and the model: `run`, the default one, or the one under `places` with its hash.

    Raises `ModelMismatch` where none of them has it.
    """
    with file.open("rb") as data:
        archive = container.read(Source(data))
        need = lossy.opened(archive)[0] if lossy.is_lossy(archive) else header_of(archive)
    if run is not None:
        return str(run), load_model(run)
    if DEFAULT.exists() and model_hash(model := load_model(DEFAULT)) == need.model.sha256:
        return "the package", model
    seen = 0
    for path in sorted((p for p in places.glob("*") if p.is_dir()), key=lambda p: p.stat().st_mtime, reverse=True):
        try:
            model = load_model(path)
        except (ValueError, OSError):
            continue
        seen += 1
        if model_hash(coded(model)) == need.model.sha256:
            return str(path), model
    what = f"none of the {seen} models in {places}/ is it" if seen else f"there are no models in {places}/"
    hint = f", a model of family {need.model.family} over {need.space}; {what}: say where it is with --run"
    raise ModelMismatch(need.model.sha256, None, hint)
