"""What everyday lossless codecs need for the same data: the figures that bits per dimension stand beside."""

from __future__ import annotations

import io
import lzma
import math
import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from likely.extras import need
from likely.space import Integers


class Everyday(NamedTuple):
    """A lossless codec: a picture, uint8 (H, W) or (H, W, 3), to a file and back (grey ones may come as (H, W, 3))."""

    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[bytes], np.ndarray]


def everyday() -> dict[str, Everyday | None]:
    """PNG, WebP and JPEG XL at their smallest, as far as they are installed (JPEG XL is in the extra `jxl`)."""
    try:
        need("pillow_jxl", "jxl")  # which registers the format
        jxl = _by_pillow(format="JXL", lossless=True, effort=9)
    except ImportError:
        jxl = None
    return {
        "PNG": _by_pillow(format="PNG", optimize=True),
        "WebP": _by_pillow("RGB", format="WEBP", lossless=True, quality=100, method=6),
        "JPEG XL": jxl,
    }


def codec_bits(x: Tensor, space: Integers) -> dict[str, float | None]:
    """Bits per dimension of PNG, WebP, JPEG XL and xz, each on one file that holds all the images; None: not installed.

    x is (n, C, H, W) with at most 256 levels and 1 or 3 channels. One mosaic for pictures, the bytes one after the
    other for xz: a file an image would charge each small picture for a header. Every file is decoded and compared.
    """
    if not supports(space):
        raise ValueError(f"space is {space}; codecs accept images (1 or 3, H, W) of at most 256 levels")
    pixels = x.to("cpu").numpy().astype(np.uint8)
    picture = mosaic(pixels)
    sizes: dict[str, int | None] = {}
    for name, codec in everyday().items():
        sizes[name] = None if codec is None else len(kept(codec, picture, name))
    sizes["xz"] = len(lzma.compress(pixels.tobytes(), preset=9 | lzma.PRESET_EXTREME))
    return {name: None if size is None else 8 * size / (len(x) * space.dims) for name, size in sizes.items()}


def kept(codec: Everyday, picture: np.ndarray, name: str) -> bytes:
    """The file of a picture; raises `ValueError` where another picture comes back."""
    file = codec.encode(picture)
    found = codec.decode(file)
    if not np.array_equal(found, picture if found.ndim == picture.ndim else picture[..., None].repeat(3, 2)):
        raise ValueError(f"{name} did not give back a picture of {picture.shape}")
    return file


def mosaic(pixels: np.ndarray) -> np.ndarray:
    """Images (n, C, H, W) as one, nearly square: (H', W') or (H', W', 3), filled up with zeros."""
    n, channels, height, width = pixels.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    padded = np.zeros((rows * columns, channels, height, width), np.uint8)
    padded[:n] = pixels
    tiled = padded.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    tiled = tiled.reshape(rows * height, columns * width, channels)
    return np.ascontiguousarray(tiled[..., 0] if channels == 1 else tiled)


def supports(space: object) -> bool:
    """Whether values of a space are images that these codecs can hold."""
    return isinstance(space, Integers) and len(space.shape) == 3 and space.shape[0] in (1, 3) and space.levels <= 256


def code_lengths(x: Tensor, space: Integers, progress: Callable[[int], None] | None = None) -> Tensor:
    """Bits that the best everyday codec needs for each row by itself; (n,) float64.

    Images (1 or 3 channels, or none, at most 256 levels): the shorter of PNG and lossless WebP, which every Pillow
    writes, so that the figure does not depend on what is installed. Other integers: the shorter of zlib and raw LZMA2
    over their bytes. What a format spends on the shortest picture or text of the same shape, a row of zeros, is its
    header and is taken off; never less than 0.
    """
    if not isinstance(space, Integers):
        raise ValueError(f"space is {space}; codecs accept Integers, numbers that a file holds without loss")
    image = space.levels <= 256 and (len(space.shape) == 2 or (len(space.shape) == 3 and space.shape[0] in (1, 3)))
    kind = np.uint8 if space.levels <= 256 else np.int32
    rows = x.to("cpu").numpy().astype(kind)
    rows = np.concatenate([np.zeros((1, *space.shape), kind), rows])
    if image:
        rows = _pixels(rows)
    codes = _image_codes if image else _byte_codes
    done = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the codecs are C, and leave Python's lock alone while they work
        for each in pool.map(codes, rows, chunksize=64):
            done.append(each)
            if progress is not None and len(done) > 1:
                progress(len(done) - 1)
    sizes = torch.tensor(done, dtype=torch.float64)
    return 8 * (sizes[1:] - sizes[0]).clamp(min=0).min(1).values


def _pixels(rows: np.ndarray) -> np.ndarray:
    """(n, C, H, W) or (n, H, W) as Pillow wants them: (n, H, W) or (n, H, W, 3)."""
    if rows.ndim == 3:
        return rows
    return rows[:, 0] if rows.shape[1] == 1 else np.ascontiguousarray(rows.transpose(0, 2, 3, 1))


def _image_codes(pixels: np.ndarray) -> list[int]:
    image = Image.fromarray(pixels)
    return [
        len(_saved(image, format="PNG", optimize=True)),
        len(_saved(image.convert("RGB"), format="WEBP", lossless=True, quality=100, method=4)),
    ]


def _byte_codes(row: np.ndarray) -> list[int]:
    text = np.ascontiguousarray(row).tobytes()
    raw = [{"id": lzma.FILTER_LZMA2, "preset": 6}]
    return [len(zlib.compress(text, 9)), len(lzma.compress(text, lzma.FORMAT_RAW, filters=raw))]


def _by_pillow(mode: str | None = None, **options: object) -> Everyday:
    """A format of Pillow; `mode` is the only one that it knows, where it knows only one."""

    def encode(picture: np.ndarray) -> bytes:
        image = Image.fromarray(picture)
        return _saved(image if mode is None else image.convert(mode), **options)

    def decode(file: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(file)))

    return Everyday(encode, decode)


def _saved(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()
