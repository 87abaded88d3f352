"""Lossy files: the very latents come back or an error, and the file says how near the pictures are."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from shell import Shell
from test_coding_forever import hammer
from torch import Tensor

import likely as lk
from likely.coding import (
    Codec,
    CodecError,
    CorruptChunk,
    CorruptHeader,
    DecodeMismatch,
    LossyCodec,
    ModelMismatch,
    NotACodecFile,
    NumericsMismatch,
    UnsupportedVersion,
    container,
    lossy,
)
from likely.coding.container import Kind
from likely.coding.fidelity import ms_ssim, psnr
from likely.coding.tables import Chosen
from likely.data import from_arrays
from likely.families import hyperprior
from likely.logprob import scoring
from likely.noise import Noise
from likely.space import Integers
from likely.train import save
from likely.train.start import start_from

FIELDS = {"patch": 4, "latent": 12, "width": 6, "hyper": 4, "smooth": 4, "lams": (0.02, 0.1, 0.5)}


def picture(height: int, width: int, channels: int = 1, seed: int = 0) -> Tensor:
    """Waves, an edge and a little noise."""
    y, x = torch.arange(height)[:, None] / 9, torch.arange(width) / 13
    wave = 80 * (y + seed + x).sin() + 40 * (x * 2 > y)
    noise = 3 * Noise(seed, 1).normal((channels, height, width))[0]
    tones = 1 - torch.arange(channels)[:, None, None] / 5
    return (wave * tones + 110 + noise).round().clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def model() -> Any:
    made: Any = lk.build("hyperprior", Integers((1, 16, 16), 256), **FIELDS)
    x = torch.stack([picture(16, 16, seed=s) for s in range(32)])
    made.prepare(x, noise=Noise(0, 32))
    optimiser = torch.optim.Adam(made.parameters(), 3e-3)
    for step in range(150):
        optimiser.zero_grad()
        made.loss(x, noise=Noise(step, 32)).backward()
        optimiser.step()
    return made.eval()


@pytest.fixture(scope="module")
def codec(model: Any) -> LossyCodec:
    return LossyCodec(model)


@pytest.fixture(scope="module")
def small(codec: LossyCodec) -> bytes:
    return codec.compress([picture(13, 22)], rate=2)


# There and back -------------------------------------------------------------------------------------------------------


def test_files_hold_pictures_of_any_size_and_say_how_near_they_are(codec: LossyCodec) -> None:
    pictures = [picture(1, 1), picture(200, 181, seed=3), picture(40, 17, seed=5)]
    blob = codec.compress(pictures, rate=2.5, names=["a.png", "b.png", "c.png"], notes={"by": "me"})
    found = codec.read(blob)
    assert [p.shape for p in found.pictures] == [p.shape for p in pictures]
    assert all(p.dtype == torch.uint8 for p in found.pictures)
    assert found.contents.names == ["a.png", "b.png", "c.png"] and found.notes == {"by": "me"}
    for mine, back, told in zip(pictures, found.pictures, found.contents.pictures, strict=True):
        if told.psnr is not None:
            assert told.psnr == pytest.approx(float(psnr(mine[None], back[None])), abs=1e-3)
        assert (told.ms_ssim is None) == (min(mine.shape[1:]) < 176)
    big = found.contents.pictures[1]
    assert big.ms_ssim == pytest.approx(float(ms_ssim(pictures[1][None], found.pictures[1][None])), abs=1e-5)
    assert big.psnr is not None and big.psnr > 25
    record = lossy.describe(container.read(blob))
    assert record["lossy"] and record["rate"] == 2.5 and record["bytes"] == len(blob)
    assert "lossy, rate 2.5: 3 pictures" in lossy.sentence(record)


def test_a_file_is_as_long_as_the_model_says(codec: LossyCodec) -> None:
    """Within 0.5 % and what the lanes cost: on a picture that is large enough for this to mean something."""
    big = picture(360, 400, seed=2)
    for rate in (1, 3):
        archive = container.read(codec.compress([big], rate=rate, verify=False))
        says = lossy.opened(archive)[1].model_bits
        lanes = int.from_bytes(archive.chunk(0)[:2], "little")
        assert abs(8 * archive.entries[0].size - says) <= 0.005 * says + 48 * lanes + 16
        assert archive.overhead + archive.entries[1].size < 400


def test_higher_rates_are_longer_and_nearer(codec: LossyCodec) -> None:
    big, found = picture(64, 96, seed=1), []
    for rate in (1, 1.5, 2, 2.5, 3):
        record = lossy.describe(container.read(codec.compress([big], rate=rate, verify=False)))
        found.append((record["bytes"], record["psnr"]))
    assert found == sorted(found)
    assert found[-1][0] > 1.5 * found[0][0] and found[-1][1] > found[0][1] + 3


def test_latents_do_not_hang_on_the_batch(codec: LossyCodec) -> None:
    x = picture(50, 70)[None]
    with lk.logprob.scoring(codec.model):
        stack, y, _ = lossy.encode(codec.model, x, 2)
        data = stack.to_bytes()
        for rows in (1, 3, 8):
            again = lossy.Stack.from_bytes(data)
            assert torch.equal(lossy.decode(codec.model, again, 50, 70, 2, rows), y)
            assert again.is_empty()


ELSEWHERE = """
import hashlib, json, sys, torch
from pathlib import Path
from likely.coding import LossyCodec
from likely.train import load_model

folder = Path(sys.argv[1])
torch.set_num_threads(2)
codec = LossyCodec(load_model(folder / "model.safetensors"))
found = codec.read((folder / "a.lkz").read_bytes())
x = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
weight = torch.linspace(-1, 1, 8 * 3 * 9).sin().reshape(8, 3, 3, 3)
bits = torch.nn.functional.conv2d(x, weight).numpy().tobytes()
print(json.dumps({
    "sha256": found.contents.digest,
    "pixels": [int(p.long().sum()) for p in found.pictures],
    "float32": hashlib.sha256(bits).hexdigest(),
}))
"""


def test_another_machine_decodes_the_same_latents(model: Any, codec: LossyCodec, tmp_path: Path) -> None:
    """Without vector instructions and on two threads; that float32 does differ there shows that it is elsewhere."""
    save(model, tmp_path / "model.safetensors")
    (tmp_path / "a.lkz").write_bytes(codec.compress([picture(80, 90), picture(33, 65, seed=4)], rate=3))
    found = []
    for machine in ({}, {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}):
        source = str(Path(__file__).parent.parent / "src")
        environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", **machine}
        words = [sys.executable, "-c", ELSEWHERE, str(tmp_path)]
        done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    here, there = found
    assert here["sha256"] == there["sha256"]
    assert here["float32"] != there["float32"]
    assert all(abs(a - b) <= 3 for a, b in zip(here["pixels"], there["pixels"], strict=True))


def test_what_would_not_become_smaller_or_not_come_back_is_kept_as_it_is(
    codec: LossyCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = Noise(3, 1).integers(256, (1, 2, 3))[0].to(torch.uint8)  # six bytes
    found = codec.read(codec.compress([noise]))
    assert torch.equal(found.pictures[0], noise) and found.contents.pictures[0].psnr is None
    other = picture(32, 32)
    right = lossy.decode

    def wrong_in_batches(*words: Any) -> Tensor:
        y = right(*words)
        return y + 1 if len(words) > 5 and words[5] > 1 else y

    monkeypatch.setattr(lossy, "decode", wrong_in_batches)
    archive = container.read(codec.compress([other]))
    assert archive.entries[0].kind is Kind.RAW
    assert torch.equal(codec.decompress(codec.compress([other]))[0], other)
    assert container.read(codec.compress([other], verify=False)).entries[0].kind is Kind.MODEL


# Damage ---------------------------------------------------------------------------------------------------------------


def test_every_flipped_bit_and_every_truncation_is_an_error(codec: LossyCodec, small: bytes) -> None:
    codec.read(small)
    for bit in range(8 * len(small)):
        damaged = bytearray(small)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CodecError):
            codec.read(bytes(damaged))
    for length in range(len(small)):
        with pytest.raises(CodecError):
            codec.read(small[:length])


def rewritten(blob: bytes, change: Callable[[dict[str, Any], list[Any]], None]) -> bytes:
    """A file whose header and chunks were changed by someone who keeps the checksums right."""
    archive = container.read(blob)
    header = json.loads(json.dumps(archive.header))
    chunks = [container.Chunk(e.kind, e.rows, archive.chunk(i)) for i, e in enumerate(archive.entries)]
    change(header, chunks)
    return container.write(header, chunks, container.PICTURES)


def test_what_the_checksums_do_not_see_is_an_error_too(codec: LossyCodec, small: bytes) -> None:
    def table(**fields: Any) -> Callable[[dict[str, Any], list[Any]], None]:
        def change(header: dict[str, Any], chunks: list[Any]) -> None:
            contents = container.read(small).notes(Kind.TABLE) | fields
            chunks[1] = container.notes(contents, Kind.TABLE)

        return change

    inside = container.read(small).notes(Kind.TABLE)["pictures"][0]
    cases: list[tuple[type[CodecError], Callable[[dict[str, Any], list[Any]], None]]] = [
        (CorruptHeader, table(pictures=[inside | {"height": 1 << 23, "width": 1 << 23}])),
        (CodecError, table(pictures=[inside | {"height": 40}])),
        (DecodeMismatch, table(pictures=[inside | {"height": 14}])),  # the same latents, and one row more of them
        (DecodeMismatch, table(pictures=[inside | {"width": 21}])),
        (CorruptHeader, table(sha256="0" * 32)),
        (CorruptHeader, table(sized=None)),
        (CorruptHeader, table(pictures=[inside | {"psnr": 10**400}])),  # an integer that is infinite as a float
        (CorruptHeader, lambda header, chunks: header["space"].update(shape=[])),
        (CorruptHeader, table(pictures=[inside, inside])),
        (CorruptHeader, table(pictures=[])),
        (CorruptHeader, table(names=["a", "b"])),
        (DecodeMismatch, table(sized="0" * 32)),
        (CorruptHeader, lambda header, chunks: header["coding"].update(rate=7.0)),
        (NumericsMismatch, lambda header, chunks: header["coding"].update(rate=1.0)),
        (UnsupportedVersion, lambda header, chunks: header["coding"].update(coder="ans99")),
        (ModelMismatch, lambda header, chunks: header["model"].update(sha256="0" * 32)),
        (NumericsMismatch, lambda header, chunks: header["numerics"].update(fingerprint="0" * 16)),
        (CodecError, lambda header, chunks: chunks.insert(0, chunks.pop(1))),
    ]
    for kind, change in cases:
        with pytest.raises(kind):
            codec.read(rewritten(small, change))
    with pytest.raises(CorruptHeader):
        lossy.describe(container.read(rewritten(small, lambda header, chunks: header["space"].update(shape=[]))))


def test_random_damage(codec: LossyCodec) -> None:
    """As of lossless files: always an error, or what would have been decoded anyway."""
    blob = codec.compress([picture(13, 22), picture(20, 9, seed=4), torch.eye(3)[None].byte()], rate=2, names=[*"abc"])
    told = hammer(codec.decompress, blob, 400, 3)
    assert told["decoded"] > 0
    assert told["refused"] > 0.9 * 400
    assert told["slowest"] < 5


def test_damage_anywhere_is_found_before_any_decoding(codec: LossyCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = bytearray(codec.compress([picture(13, 22), picture(13, 22, seed=1)], rate=2, notes={"a": 1}))
    codec.read(bytes(blob))
    monkeypatch.setattr(lossy, "decode", None)
    for entry in container.read(bytes(blob)).entries[1:]:
        bad = blob.copy()
        bad[entry.start] ^= 1
        with pytest.raises(CorruptChunk):
            codec.read(bytes(bad))


def test_a_file_whose_hash_has_no_sizes_is_read(codec: LossyCodec, small: bytes) -> None:
    """As they were written at first: the hash is of the latents alone."""

    def change(header: dict[str, Any], chunks: list[Any]) -> None:
        contents = container.read(small).notes(Kind.TABLE)
        stack = lossy.Stack.from_bytes(chunks[0].data)
        with scoring(codec.model):
            y = lossy.decode(codec.model, stack, 13, 22, header["coding"]["rate"])
        latents = (y.numpy() * 256).round().astype("<i4").tobytes()
        contents["sha256"] = hashlib.sha256(latents).hexdigest()[:32]
        del contents["sized"]
        chunks[1] = container.notes(contents, Kind.TABLE)

    old = rewritten(small, change)
    assert torch.equal(codec.decompress(old)[0], codec.decompress(small)[0])
    assert lossy.describe(container.read(old))["checksums"] == "all right"


def test_another_model_is_told_from_the_right_one(codec: LossyCodec, small: bytes) -> None:
    other = LossyCodec(lk.build("hyperprior", Integers((1, 16, 16), 256), seed=5, **FIELDS))
    with pytest.raises(ModelMismatch, match="hyperprior"):
        other.read(small)


# Bugs that a decoder could have ---------------------------------------------------------------------------------------


def off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    right = lossy.tables

    def tables(given: Any) -> Any:
        centre, table = right(given)
        return centre, Chosen(table.source, table.index + 1) if isinstance(table, Chosen) else table

    monkeypatch.setattr(lossy, "tables", tables)


def no_context(monkeypatch: pytest.MonkeyPatch) -> None:
    right = hyperprior.Hyperprior._given
    monkeypatch.setattr(
        hyperprior.Hyperprior, "_given", lambda self, side, around, rate: right(self, side, 0 * around, rate)
    )


def other_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    right = hyperprior.checkerboard
    monkeypatch.setattr(hyperprior, "checkerboard", lambda *size: ~right(*size))


def coarser_centres(monkeypatch: pytest.MonkeyPatch) -> None:
    right = lossy.on_grid
    monkeypatch.setattr(lossy, "on_grid", lambda values, unit=1.0: right((values * 64).round() / 64, unit))


@pytest.mark.parametrize("bug", [off_by_one, no_context, other_colour, coarser_centres])
def test_a_decoder_with_a_bug_refuses_and_never_gives_other_pictures(
    bug: Callable[[pytest.MonkeyPatch], None], model: Any, codec: LossyCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = codec.compress([picture(48, 64)], rate=3)
    bug(monkeypatch)
    decoder = LossyCodec(model)
    with pytest.raises(NumericsMismatch):
        decoder.read(blob)
    decoder._fingerprints[3.0] = container.read(blob).header["numerics"]["fingerprint"]  # were the probe blind
    with pytest.raises(CodecError):
        decoder.read(blob)


# What users get wrong -------------------------------------------------------------------------------------------------


def test_what_cannot_be_coded_is_named(codec: LossyCodec) -> None:
    cases: list[tuple[Any, str]] = [
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"picture 0 has shape \(3, 8, 8\); accepts \(1, height, width\)"),
        (torch.zeros(1, 0, 8, dtype=torch.uint8), "none of them 0"),
        (torch.zeros(8, 8, dtype=torch.uint8), "accepts"),
        (torch.zeros(1, 2048, 2049, dtype=torch.uint8), "4,196,352 pixels; accepts 4,194,304"),
        (torch.full((1, 8, 8), 256), "picture 0 holds values"),
    ]
    for bad, why in cases:
        with pytest.raises(ValueError, match=why):
            codec.compress([bad])
    with pytest.raises(TypeError, match="raw, not scaled"):
        codec.compress([torch.zeros(1, 8, 8)])
    with pytest.raises(ValueError, match="pictures are none"):
        codec.compress([])
    with pytest.raises(ValueError, match="names are 2 for 1"):
        codec.compress([picture(8, 8)], names=["a", "b"])
    for rate in (0, 3.1, True, "2", float("nan")):
        with pytest.raises(ValueError, match="rate is .* accepts 1"):
            codec.compress([picture(8, 8)], rate=rate)  # ty: ignore[invalid-argument-type]
    with pytest.raises(NotACodecFile):
        codec.read(b"nothing of the kind")


def test_lossless_and_lossy_are_not_taken_for_each_other(model: Any, codec: LossyCodec, small: bytes) -> None:
    with pytest.raises(TypeError, match="LossyCodec"):
        Codec(model)
    exact = lk.build("mixture", Integers((4,), 3))
    with pytest.raises(TypeError, match="lossy compression needs a model that is Lossy"):
        LossyCodec(exact)
    with pytest.raises(UnsupportedVersion, match="LossyCodec"):
        Codec(exact).read(small)
    with pytest.raises(UnsupportedVersion, match="no lossy pictures"):
        codec.read(Codec(exact).compress(torch.zeros(3, 4, dtype=torch.uint8)))


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shell, folder, model_run = Shell(capsys), tmp_path / "in", tmp_path / "run"
    (folder / "deep").mkdir(parents=True)
    x = torch.stack([picture(16, 16, 3, seed=s) for s in range(40)])
    np.savez(tmp_path / "x.npz", x=x.numpy())
    small = ("patch=4", "latent=16", "width=6", "hyper=4", "smooth=4", "lams=[0.02,0.2]", "steps=3", "batch=8")
    status, _, err = shell("train", "hyperprior", "--data", tmp_path / "x.npz", "--out", model_run, *small)
    assert status == 0, err
    Image.fromarray(picture(190, 180, 3).permute(1, 2, 0).numpy()).save(folder / "a.png")
    Image.fromarray(picture(20, 33)[0].numpy()).save(folder / "deep" / "grey.png")
    (folder / "broken.png").write_bytes(b"no picture")
    there, back = tmp_path / "a.lkz", tmp_path / "back"
    status, out, err = shell("compress", model_run, folder, "-o", there, "--rate", 1.5)
    assert status == 1 and "broken.png" in err
    assert "lossy, rate 1.5: 2 pictures" in out and "PSNR" in out and "MS-SSIM" in out
    record = shell.json("info", there)
    assert record["lossy"] and record["bytes"] == there.stat().st_size
    status, out, err = shell("decompress", there, "--run", model_run, "-o", back)
    assert status == 0 and "lossy" in out, err
    with Image.open(back / "a.png") as image:
        decoded = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    near = float(psnr(decoded[None], picture(190, 180, 3)[None]))
    assert near == pytest.approx(record["inside"][0]["psnr"], abs=2e-3)
    with Image.open(back / "deep" / "grey.png") as image:
        assert image.size == (33, 20) and image.mode == "RGB"
    assert "--force" in shell.mistake("compress", model_run, folder, "-o", there)
    assert "rate is 3" in shell.mistake("compress", model_run, folder, "--rate", 3, "-o", tmp_path / "b.lkz")
    assert not (tmp_path / "b.lkz").exists()


@pytest.mark.parametrize("family", ["hyperprior", "pyramid"])
def test_learning_goes_on_from_pictures_of_another_size(family: str) -> None:
    """What a codec of any size learned from small pictures is where it starts on large ones; not on other levels."""
    fields = FIELDS if family == "hyperprior" else {"width": 8}
    small: Any = lk.build(family, Integers((1, 16, 16), 256), seed=1, **fields)
    large: Any = lk.build(family, Integers((1, 32, 48), 256), seed=2, **fields)
    x = torch.stack([picture(32, 48, seed=i) for i in range(8)])
    lk.fit(large, from_arrays(x.numpy()), steps=1, lr=1e-12, start=small, progress=False)
    for name, value in small.state_dict().items():
        assert torch.allclose(large.state_dict()[name], value, atol=1e-6), name
    other: Any = lk.build(family, Integers((3, 32, 48), 256), **fields)
    with pytest.raises(ValueError, match="has the space"):
        start_from(other, small)
