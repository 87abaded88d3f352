"""Pictures of any sizes in one file: there and back in bands, by parts, and never wrong."""

from __future__ import annotations

import hashlib
import io
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from headers import put
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from likely.coding import (
    Codec,
    CodecError,
    CorruptChunk,
    CorruptHeader,
    DecodeMismatch,
    ModelMismatch,
    NumericsMismatch,
    Picture,
    Pictures,
    UnsupportedVersion,
    container,
)
from likely.coding.container import PICTURES, Chunk, Kind
from likely.observation import Conditional, DiscretisedLogisticMixture
from likely.space import Integers


class Rows(nn.Module):
    """The even columns by one logistic, the odd ones given the even ones to their left: a codec's smallest model."""

    numerics = "int"
    condition = None

    def __init__(self, channels: tuple[int, ...] = (1, 3), space: Integers | None = None, scale: float = -2.0) -> None:
        super().__init__()
        self.channels, self.space = channels, space or Integers((channels[-1], 8, 8), 256)
        self.scale = nn.Parameter(torch.tensor(scale))

    def at(self, space: Integers) -> Rows:
        if space.shape[0] not in self.channels:
            raise ValueError(f"space has {space.shape[0]} channels; accepts {self.channels}")
        return Rows(self.channels, space, float(self.scale))

    def factor_values(self, x: Tensor, y: Any = None) -> list[Tensor]:
        parts = [x[..., ::2], x[..., 1::2]]
        return [part.flatten(2) for part in parts if part.numel()]

    def factors(self, n: int, y: Any = None) -> Iterator[Any]:
        channels, height, width = self.space.shape
        even = (yield self._given(torch.zeros(n, channels, height * (-(-width // 2))))).reshape(n, channels, height, -1)
        x = torch.zeros(n, *self.space.shape, dtype=torch.int64)
        x[..., ::2] = even
        if width > 1:
            left = even[..., : width // 2].flatten(2).float() / 127.5 - 1
            x[..., 1::2] = (yield self._given(left)).reshape(n, channels, height, -1)
        return x

    def _given(self, mean: Tensor) -> Conditional:
        """One logistic a number around a mean (n, C, S)."""
        n, channels, sites = mean.shape
        each = DiscretisedLogisticMixture(Integers((channels, 1, sites), 256), 1)
        chain = torch.zeros(n, each.chained, sites)
        scale = self.scale.detach().expand(n, channels, sites)
        return Conditional(each, torch.cat([torch.zeros(n, 1, sites), mean, scale, chain], 1))


def smooth(height: int, width: int, channels: int = 0, seed: int = 0) -> np.ndarray:
    """A picture with slopes and some noise, (H, W) or (H, W, C)."""
    r = np.random.default_rng(seed)
    shape = (height, width, channels or 1)
    y, x, c = np.ogrid[:height, :width, : shape[2]]
    picture = 90 + 60 * np.sin(y / 9 + c) + 40 * np.cos(x / 7 - c) + r.normal(0, 3, shape)
    picture = picture.clip(0, 255).astype(np.uint8)
    return picture if channels else picture[:, :, 0]


MIXED = [smooth(*shape, seed=i) for i, shape in enumerate([(1, 1), (5, 40), (33, 17, 3), (16, 16, 3), (40, 3), (4, 4)])]


def same(found: list[np.ndarray], pictures: list[np.ndarray]) -> bool:
    return len(found) == len(pictures) and all(
        a.dtype == np.uint8 and np.array_equal(a, b) for a, b in zip(found, pictures, strict=True)
    )


@pytest.fixture(scope="module")
def coder() -> Pictures:
    return Pictures(Rows(), side=16, group=2, chunk=600)


@pytest.fixture(scope="module")
def blob(coder: Pictures) -> bytes:
    return coder.compress(MIXED)


# There and back -----------------------------------------------------------------------------------------------------


def test_pictures_of_any_sizes(coder: Pictures, blob: bytes) -> None:
    assert same(coder.decompress(blob), MIXED)
    archive = container.read(blob)
    assert archive.version == PICTURES
    assert len(archive.entries) > 4
    assert len(blob) < sum(picture.size for picture in MIXED)
    assert archive.header["numerics"]["profile"] == "int"


@given(
    shapes=st.lists(
        st.tuples(st.integers(1, 20), st.integers(1, 20), st.sampled_from([0, 1, 3])), min_size=1, max_size=4
    ),
    side=st.sampled_from([5, 7, 16, 64]),
    group=st.integers(1, 5),
    chunk=st.integers(1, 3000),
    numerics=st.sampled_from(["int", "f64"]),
)
@settings(max_examples=12, deadline=None)
def test_any_sizes_in_any_tiles(shapes: list[Any], side: int, group: int, chunk: int, numerics: str) -> None:
    model: Any = Rows()
    model.numerics = numerics
    pictures = [smooth(*shape, seed=i) for i, shape in enumerate(shapes)]
    found = Pictures(model).decompress(Pictures(model, side=side, group=group, chunk=chunk).compress(pictures))
    assert same(found, [p[:, :, 0] if p.ndim == 3 and p.shape[2] == 1 else p for p in pictures])


def test_floats_see_tiles_of_one_shape() -> None:
    """Those at the border are filled up; what was filled in does not come back."""
    model, picture = Rows(), smooth(31, 47)
    model.numerics = "f64"  # ty: ignore[invalid-assignment]
    coder = Pictures(model, side=16)
    blob = coder.compress([picture])
    assert container.read(blob).entries[0].kind is Kind.MODEL
    assert coder.tiling.multiple == 16
    assert same(coder.decompress(blob), [picture])


def test_bands_of_any_heights_make_the_same_file(coder: Pictures) -> None:
    picture = smooth(50, 30, 3)

    def written(*cuts: int) -> bytes:
        out = io.BytesIO()
        bands = np.split(picture, cuts)
        coder.write([Picture("a", (3, 50, 30), iter(bands))], out)
        return out.getvalue()

    assert written() == written(1, 2, 3) == written(16, 32, 48) == written(7, 7, 41)


def test_names_and_notes(coder: Pictures) -> None:
    out, seen = io.BytesIO(), []
    pictures = [Picture.of(p, f"{i}.png") for i, p in enumerate(MIXED)]
    coder.write(pictures, out, notes={"from": "here"}, progress=seen.append)
    opened = coder.open(out)
    assert opened.names == [f"{i}.png" for i in range(len(MIXED))]
    assert container.read(out.getvalue()).notes() == {"from": "here"}
    read: list[int] = []
    assert same(opened.pictures(read.append), MIXED)
    assert seen == sorted(set(seen))
    assert read[-1] == seen[-1] == sum(-(-p.shape[0] // 16) * -(-p.shape[1] // 16) for p in MIXED)


def test_parts_are_read_alone(coder: Pictures, blob: bytes) -> None:
    """A picture or a crop takes the chunks that it touches, and no other: here all others are damaged."""
    opened = coder.open(blob)
    archive = container.read(blob)
    for k, picture in enumerate(MIXED):
        assert np.array_equal(opened.picture(k), picture)
    last = bytearray(blob)
    touched = [n for n, strips in opened._plan.items() if any(s.picture == 2 and s.top == 32 for s in strips)]
    for number, entry in enumerate(archive.entries):
        if number not in touched and entry.kind is not Kind.TABLE:
            last[entry.start] ^= 1
    damaged = coder.open(bytes(last))
    assert np.array_equal(damaged.crop(2, 32, 3, 1, 9), MIXED[2][32:, 3:12])
    with pytest.raises(CorruptChunk):
        damaged.picture(2)
    with pytest.raises(CorruptChunk):
        damaged.pictures()
    r = np.random.default_rng(0)
    for _ in range(20):
        a, b = sorted(r.integers(0, 34, 2))
        c, d = sorted(r.integers(0, 18, 2))
        if a < b and c < d:
            assert np.array_equal(opened.crop(2, a, c, b - a, d - c), MIXED[2][a:b, c:d])
    for k, part in ((6, (0, 0, 1, 1)), (-1, (0, 0, 1, 1)), (2, (0, 0, 34, 1)), (2, (-1, 0, 1, 1)), (2, (0, 0, 0, 1))):
        with pytest.raises(ValueError, match="picture"):
            opened.crop(k, *part)


def test_memory_is_bounded_by_a_strip(tmp_path: Any) -> None:
    """Six times the rows, no more memory, either way: the picture is nowhere whole."""
    coder = Pictures(Rows(), side=32, chunk=1 << 14)
    peaks = []
    for height in (100, 600):
        path, row = tmp_path / f"{height}.lkz", smooth(100, 256)

        def bands(height: int = height, row: np.ndarray = row) -> Iterator[np.ndarray]:
            return (row[:, :, None] for _ in range(height // 100))

        tracemalloc.start()
        with path.open("wb") as file:
            coder.write([Picture(None, (1, height, 256), bands())], file)
        written = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        digest = hashlib.sha256()
        with path.open("rb") as file:
            for band in coder.open(file).bands():
                digest.update(band.pixels.data)
        peaks.append((written, tracemalloc.get_traced_memory()[1]))
        tracemalloc.stop()
        assert digest.hexdigest() == hashlib.sha256(np.tile(row, (height // 100, 1)).data).hexdigest()
    assert max(peaks[1]) < 1.2 * max(peaks[0])


def test_noise_is_stored_as_it_is(coder: Pictures) -> None:
    """A file is never larger than the raw bytes and its container."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    blob = coder.compress([noise, MIXED[2]])
    archive = container.read(blob)
    kinds = [entry.kind for entry in archive.entries]
    assert {Kind.RAW, Kind.MODEL, Kind.TABLE} == set(kinds)
    table = archive.entries[kinds.index(Kind.TABLE)].size
    assert len(blob) <= noise.size + MIXED[2].size + archive.overhead + table
    assert archive.overhead + table <= 256 + 12 * len(kinds)
    assert same(coder.decompress(blob), [noise, MIXED[2]])


def test_tiles_that_do_not_come_back_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose tables move with the size of the batch: what verification is for."""
    coder, inner = Pictures(Rows(), side=16), Rows._given
    monkeypatch.setattr(Rows, "_given", lambda self, mean: inner(self, mean + 0.1 * (len(mean) % 2)))
    blob = coder.compress(MIXED)
    assert {e.kind for e in container.read(blob).entries} == {Kind.RAW, Kind.TABLE}
    assert same(coder.decompress(blob), MIXED)


# Damage -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def little() -> tuple[Pictures, list[np.ndarray], bytes]:
    """A file small enough to try all of its bits."""
    coder, pictures = Pictures(Rows(), side=8, chunk=30), [smooth(9, 12), smooth(3, 4, 3), smooth(9, 9)]
    return coder, pictures, coder.compress(pictures)


def test_every_flipped_bit_and_every_truncation_is_an_error(little: Any) -> None:
    coder, pictures, blob = little
    assert same(coder.decompress(blob), pictures)
    for bit in range(8 * len(blob)):
        bad = bytearray(blob)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CodecError):
            coder.decompress(bytes(bad))
    for size in range(len(blob)):
        for part in (blob[:size], blob[size + 1 :]):
            with pytest.raises(CodecError):
                coder.decompress(part)
    for more in (b"\0", blob):
        with pytest.raises(CodecError):
            coder.decompress(blob + more)


def rewritten(blob: bytes, change: Any = None, chunks: Any = None, table: Any = None, version: int = PICTURES) -> bytes:
    """A file with another header, table or other chunks, and all checksums right."""
    archive = container.read(blob)
    header = {key: dict(value) for key, value in archive.header.items()}
    if change is not None:
        change(header)
    parts = [Chunk(e.kind, e.rows, archive.chunk(i)) for i, e in enumerate(archive.entries)]
    if table is not None:
        record = archive.notes(Kind.TABLE)
        table(record)
        parts = [container.notes(record, Kind.TABLE) if p.kind is Kind.TABLE else p for p in parts]
    return container.write(header, parts if chunks is None else chunks(parts), version)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (put("model", "sha256", to="0" * 32), ModelMismatch, "needs the model 0000"),
        (put("numerics", "fingerprint", to="0" * 16), NumericsMismatch, "other tables"),
        (put("numerics", "profile", to="f64"), CorruptHeader, "numeric profile"),
        (put("coding", "group", to=0), CorruptHeader, "coding.group"),
        (put("tiling", "side", to=0), CorruptHeader, "tiling.side"),
        (put("tiling", "side", to=10**9), CorruptHeader, "tiling.side"),
        (put("tiling", "side", to=7), CodecError, ""),
        (put("tiling", "multiple", to=3), CorruptHeader, "multiple=3"),
        (put("tiling", "multiple", to=8), CodecError, ""),
        (put("space", "levels", to=17), CorruptHeader, "space"),
    ],
)
def test_a_header_with_right_checksums_and_wrong_words(little: Any, change: Any, error: type, says: str) -> None:
    coder, _, blob = little
    with pytest.raises(error, match=says or None):
        coder.decompress(rewritten(blob, change))


@pytest.mark.parametrize(
    ("table", "error"),
    [
        (put("sha256", to="0" * 32), DecodeMismatch),
        (put("shapes", to=[]), CorruptHeader),
        (put("shapes", to=[[1, 9, 12, 2]]), CorruptHeader),
        (put("shapes", to=[[1, 9, 12, 1], [3, 3, 4, 1]]), CorruptHeader),
        (put("shapes", to=[[1, 9, 12, 1], [3, 3, 4, 1], [1, 9, 9, 2]]), CorruptHeader),
        (put("shapes", to=[[1, 12, 9, 1], [3, 3, 4, 1], [1, 9, 9, 1]]), CodecError),
        (put("shapes", to=[[1, 9, 12, 1], [3, 4, 3, 1], [1, 9, 9, 1]]), CodecError),
        (put("shapes", to=[[1, 2**24, 2**24, 2**24]]), CorruptHeader),
        (put("shapes", to=[[1, 1, 1, 2**24]]), CorruptHeader),
        (put("shapes", to=[[2, 9, 12, 1], [3, 3, 4, 1], [1, 9, 9, 1]]), CorruptHeader),
        (put("shapes", to=[[1, -9, 12, 1], [3, 3, 4, 1], [1, 9, 9, 1]]), CorruptHeader),
        (put("names", to=["a"]), CorruptHeader),
        (put("more", to=1), CorruptHeader),
    ],
)
def test_a_table_with_right_checksums_and_wrong_words(little: Any, table: Any, error: type) -> None:
    coder, _, blob = little
    assert rewritten(blob, table=lambda record: None) == blob
    with pytest.raises(error):
        coder.decompress(rewritten(blob, table=table))


def test_chunks_with_right_checksums_and_wrong_bytes(little: Any) -> None:
    """The pixels' own checksum and the coder's end find what the chunk's checksum cannot; also in a crop."""
    coder, _, blob = little
    archive = container.read(blob)
    assert archive.entries[0].kind is Kind.MODEL
    for byte in range(archive.entries[0].size):
        for bit in (1, 128):

            def flipped(parts: list[Chunk], byte: int = byte, bit: int = bit) -> list[Chunk]:
                data = bytearray(parts[0].data)
                data[byte] ^= bit
                return [parts[0]._replace(data=bytes(data)), *parts[1:]]

            bad = rewritten(blob, chunks=flipped)
            with pytest.raises(CorruptChunk):
                coder.decompress(bad)
            with pytest.raises(CorruptChunk):
                coder.open(bad).crop(0, 0, 0, 1, 1)
    for chunks in (
        lambda p: [p[1], p[0], *p[2:]],
        lambda p: p[1:],
        lambda p: [*p[:-1], p[0], p[-1]],
        lambda p: [*p, p[-1]],
        lambda p: p[:-1],
        lambda p: [p[0]._replace(rows=3), *p[1:]],
        lambda p: [p[0]._replace(rows=0), *p[1:]],
        lambda p: [p[0]._replace(kind=Kind.RAW), *p[1:]],
        lambda p: [p[0]._replace(data=b""), *p[1:]],
    ):
        with pytest.raises(CodecError):
            coder.decompress(rewritten(blob, chunks=chunks))


def test_swapped_pictures_of_one_size_are_seen(coder: Pictures) -> None:
    """Every chunk is whole and decodes: only the content's hash can tell."""
    a, b = smooth(16, 40, seed=1), smooth(16, 40, seed=2)
    blob = coder.compress([a, b])
    with pytest.raises(DecodeMismatch):
        coder.decompress(rewritten(blob, chunks=lambda p: [p[1], p[0], *p[2:]]))


def test_other_versions_and_models(little: Any) -> None:
    coder, _, blob = little
    with pytest.raises(CorruptHeader):
        coder.open(rewritten(blob, version=1))
    with pytest.raises(UnsupportedVersion, match="versions 1 and 2"):
        coder.open(rewritten(blob, version=3))
    with pytest.raises(ModelMismatch):
        Pictures(Rows(scale=-1.9)).open(blob)
    with pytest.raises(NumericsMismatch):
        Pictures(Rows(channels=(3,))).open(blob)


def test_the_fingerprint_sees_a_model_that_answers_otherwise(little: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, blob = little
    inner = Rows._given
    monkeypatch.setattr(Rows, "_given", lambda self, mean: inner(self, mean + 0.01))
    with pytest.raises(NumericsMismatch):
        Pictures(Rows()).open(blob)


# Refusals -----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_compressed(coder: Pictures) -> None:
    good = smooth(4, 4)
    for bad, error, says in (
        (good.astype(float), TypeError, "float64; accepts uint8"),
        (good.astype(np.int64), TypeError, "int64"),
        (good[:0], ValueError, "0 x 4"),
        (good[:, :0], ValueError, "4 x 0"),
        (np.zeros((4, 4, 2), np.uint8), ValueError, "2 x 4 x 4"),
        (np.zeros((4, 4, 4), np.uint8), ValueError, "4 x 4 x 4"),
        (np.zeros(4, np.uint8), ValueError, "shape"),
        (np.full((4, 4), np.nan), TypeError, "float64"),
    ):
        with pytest.raises(error, match=says):
            coder.compress([good, bad])
    with pytest.raises(ValueError, match="none"):
        coder.compress([])
    with pytest.raises(ValueError, match="1 has no name"):
        coder.write([Picture.of(good, "a"), Picture.of(good)], io.BytesIO())
    with pytest.raises(ValueError, match="ends after 4 of 5 rows"):
        coder.write([Picture("a", (1, 5, 4), [good[:, :, None]])], io.BytesIO())
    with pytest.raises(ValueError, match="got a band"):
        coder.write([Picture("a", (1, 3, 4), [good[:, :, None]])], io.BytesIO())
    with pytest.raises(ValueError, match="3 channels; this model"):
        Pictures(Rows(channels=(1,))).compress([smooth(4, 4, 3)])


def test_models_that_code_one_shape_only_say_so(little: Any) -> None:
    from likely import registry

    fixed = registry.build("mixture", Integers((1, 4, 4), 256))
    with pytest.raises(TypeError, match=r"no `at`; accepts pictures of .*Codec"):
        Pictures(fixed)
    with pytest.raises(UnsupportedVersion, match="Pictures"):
        Codec(fixed).decompress(little[2])
    rows = Codec(fixed).compress(torch.zeros(3, 1, 4, 4, dtype=torch.uint8))
    with pytest.raises(UnsupportedVersion, match="Codec"):
        little[0].open(rows)
    given: Any = Rows()
    given.condition = Integers((), 3)
    with pytest.raises(TypeError, match="conditioned on"):
        Pictures(given)
