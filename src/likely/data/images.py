"""Image files to bytes: decoded by Pillow, with a cap on pixels before decoding, and every refusal names the file.

What happens to what a file may hold:

| file | what happens |
|---|---|
| PNG, JPEG, WebP, BMP | read; any other format is refused |
| 1-bit, 8-bit grey, 8-bit RGB | kept (1-bit becomes 0 and 255) |
| palette | converted to RGB |
| alpha channel | composited on white (dropped, where opaque everywhere) |
| EXIF orientation | applied, then dropped with all other metadata |
| 16 bits a channel, CMYK, float | refused: reducing them is a choice to make with an image tool |
| several frames | refused |
| more than `max_pixels`, truncated, corrupt, empty | refused |

Every conversion is counted in the record.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from likely.data.dataset import Found
from likely.space import Integers

if TYPE_CHECKING:
    from PIL import Image

Progress = Callable[[int, int], None]
Mode = Literal["grey", "rgb"]
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
OTHER_IMAGES = (".gif", ".tif", ".tiff", ".svg", ".heic", ".heif", ".avif", ".jxl", ".ico", ".psd", ".eps", ".tga")
PARTS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}


def decode(raw: bytes, name: str, max_pixels: int) -> tuple[Image.Image, list[str]]:
    """An 8-bit grey ("L") or "RGB" image, and the conversions that it took. Raises `ValueError` naming `name`."""
    from PIL import Image, ImageOps

    if not raw:
        raise ValueError(f"{name} is empty (0 bytes)")
    done = []
    try:
        with Image.open(io.BytesIO(raw), formats=("PNG", "JPEG", "WEBP", "BMP")) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise _Refused(f"has {width} x {height} pixels; accepts {max_pixels:,} (max_pixels) or fewer")
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise _Refused(f"has {frames} frames; accepts still images")
            # Pillow cuts 16-bit colour to 8 bits without a word, so read the depth from the PNG header itself.
            if image.format == "PNG" and len(raw) > 24 and raw[24] == 16:
                raise _Refused("has 16 bits a channel; accepts 8: convert it first")
            if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
                raise _Refused(f"has colour mode {image.mode}; accepts grey, RGB or palette with 8 bits a channel")
            image.load()
            if image.getexif().get(0x0112, 1) != 1:
                image = ImageOps.exif_transpose(image)
                done.append("turned as its EXIF orientation says")
            if image.mode == "P":
                image = image.convert("RGBA" if "transparency" in image.info else "RGB")
                done.append("palette to RGB")
            if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
                image = _without_alpha(image.convert("RGBA"), "L" if image.mode in ("L", "LA") else "RGB", done)
            if image.mode == "1":
                done.append("1 bit to 0 and 255")
                image = image.convert("L")
            return image, done
    except _Refused as error:
        raise ValueError(f"{name} {error}") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on hostile bytes
        why = str(error).split(" <_io.")[0]  # Pillow names the buffer by its address
        raise ValueError(f"{name} cannot be read as PNG, JPEG, WebP or BMP: {why}") from error


def to_array(image: Image.Image, mode: Mode | None, size: tuple[int, int] | None, done: list[str]) -> np.ndarray:
    """(H, W, C) bytes; `mode` and `size` convert and resize, what they did is added to `done`."""
    from PIL import Image, ImageOps

    wanted = {"grey": "L", "rgb": "RGB", None: image.mode}[mode]
    if image.mode != wanted:
        done.append(f"{'RGB to grey' if wanted == 'L' else 'grey to RGB'} (mode={mode})")
        image = image.convert(wanted)
    if size is not None and image.size != size[::-1]:
        image = ImageOps.fit(image, size[::-1], method=Image.Resampling.BICUBIC)
        done.append(f"resized to {size[0]} x {size[1]}, cropped at the centre")
    array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array


def stack(
    images: Iterable[tuple[str, bytes]],
    total: int,
    *,
    mode: Mode | None = None,
    size: tuple[int, int] | None = None,
    max_pixels: int = 4_000_000,
    progress: Progress | None = None,
) -> tuple[torch.Tensor, dict[str, int]]:
    """Decode (name, bytes) pairs to one tensor (total, C, H, W) uint8, with a count of each kind of conversion."""
    out, first, counts = np.empty((0,), np.uint8), "", Counter[str]()

    def one(pair: tuple[str, bytes]) -> tuple[str, np.ndarray, list[str]]:
        image, done = decode(pair[1], pair[0], max_pixels)
        return pair[0], to_array(image, mode, size, done), done

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about metadata, and about sizes that max_pixels judges
        for i, (name, array, done) in enumerate(parallel(one, images)):
            if not first:
                first, out = name, np.empty((total, *array.shape), np.uint8)
            if array.shape != out.shape[1:]:
                raise ValueError(_mismatch(name, array.shape, first, out.shape[1:]))
            out[i] = array
            counts.update(done)
            if progress is not None and (i % 100 == 99 or i + 1 == total):
                progress(i + 1, total)
    return torch.from_numpy(np.ascontiguousarray(out.transpose(0, 3, 1, 2))), dict(counts)


def parallel(work: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
    """work(item) for each item, in order, on as many threads as torch has; few are under way at any time."""
    threads = torch.get_num_threads()
    items = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        waiting = []
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 4 * threads:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def read_folder(
    root: Path,
    *,
    mode: Mode | None = None,
    size: tuple[int, int] | None = None,
    max_pixels: int = 4_000_000,
    progress: Progress | None = None,
) -> Found:
    """Images under a folder, in order of their paths: `root/[train|valid|test]/[class/]**/image.png`.

    Sub-folders train, valid (or val, validation) and test are the splits; sub-folders below are the classes. Hidden
    files are passed over, files that are no images are listed in the record as skipped.
    """
    top = sorted(p for p in root.iterdir() if not p.name.startswith("."))
    parts = (
        {PARTS[p.name]: p for p in top if p.is_dir() and p.name in PARTS}
        if any(p.is_dir() and p.name == "train" for p in top)
        else {"train": root}
    )
    if parts != {"train": root} and len(parts) != len(top):
        stray = [p.name for p in top if p not in parts.values() and (p.is_dir() or p.suffix.lower() in SUFFIXES)]
        if stray:
            raise ValueError(f"{root} holds {stray[0]!r} beside its splits {', '.join(sorted(parts))}")
    skipped: list[str] = []
    files = {part: _files(root, folder, skipped) for part, folder in parts.items()}
    for part, found in files.items():
        if not found:
            raise ValueError(f"{parts[part]} holds no images; accepts {', '.join(SUFFIXES)}")
    labels = {part: [_class_of(path, parts[part]) for path in found] for part, found in files.items()}
    classes = _classes(root, labels)

    paths = [path for part in parts for path in files[part]]
    manifest = hashlib.sha256()

    def raw() -> Iterable[tuple[str, bytes]]:
        for path in paths:
            data = path.read_bytes()
            manifest.update(f"{path.relative_to(root).as_posix()} {hashlib.sha256(data).hexdigest()}\n".encode())
            yield str(path), data

    x, conversions = stack(raw(), len(paths), mode=mode, size=size, max_pixels=max_pixels, progress=progress)
    cut = dict(zip(parts, x.split([len(files[part]) for part in parts]), strict=True))
    facts = {
        "kind": "folder of images",
        "files": {"count": len(paths), "sha256_of_list": manifest.hexdigest()},
        "conversions": conversions,
        "skipped": skipped[:20],
    }
    y = None
    if classes is not None:
        y = {part: np.array([classes.index(str(label)) for label in labels[part]]) for part in parts}
    return Found(cut, y, Integers(tuple(x.shape[1:]), 256), classes, facts)


def _files(root: Path, folder: Path, skipped: list[str]) -> list[Path]:
    found = []
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in (name for name in names if not name.startswith(".")):
            path, suffix = Path(here, name), Path(name).suffix.lower()
            if suffix in OTHER_IMAGES:
                raise ValueError(f"{path} is not of an accepted format: {', '.join(SUFFIXES)}")
            if suffix in SUFFIXES:
                found.append(path)
            else:
                skipped.append(path.relative_to(root).as_posix())
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _class_of(path: Path, folder: Path) -> str | None:
    inside = path.relative_to(folder).parts
    return inside[0] if len(inside) > 1 else None


def _classes(root: Path, labels: dict[str, list[str | None]]) -> tuple[str, ...] | None:
    """Names of the classes; None where images lie without class folders."""
    names = {part: set(found) for part, found in labels.items()}
    every = set().union(*names.values())
    if every == {None}:
        return None
    if None in every:
        raise ValueError(f"{root} holds images both inside and outside class folders; accepts one or the other")
    for part, found in names.items():
        if found - names["train"]:
            raise ValueError(
                f"{root}: class {min(map(str, found - names['train']))!r} of {part} has no folder in train"
            )
    return tuple(sorted(map(str, every)))


def _without_alpha(image: Image.Image, mode: str, done: list[str]) -> Image.Image:
    from PIL import Image

    if image.getchannel("A").getextrema()[0] == 255:
        done.append("opaque alpha channel dropped")
        return image.convert(mode)
    done.append("transparency composited on white")
    return Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image).convert(mode)


def _mismatch(name: str, shape: tuple[int, ...], first: str, wanted: tuple[int, ...]) -> str:
    if shape[2] != wanted[2]:
        kinds = {1: "grey", 3: "RGB"}
        return f'{name} is {kinds[shape[2]]}, {first} is {kinds[wanted[2]]}; choose mode="grey" or mode="rgb"'
    sizes = f"{name} is {shape[0]} x {shape[1]} (height x width), {first} is {wanted[0]} x {wanted[1]}"
    return f"{sizes}; resize with size=(height, width)"


class _Refused(Exception):
    """An image that could be decoded but is not accepted."""
