"""A neural field as an .lkz file that needs no model: the weights are in it.

Its only chunk with pixels is

    2 bytes         widths of the two networks
    2 a group       exponent of the group's unit and number of its Laplace table
    stack           one lane: the weights on top, then the latents in the order of `grids`

Integers decide all of it, latents and pixels, so every machine decodes the same; the header's hash is over both.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from likely.coding import container
from likely.coding.ans import Stack
from likely.coding.container import Archive, Chunk, Kind
from likely.coding.errors import (
    CodecError,
    CorruptChunk,
    CorruptHeader,
    DecodeMismatch,
    NumericsMismatch,
    UnsupportedVersion,
)
from likely.coding.fidelity import SMALLEST, ms_ssim, psnr
from likely.coding.field.fit import Fitted, Progress, fit
from likely.coding.field.grids import Grids, levels_of, shapes_of
from likely.coding.field.nets import (
    FINEST,
    MOST_LATENT,
    MOST_WEIGHT,
    MOST_WIDTH,
    Entropy,
    Weights,
    Widths,
    chosen,
    frozen,
    synthesise,
)
from likely.coding.header import CODER, Hash, Record, parsed
from likely.coding.tables import GRID, Chosen, Ints, Listed, Located

SCHEME = "neural-field"
LIMIT = 1 << 21
"""Pixels of a picture, unless another limit is given: some 3 GB while it is fitted."""
_WEIGHT_SCALES = 64
"""Laplace tables for weights: log-scales from -1 on in steps of 1/8."""

Picture = NDArray[np.uint8]


class Coding(Record):
    """How the picture became bits."""

    scheme: Literal["neural-field"]
    coder: str = CODER
    tables: Annotated[str, Field(pattern="^[0-9a-f]{8}$")]
    """The first half of a CRC over the frozen tables."""


class Content(Record):
    """What is inside."""

    sha256: Hash
    """The first half of the SHA-256 of latents, weights and decoded pixels."""
    psnr: float | None = None
    """dB between the picture and what the file decodes to; none where they are equal."""
    ms_ssim: float | None = None
    """The same for MS-SSIM; none for pictures with a side below 176 pixels."""


class Header(Record):
    """All of it."""

    coding: Coding
    content: Content
    shape: tuple[int, int, int]
    """Channels, height, width, of 256 levels each."""


def is_field(archive: Archive) -> bool:
    """Whether a file holds a neural field."""
    coding = archive.header.get("coding")
    return isinstance(coding, dict) and coding.get("scheme") == SCHEME


def header_of(archive: Archive) -> Header:
    """The header. Raises `CorruptHeader`, `UnsupportedVersion` or `NumericsMismatch`."""
    header = parsed(Header, archive.header)
    if header.shape[0] not in (1, 3) or min(header.shape) < 1:
        raise CorruptHeader(f"its shape is {header.shape}; accepts (1 or 3, height, width)")
    if header.coding.coder != CODER:
        raise UnsupportedVersion(f"its coder is {header.coding.coder!r}; this likely knows {CODER}")
    entries = [(entry.kind, entry.rows) for entry in archive.entries]
    if entries != [(Kind.MODEL, 1)] or archive.version != container.ROWS:
        raise CorruptHeader("it holds a neural field, and not one chunk of one picture")
    if header.coding.tables != fingerprint():
        raise NumericsMismatch(f"its tables are {header.coding.tables}; this likely makes {fingerprint()}")
    return header


@cache
def fingerprint() -> str:
    """Names the frozen tables."""
    listed, _ = frozen()
    return hashlib.sha256(listed.cumulative.astype("<i4").tobytes()).hexdigest()[:8]


# Pictures ------------------------------------------------------------------------------------------------------------


def compress(
    picture: Any,
    *,
    lam: float = 1e-3,
    steps: int = 2000,
    seed: int = 0,
    limit: int = LIMIT,
    progress: Progress | None = None,
) -> bytes:
    """An .lkz file that holds about the picture (C, H, W), uint8, of one channel or three.

    The loss is MSE + lam bits / pixels, with values in [0, 1]: 1e-2 gives a small file, 1e-4 a good one. `steps` of
    gradient: the more, the better, and about as long as they take. Ctrl-C ends them early, and the file holds what
    was reached. The file is decoded before it is given back. Raises `ValueError` or `TypeError` naming the argument.
    """
    x = check(picture, limit)
    if isinstance(lam, bool) or not isinstance(lam, int | float) or not 0 < lam < math.inf:
        raise ValueError(f"lam is {lam!r}; accepts a number above 0, such as 0.001")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps is {steps!r}; accepts 1 or more")
    fitted = fit(x, widths_for(*x.shape), float(lam), steps, seed=seed, progress=progress)
    data = pack(fitted)
    grids, weights, _ = unpack(data, x.shape)
    found = synthesise(weights, grids)
    a, b = (torch.from_numpy(p)[None] for p in (x, found))
    decibel = float(psnr(a, b))
    header = Header(
        coding=Coding(scheme=SCHEME, tables=fingerprint()),
        content=Content(
            sha256=digest(fitted, found),
            psnr=round(decibel, 3) if math.isfinite(decibel) else None,
            ms_ssim=round(float(ms_ssim(a, b)), 5) if min(x.shape[1:]) >= SMALLEST else None,
        ),
        shape=x.shape,
    )
    blob = container.write(header.model_dump(mode="json", exclude_none=True), [Chunk(Kind.MODEL, 1, data)])
    if not np.array_equal(decompress(blob, limit=limit), found):
        raise DecodeMismatch("the file does not decode to the picture that was measured; this is a mistake of likely's")
    return blob


def decompress(blob: bytes | memoryview, *, limit: int = LIMIT) -> Picture:
    """The picture (C, H, W) in a file, the same on every machine. Raises what `likely.coding.errors` holds."""
    archive = container.read(blob)
    header = header_of(archive)
    pixels = header.shape[1] * header.shape[2]
    if pixels > limit:
        raise CorruptHeader(f"it holds a picture of {pixels:,} pixels; accepts {limit:,} (limit) or fewer")
    data = archive.chunk(0)
    with _of_chunk():
        grids, weights, _ = unpack(data, header.shape)
    found = synthesise(weights, grids)
    if digest(Fitted(grids, weights, 0), found) != header.content.sha256:
        raise DecodeMismatch("what was decoded is not what was put in: the content's hash differs")
    return found


@contextmanager
def _of_chunk() -> Iterator[None]:
    """Bytes that are no stack, or a stack that ends too early, are a damaged chunk."""
    try:
        yield
    except CodecError:
        raise
    except ValueError as error:
        raise CorruptChunk(0, str(error)) from error


def check(picture: Any, limit: int = LIMIT) -> Picture:
    """A picture that can be coded. Raises `ValueError` or `TypeError`."""
    x = picture.cpu().numpy() if isinstance(picture, torch.Tensor) else np.asarray(picture)
    if x.dtype != np.uint8:
        raise TypeError(f"picture has numbers of type {x.dtype}; accepts uint8")
    if x.ndim != 3 or x.shape[0] not in (1, 3) or 0 in x.shape:
        raise ValueError(f"picture has shape {x.shape}; accepts (1 or 3 channels, height, width), none of them 0")
    if x[0].size > limit:
        raise ValueError(
            f"picture has {x[0].size:,} pixels; a neural field accepts {limit:,} or fewer: cut it, or make it smaller"
        )
    return np.ascontiguousarray(x)


def widths_for(channels: int, height: int, width: int) -> Widths:
    """Networks that are worth their bytes: both signs of every grid's latents and two more hidden values a pixel."""
    levels = levels_of(height, width)
    return Widths(channels, levels, 8 if height * width < 1 << 15 else 16, 2 * levels + 2)


def digest(fitted: Fitted, pixels: Picture) -> str:
    """The first 16 bytes of the SHA-256 of latents (int8), weights (int16) and pixels."""
    found = hashlib.sha256()
    for grid in fitted.grids:
        found.update(grid.astype("i1").tobytes())
    for value in fitted.weights.values.values():
        found.update(value.astype("<i2").tobytes())
    found.update(np.ascontiguousarray(pixels).tobytes())
    return found.hexdigest()[:32]


def describe(archive: Archive) -> dict[str, Any]:
    """What is inside, as JSON values; every checksum is looked at, and the weights are decoded."""
    header = header_of(archive)
    data = archive.chunk(0)
    with _of_chunk():
        weights, _, bits = unpack_weights(data, header.shape)
    pixels = header.shape[1] * header.shape[2]
    size = len(data) + archive.overhead
    return {
        "bytes": size,
        "raw_bytes": math.prod(header.shape),
        "rows": 1,
        "bits_per_pixel": 8 * size / pixels,
        "bits_per_dim": 8 * size / math.prod(header.shape),
        "lossy": True,
        "psnr": header.content.psnr,
        "ms_ssim": header.content.ms_ssim,
        "weights_bytes": round(bits / 8, 1),
        "latents_bytes": round(len(data) - bits / 8, 1),
        "container_bytes": archive.overhead,
        "weights": sum(value.size for value in weights.values.values()),
        "latents": sum(h * w for h, w in shapes_of(*header.shape[1:])),
        "numerics": "int",
        "checksums": "all right",
        "header": header.model_dump(mode="json", exclude_none=True),
    }


# Bits ----------------------------------------------------------------------------------------------------------------


def pack(fitted: Fitted) -> bytes:
    """The chunk."""
    weights, widths = fitted.weights, fitted.weights.widths
    order = Grids(*fitted.grids[0].shape)
    flat, entropy, stack = order.flat(fitted.grids), Entropy(weights), Stack()
    index, add = entropy(order.contexts(flat, slice(None)))
    stack.push(*chosen(index).interval(flat[order.place] - add))
    head = bytearray([widths.entropy, widths.synthesis])
    scales = {group: _scale_for(_group(weights, group)) for group in widths.parts()}
    for group in reversed(widths.parts()):
        symbols = _group(weights, group) + MOST_WEIGHT
        stack.push(*_of_weights(scales[group], len(symbols)).interval(symbols))
    for group, scale in scales.items():
        head += bytes([weights.exponents[group], scale])
    return bytes(head) + stack.to_bytes()


def unpack(data: bytes, shape: tuple[int, int, int]) -> tuple[list[Ints], Weights, int]:
    """Grids, weights and the bits of the weights. Raises `ValueError` for bytes that `pack` cannot have written."""
    weights, stack, bits = unpack_weights(data, shape)
    order, entropy = Grids(*shape[1:]), Entropy(weights)
    flat, begin = order.empty(), 0
    for end in order.ends:
        part = slice(begin, end)
        index, add = entropy(order.contexts(flat, part))
        found = stack.pop(chosen(index)) + add
        if np.abs(found).max() > MOST_LATENT:
            raise CorruptChunk(0, f"a latent is {np.abs(found).max()}; accepts {MOST_LATENT} at the most")
        flat[order.place[part]] = found
        begin = end
    if not stack.is_empty():
        raise CorruptChunk(0, "the coder does not end where it began")
    return order.grids(flat), weights, bits


def unpack_weights(data: bytes, shape: tuple[int, int, int]) -> tuple[Weights, Stack, int]:
    """The weights, the stack below them, and how many bits they took."""
    if len(data) < 2 or not 1 <= min(data[:2]) <= max(data[:2]) <= MOST_WIDTH:
        raise CorruptChunk(0, f"its networks' widths are {list(data[:2])}; accepts 1 .. {MOST_WIDTH}")
    widths = Widths(shape[0], levels_of(*shape[1:]), *data[:2])
    parts = widths.parts()
    begin = 2 + 2 * len(parts)
    exponents, scales = data[2:begin:2], data[3:begin:2]
    if len(data) < begin or max(exponents) > FINEST or max(scales) >= _WEIGHT_SCALES:
        raise CorruptChunk(0, f"its units are {list(exponents)} and its tables {list(scales)}")
    stack = Stack.from_bytes(data[begin:])
    if stack.lanes != 1:
        raise CorruptChunk(0, f"its stack has {stack.lanes} lanes; accepts 1")
    bits, values = stack.bits, {}
    for (_, shapes), scale in zip(parts.items(), scales, strict=True):
        sizes = [math.prod(s) for s in shapes.values()]
        whole = stack.pop(_of_weights(scale, sum(sizes))) - MOST_WEIGHT
        cut = np.split(whole, np.cumsum(sizes)[:-1])
        values |= {name: part.reshape(s) for (name, s), part in zip(shapes.items(), cut, strict=True)}
    weights = Weights(widths, dict(zip(parts, exponents, strict=True)), values)
    return weights, stack, bits - stack.bits + 8 * begin


def _group(weights: Weights, group: str) -> Ints:
    return np.concatenate([weights.values[name].ravel() for name in weights.widths.parts()[group]])


def _of_weights(scale: int, count: int) -> Chosen:
    return Chosen(_weight_table(scale), np.zeros(count, np.int64))


@cache
def _weight_table(scale: int) -> Listed:
    size = 2 * MOST_WEIGHT + 1
    log_scale = np.array([[-GRID + scale * GRID // 8]])
    table = Located(size, np.zeros((1, 1), np.int64), np.array([[MOST_WEIGHT * GRID]]), log_scale, "laplace")
    return Listed(table.below(np.arange(size + 1)[None]))


def _scale_for(whole: Ints) -> int:
    """The table that writes integers in the fewest bits."""
    costs = []
    for scale in range(_WEIGHT_SCALES):
        cumulative = _weight_table(scale).cumulative[0]
        costs.append(-np.log2(np.diff(cumulative)[whole + MOST_WEIGHT]).sum())
    return int(np.argmin(costs))
