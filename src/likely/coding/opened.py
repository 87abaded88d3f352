"""A file of pictures that is open for reading: what is in it, all of it in bands, or a part alone."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from likely.coding.container import Archive, Kind
from likely.coding.errors import CorruptHeader, DecodeMismatch
from likely.coding.header import PicturesHeader, Table, parsed
from likely.coding.tiles import Pixels, Shape, Tiles
from likely.logprob import scoring

MOST_AT_ONCE = 1 << 28
"""Numbers in a chunk, at most."""
MOST_TILES = 1 << 22
"""Tiles in a file, at most."""
MOST_AREA = 1 << 22
"""Pixels that meet in the model at once, at most: tiles of 2048 x 2048, or groups of smaller ones."""


class Band(NamedTuple):
    """Rows of a picture from `top` on, (h, W, C)."""

    picture: int
    top: int
    pixels: Pixels


class Strip(NamedTuple):
    """Where a strip lies: the picture, its first row, and (C, h, W)."""

    picture: int
    top: int
    shape: Shape


class Opened:
    """An open file: `shapes` (C, H, W) and `names` of its pictures, `sha256` of them all. Chunks are read as needed."""

    def __init__(self, archive: Archive, tiles: Tiles) -> None:
        self._archive, self._tiles = archive, tiles
        table = parsed(Table, archive.notes(Kind.TABLE))
        self.shapes, self.names, self.sha256 = _shapes(table, tiles.tiling.side), table.names, table.sha256
        for channels in {channels for channels, _, _ in self.shapes}:
            if not has(tiles, channels):
                raise CorruptHeader(f"it has a picture of {channels} channels, its model none")
        self._plan = dict(_plan(archive, tiles, self.shapes))

    def __len__(self) -> int:
        return len(self.shapes)

    @property
    def tiles(self) -> int:
        """How many tiles all pictures have."""
        return sum(self._archive.entries[number].rows for number in self._plan)

    def bands(self, progress: Callable[[int], None] | None = None) -> Iterator[Band]:
        """All pictures from the first band to the last, which are right only if this ends without an error.

        `progress` is called with the tiles done. All checksums are looked at before anything is decoded. Raises
        `CorruptChunk`, at the end `DecodeMismatch`.
        """
        self._archive.check()
        digest, done = hashlib.sha256(), 0
        for number in self._plan:
            for band in self._bands(number):
                if not band.top:
                    digest.update(struct.pack("<III", *self.shapes[band.picture]))
                digest.update(band.pixels.data)
                yield band
            done += self._archive.entries[number].rows
            if progress is not None:
                progress(done)
        if digest.hexdigest()[:32] != self.sha256:
            raise DecodeMismatch("what was decoded is not what was put in: the content's hash differs")

    def pictures(self, progress: Callable[[int], None] | None = None) -> list[Pixels]:
        """All pictures, (H, W) or (H, W, C), in memory together."""
        whole, bands = list[Pixels](), list[Pixels]()  # no room is made for what has not been decoded
        for k, top, pixels in self.bands(progress):
            bands.append(pixels)
            if top + len(pixels) == self.shapes[k][1]:
                whole.append(_plain(np.concatenate(bands)))
                bands.clear()
        return whole

    def picture(self, k: int) -> Pixels:
        """Picture k alone, (H, W) or (H, W, C)."""
        return self.crop(k, 0, 0, *self._shape(k)[1:])

    def crop(self, k: int, top: int, left: int, height: int, width: int) -> Pixels:
        """A part of picture k, (height, width) or (height, width, C): only the chunks that it touches are decoded."""
        _, whole, across = self._shape(k)
        if not (0 <= top < top + height <= whole and 0 <= left < left + width <= across):
            asked = f"rows {top} .. {top + height - 1}, columns {left} .. {left + width - 1}"
            raise ValueError(f"crop has {asked}; picture {k} has {whole} x {across} (height x width)")
        parts = []
        for number, strips in self._plan.items():
            if any(s.picture == k and s.top < top + height and top < s.top + s.shape[1] for s in strips):
                for band in self._bands(number):
                    low, high = max(band.top, top), min(band.top + len(band.pixels), top + height)
                    if band.picture == k and low < high:
                        part = band.pixels[low - band.top : high - band.top, left : left + width]
                        parts.append(np.ascontiguousarray(part))  # a copy, where the band is wider
        return _plain(np.concatenate(parts))

    def _shape(self, k: int) -> Shape:
        if not 0 <= k < len(self.shapes):
            raise ValueError(f"picture is {k}; accepts 0 .. {len(self.shapes) - 1}")
        return self.shapes[k]

    def _bands(self, number: int) -> Iterator[Band]:
        """The strips of one chunk, all of it checked."""
        strips, entry = self._plan[number], self._archive.entries[number]
        each = [self._tiles.extents(strip.shape) for strip in strips]
        data = self._archive.chunk(number)
        with scoring(self._tiles.model):
            tiles = iter(self._tiles.tiles(number, entry.kind, data, [extent for row in each for extent in row]))
        for strip, row in zip(strips, each, strict=True):
            joined = np.concatenate([next(tiles) for _ in row], 2).transpose(1, 2, 0)
            yield Band(strip.picture, strip.top, np.ascontiguousarray(joined))


def describe(archive: Archive, header: PicturesHeader) -> dict[str, Any]:
    """What is inside, for which no model is needed: every chunk's checksum is looked at. JSON values."""
    table = parsed(Table, archive.notes(Kind.TABLE))
    shapes = _shapes(table, header.tiling.side)
    archive.check()
    numbers, kinds = sum(map(math.prod, shapes)), [entry.kind for entry in archive.entries]
    size = archive.overhead + sum(entry.size for entry in archive.entries)
    return {
        "bytes": size,
        "raw_bytes": numbers,
        "pictures": len(shapes),
        "grey": sum(channels == 1 for channels, _, _ in shapes),
        "smallest": min(shapes, key=math.prod),
        "largest": max(shapes, key=math.prod),
        "tiles": sum(entry.rows for entry in archive.entries),
        "bits_per_dim": 8 * size / numbers,
        "chunks": {kind.name.lower(): kinds.count(kind) for kind in Kind if kind in kinds},
        "container_bytes": archive.overhead + archive.entries[kinds.index(Kind.TABLE)].size,
        "checksums": "all right",
        "header": header.to_json(),
        "names": (table.names or [])[:8],
        "sha256": table.sha256,
        "notes": archive.notes(),
    }


def _shapes(table: Table, side: int) -> list[Shape]:
    """The sizes of all pictures. Raises `CorruptHeader` where they cannot be."""
    total = sum(n * -(-height // side) * -(-width // side) for _, height, width, n in table.shapes)
    if total > MOST_TILES:
        raise CorruptHeader(f"its pictures have {total:,} tiles; accepts {MOST_TILES:,}")
    for channels, _, width, _ in table.shapes:
        if channels * width * side > MOST_AT_ONCE or channels not in (1, 3):
            raise CorruptHeader(f"it has a picture of {channels} channels and {width} columns")
    shapes = [shape for channels, height, width, n in table.shapes for shape in [(channels, height, width)] * n]
    if table.names is not None and len(table.names) != len(shapes):
        raise CorruptHeader(f"it names {len(table.names)} of {len(shapes)} pictures")
    return shapes


def _plan(archive: Archive, tiles: Tiles, shapes: Sequence[Shape]) -> Iterator[tuple[int, list[Strip]]]:
    """The strips of each chunk with pixels. Raises `CorruptHeader` where chunks and pictures do not fit together."""
    side = tiles.tiling.side
    every = (
        Strip(k, top, (channels, min(side, height - top), width))
        for k, (channels, height, width) in enumerate(shapes)
        for top in range(0, height, side)
    )
    for number, entry in enumerate(archive.entries):
        if entry.kind in (Kind.MODEL, Kind.RAW):
            strips, have, size = list[Strip](), 0, 0
            while have < entry.rows and size <= MOST_AT_ONCE and (strip := next(every, None)) is not None:
                strips.append(strip)
                have += -(-strip.shape[2] // side)
                size += math.prod(strip.shape)
            if have != entry.rows or not have or size > MOST_AT_ONCE:
                raise CorruptHeader(f"its chunk {number} has {entry.rows} tiles, which its pictures do not have there")
            yield number, strips
    if next(every, None) is not None:
        raise CorruptHeader("its pictures have more tiles than its chunks")


def has(tiles: Tiles, channels: int) -> bool:
    """Whether the model has pictures of so many channels."""
    try:
        tiles.at((channels, tiles.tiling.multiple, tiles.tiling.multiple))
    except ValueError:
        return False
    return True


def _plain(pixels: Pixels) -> Pixels:
    return pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
