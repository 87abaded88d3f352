"""What everyday lossless codecs need for the same images: the figures that bits per dimension stand beside."""

from __future__ import annotations

import io
import lzma
import math

import numpy as np
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


def _saved(image: Image.Image, **options: object) -> int:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.tell()
