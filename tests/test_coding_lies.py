"""Files whose checksums are all right and that lie: more rows, pixels or notes than there are, numbers that are none.

Whoever writes such a file wants a decoder to hang, to run out of memory, or to end with something that is no
`CodecError`. `test_coding_forever.py` has the damage that nobody intends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from headers import put

sys.path.append(str(Path(__file__).parent))
import test_coding_files
import test_coding_pictures
from test_coding_files import make, rewritten
from test_coding_forever import GOLDEN

from likely.coding import Codec, CodecError, CorruptChunk, CorruptHeader, NotACodecFile, Pictures, container
from likely.coding.ans import Stack
from likely.coding.container import Chunk, Kind
from likely.coding.plain import Underflow
from likely.coding.tables import Uniform
from likely.tasks.compress import describe
from likely.train import load_model

small = test_coding_files.small
little = test_coding_pictures.little


def packed(text: str) -> bytes:
    """JSON that need not be JSON, deflated as a file has it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=container._USUAL)
    return packer.compress(text.encode()) + packer.flush()


def noted(blob: bytes, *texts: str) -> bytes:
    """The file with these notes in place of its own."""
    notes = [Chunk(Kind.NOTES, 0, packed(text)) for text in texts]
    return rewritten(blob, chunks=lambda parts: [p for p in parts if p.kind is not Kind.NOTES] + notes)


@pytest.mark.parametrize("wide", [False, True])
def test_a_stack_from_a_file_lends_nothing(wide: bool) -> None:
    """It ends where its bytes do: with bits to borrow, one would decode for ever."""
    stack = Stack(40 if wide else 2, "a")
    stack.pop(Uniform(80, 256))
    assert stack.borrowed > 0
    with pytest.raises(Underflow):
        Stack.from_bytes(stack.to_bytes(), "a").pop(Uniform(4000, 256))


def test_a_million_rows_in_some_bytes_of_bits_back() -> None:
    model = load_model(GOLDEN / "bits-back.safetensors")
    blob = (GOLDEN / "bits-back.lkz").read_bytes()
    rows = 1 << 20
    bad = rewritten(
        blob,
        put("content", "rows", to=rows),
        lambda parts: [Chunk(Kind.MODEL, rows, parts[0].data), *(p for p in parts[1:] if p.kind is Kind.NOTES)],
    )
    codec = Codec(model)
    codec.decompress(blob)
    began = time.process_time()
    with pytest.raises(CorruptChunk, match="the stack is empty"):
        codec.decompress(bad)
    assert time.process_time() - began < 2


@pytest.mark.parametrize("kind", [Kind.MODEL, Kind.RAW])
def test_a_chunk_without_rows(small: Any, kind: Kind) -> None:
    coder, _, blob = small
    data = Stack().to_bytes() if kind is Kind.MODEL else b""
    with pytest.raises(CorruptHeader, match="chunk 0 has no rows"):
        coder.decompress(rewritten(blob, chunks=lambda parts: [Chunk(kind, 0, data), *parts]))


def test_notes_that_swell(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them together may have so many bytes, however many chunks they are in."""
    monkeypatch.setattr(container, "MOST_NOTES", 1 << 16)
    coder, x, blob = small
    some = [json.dumps({str(i): "a" * 30_000}) for i in range(3)]
    assert torch.equal(coder.decompress(noted(blob, *some[:2])).long(), x)
    for texts in (some, [json.dumps({"a": "a" * 70_000})]):
        for look in (coder.decompress, describe):
            with pytest.raises(CorruptChunk, match="longer than"):
                look(noted(blob, *texts))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", '"\\ud800"', "1" * 5000])
def test_numbers_and_words_that_are_none(small: Any, value: str) -> None:
    """What Python's reader of JSON takes and its writer, or a terminal, does not."""
    coder, _, blob = small
    text = json.dumps(container.read(blob).header).replace('"f64"', value)
    archive = container.read(blob)
    header = packed(text)
    start = container.MAGIC + container._FIXED.pack(1, 0, len(header), zlib.crc32(header)) + header
    shift = len(start) - archive.entries[0].start
    where = len(blob) - 20 - 12 * len(archive.entries)
    index = blob[where:-20] + (where + shift).to_bytes(8, "little")
    bad = start + blob[archive.entries[0].start : where] + index + zlib.crc32(index).to_bytes(4, "little") + blob[-8:]
    for look in (coder.decompress, describe):
        with pytest.raises(CodecError):
            look(bad)
    if not value.startswith('"'):
        with pytest.raises(CorruptChunk):
            describe(noted(blob, f'{{"a":[{value}]}}'))


@pytest.mark.parametrize(
    "change",
    [
        put("content", "nll_bits", to=10**400),
        put("content", "nll_bits", to=-(10**30)),
        put("model", "family", to="\x1b[2J\x1b]0;mine\x07"),
        put("coding", "scheme", to="\x9b2J"),
        put("coding", "scheme", to="a" * 10_000),
    ],
)
def test_what_is_shown_of_a_file_can_be_shown(small: Any, change: Any) -> None:
    """`likely info` needs no model, so it is what strangers' files meet first."""
    with pytest.raises(CorruptHeader):
        describe(rewritten(small[2], change))


def test_labels_that_are_none() -> None:
    codec = Codec(load_model(GOLDEN / "labels.safetensors"))
    x = torch.zeros(3, *codec.space.shape, dtype=torch.int64)
    blob = codec.compress(x, torch.zeros(3, dtype=torch.int64))
    raw = bytes(3 * codec.space.dims)
    assert torch.equal(
        codec.decompress(rewritten(blob, chunks=lambda _: [Chunk(Kind.RAW, 3, raw + bytes(3))])).long(), x
    )
    with pytest.raises(CorruptChunk, match="it holds 200"):
        codec.decompress(rewritten(blob, chunks=lambda _: [Chunk(Kind.RAW, 3, raw + bytes([0, 200, 0]))]))


def test_what_a_model_holds_impossible_is_coded_all_the_same() -> None:
    """-log2 0 is no number of bits that a header could state."""
    model: Any = make("autoregressive / made")
    with torch.no_grad():
        model.network.head.bias.reshape(3, 5)[:, 0] = -torch.inf  # three sites of five levels
    x = torch.zeros(5, *model.space.shape, dtype=torch.int64)
    codec = Codec(model)
    assert bool(torch.isinf(codec.expected_bits(x)).all())
    blob = codec.compress(x)
    assert torch.equal(codec.decompress(blob).long(), x)
    assert "model_bits_per_dim" not in describe(blob)


# Pictures -----------------------------------------------------------------------------------------------------------


def pictured(blob: bytes, *, side: int, shapes: list[Any], chunks: list[Chunk]) -> bytes:
    """A file of pictures with other sizes, and chunks that fit them."""
    record = container.read(blob).notes(Kind.TABLE) | {"shapes": shapes}
    table = container.notes(record, Kind.TABLE)
    change = put("tiling", "side", to=side)
    return test_coding_pictures.rewritten(blob, change, lambda _: [*chunks, table])


def test_a_terabyte_that_is_not_there(little: Any) -> None:
    """Room is made for what has been decoded: the first chunk ends this."""
    _, _, blob = little
    side, height, width = 2048, 1 << 24, 1 << 16
    stripes = [Chunk(Kind.MODEL, 64, bytes(60)) for _ in range(height // side // 2)]
    group = put("coding", "group", to=1)
    bad = pictured(
        test_coding_pictures.rewritten(blob, group), side=side, shapes=[(1, height, width, 1)], chunks=stripes
    )
    codec = Pictures(test_coding_pictures.Rows())
    opened = codec.open(bad)
    assert opened.shapes == [(1, height, width)]
    for look in (opened.pictures, lambda: opened.picture(0)):
        with pytest.raises(CorruptChunk):
            look()


def test_tiles_that_no_machine_has_room_for(little: Any) -> None:
    """The fingerprint's probe is as large as a tile: it must not be made for any size that a file may claim."""
    coder, _, blob = little

    def huge(header: dict[str, Any]) -> None:
        header["tiling"] = {"side": 4096, "multiple": 4096}

    with pytest.raises(CorruptHeader, match="tiles of"):
        coder.open(test_coding_pictures.rewritten(blob, huge))
    for options in ({"side": 4096}, {"side": 1024, "group": 5}, {"side": 0}, {"group": 0}, {"chunk": 0}, {"side": 1.5}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} is {next(iter(options.values()))}"):
            Pictures(test_coding_pictures.Rows(), **options)


# Files that cannot be sought in -------------------------------------------------------------------------------------


def test_a_pipe_is_told_from_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    words = [sys.executable, "-c", f"open({str(tmp_path / 'pipe')!r}, 'wb').write(b'x')"]
    writer = subprocess.Popen(words)
    with pytest.raises(NotACodecFile, match="pipe"):
        describe(tmp_path / "pipe")
    writer.wait(20)


def test_arrays_that_are_none(small: Any, tmp_path: Path) -> None:
    coder, _, _ = small
    np.savez(tmp_path / "other.npz", q=np.zeros(3))
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "bad.npy").write_bytes(b"no array")
    for name in ("other.npz", "empty.npy", "bad.npz", "bad.npy"):
        with pytest.raises(ValueError, match=name):
            coder.compress_file(tmp_path / name, tmp_path / "a.lkz")
    assert not (tmp_path / "a.lkz").exists()
