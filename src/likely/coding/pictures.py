"""Pictures of any sizes, grey and RGB, in one file: written as they come, read back in bands, or only where asked.

    codec = Pictures(model)                         # a model with `at`
    with open("a.lkz", "wb") as file:
        codec.write((Picture.of(a), Picture.of(b)), file)
    with open("a.lkz", "rb") as file:
        opened = codec.open(file)
        opened.crop(1, 0, 0, 100, 100)              # decodes the chunks that it touches, no other

Neither way holds more than a chunk: a strip of tiles, or as many strips of small pictures as make one worth while.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from torch import nn

from likely.coding import container
from likely.coding.ans import Stack
from likely.coding.choice import tiled
from likely.coding.container import PICTURES, Archive, Kind, Source, Writer
from likely.coding.errors import CorruptHeader, DecodeMismatch, UnsupportedVersion
from likely.coding.guard import check_model, check_numerics, frozen
from likely.coding.header import (
    GROWING,
    Coding,
    Numerics,
    PicturesHeader,
    Table,
    Tiling,
    Written,
    header_of,
    model_hash,
    numerics_of,
    parsed,
)
from likely.coding.tiles import Pixels, Shape, Tiles
from likely.logprob import scoring
from likely.verbs import name_of

SIDE, GROUP = 128, 8
PROBE = 8
CHUNK = 1 << 18
"""Numbers from which on a chunk is closed."""
MOST_AT_ONCE = 1 << 28
"""Numbers in a chunk, at most."""
MOST_TILES = 1 << 22
"""Tiles in a file, at most."""


class Picture(NamedTuple):
    """A picture to be written: (C, H, W), and its rows from the top on in bands (h, W, C) of any heights, uint8."""

    name: str | None
    shape: Shape
    bands: Iterable[Pixels]

    @classmethod
    def of(cls, pixels: Any, name: str | None = None) -> Picture:
        """An array (H, W), (H, W, 1) or (H, W, 3), which may be a memory map."""
        pixels = pixels if isinstance(pixels, np.ndarray) else np.asarray(pixels)
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        if pixels.ndim != 3:
            raise ValueError(f"picture {name or ''} has shape {pixels.shape}; accepts (H, W), (H, W, 1), (H, W, 3)")
        height, width, channels = pixels.shape
        return cls(name, (channels, height, width), (pixels[y : y + 64] for y in range(0, height, 64)))


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


class Pictures:
    """Lossless compression of pictures. Raises `TypeError` where the model has no `at`, or is conditioned.

    The model is copied, and used on the CPU. `side` is the height and width of a tile; `group` full tiles meet in the
    model at once; a chunk is closed at the end of a strip, once it has `chunk` numbers.
    """

    def __init__(self, model: nn.Module, *, side: int = SIDE, group: int = GROUP, chunk: int = CHUNK) -> None:
        tiled(model)
        self.hash, self.model, self.chunk = model_hash(model), frozen(model), chunk
        # the last bits of floats may depend on the shape of what a network sees: then all tiles have one
        multiple = 1 if numerics_of(model) == "int" else side
        self.tiling, self.coding = (
            Tiling(side=side, multiple=multiple),
            Coding(scheme="sequential", coder=GROWING, group=group),
        )
        self._fingerprints: dict[tuple[Tiling, int], str] = {}

    def write(
        self,
        pictures: Iterable[Picture],
        file: BinaryIO,
        *,
        verify: bool = True,
        notes: Mapping[str, Any] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Write a file front to back. With `verify` every chunk is decoded again, in batches of another size.

        All pictures have names, or none. `progress` is called with the tiles done. Raises `TypeError` or `ValueError`
        naming the picture; what has been written by then is no file.
        """
        tiles = self._tiles(self.tiling, self.coding.group)
        writer = Writer(file, self._header().to_json(), PICTURES)
        shapes: list[Shape] = []
        names: list[str] = []
        digest, pending, size, done = hashlib.sha256(), list[Pixels](), 0, 0
        with scoring(self.model):
            for picture in pictures:
                what = f"picture {picture.name or len(shapes)}"
                _check(picture.shape, what, tiles)
                shapes.append(picture.shape)
                names += [] if picture.name is None else [picture.name]
                if len(names) not in (0, len(shapes)):
                    raise ValueError(f"{what} has {'no' if picture.name is None else 'a'} name, unlike those before")
                digest.update(struct.pack("<III", *picture.shape))
                for strip in _strips(picture, self.tiling.side, what):
                    digest.update(strip.data)
                    size += strip.size
                    pending += tiles.cut(strip)
                    if size >= self.chunk:
                        writer.add(tiles.chunk(pending, verify))
                        done, pending, size = done + len(pending), [], 0
                        if progress is not None:
                            progress(done)
            if not shapes:
                raise ValueError("pictures are none; accepts one or more")
            if pending:
                writer.add(tiles.chunk(pending, verify))
        if done + len(pending) > MOST_TILES:
            raise ValueError(f"pictures have {done + len(pending):,} tiles; accepts {MOST_TILES:,}: make several files")
        if progress is not None:
            progress(done + len(pending))
        table = Table(names=names or None, shapes=_runs(shapes), sha256=digest.hexdigest()[:32])
        writer.add(container.notes(table.model_dump(mode="json", exclude_none=True), Kind.TABLE))
        if notes:
            writer.add(container.notes(notes))
        writer.close()

    def open(self, file: BinaryIO | bytes) -> Opened:
        """A file to read from. Raises what `likely.coding.errors` holds."""
        archive = container.read(file if isinstance(file, bytes) else Source(file))
        header = header_of(archive)
        if not isinstance(header, PicturesHeader):
            raise UnsupportedVersion("it holds rows of one shape; decode it with likely.coding.Codec")
        check_model(header, self.model, self.hash)
        if header.tiling.side % header.tiling.multiple or header.tiling.side**2 * header.coding.group > MOST_AT_ONCE:
            raise CorruptHeader(f"it has tiles of {header.tiling} in groups of {header.coding.group}")
        check_numerics(header, self._fingerprint(header.tiling, header.coding.group))
        return Opened(archive, self._tiles(header.tiling, header.coding.group))

    def compress(self, pictures: Iterable[Any], **options: Any) -> bytes:
        """The bytes of a file with arrays (H, W) or (H, W, C), without names."""
        out = io.BytesIO()
        self.write((Picture.of(pixels) for pixels in pictures), out, **options)
        return out.getvalue()

    def decompress(self, blob: bytes) -> list[Pixels]:
        """The pictures in a file, (H, W) or (H, W, C) uint8."""
        return self.open(blob).pictures()

    def _tiles(self, tiling: Tiling, group: int) -> Tiles:
        return Tiles(self.model, tiling, group)

    def _header(self) -> PicturesHeader:
        found = self._fingerprint(self.tiling, self.coding.group)
        return PicturesHeader(
            coding=self.coding,
            model=Written(family=name_of(self.model), sha256=self.hash),
            numerics=Numerics(profile=numerics_of(self.model), fingerprint=found),
            space=self.model.space,
            tiling=self.tiling,
        )

    def _fingerprint(self, tiling: Tiling, group: int) -> str:
        """What this machine decodes from pseudorandom bits: small tiles, or such as there are, grey and colour."""
        if (tiling, group) not in self._fingerprints:
            digest, tiles, side = hashlib.sha256(), self._tiles(tiling, group), max(tiling.multiple, PROBE)
            with scoring(self.model):
                for channels in (1, 3):
                    if _has(tiles, channels):
                        stack = Stack(4, "likely/probe")
                        for tile in tiles.decode(stack, [(channels, side, side)] * 2):
                            digest.update(tile.data)
                        digest.update(stack.to_bytes())
            self._fingerprints[tiling, group] = digest.hexdigest()[:16]
        return self._fingerprints[tiling, group]


class Opened:
    """An open file: `shapes` (C, H, W) and `names` of its pictures. Chunks are read when they are asked for."""

    def __init__(self, archive: Archive, tiles: Tiles) -> None:
        self._archive, self._tiles = archive, tiles
        self.shapes, self.names, self._sha256 = listed(archive, tiles)
        self._plan = dict(_plan(archive, tiles, self.shapes))

    def __len__(self) -> int:
        return len(self.shapes)

    def bands(self, progress: Callable[[int], None] | None = None) -> Iterator[Band]:
        """All pictures from the first band to the last, which are right only if this ends without an error.

        `progress` is called with the tiles done. Raises `CorruptChunk`, at the end `DecodeMismatch`.
        """
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
        if digest.hexdigest()[:32] != self._sha256:
            raise DecodeMismatch("what was decoded is not what was put in: the content's hash differs")

    def pictures(self, progress: Callable[[int], None] | None = None) -> list[Pixels]:
        """All pictures, (H, W) or (H, W, C), in memory together."""
        whole = [np.empty((height, width, channels), np.uint8) for channels, height, width in self.shapes]
        for k, top, pixels in self.bands(progress):
            whole[k][top : top + len(pixels)] = pixels
        return [_plain(pixels) for pixels in whole]

    def picture(self, k: int) -> Pixels:
        """Picture k alone, (H, W) or (H, W, C)."""
        return self.crop(k, 0, 0, *self._shape(k)[1:])

    def crop(self, k: int, top: int, left: int, height: int, width: int) -> Pixels:
        """A part of picture k, (height, width) or (height, width, C): only the chunks that it touches are decoded."""
        channels, whole, across = self._shape(k)
        if not (0 <= top < top + height <= whole and 0 <= left < left + width <= across):
            asked = f"rows {top} .. {top + height - 1}, columns {left} .. {left + width - 1}"
            raise ValueError(f"crop has {asked}; picture {k} has {whole} x {across} (height x width)")
        out = np.empty((height, width, channels), np.uint8)
        for number, strips in self._plan.items():
            if any(s.picture == k and s.top < top + height and top < s.top + s.shape[1] for s in strips):
                for band in self._bands(number):
                    low, high = max(band.top, top), min(band.top + len(band.pixels), top + height)
                    if band.picture == k and low < high:
                        part = band.pixels[low - band.top : high - band.top, left : left + width]
                        out[low - top : high - top] = part
        return _plain(out)

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


def listed(archive: Archive, tiles: Tiles) -> tuple[list[Shape], list[str] | None, str]:
    """The pictures of a file, and the content's hash. Raises `CorruptHeader` where they cannot be."""
    table = parsed(Table, archive.notes(Kind.TABLE))
    total = sum(n * tiles.strips(height) * -(-width // tiles.tiling.side) for _, height, width, n in table.shapes)
    if total > MOST_TILES:
        raise CorruptHeader(f"its pictures have {total:,} tiles; accepts {MOST_TILES:,}")
    for channels, _, width, _ in table.shapes:
        if channels * width * tiles.tiling.side > MOST_AT_ONCE or not _has(tiles, channels):
            raise CorruptHeader(f"it has a picture of {channels} channels and {width} columns")
    shapes = [(channels, height, width) for channels, height, width, n in table.shapes for _ in range(n)]
    if table.names is not None and len(table.names) != len(shapes):
        raise CorruptHeader(f"it names {len(table.names)} of {len(shapes)} pictures")
    return shapes, table.names, table.sha256


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


def _check(shape: Shape, what: str, tiles: Tiles) -> None:
    channels, height, width = shape
    if channels not in (1, 3) or height < 1 or width < 1:
        raise ValueError(f"{what} is {channels} x {height} x {width}; accepts 1 or 3 channels, and a pixel or more")
    if not _has(tiles, channels):
        raise ValueError(f"{what} has {channels} channels; this model has none such: {tiles.model.space}")
    if channels * width * tiles.tiling.side > MOST_AT_ONCE:
        raise ValueError(f"{what} is {width} pixels wide; accepts {MOST_AT_ONCE // (channels * tiles.tiling.side)}")


def _has(tiles: Tiles, channels: int) -> bool:
    """Whether the model has pictures of so many channels."""
    try:
        tiles.at((channels, tiles.tiling.multiple, tiles.tiling.multiple))
    except ValueError:
        return False
    return True


def _strips(picture: Picture, side: int, what: str) -> Iterator[Pixels]:
    """The bands of a picture, whatever their heights, as strips of `side` rows."""
    channels, height, width = picture.shape
    strip, have, seen = np.empty((min(side, height), width, channels), np.uint8), 0, 0
    for band in picture.bands:
        if band.dtype != np.uint8:
            raise TypeError(f"{what} holds {band.dtype}; accepts uint8, raw pixels 0 .. 255")
        if band.shape[1:] != (width, channels) or seen + len(band) > height:
            raise ValueError(f"{what} of {height} x {width} x {channels} got a band {band.shape} below row {seen}")
        seen, low = seen + len(band), 0
        while low < len(band):
            step = min(len(strip) - have, len(band) - low)
            strip[have : have + step] = band[low : low + step]
            have, low = have + step, low + step
            if have == len(strip):
                yield strip
                strip, have = np.empty((min(side, height - seen + len(band) - low), width, channels), np.uint8), 0
    if seen < height:
        raise ValueError(f"{what} ends after {seen} of {height} rows")


def _runs(shapes: Sequence[Shape]) -> list[tuple[int, int, int, int]]:
    """Shapes, and how often each follows itself."""
    runs: list[tuple[int, int, int, int]] = []
    for shape in shapes:
        if runs and runs[-1][:3] == shape:
            runs[-1] = (*shape, runs[-1][3] + 1)
        else:
            runs.append((*shape, 1))
    return runs


def _plain(pixels: Pixels) -> Pixels:
    return pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
