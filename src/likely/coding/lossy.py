"""Lossy pictures: the rounded latents of a `Lossy` model, coded exactly; the picture is what they decode to.

    codec = LossyCodec(model)
    blob = codec.compress(pictures, rate=2)         # bytes of an .lkz file; 2.5 is a rate too
    pictures = codec.decompress(blob)               # near what went in: the file says how near

What is exact is the latents: their hash is in the file, and a machine that would work out other tables refuses before
it starts. From latents to pixels a last bit may differ from machine to machine, and a number by one level with it.
PSNR and MS-SSIM in the file are those of the pictures that it decodes to where it was written. The file is one of
version 2, a chunk a picture; a picture that would not become smaller, or not come back, is kept as it is.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from likely.coding import container
from likely.coding.ans import Stack
from likely.coding.container import PICTURES, Archive, Chunk, Kind
from likely.coding.errors import CorruptChunk, CorruptHeader, DecodeMismatch, UnsupportedVersion
from likely.coding.fidelity import SMALLEST, ms_ssim, psnr
from likely.coding.guard import check_model, check_numerics, frozen
from likely.coding.header import CODER, Bits, Hash, Head, Numerics, Record, Written, model_hash, parsed
from likely.coding.schemes import pushed
from likely.coding.tables import GRID, Chosen, Ints, Listed, Located, Table, on_grid
from likely.logprob import scoring
from likely.observation import Rounded
from likely.space import Integers
from likely.verbs import Lossy, name_of, require

SCHEME = "lossy"
LIMIT = 1 << 22
"""Pixels of a picture, unless a codec is made with another limit: it is coded whole, in some 800 bytes a pixel."""
HALF = 512
"""Latents are coded within this many steps of their centre; beyond, the encoder cuts them off."""
_STEP, _LOW, _HIGH = 64, -4, 6
"""Log-scales of tables: from -4 to 6 in steps of 1/64."""

Picture = Tensor
Figures = dict[str, Any]


class Coding(Record):
    """How pictures became bits."""

    scheme: Literal["lossy"] = "lossy"
    coder: str = CODER
    rate: Annotated[float, Field(ge=1, le=1000, allow_inf_nan=False)]
    """1 for the fewest bits that the model was trained for; between two of its rates anything."""


class Header(Head):
    """All of it."""

    coding: Coding  # ty: ignore[invalid-attribute-override]
    lossy: Literal[True] = True


class Inside(Record):
    """A picture of the table."""

    height: Annotated[int, Field(ge=1, le=1 << 24)]
    width: Annotated[int, Field(ge=1, le=1 << 24)]
    psnr: float | None = None
    """dB between the picture and what it decodes to; none where they are equal."""
    ms_ssim: float | None = None
    """The same; none for pictures with a side below 176 pixels."""


class Contents(Record):
    """The table: what is in a file."""

    names: list[str] | None = None
    pictures: Annotated[list[Inside], Field(min_length=1)]
    sha256: Hash | None = None
    """The first half of the SHA-256 of the latents of all pictures, in units of 1/256 (i32), or of their pixels."""
    sized: Hash | None = None
    """The same, with the rate (f64) and u32 (C, H, W) before each: files of before this have `sha256` in its place."""
    model_bits: Bits
    """-log2 of all latents under the model: what the chunks are measured by."""

    @property
    def digest(self) -> str:
        """The one of the two hashes that there is."""
        return self.sized or self.sha256 or ""


class Decoded(NamedTuple):
    """What was in a file: pictures (C, H, W), uint8, and what it says of them."""

    pictures: list[Picture]
    contents: Contents
    notes: dict[str, Any]


class LossyCodec:
    """Lossy compression of pictures of any size. Raises `TypeError` where the model is not `Lossy`.

    The model is copied and used in float64 on the CPU. A picture may have `limit` pixels. `thrift` is how much squared
    error a saved bit may cost when latents are rounded (see `likely.observation.Rounded`), by default the model's own;
    what decodes a file does not need to know it.
    """

    def __init__(self, model: nn.Module, *, thrift: float | None = None, limit: int = LIMIT) -> None:
        require(model, Lossy, "lossy compression")
        space = model.space
        if not isinstance(space, Integers) or space.levels > 256:
            raise TypeError(f"model lives in {space}; lossy compression accepts pictures of at most 256 levels")
        self.hash, self.model, self.space = model_hash(model), frozen(model), space
        self.thrift, self.limit = thrift, limit
        self._fingerprints: dict[float, str] = {}

    @property
    def rates(self) -> int:
        """How many rates the model was trained for: 1 is the one of the fewest bits."""
        return len(self.model.lams)

    # Bytes --------------------------------------------------------------------------------------------------------

    def compress(
        self,
        pictures: Iterable[Any],
        *,
        rate: float | None = None,
        names: Sequence[str] | None = None,
        verify: bool = True,
        notes: Mapping[str, Any] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> bytes:
        """An .lkz file of pictures (C, H, W), uint8, that come back changed.

        `rate` is 1 .. `rates`, or between; by default the middle. With `verify` the latents of each are decoded again,
        in a batch of another size. Raises `ValueError` or `TypeError` naming the picture or the rate.
        """
        coding = Coding(rate=self.check_rate(rate))
        chunks, inside, digest, total = list[Chunk](), list[Inside](), hashlib.sha256(), 0.0
        with scoring(self.model):
            for x in (self.check(picture, f"picture {number}") for number, picture in enumerate(pictures)):
                chunk, told, bits = self._chunk(x, coding.rate, verify, digest)
                chunks.append(chunk)
                inside.append(told)
                total += bits
                if progress is not None:
                    progress(len(chunks))
        if not chunks:
            raise ValueError("pictures are none; accepts one or more")
        if names is not None and len(names) != len(chunks):
            raise ValueError(f"names are {len(names)} for {len(chunks)} pictures; accepts one for each")
        contents = Contents(
            names=None if names is None else list(names),
            pictures=inside,
            sized=digest.hexdigest()[:32],
            model_bits=round(total),
        )
        chunks.append(container.notes(contents.model_dump(mode="json", exclude_none=True), Kind.TABLE))
        if notes:
            chunks.append(container.notes(notes))
        header = Header(
            coding=coding,
            model=Written(family=name_of(self.model), sha256=self.hash),
            numerics=Numerics(fingerprint=self.fingerprint(coding.rate)),
            space=self.space,
        )
        return container.write(header.to_json(), chunks, PICTURES)

    def decompress(self, blob: bytes | memoryview, *, progress: Callable[[int], None] | None = None) -> list[Picture]:
        """The pictures (C, H, W) in a file, uint8. Raises what `likely.coding.errors` holds."""
        return self.read(blob, progress=progress).pictures

    def read(self, blob: bytes | memoryview, *, progress: Callable[[int], None] | None = None) -> Decoded:
        """Pictures, and what the file says of them."""
        archive = container.read(blob)
        header, contents = opened(archive)
        check_model(header, self.model, self.hash)
        if header.coding.rate > self.rates:
            raise CorruptHeader(f"its rate is {header.coding.rate}; its model's are 1 .. {self.rates}")
        for each in contents.pictures:
            if each.height * each.width > self.limit:
                what = f"{each.height} x {each.width} pixels"
                raise CorruptHeader(f"it holds a picture of {what}; accepts {self.limit:,} (limit) or fewer")
        check_numerics(header, self.fingerprint(header.coding.rate))
        archive.check()
        pictures, digest = list[Picture](), hashlib.sha256()
        with scoring(self.model):
            for number, each in enumerate(contents.pictures):
                if contents.sized is not None:
                    digest.update(_about(header.coding.rate, (self.space.shape[0], each.height, each.width)))
                pictures.append(self._picture(archive, number, each, header.coding.rate, digest))
                if progress is not None:
                    progress(len(pictures))
        if digest.hexdigest()[:32] != contents.digest:
            raise DecodeMismatch("what was decoded is not what was put in: the latents' hash differs")
        return Decoded(pictures, contents, archive.notes())

    def fingerprint(self, rate: float) -> str:
        """The first 8 bytes of a hash of the latents that this machine decodes from pseudorandom bits."""
        if rate not in self._fingerprints:
            side, stack = 2 * self.model.multiple, Stack(4, "likely/probe")
            with scoring(self.model):
                y = _popped(self.model.groups(side, side, _rates(rate)), stack)
            digest = hashlib.sha256(_integers(y).tobytes() + stack.to_bytes())
            self._fingerprints[rate] = digest.hexdigest()[:16]
        return self._fingerprints[rate]

    def check(self, picture: Any, name: str = "picture") -> Tensor:
        """A picture as (1, C, H, W). Raises `ValueError` or `TypeError` naming it."""
        x = torch.as_tensor(picture)
        channels = self.space.shape[0]
        if x.ndim != 3 or x.shape[0] != channels or 0 in x.shape:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; accepts ({channels}, height, width), none of them 0")
        if x.shape[1] * x.shape[2] > self.limit:
            pixels = x.shape[1] * x.shape[2]
            raise ValueError(f"{name} has {pixels:,} pixels; accepts {self.limit:,} (limit) or fewer: cut it")
        return Integers(tuple(x.shape), self.space.levels).check(x[None].cpu(), name).to(torch.uint8)

    def check_rate(self, rate: float | None) -> float:
        """A rate; None is the middle one."""
        if rate is None:
            return float((self.rates + 1) // 2)
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 1 <= rate <= self.rates:
            raise ValueError(f"rate is {rate!r}; accepts 1 (fewest bits) .. {self.rates}, or anything between")
        return float(rate)

    # Parts of it --------------------------------------------------------------------------------------------------

    def _chunk(self, x: Tensor, rate: float, verify: bool, digest: Any) -> tuple[Chunk, Inside, float]:
        """A picture's chunk, what the table says of it, and the model's bits."""
        height, width = x.shape[2:]
        digest.update(_about(rate, x.shape[1:]))
        stack, y, bits = encode(self.model, x, rate, self.thrift)
        data, raw = stack.to_bytes(), x.numpy().tobytes()
        if len(data) >= len(raw) or (verify and not self._comes_back(data, y, height, width, rate)):
            digest.update(raw)
            return Chunk(Kind.RAW, 1, raw), Inside(height=height, width=width), 8.0 * len(raw)
        digest.update(_integers(y).tobytes())
        found = self._pixels(y, height, width, rate)
        decibel = float(psnr(x, found, self.space.levels - 1))
        told = Inside(
            height=height,
            width=width,
            psnr=round(decibel, 3) if math.isfinite(decibel) else None,
            ms_ssim=round(float(ms_ssim(x.float(), found.float(), self.space.levels - 1)), 5)
            if min(height, width) >= SMALLEST
            else None,
        )
        return Chunk(Kind.MODEL, 1, data), told, bits

    def _comes_back(self, data: bytes, y: Tensor, height: int, width: int, rate: float) -> bool:
        """Whether a chunk decodes to its latents when the model sees two pictures at once."""
        try:
            return torch.equal(decode(self.model, Stack.from_bytes(data), height, width, rate, 2), y)
        except ValueError:
            return False

    def _picture(self, archive: Archive, number: int, told: Inside, rate: float, digest: Any) -> Picture:
        entry, data, levels = archive.entries[number], archive.chunk(number), self.space.levels
        shape = (self.space.shape[0], told.height, told.width)
        if entry.kind is Kind.RAW:
            if len(data) != math.prod(shape):
                raise CorruptChunk(number, f"{len(data)} bytes cannot hold a picture of {shape}")
            x = torch.frombuffer(bytearray(data), dtype=torch.uint8).reshape(shape)
            if int(x.max()) >= levels:
                raise CorruptChunk(number, f"it holds {int(x.max())}; its pictures have {levels} levels")
            digest.update(data)
            return x
        try:
            stack = Stack.from_bytes(data)
            y = decode(self.model, stack, told.height, told.width, rate)
        except ValueError as error:  # bytes that are no stack, a stack that ends too early
            raise CorruptChunk(number, str(error)) from error
        if not stack.is_empty():
            raise CorruptChunk(number, "the coder does not end where it began")
        digest.update(_integers(y).tobytes())
        return self._pixels(y, told.height, told.width, rate)[0]

    def _pixels(self, y: Tensor, height: int, width: int, rate: float) -> Tensor:
        """What latents decode to, (1, C, H, W) uint8."""
        top = self.space.levels - 1
        found = self.model.reconstruct(y, height, width, _rates(rate)) * (top / 255)
        return found.round().clamp(0, top).to(torch.uint8)


# A picture and a stack ------------------------------------------------------------------------------------------------


def encode(model: Any, x: Tensor, rate: float, thrift: float | None = None) -> tuple[Stack, Tensor, float]:
    """A stack with the rounded latents of x (1, C, H, W); the latents, and what they cost under the model, in bits."""
    found, bits = [], 0.0
    values = model.latents(x, _rates(rate))
    program = model.groups(*x.shape[2:], _rates(rate))
    given = next(program)
    for value in values:
        if thrift is not None and given.thrift:
            given = given._replace(thrift=thrift)
        centre, table = tables(given)
        k = (given.rounded(value) - centre).round().clamp(-HALF, HALF - 1)
        found.append(table.interval(k.numpy().astype(np.int64).reshape(-1) + HALF))
        bits += float(given.bits(k + centre).sum())
        try:
            given = program.send(k + centre)
        except StopIteration as end:
            return pushed(found), end.value, bits
    raise ValueError(f"{name_of(model)} has more groups of latents than `latents` gives")


def decode(model: Any, stack: Stack, height: int, width: int, rate: float, rows: int = 1) -> Tensor:
    """The latents of a picture off a stack; the model sees `rows` copies of it."""
    return _popped(model.groups(height, width, _rates(rate, rows)), stack)[:1]


def tables(given: Rounded) -> tuple[Tensor, Table]:
    """The centres of a picture's latents (1, C, S), on the grid, and the table of each, laid out flat."""
    centre = torch.from_numpy(on_grid(given.centre[:1]) / GRID)
    mixture, parts = (given.logits[:1], given.mean[:1], given.log_scale[:1]), given.logits.shape[-1]
    if parts == 1 and not bool(mixture[1].any()):
        index = on_grid(mixture[2], GRID / _STEP).reshape(-1) - _LOW * _STEP
        listed = _scaled(given.function)
        return centre, Chosen(listed, np.clip(index, 0, len(listed) - 1))
    logits, mean, log_scale = (on_grid(part).reshape(-1, parts) for part in mixture)
    return centre, Located(2 * HALF, logits, mean + HALF * GRID, log_scale, given.function)


@cache
def _scaled(function: str) -> Listed:
    """The tables of one distribution around 0, for every log-scale of the list."""
    log_scale = np.arange(_LOW * _STEP, _HIGH * _STEP + 1)[:, None] * (GRID // _STEP)
    zero = np.zeros_like(log_scale)
    located = Located(2 * HALF, zero, zero + HALF * GRID, log_scale, function)
    return Listed(located.below(np.tile(np.arange(2 * HALF + 1), (len(located), 1))))


def _popped(program: Generator[Rounded, Tensor, Tensor], stack: Stack) -> Tensor:
    """What a program returns for what is popped off a stack."""
    given = next(program)
    while True:
        centre, table = tables(given)
        k = torch.from_numpy(stack.pop(table) - HALF).reshape(centre.shape)
        try:
            given = program.send((k + centre).expand(len(given.centre), -1, -1))
        except StopIteration as end:
            return end.value


def _rates(rate: float, rows: int = 1) -> Tensor:
    return torch.full((rows,), rate, dtype=torch.float64)


def _about(rate: float, shape: Sequence[int]) -> bytes:
    """What is hashed before a picture: the same latents are another one at another rate, or of another size."""
    return struct.pack("<dIII", rate, *shape)


def _integers(y: Tensor) -> Ints:
    """Latents in units of the grid, little endian: what is hashed."""
    return np.rint(y.numpy() * GRID).astype("<i4")


# Files, without their model -------------------------------------------------------------------------------------------


def is_lossy(archive: Archive) -> bool:
    """Whether a file holds pictures of a `Lossy` model."""
    coding = archive.header.get("coding")
    return isinstance(coding, dict) and coding.get("scheme") == SCHEME


def opened(archive: Archive) -> tuple[Header, Contents]:
    """Header and table of a file. Raises `CorruptHeader` or `UnsupportedVersion`."""
    if not is_lossy(archive) or archive.version != PICTURES:
        raise UnsupportedVersion("it holds no lossy pictures; decode it with likely.coding.Codec")
    header = parsed(Header, archive.header)
    if header.coding.coder != CODER or header.numerics.profile != "f64":
        what = f"its coder is {header.coding.coder!r}, its numeric profile {header.numerics.profile!r}"
        raise UnsupportedVersion(f"{what}; this likely knows {CODER} and f64")
    if not isinstance(header.space, Integers) or len(header.space.shape) != 3 or header.space.levels > 256:
        raise CorruptHeader(f"its space is {header.space}; accepts pictures of at most 256 levels")
    contents = parsed(Contents, archive.notes(Kind.TABLE))
    if (contents.sha256 is None) == (contents.sized is None):
        raise CorruptHeader("it has no hash of what is inside, or two")
    chunks = [e for e in archive.entries if e.kind in (Kind.MODEL, Kind.RAW)]
    if len(chunks) != len(contents.pictures) or chunks != list(archive.entries[: len(chunks)]):
        raise CorruptHeader(f"it has {len(chunks)} chunks for {len(contents.pictures)} pictures, or in another order")
    if any(entry.rows != 1 for entry in chunks):
        raise CorruptHeader("a chunk does not have one picture")
    if contents.names is not None and len(contents.names) != len(chunks):
        raise CorruptHeader(f"it names {len(contents.names)} of {len(chunks)} pictures")
    return header, contents


def describe(archive: Archive) -> Figures:
    """What is inside, as JSON values; every checksum is looked at."""
    header, contents = opened(archive)
    for number in range(len(archive.entries)):
        archive.chunk(number)
    pixels = sum(each.height * each.width for each in contents.pictures)
    size, channels = len(archive.data), header.space.shape[0]  # ty: ignore[unresolved-attribute]
    coded = sum(entry.size for entry in archive.entries[: len(contents.pictures)])
    decibels = [each.psnr for each in contents.pictures if each.psnr is not None]
    likes = [each.ms_ssim for each in contents.pictures if each.ms_ssim is not None]
    return {
        "bytes": size,
        "raw_bytes": pixels * channels,
        "rows": len(contents.pictures),
        "pixels": pixels,
        "bits_per_pixel": 8 * size / pixels,
        "bits_per_dim": 8 * size / (pixels * channels),
        "lossy": True,
        "rate": header.coding.rate,
        "psnr": sum(decibels) / len(decibels) if decibels else None,
        "ms_ssim": sum(likes) / len(likes) if likes else None,
        "stored": sum(entry.kind is Kind.RAW for entry in archive.entries),
        "model_bits_per_pixel": contents.model_bits / pixels,
        "coded_bits_per_pixel": 8 * coded / pixels,
        "container_bytes": size - coded,
        "checksums": "all right",
        "inside": [each.model_dump(mode="json") for each in contents.pictures[:8]],
        "names": None if contents.names is None else contents.names[:8],
        "header": header.to_json(),
    }


def sentence(record: dict[str, Any]) -> str:
    """`describe` in words."""
    model = record["header"]["model"]
    near = "exactly as they were" if record["psnr"] is None else f"PSNR {record['psnr']:.2f} dB"
    like = "" if record["ms_ssim"] is None else f", MS-SSIM {record['ms_ssim']:.4f}"
    raw = f"; {record['stored']} of them stored as they were" if record["stored"] else ""
    what = "1 picture" if record["rows"] == 1 else f"{record['rows']} pictures"
    mean = " (means)" if record["rows"] > 1 else ""
    return (
        f"lossy, rate {record['rate']:g}: {what} in {record['bytes']:,} bytes (raw {record['raw_bytes']:,}): "
        f"{record['bits_per_pixel']:.4f} bits/pixel, {near}{like}{mean} as decoded{raw}\n"
        f"model {model['family']} {model['sha256']}, {record['coded_bits_per_pixel']:.4f} bits/pixel of latents (the "
        f"model says {record['model_bits_per_pixel']:.4f}) and {record['container_bytes']} bytes of header and index; "
        f"checksums all right"
    )
