"""Tiles: pictures cut into pieces that a model of any size codes by themselves, and chunks of them as bytes.

A picture (H, W, C) is cut into strips of `side` rows, a strip into tiles of `side` columns; the last strip and the
last tile may be smaller. What is smaller is filled up, by repeating its border, to multiples of `multiple`: the model
sees few shapes, and a tile's tables depend on its own pixels alone. A chunk is a run of whole strips, one stack for all
their tiles:

    model   u32 CRC-32 of the tiles' pixels, then the stack
    raw     the tiles' pixels, (C, h, w) each
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from likely.coding.ans import Stack
from likely.coding.container import Chunk, Kind
from likely.coding.errors import CorruptChunk
from likely.coding.growing import Growing
from likely.coding.header import Tiling
from likely.coding.programs import abreast, intervals, popped
from likely.coding.schemes import bits_of
from likely.space import Integers

Pixels = NDArray[np.uint8]
Shape = tuple[int, int, int]
"""(C, H, W) of a picture or a tile."""

MOST_MODELS = 256
"""Shapes of which a model is kept."""


class Tiles:
    """Runs of tiles to chunks and back. `group` full tiles, or as many smaller ones as fill their area, meet in the
    model at once."""

    def __init__(self, model: Any, tiling: Tiling, group: int) -> None:
        self.model, self.tiling, self.group = model, tiling, group
        self._models: dict[Shape, Any] = {}

    def strips(self, height: int) -> int:
        """How many strips a picture has."""
        return -(-height // self.tiling.side)

    def extents(self, shape: Shape) -> list[Shape]:
        """The tiles (C, h, w) of a strip (C, h, W)."""
        channels, height, width = shape
        return [(channels, height, min(self.tiling.side, width - x)) for x in range(0, width, self.tiling.side)]

    def cut(self, strip: Pixels) -> list[Pixels]:
        """The tiles of a strip (h, W, C)."""
        across = range(0, strip.shape[1], self.tiling.side)
        return [np.ascontiguousarray(strip[:, x : x + self.tiling.side].transpose(2, 0, 1)) for x in across]

    def filled(self, extent: Shape) -> Shape:
        """The shape in which the model sees a tile."""
        step = self.tiling.multiple
        return extent[0], -(-extent[1] // step) * step, -(-extent[2] // step) * step

    def at(self, shape: Shape) -> Any:
        """The model of one shape. Raises `ValueError` where it has none."""
        if shape not in self._models:
            if len(self._models) >= MOST_MODELS:
                self._models.clear()
            found: Any = self.model.at(Integers(shape, 256))
            self._models[shape] = found.eval() if isinstance(found, torch.nn.Module) else found
        return self._models[shape]

    def chunk(self, tiles: list[Pixels], verify: bool) -> Chunk:
        """The chunk of some tiles, raw where it would not be smaller, or would not come back (with `verify`)."""
        raw = b"".join(tile.tobytes() for tile in tiles)
        data = struct.pack("<I", zlib.crc32(raw)) + self.encode(tiles).to_bytes()
        if len(data) < len(raw) and (not verify or self._comes_back(data, tiles, raw)):
            return Chunk(Kind.MODEL, len(tiles), data)
        return Chunk(Kind.RAW, len(tiles), raw)

    def tiles(
        self, number: int, kind: Kind, data: bytes, extents: Sequence[Shape], verify: bool = False
    ) -> list[Pixels]:
        """The tiles of chunk `number`; to `verify`, in batches of other sizes. Raises `CorruptChunk`."""
        if kind is Kind.RAW:
            ends = np.cumsum([0, *map(math.prod, extents)])
            if len(data) != ends[-1]:
                raise CorruptChunk(number, f"{len(data)} bytes cannot hold {len(extents)} tiles of {ends[-1]} numbers")
            flat = np.frombuffer(data, np.uint8)
            return [flat[a:b].reshape(e) for a, b, e in zip(ends[:-1], ends[1:], extents, strict=True)]
        try:
            stack = Growing.from_bytes(data[4:], sum(math.prod(self.filled(extent)) for extent in extents))
            tiles = self.decode(stack, extents, verify)
        except ValueError as error:  # bytes that are no stack, a stack that ends too early
            raise CorruptChunk(number, str(error)) from error
        if not stack.is_empty():
            raise CorruptChunk(number, "the coder does not end where it began")
        crc = 0
        for tile in tiles:
            crc = zlib.crc32(tile.data, crc)
        if data[:4] != struct.pack("<I", crc):
            raise CorruptChunk(number, "its pixels are not those that went in")
        return tiles

    def encode(self, tiles: list[Pixels]) -> Growing:
        """A stack with all tiles, batch after batch: the first is pushed last."""
        batches = self._batches([tile.shape for tile in tiles])
        total, stack = sum(math.prod(shape) * len(of) for shape, of in batches), None
        for shape, of in reversed(batches):
            x = torch.from_numpy(np.stack([_fill(tiles[i], shape) for i in of]))
            model = self.at(shape)
            found = intervals(model.factors(len(of)), model.factor_values(x), len(of))
            if stack is None:
                stack = Growing.of(bits_of(found) * total / x.numel())
            for interval in reversed(found):
                stack.push(*interval)
        return stack or Growing()

    def decode(self, stack: Stack | Growing, extents: Sequence[Shape], verify: bool = False) -> list[Pixels]:
        """Tiles off a stack; to `verify`, the model sees the halves of each batch, or a single tile twice."""
        tiles: list[Pixels] = [np.empty(0, np.uint8)] * len(extents)
        for shape, of in self._batches(extents):
            halves = [len(of) - len(of) // 2, len(of) // 2]
            if verify and len(of) > 1:
                size, program = len(of), abreast([self.at(shape).factors(half) for half in halves], halves)
            else:
                size = 2 if verify else len(of)
                program = self.at(shape).factors(size)
            x = popped(program, stack, len(of), size).numpy().astype(np.uint8)
            for i, tile in zip(of, x, strict=True):
                tiles[i] = np.ascontiguousarray(tile[:, : extents[i][1], : extents[i][2]])
        return tiles

    def _batches(self, extents: Sequence[Shape]) -> list[tuple[Shape, list[int]]]:
        """Which tiles meet in the model, in the order of decoding: those of one shape, the smallest first."""
        members: dict[Shape, list[int]] = {}
        for i, extent in enumerate(extents):
            members.setdefault(self.filled(extent), []).append(i)
        batches = []
        for shape, of in sorted(members.items(), key=lambda item: (math.prod(item[0]), item[0])):
            most = max(1, self.group * self.tiling.side**2 // (shape[1] * shape[2]))
            batches += [(shape, of[low : low + most]) for low in range(0, len(of), most)]
        return batches

    def _comes_back(self, data: bytes, tiles: list[Pixels], raw: bytes) -> bool:
        """Whether a chunk decodes to its pixels when the model sees batches of another size."""
        try:
            found = self.tiles(0, Kind.MODEL, data, [tile.shape for tile in tiles], verify=True)
        except CorruptChunk:
            return False
        return b"".join(tile.tobytes() for tile in found) == raw


def _fill(tile: Pixels, shape: Shape) -> Pixels:
    """A tile with its last row and column repeated until it has this shape."""
    below, right = shape[1] - tile.shape[1], shape[2] - tile.shape[2]
    return np.pad(tile, ((0, 0), (0, below), (0, right)), "edge") if below or right else tile
