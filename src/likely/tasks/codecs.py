"""What everyday lossless codecs need for the same data: the figures that bits per dimension stand beside."""

from __future__ import annotations

import io
import lzma
import math
import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from likely.space import Integers


def codec_bits(x: Tensor, space: Integers) -> dict[str, float]:
    """Bits per dimension of PNG, WebP (lossless) and xz, each on one file that holds all the images.

    x is (n, C, H, W) with at most 256 levels and 1 or 3 channels. One mosaic for PNG and WebP, the bytes one after
    the other for xz: a file an image would charge each small picture for a header.
    """
    if not supports(space):
        raise ValueError(f"space is {space}; codecs accept images (1 or 3, H, W) of at most 256 levels")
    n, (channels, height, width) = len(x), space.shape
    pixels = x.to("cpu").numpy().astype(np.uint8)
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    padded = np.zeros((rows * columns, channels, height, width), np.uint8)
    padded[:n] = pixels
    mosaic = padded.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    image = Image.fromarray(np.ascontiguousarray(mosaic.reshape(rows * height, columns * width, channels).squeeze()))
    sizes = {
        "PNG": _saved(image, format="PNG", optimize=True),
        "WebP": _saved(image.convert("RGB"), format="WEBP", lossless=True, quality=100, method=6),
        "xz": len(lzma.compress(pixels.tobytes(), preset=9 | lzma.PRESET_EXTREME)),
    }
    return {name: 8 * size / (n * space.dims) for name, size in sizes.items()}


def supports(space: object) -> bool:
    """Whether values of a space are images that these codecs can hold."""
    return isinstance(space, Integers) and len(space.shape) == 3 and space.shape[0] in (1, 3) and space.levels <= 256


def code_lengths(x: Tensor, space: Integers, progress: Callable[[int], None] | None = None) -> Tensor:
    """Bits that the best everyday codec needs for each row by itself; (n,) float64.

    Images (1 or 3 channels, or none, at most 256 levels): the shortest of PNG, lossless WebP and, where this Pillow
    writes it, JPEG XL. Other integers: the shorter of zlib and raw LZMA2 over their bytes. What a format spends on the
    shortest picture or text of the same shape, a row of zeros, is its header and is taken off; never less than 0.
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
    sizes = [
        _saved(image, format="PNG", optimize=True),
        _saved(image.convert("RGB"), format="WEBP", lossless=True, quality=100, method=4),
    ]
    if ".jxl" in Image.registered_extensions():
        sizes.append(_saved(image, format="JXL", lossless=True))
    return sizes


def _byte_codes(row: np.ndarray) -> list[int]:
    text = np.ascontiguousarray(row).tobytes()
    raw = [{"id": lzma.FILTER_LZMA2, "preset": 6}]
    return [len(zlib.compress(text, 9)), len(lzma.compress(text, lzma.FORMAT_RAW, filters=raw))]


def _saved(image: Image.Image, **options: object) -> int:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.tell()
