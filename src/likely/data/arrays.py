"""Files that hold arrays: .npz (ours, a user's, and compact packs of images or bits) and idx. Nothing is unpickled."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from likely.data.dataset import Found, infer_space
from likely.data.images import Progress, parallel, stack
from likely.space import Integers

IDX_KINDS = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def file_facts(path: Path) -> dict[str, Any]:
    """Name, bytes and SHA-256 of a file, for the record."""
    with path.open("rb") as file:
        return {
            "name": path.name,
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def open_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file; `ValueError` naming it when it is no such file or holds objects."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it is a single .npy array")
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        if isinstance(error, (FileNotFoundError, PermissionError)):
            raise
        raise ValueError(f"{path} cannot be read as .npz: {error}") from error


def read_npz(path: Path, *, levels: int | None = None) -> Found:
    """x [, y], or x_train [, y_train] with x_valid, x_test beside them; `classes` may name the labels.

    Bytes of shape (n, H, W) become images (n, 1, H, W); (n, H, W, C) with one or three channels become (n, C, H, W).
    """
    arrays = open_npz(path)
    xs, ys, known = {}, {}, {"classes"}
    for part, ends in (("train", ("", "_train")), ("valid", ("_valid", "_val")), ("test", ("_test",))):
        for end in ends:
            for into, letters in ((xs, "xX"), (ys, "yY")):
                for name in (letter + end for letter in letters if letter + end in arrays):
                    if part in into:
                        raise ValueError(f"{path} holds two arrays for {name[0].lower()} of {part}")
                    into[part] = arrays[name]
                    known.add(name)
    strange = sorted(set(arrays) - known)
    if "train" not in xs or strange:
        raise ValueError(
            f"{path} holds the arrays {', '.join(sorted(arrays)) or '(none)'}; accepts x and y, or x_train, y_train, "
            "x_valid, y_valid, x_test, y_test, and classes"
        )
    facts: dict[str, Any] = {"kind": "npz", "files": [file_facts(path)]}
    for part, x in xs.items():
        if x.dtype.kind not in "buif":
            raise ValueError(f"{path}: x of {part} holds {x.dtype}; accepts integers, floats or bool")
        if x.dtype == np.uint8 and x.ndim == 3:
            xs[part], facts["layout"] = x[:, None], "(n, H, W) to (n, 1, H, W)"
        elif x.dtype == np.uint8 and x.ndim == 4 and x.shape[3] in (1, 3) and x.shape[1] not in (1, 3):
            xs[part] = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
            facts["layout"] = "(n, H, W, C) to (n, C, H, W)"
    classes = tuple(str(c) for c in arrays["classes"]) if "classes" in arrays else None
    space = None
    if levels is not None:
        space = infer_space([torch.from_numpy(np.asarray(xs["train"][:0]))], levels, f"{path}: x")
    return Found(xs, ys or None, space, classes, facts)


# --- idx, the format of MNIST's own files -------------------------------------------------------------------------


def is_idx(path: Path) -> bool:
    """Whether a file's name is that of an idx file, such as train-images-idx3-ubyte.gz."""
    return "idx" in path.name and path.name.removesuffix(".gz").endswith(("byte", "idx"))


def idx_array(path: Path) -> np.ndarray:
    """The array of one idx file, gzipped or not."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in IDX_KINDS or not 1 <= head[3] <= 4:
                raise ValueError(f"it starts with {head.hex(' ') or 'nothing'}, which is no idx header")
            shape = tuple(int(n) for n in np.frombuffer(file.read(4 * head[3]), ">u4"))
            dtype = np.dtype(IDX_KINDS[head[2]])
            size = math.prod(shape) * dtype.itemsize
            body = file.read(size + 1)  # never more than the header promises: a small .gz can hold gigabytes
            if len(shape) != head[3] or len(body) != size:
                raise ValueError(
                    f"its header says {shape}, {size} bytes; it holds {'more' if len(body) > size else len(body)}"
                )
    except (ValueError, OSError, EOFError, zlib.error) as error:
        if isinstance(error, (FileNotFoundError, PermissionError)):
            raise
        raise ValueError(f"{path} cannot be read as idx: {error}") from error
    return np.frombuffer(body, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def read_idx(path: Path) -> Found:
    """Images of an idx file with the labels beside it, and the test files (t10k-...) when this is the train file."""
    files = {"train": path}
    if path.name.startswith("train-"):
        for other in (
            path.with_name("t10k-" + path.name.removeprefix("train-")),
            path.with_name(path.name.replace("train-", "test-")),
        ):
            if other.exists():
                files["test"] = other
    xs, ys, used = {}, {}, []
    for part, images in files.items():
        x = idx_array(images)
        xs[part] = x[:, None] if x.ndim == 3 and x.dtype == np.uint8 else x
        used.append(images)
        labels = images.with_name(images.name.replace("images", "labels").replace("idx3", "idx1"))
        if labels != images and labels.exists():
            ys[part] = idx_array(labels)
            used.append(labels)
    return Found(xs, ys or None, facts={"kind": "idx", "files": [file_facts(p) for p in used]})


# --- packs: many small images or bits in one .npz -----------------------------------------------------------------


def tiles(path: Path, progress: Progress | None = None) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """Images (n, C, H, W) uint8 from mosaics in a losslessly compressed picture each, and the other arrays.

    Arrays of the file: `blob` and `offs` (the pictures one after the other), `grid` = (rows, columns) of a mosaic,
    `shape` = (n, H, W, C).
    """
    arrays = open_npz(path)
    _has(path, arrays, "blob", "offs", "grid", "shape")
    (rows, columns), (n, h, w, c) = _integers(path, arrays["grid"], 2), _integers(path, arrays["shape"], 4)
    blob, offs = arrays["blob"].tobytes(), _offsets(path, arrays)
    if (
        min(rows, columns, n, h, w) < 1
        or c not in (1, 3)
        or not 0 <= (len(offs) - 1) * rows * columns - n < rows * columns
    ):
        raise ValueError(
            f"{path}: {len(offs) - 1} mosaics of {rows} x {columns} do not make {n} images of {h} x {w} x {c}"
        )
    out = np.empty((len(offs) - 1, rows * columns, c, h, w), np.uint8)

    def one(i: int) -> None:
        from PIL import Image

        try:
            with Image.open(io.BytesIO(blob[offs[i] : offs[i + 1]]), formats=("WEBP", "PNG")) as image:
                if image.size != (columns * w, rows * h):
                    raise ValueError(f"it is {image.size}, not {(columns * w, rows * h)}")
                mosaic = np.asarray(image.convert("RGB"))[..., :c]
        except (OSError, ValueError, SyntaxError) as error:
            raise ValueError(f"{path}: picture {i} cannot be read: {error}") from error
        out[i] = mosaic.reshape(rows, h, columns, w, c).transpose(0, 2, 4, 1, 3).reshape(-1, c, h, w)

    for i, _ in enumerate(parallel(one, range(len(offs) - 1))):
        if progress is not None:
            progress(min(n, (i + 1) * rows * columns), n)
    rest = {name: array for name, array in arrays.items() if name not in ("blob", "offs", "grid", "shape")}
    return torch.from_numpy(out.reshape(-1, c, h, w)[:n]), rest


def jpegs(path: Path, progress: Progress | None = None) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """Images (n, 3, H, W) uint8 from JPEG files one after the other (`jpeg`, `offs`), and the other arrays."""
    arrays = open_npz(path)
    _has(path, arrays, "jpeg", "offs")
    blob, offs = arrays["jpeg"].tobytes(), _offsets(path, arrays, "jpeg")
    pairs = ((f"{path}: image {i}", blob[offs[i] : offs[i + 1]]) for i in range(len(offs) - 1))
    x, _ = stack(pairs, len(offs) - 1, mode="rgb", progress=progress)
    return x, {name: array for name, array in arrays.items() if name not in ("jpeg", "offs")}


def bit_images(path: Path) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """Binary images (n, 1, H, W) uint8 from packed bits (`bits` (n, H, bytes), `shape` = (n, H, W)), and the rest."""
    arrays = open_npz(path)
    _has(path, arrays, "bits", "shape")
    n, h, w = _integers(path, arrays["shape"], 3)
    if arrays["bits"].dtype != np.uint8 or arrays["bits"].shape != (n, h, -(-w // 8)):
        raise ValueError(f"{path}: bits have shape {arrays['bits'].shape}, not that of {n} images of {h} x {w}")
    x = np.unpackbits(arrays["bits"], axis=2)[:, None, :, :w]
    return torch.from_numpy(np.ascontiguousarray(x)), {k: v for k, v in arrays.items() if k not in ("bits", "shape")}


def bit_rows(path: Path) -> Found:
    """Binary vectors from packed bits: `num_vars`, and `train`, `valid`, `test` of shape (n, bytes)."""
    arrays = open_npz(path)
    _has(path, arrays, "num_vars", "train", "valid", "test")
    d = int(arrays["num_vars"])
    xs = {}
    for part in ("train", "valid", "test"):
        packed = arrays[part]
        if packed.dtype != np.uint8 or packed.ndim != 2 or packed.shape[1] != -(-d // 8):
            raise ValueError(f"{path}: {part} has shape {packed.shape} of {packed.dtype}, not bits of {d} variables")
        xs[part] = torch.from_numpy(np.ascontiguousarray(np.unpackbits(packed, axis=1)[:, :d]))
    return Found(xs, space=Integers((d,), 2))


def _has(path: Path, arrays: dict[str, np.ndarray], *names: str) -> None:
    lacking = [name for name in names if name not in arrays]
    if lacking:
        raise ValueError(f"{path} lacks the array {lacking[0]!r}; it holds {', '.join(sorted(arrays)) or 'none'}")


def _integers(path: Path, array: np.ndarray, n: int) -> tuple[int, ...]:
    if array.shape != (n,) or array.dtype.kind not in "ui":
        raise ValueError(f"{path}: expected {n} integers, got {array.dtype} of shape {array.shape}")
    return tuple(int(v) for v in array)


def _offsets(path: Path, arrays: dict[str, np.ndarray], blob: str = "blob") -> list[int]:
    offs, end = arrays["offs"], arrays[blob].size
    if offs.ndim != 1 or len(offs) < 2 or offs.dtype.kind not in "ui" or (np.diff(offs.astype(np.int64)) < 0).any():
        raise ValueError(f"{path}: offs must be rising integers")
    if int(offs[0]) != 0 or int(offs[-1]) != end:
        raise ValueError(f"{path}: offs end at {int(offs[-1])}, {blob} has {end} bytes")
    return [int(v) for v in offs]
