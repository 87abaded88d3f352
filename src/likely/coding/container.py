"""The file `.lkz`: what is inside, with which model, and whether it is whole. Little endian.

    magic       8 bytes     89 'L' 'K' 'Z' 0D 0A 1A 0A: a text mode, a seventh bit or a transfer that meddles shows here
    fixed       12          u16 version, u16 flags (none yet), u32 length of the header, u32 CRC-32 of the header
    header      ~110        JSON with sorted keys, deflated with a dictionary of the usual keys
    chunks                  one after the other
    index       12 a chunk  u32 rows, with the kind of the chunk in the top two bits; u32 bytes; u32 CRC-32 of the bytes
    footer      20          u64 where the index begins, u32 CRC-32 of the index and of this offset, the magic backwards

Chunks are rows coded with the model, rows as they are (where coding would not make them smaller), or notes: JSON that
decoding does not need. CRC-32 is zlib's. Nothing in a file is a path, a name of code or a pickle; no length in it is
believed before it fits.

Version 1 holds rows of one shape. Version 2 holds pictures of any sizes, whose tiles are the rows; it is written as
they come, so what is known only at the end stands in one more chunk, the table: sizes, names and the content's hash.
"""

from __future__ import annotations

import io
import json
import math
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, BinaryIO, NamedTuple

from likely.coding.errors import CorruptChunk, CorruptHeader, NotACodecFile, UnsupportedVersion

MAGIC = b"\x89LKZ\r\n\x1a\n"
ROWS, PICTURES = VERSIONS = (1, 2)
_FIXED, _ENTRY, _FOOTER = struct.Struct("<HHII"), struct.Struct("<III"), struct.Struct("<QI")
MOST_HEADER = 1 << 16
"""Bytes of a header, inflated."""
MOST_NOTES = 1 << 26
_USUAL = (
    b'{"coding":{"coder":"ans24","fine":4,"group":64,"reach":8,"scheme":"bits-back","scheme":"sequential"},'
    b'"content":{"rows":10000,"sha256":"},"model":{"family":"integer-flow","family":"mixture","family":"autoregressive'
    b'","sha256":"},"numerics":{"fingerprint":"","grid":256,"profile":"f64"},"space":{"kind":"integers","levels":256,'
    b'"shape":[1,28,28]}}'
)


class Kind(IntEnum):
    """What a chunk is."""

    MODEL = 0
    RAW = 1
    NOTES = 2
    TABLE = 3


class Chunk(NamedTuple):
    """A number of rows, and the bytes that hold them."""

    kind: Kind
    rows: int
    data: bytes


class Entry(NamedTuple):
    """A chunk's line in the index, and where it begins."""

    kind: Kind
    rows: int
    size: int
    crc: int
    start: int


class Writer:
    """A file as it is written, front to back: the header at once, then chunk after chunk; `close` ends it."""

    def __init__(self, file: BinaryIO, header: Mapping[str, Any], version: int = ROWS) -> None:
        text = _deflated(header)
        self._file, self._index = file, bytearray()
        self._at = file.write(MAGIC + _FIXED.pack(version, 0, len(text), zlib.crc32(text)) + text)

    def add(self, chunk: Chunk) -> None:
        """One more chunk."""
        if chunk.rows >= 1 << 30 or len(chunk.data) >= 1 << 32:
            raise ValueError(
                f"a chunk has {chunk.rows} rows in {len(chunk.data)} bytes; accepts less than 2^30 in 2^32"
            )
        self._index += _ENTRY.pack(chunk.rows | chunk.kind << 30, len(chunk.data), zlib.crc32(chunk.data))
        self._at += self._file.write(chunk.data)

    def close(self) -> None:
        """Index and footer. The file itself stays open."""
        where = struct.pack("<Q", self._at)
        crc = struct.pack("<I", zlib.crc32(bytes(self._index) + where))
        self._file.write(self._index + where + crc + MAGIC[::-1])


def write(header: Mapping[str, Any], chunks: Iterable[Chunk], version: int = ROWS) -> bytes:
    """A file."""
    out = io.BytesIO()
    writer = Writer(out, header, version)
    for chunk in chunks:
        writer.add(chunk)
    writer.close()
    return out.getvalue()


class Source:
    """A file that is open for reading, seen as bytes of which only those that are asked for are read."""

    def __init__(self, file: BinaryIO) -> None:
        if not file.seekable():
            raise NotACodecFile("it is a pipe, and an .lkz file is read from its end; write it to a file first")
        self._file, self._size = file, file.seek(0, io.SEEK_END)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        low, high, _ = part.indices(self._size)
        self._file.seek(low)
        return self._file.read(max(high - low, 0))


@dataclass(frozen=True)
class Archive:
    """A file that has been opened: header and index are whole; chunks are checked when they are asked for."""

    version: int
    header: dict[str, Any]
    entries: tuple[Entry, ...]
    data: memoryview | Source
    overhead: int
    """Bytes of everything but the chunks."""

    def chunk(self, number: int) -> bytes:
        """The bytes of a chunk; raises `CorruptChunk` where one of them differs."""
        entry = self.entries[number]
        data = bytes(self.data[entry.start : entry.start + entry.size])
        if zlib.crc32(data) != entry.crc:
            raise CorruptChunk(number, "its checksum does not fit")
        return data

    def check(self) -> None:
        """Look at every chunk's checksum; raises `CorruptChunk`."""
        for number in range(len(self.entries)):
            self.chunk(number)

    def notes(self, kind: Kind = Kind.NOTES) -> dict[str, Any]:
        """What the notes say, all together; or what the table says."""
        found: dict[str, Any] = {}
        left = MOST_NOTES  # for all of them: many small chunks could be inflated to more than there is memory
        for number, entry in enumerate(self.entries):
            if entry.kind is kind:
                try:
                    text = _inflated(self.chunk(number), left)
                    found |= _json(text)
                except CorruptHeader as error:
                    raise CorruptChunk(number, str(error)) from error
                left = max(left - len(text), 1)
        return found


def notes(record: Mapping[str, Any], kind: Kind = Kind.NOTES) -> Chunk:
    """A chunk of notes, or the table."""
    return Chunk(kind, 0, _deflated(record, MOST_NOTES))


def read(data: bytes | memoryview | Source) -> Archive:
    """Open a file: magic, version, header, index and footer are checked, and that every byte belongs to one of them.

    Raises `NotACodecFile`, `UnsupportedVersion` or `CorruptHeader`.
    """
    view = data if isinstance(data, Source) else memoryview(data)
    begin = len(MAGIC) + _FIXED.size
    if bytes(view[: len(MAGIC)]) != MAGIC:
        raise NotACodecFile(f"it does not begin with the magic bytes of an .lkz file but with {bytes(view[:8])!r}")
    if len(view) < begin:
        raise CorruptHeader(f"it ends after {len(view)} bytes, within its header")
    version, flags, size, crc = _FIXED.unpack(view[len(MAGIC) : begin])
    if version not in VERSIONS or flags:
        known = " and ".join(map(str, VERSIONS))
        raise UnsupportedVersion(f"version {version} with flags {flags:#x}; this likely reads versions {known}")
    first = begin + size
    tail = _FOOTER.size + len(MAGIC)
    if first + tail > len(view):
        raise CorruptHeader(f"it ends after {len(view)} bytes, within its header or index")
    text = bytes(view[begin:first])
    if zlib.crc32(text) != crc:
        raise CorruptHeader("the header's checksum does not fit")
    end = len(view) - tail
    where, crc = _FOOTER.unpack(view[end : end + _FOOTER.size])
    if bytes(view[-len(MAGIC) :]) != MAGIC[::-1]:
        raise CorruptHeader("it does not end as an .lkz file does: it was cut off, or something follows it")
    if not first <= where <= end or (end - where) % _ENTRY.size:
        raise CorruptHeader(f"its index cannot begin at byte {where}")
    if zlib.crc32(view[where : end + 8]) != crc:
        raise CorruptHeader("the index's checksum does not fit")
    header, entries = _json(_inflated(text, MOST_HEADER)), _entries(view, first, where, end)
    if [entry.kind for entry in entries].count(Kind.TABLE) != (version == PICTURES):
        raise CorruptHeader("it has a table and should not, or no table, or two")
    return Archive(version, header, entries, view, len(view) - where + first)


def _entries(view: memoryview | Source, first: int, where: int, end: int) -> tuple[Entry, ...]:
    entries, start = [], first
    for rows, size, crc in _ENTRY.iter_unpack(view[where:end]):
        entry = Entry(Kind(rows >> 30), rows & (1 << 30) - 1, size, crc, start)
        if entry.kind in (Kind.MODEL, Kind.RAW) and not entry.rows:
            raise CorruptHeader(f"its chunk {len(entries)} has no rows")
        entries.append(entry)
        start += size
    if start != where:
        raise CorruptHeader(f"its chunks end at byte {start}, its index begins at {where}")
    return tuple(entries)


def _deflated(record: Mapping[str, Any], most: int = MOST_HEADER) -> bytes:
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    if len(text) > most:
        raise ValueError(f"header, table or notes would have {len(text):,} bytes; accepts {most:,}")
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=_USUAL)
    return packer.compress(text) + packer.flush()


def _inflated(data: bytes, most: int) -> bytes:
    unpacker = zlib.decompressobj(-15, zdict=_USUAL)
    try:
        text = unpacker.decompress(data, most)
    except zlib.error as error:
        raise CorruptHeader(f"its JSON cannot be inflated: {error}") from error
    if not unpacker.eof or unpacker.unused_data:
        raise CorruptHeader(f"its JSON does not end where it should, or is longer than {most:,} bytes")
    return text


def _json(text: bytes) -> dict[str, Any]:
    try:
        record = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise CorruptHeader(f"its JSON cannot be read: {error}") from error
    if not isinstance(record, dict):
        raise CorruptHeader(f"its JSON is {type(record).__name__}, not an object")
    return record


def _finite(text: str) -> float:
    """A number of JSON, which has no NaN and no infinity; Python's reader would take them."""
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is no finite number")
    return value
