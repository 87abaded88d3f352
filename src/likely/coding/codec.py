"""A model as a codec: rows to bytes and back, and never other rows than those that went in.

    codec = Codec(model)
    blob = codec.compress(x)            # bytes of an .lkz file
    x = codec.decompress(blob)          # exactly x, or an error

What is checked on the way back, in this order: the file's magic, version, header and index; that this is the model
that wrote it; that this machine works out the same tables (a fingerprint of a probe that is popped from pseudorandom
bits); each chunk's checksum; that the coder ends where it began; the content's hash.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from likely.coding import container
from likely.coding.ans import Stack
from likely.coding.choice import coded, scheme_for, scheme_of, schemes_of
from likely.coding.classes import Classes
from likely.coding.container import Archive, Chunk, Kind
from likely.coding.errors import CorruptChunk, CorruptHeader, DecodeMismatch, UnsupportedVersion
from likely.coding.files import replace
from likely.coding.guard import check_model, check_numerics, frozen
from likely.coding.header import (
    MOST_BITS,
    Coding,
    Content,
    Header,
    Numerics,
    Written,
    canonical,
    content_hash,
    dtype_of,
    header_of,
    model_hash,
    numerics_of,
)
from likely.coding.local import Unmovable
from likely.coding.schemes import Scheme
from likely.logprob import LogProb, check_condition, log_prob, scoring
from likely.space import Integers, Reals
from likely.verbs import name_of

LIMIT = 1 << 28
"""Numbers in a file, unless a codec is made with another limit."""


class Rows(NamedTuple):
    """What was in a file."""

    x: Tensor
    y: Tensor | None
    notes: dict[str, Any]


@dataclass(frozen=True)
class Report:
    """Where the bits of a file went; all of them are bits of a real file that was decoded again."""

    rows: int
    dims: int
    nll: float
    """-log2 p of all rows under the model, in bits; `kind` says whether it is exact (=) or a bound's (<=)."""
    kind: str
    coded: int
    """Bits of the chunks with rows, `initial` among them."""
    initial: int
    """Bits that bits-back had to borrow before the first row."""
    header: int
    """All other bits: header, index, footer, notes."""
    raw: int
    """Bits of the chunks that are stored as they are."""

    @property
    def bits_per_dim(self) -> float:
        """Bits of the whole file over the numbers in it."""
        return (self.coded + self.header) / (self.rows * self.dims)

    @property
    def overhead(self) -> float:
        """The share by which the coded bits exceed the model's own."""
        return self.coded / self.nll - 1

    def __str__(self) -> str:
        n = self.rows * self.dims
        return (
            f"{self.bits_per_dim:.4f} bits/dim in the file: {self.coded / n:.4f} coded ({self.initial / n:.4f} of them "
            f"initial bits), {self.header / n:.4f} header; the model says {self.kind} {self.nll / n:.4f}"
        )


class Codec:
    """Lossless compression of a model's rows. Raises `TypeError` where the model has no verb that serves.

    The model is copied and used in float64 on the CPU; of a hybrid it is the one of p(x). The labels of a conditional
    model are coded with the rows, each of them alike, and real conditions as float32; those of a joint as p(y) says. A
    joint also takes rows without labels, which cost -log2 p(x).

    `scheme` is sequential for `Ordered` models and integer flows; for latent models bits-back, or two-part,
    which is chosen for fewer than 20 rows; for flows, over integers, local-bits-back, which is experimental.
    `group` rows are coded together (up to 256, as suits scheme and size; fewer
    where there are fewer rows), `chunk` rows make a chunk that can be decoded by itself. `limit` is the largest number
    of numbers that a file may hold.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        scheme: str | None = None,
        group: int | None = None,
        chunk: int | None = None,
        limit: int = LIMIT,
    ) -> None:
        for name, value in (("group", group), ("chunk", chunk)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} is {value!r}; accepts a number of rows, 1 or more")
        schemes_of(model)
        model = coded(model)
        scheme_for(model, 1, name=scheme)
        self.hash = model_hash(model)
        self.model = frozen(model)
        self.space: Integers = self.model.space
        self.scheme, self.group, self.chunk, self.limit = scheme, group, chunk, limit
        self._fingerprints: dict[Coding, str] = {}

    # Bytes --------------------------------------------------------------------------------------------------------

    def compress(
        self,
        x: Any,
        y: Any = None,
        *,
        verify: bool = True,
        notes: Mapping[str, Any] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> bytes:
        """An .lkz file that holds the rows x (n, *shape), and the labels y of a conditional model; a joint's may be
        left out.

        With `verify` every chunk is decoded again, in batches of another size, before it counts; rows that do not come
        back, or would not become smaller, are stored as they are. `notes` are kept with the file (JSON values).
        `progress` is called with the rows done. Raises `ValueError` or `TypeError` naming x or y.
        """
        x, y, n = self._checked(x, y)
        scheme = scheme_for(self.model, n, self.group, self.scheme, y is not None)
        chunks, nats = [], torch.zeros(n, dtype=torch.float64)
        with scoring(self.model):
            for part in self._parts(n, scheme):
                chunks.append(self._chunk(scheme, x[part], None if y is None else y[part], nats[part], verify))
                if progress is not None:
                    progress(part.stop)
        if not scheme.exact:
            nats = self._says(x, y).nats
        if notes:
            chunks.append(container.notes(notes))
        header = Header(
            coding=scheme.coding,
            content=Content(
                rows=n,
                sha256=content_hash(x, y, self.space, self.model.condition),
                nll_bits=_whole(float(-nats.sum() / math.log(2))),
            ),
            model=Written(family=name_of(self.model), sha256=self.hash),
            numerics=Numerics(profile=numerics_of(self.model), fingerprint=self.fingerprint(scheme.coding)),
            space=self.space,
        )
        return container.write(header.to_json(), chunks)

    def decompress(self, blob: bytes | memoryview, *, progress: Callable[[int], None] | None = None) -> Tensor:
        """The rows x (n, *shape) in a file, uint8 where the levels fit. Raises what `likely.coding.errors` holds."""
        return self.read(blob, progress=progress).x

    def read(self, blob: bytes | memoryview, *, progress: Callable[[int], None] | None = None) -> Rows:
        """Rows, labels and notes in a file."""
        archive = container.read(blob)
        header = self._header(archive)
        scheme = scheme_of(self.model, header.coding)
        archive.check()
        xs, ys, done = [], [], 0
        with scoring(self.model):
            for number, entry in enumerate(archive.entries):
                if entry.kind is Kind.NOTES:
                    continue
                x, y = self._rows(scheme, number, entry.kind, entry.rows, archive.chunk(number))
                xs.append(x)
                ys.append(y)
                done += entry.rows
                if progress is not None:
                    progress(done)
        x, y = torch.cat(xs), None if self._labels(scheme) is None else torch.cat(ys)
        if content_hash(x, y, self.space, self.model.condition) != header.content.sha256:
            raise DecodeMismatch("what was decoded is not what was put in: the content's hash differs")
        return Rows(x, y, archive.notes())

    # Files --------------------------------------------------------------------------------------------------------

    def compress_file(self, source: str | Path, target: str | Path, **options: Any) -> Path:
        """Compress the rows in a .npy file, or `x` (and `y`) in an .npz, to `target`, which is whole or not there."""
        x, y = _arrays(source)
        blob = self.compress(x, None if self.model.condition is None else y, **options)
        return replace(target, blob)

    def decompress_file(self, source: str | Path, target: str | Path, **options: Any) -> Path:
        """The rows in an .lkz file to an .npz with `x` (and `y`)."""
        return write_npz(target, self.read(Path(source).read_bytes(), **options), self.space)

    # What it costs ------------------------------------------------------------------------------------------------

    def expected_bits(self, x: Any, y: Any = None) -> Tensor:
        """-log2 p of each row under the model itself, (n,); for latent models of one draw of its bound.

        That is p(x), or p(x given y) of a conditional model; for a joint p(x, y) where there are labels, else p(x).
        """
        x, y, _ = self._checked(x, y)
        return -self._says(x, y).nats / math.log(2)

    def report(self, x: Any, y: Any = None) -> Report:
        """Compress x, decompress it, and say where the bits went."""
        x, y, n = self._checked(x, y)
        blob = self.compress(x, y)
        self.read(blob)
        archive = container.read(blob)
        scheme = scheme_of(self.model, self._header(archive).coding)
        coded = [8 * e.size for e in archive.entries if e.kind is not Kind.NOTES]
        raw = [8 * e.size for e in archive.entries if e.kind is Kind.RAW]
        with scoring(self.model):
            initial = sum(self._initial(scheme, x, y, part) for part in self._parts(n, scheme))
        reading = self._says(x, y)
        return Report(
            rows=n,
            dims=self.space.dims,
            nll=float(-reading.nats.sum() / math.log(2)),
            kind=reading.kind.of_bits,
            coded=sum(coded),
            initial=initial,
            header=8 * len(blob) - sum(coded),
            raw=sum(raw),
        )

    def fingerprint(self, coding: Coding) -> str:
        """The first 8 bytes of a hash of what this machine decodes from pseudorandom bits: a probe of all tables."""
        if coding not in self._fingerprints:
            rows, stack = min(4, coding.group), Stack(4, "likely/probe")
            with scoring(self.model):
                scheme, real = scheme_of(self.model, coding).sized(rows), self.model.condition
                if isinstance(real, Reals):  # bits at random would be floats of any size, or none
                    y = (torch.arange(rows * real.dims) % 7 - 3).reshape(rows, *real.shape) / 4
                    x = scheme.pop(stack, rows, y, 0)
                else:
                    x, _ = scheme.decode(stack, rows)
            digest = hashlib.sha256(canonical(x, self.space).tobytes() + stack.to_bytes())
            self._fingerprints[coding] = digest.hexdigest()[:16]
        return self._fingerprints[coding]

    # Parts of it --------------------------------------------------------------------------------------------------

    def _checked(self, x: Any, y: Any) -> tuple[Tensor, Any, int]:
        x = self.space.check(x, "x")
        n = self.space.len(x)
        if not n:
            raise ValueError("x is empty; accepts one row or more")
        if n * self.space.dims > self.limit:
            raise ValueError(f"x has {n * self.space.dims:,} numbers; accepts {self.limit:,} (limit) or fewer")
        y = check_condition(self.model, y, n)
        if isinstance(self.model.condition, Reals):
            if not torch.equal(y.float().to(y.dtype), y):
                raise ValueError(
                    f"y has {y.dtype} numbers that are none of float32, as which files hold them; give y.float()"
                )
            y = y.float()
        return x.cpu(), None if y is None else y.cpu(), n

    def _says(self, x: Tensor, y: Any) -> LogProb:
        """What the model says of all that a file holds: of a joint's rows with labels, log p(x, y)."""
        reading = log_prob(self.model, x, y)
        if y is None or not isinstance(self.model, Classes):
            return reading
        with scoring(self.model):
            return dataclasses.replace(reading, nats=reading.nats + self.model.log_prior()[y].double())

    def _labels(self, scheme: Scheme) -> Integers | Reals | None:
        """The space of the y that a file holds, if it holds any."""
        return None if scheme.coding.labels is False else self.model.condition

    def _parts(self, n: int, scheme: Scheme) -> list[slice]:
        size = self.chunk or scheme.chunk
        return [slice(low, min(low + size, n)) for low in range(0, n, size)]

    def _chunk(self, scheme: Scheme, x: Tensor, y: Any, nats: Tensor, verify: bool) -> Chunk:
        raw = canonical(x, self.space).tobytes()
        if y is not None:
            raw += canonical(y, self.model.condition).tobytes()
        try:
            data = scheme.encode(x, y, nats=nats).to_bytes()
        except Unmovable:
            return Chunk(Kind.RAW, len(x), raw)
        if len(data) < len(raw) and (not verify or self._comes_back(scheme, data, x, y)):
            return Chunk(Kind.MODEL, len(x), data)
        return Chunk(Kind.RAW, len(x), raw)

    def _comes_back(self, scheme: Scheme, data: bytes, x: Tensor, y: Any) -> bool:
        """Whether a chunk decodes to its rows when the model sees batches of another size."""
        try:
            found, labels = self._decoded(scheme.sized(scheme.group + 1), 0, data, len(x))
        except CorruptChunk:
            return False
        return torch.equal(found.to(x.dtype), x) and (y is None or torch.equal(labels, y))

    def _rows(self, scheme: Scheme, number: int, kind: Kind, rows: int, data: bytes) -> tuple[Tensor, Any]:
        if kind is Kind.MODEL:
            x, y = self._decoded(scheme, number, data, rows)
            return torch.from_numpy(canonical(x, self.space)), y
        of_x, condition = np.dtype(dtype_of(self.space)), self._labels(scheme)
        of_y, size = np.dtype(dtype_of(condition or self.space)), rows * self.space.dims * of_x.itemsize
        if len(data) != size + (0 if condition is None else rows * condition.dims * of_y.itemsize):
            raise CorruptChunk(number, f"{len(data)} bytes cannot hold {rows} rows of {self.space}")
        x = np.frombuffer(data, of_x, rows * self.space.dims).reshape(rows, *self.space.shape)
        y = None
        if condition is not None:
            values = np.frombuffer(data, of_y, offset=size).reshape(rows, *condition.shape)
            y = torch.from_numpy(values.astype(np.float32 if isinstance(condition, Reals) else np.int64))
        for numbers, space in ((x, self.space), (y, condition)):
            if isinstance(space, Integers) and numbers is not None and numbers.max() >= space.levels:
                raise CorruptChunk(number, f"it holds {numbers.max()}; {space} has {space.levels} levels")
        if isinstance(condition, Reals) and y is not None and not bool(torch.isfinite(y).all()):
            raise CorruptChunk(number, f"it holds NaN or infinity; {condition} accepts finite numbers")
        return torch.from_numpy(x.copy()), y

    def _decoded(self, scheme: Scheme, number: int, data: bytes, rows: int) -> tuple[Tensor, Any]:
        try:
            stack = Stack.from_bytes(data, scheme.borrowing)
            x, y = scheme.decode(stack, rows)
        except ValueError as error:  # bytes that are no stack, a stack that ends too early
            raise CorruptChunk(number, str(error)) from error
        if not stack.is_empty():
            raise CorruptChunk(number, "the coder does not end where it began")
        return x, y

    def _initial(self, scheme: Scheme, x: Tensor, y: Any, part: slice) -> int:
        try:
            stack = scheme.encode(x[part], None if y is None else y[part])
        except Unmovable:  # stored as it is, which borrows nothing
            return 0
        return 32 * stack.borrowed

    def _header(self, archive: Archive) -> Header:
        header = header_of(archive)
        if not isinstance(header, Header):
            raise UnsupportedVersion("it holds pictures of any sizes; open it with likely.coding.Pictures")
        have, rows = self.space, sum(entry.rows for entry in archive.entries if entry.kind is not Kind.NOTES)
        if rows != header.content.rows:
            raise CorruptHeader(f"its chunks have {rows} rows, its header says {header.content.rows}")
        check_model(header, self.model, self.hash)
        if max(rows, header.coding.group) * have.dims > self.limit:
            raise CorruptHeader(f"it holds {rows:,} rows of {have}; accepts {self.limit:,} numbers (limit) or fewer")
        check_numerics(header, self.fingerprint(header.coding))
        return header


def _whole(bits: float) -> int | None:
    """Bits to the nearest, or nothing where a model gave what was coded no probability at all, or next to none."""
    return round(bits) if abs(bits) <= MOST_BITS else None


def _arrays(source: str | Path) -> tuple[np.ndarray, np.ndarray | None]:
    """x, and y where it is there, of a .npy or .npz. Raises `ValueError` naming the file."""
    try:
        with open(source, "rb") as file:
            arrays = np.load(file, allow_pickle=False)
            return (arrays, None) if isinstance(arrays, np.ndarray) else (arrays["x"], dict(arrays).get("y"))
    except KeyError:
        raise ValueError(f"{source} holds no array x; accepts an .npz with x (and y), or a .npy") from None
    except (EOFError, ValueError, BadZipFile) as error:
        raise ValueError(f"{source} cannot be read as .npy or .npz: {error}") from error


def write_npz(target: str | Path, rows: Rows, space: Integers) -> Path:
    """Rows as an .npz with `x` and, where there are labels, `y`; whole or not there."""
    arrays = {"x": canonical(rows.x, space)} | ({} if rows.y is None else {"y": rows.y.numpy()})
    return replace(target, lambda file: np.savez_compressed(file, **arrays))  # ty: ignore[invalid-argument-type]
