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
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from torch import nn

from likely.coding import container
from likely.coding.ans import Stack
from likely.coding.choice import tiled
from likely.coding.container import PICTURES, Kind, Source, Writer
from likely.coding.errors import CorruptHeader, UnsupportedVersion
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
)
from likely.coding.opened import MOST_AREA, MOST_AT_ONCE, MOST_TILES, Opened, has
from likely.coding.tiles import Pixels, Shape, Tiles
from likely.logprob import scoring
from likely.verbs import name_of

SIDE, GROUP = 256, 2
PROBE = 8
CHUNK = 1 << 18
"""Numbers from which on a chunk is closed."""


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


class Pictures:
    """Lossless compression of pictures. Raises `TypeError` where the model has no `at`, or is conditioned.

    The model is copied, and used on the CPU. `side` is the height and width of a tile; `group` full tiles meet in the
    model at once; a chunk is closed at the end of a strip, once it has `chunk` numbers.
    """

    def __init__(self, model: nn.Module, *, side: int = SIDE, group: int = GROUP, chunk: int = CHUNK) -> None:
        tiled(model)
        for name, value in (("side", side), ("group", group), ("chunk", chunk)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; accepts 1 or more")
        if side**2 * group > MOST_AREA:
            raise ValueError(f"side is {side} and group {group}; accepts side^2 group up to {MOST_AREA:,} pixels")
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
                self.check(picture.shape, what)
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
        if header.tiling.side % header.tiling.multiple or header.tiling.side**2 * header.coding.group > MOST_AREA:
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

    @cached_property
    def channels(self) -> tuple[int, ...]:
        """Of how many channels the model has pictures: 1, 3 or both."""
        return tuple(channels for channels in (1, 3) if has(self._tiles(self.tiling, 1), channels))

    def check(self, shape: Shape, what: str = "picture") -> None:
        """Raises `ValueError`, naming it, where a picture (C, H, W) is none that can be written."""
        channels, height, width = shape
        if channels not in (1, 3) or height < 1 or width < 1:
            raise ValueError(f"{what} is {channels} x {height} x {width}; accepts 1 or 3 channels, and a pixel or more")
        if channels not in self.channels:
            raise ValueError(f"{what} has {channels} channels; this model has none such: {self.model.space}")
        if channels * width * self.tiling.side > MOST_AT_ONCE:
            raise ValueError(f"{what} is {width} pixels wide; accepts {MOST_AT_ONCE // (channels * self.tiling.side)}")

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
                    if has(tiles, channels):
                        stack = Stack(4, "likely/probe")
                        for tile in tiles.decode(stack, [(channels, side, side)] * 2):
                            digest.update(tile.data)
                        digest.update(stack.to_bytes())
            self._fingerprints[tiling, group] = digest.hexdigest()[:16]
        return self._fingerprints[tiling, group]


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
