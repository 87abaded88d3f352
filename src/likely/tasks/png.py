"""PNG files written from the top on, a band of rows at a time, so that a picture is nowhere whole.

"Portable Network Graphics (PNG) Specification (Third Edition)" (W3C, 2025). Each row is filtered as sets its bytes
nearest to zero: by its left neighbour, by the one above, or by Paeth's predictor, all known when encoding.
"""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

import numpy as np

from likely.coding.tiles import Pixels, Shape

_SUB, _UP, _PAETH = 1, 2, 4


class Png:
    """A grey or RGB picture of 8 bits, as it is written to a file."""

    def __init__(self, file: BinaryIO, shape: Shape) -> None:
        channels, height, width = shape
        self._file, self._packer = file, zlib.compressobj(6)
        self._above = np.zeros((1, width, channels), np.int16)
        file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0))

    def add(self, band: Pixels) -> None:
        """The next rows (h, W, C)."""
        here = band.astype(np.int16)
        above = np.concatenate([self._above, here[:-1]])
        self._above = here[-1:]
        left, corner = (np.pad(each[:, :-1], ((0, 0), (1, 0), (0, 0))) for each in (here, above))
        guess = left + above - corner
        a, b, c = abs(guess - left), abs(guess - above), abs(guess - corner)
        paeth = np.where((a <= b) & (a <= c), left, np.where(b <= c, above, corner))
        each = np.stack([here - left, here - above, here - paeth]).astype(np.uint8)
        best = abs(each.view(np.int8).astype(np.int16)).sum((2, 3), dtype=np.int64).argmin(0)
        lines = np.empty((len(band), 1 + band[0].size), np.uint8)
        lines[:, 0] = np.array([_SUB, _UP, _PAETH])[best]
        lines[:, 1:] = each[best, np.arange(len(band))].reshape(len(band), -1)
        self._chunk(b"IDAT", self._packer.compress(lines.data))

    def close(self) -> None:
        """The end of it; the file stays open."""
        self._chunk(b"IDAT", self._packer.flush())
        self._chunk(b"IEND", b"")

    def _chunk(self, name: bytes, data: bytes) -> None:
        if data or name == b"IEND":
            crc = zlib.crc32(name + data)
            self._file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc))
