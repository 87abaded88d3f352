"""Files that must decode for ever, on every machine, and never wrongly when they are damaged."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import ROWS

from likely.coding import Codec, CodecError, Pictures, container
from likely.coding.container import PICTURES, Kind
from likely.train import load_model

GOLDEN = Path(__file__).parent / "golden"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.lkz"))


def decoded(name: str, blob: bytes | None = None) -> dict[str, np.ndarray]:
    """What is in a golden file, or in one like it, as its .npz has it."""
    blob, model = blob or (GOLDEN / f"{name}.lkz").read_bytes(), load_model(GOLDEN / f"{name}.safetensors")
    if name == "tiles":
        return {f"x{k}": pixels for k, pixels in enumerate(Pictures(model).decompress(blob))}
    rows = Codec(model).read(blob)
    return {"x": rows.x.numpy()} | ({} if rows.y is None else {"y": rows.y.numpy()})


def test_a_golden_file_for_every_scheme() -> None:
    assert set(NAMES) == set(ROWS) | {"tiles"}
    headers = {name: container.read((GOLDEN / f"{name}.lkz").read_bytes()) for name in NAMES}
    assert {each.header["coding"]["scheme"] for each in headers.values()} == {
        "sequential",
        "two-part",
        "bits-back",
        "local-bits-back",
    }
    assert {name for name, each in headers.items() if each.version == PICTURES} == {"tiles"}
    kinds = {entry.kind for entry in headers["tiles"].entries}
    assert kinds == set(Kind)


@pytest.mark.parametrize("name", NAMES)
def test_golden_files_decode(name: str) -> None:
    found, expected = decoded(name), np.load(GOLDEN / f"{name}.npz")
    assert set(found) == set(expected.files)
    for key, values in found.items():
        assert np.array_equal(values, expected[key])


# Other machines -----------------------------------------------------------------------------------------------------

ELSEWHERE = """
import hashlib, json, sys
import torch
torch.set_num_threads(int(sys.argv[2]))
sys.path.insert(0, sys.argv[1])
from test_coding_forever import decoded, files, float32
from likely.coding import NumericsMismatch
found = {}
for name, blob, digest in files(sys.argv[3:]):
    try:
        values = decoded(name, blob)
        found[digest] = hashlib.sha256(b"".join(values[k].tobytes() for k in sorted(values))).hexdigest() == digest
    except NumericsMismatch:
        found[digest] = None
print(json.dumps({"files": found, "float32": float32()}))
"""


def files(words: list[str]) -> Any:
    """(name, bytes, digest of what is inside) of every file that a process elsewhere is to decode."""
    for word in words:
        name, path, digest = word.split("|")
        yield name, Path(path).read_bytes(), digest


def float32() -> str:
    """A convolution whose last bits depend on the instructions that a processor has."""
    image, weight = torch.arange(64 * 48 * 48).reshape(1, 64, 48, 48).sin(), torch.arange(64 * 64 * 9).cos()
    found = torch.nn.functional.conv2d(image, weight.reshape(64, 64, 3, 3))
    return hashlib.sha256(found.numpy().tobytes()).hexdigest()


def digest_of(values: dict[str, np.ndarray]) -> str:
    return hashlib.sha256(b"".join(values[key].tobytes() for key in sorted(values))).hexdigest()


def elsewhere(words: list[str], threads: int = 1, **environment: str) -> Any:
    """What a process under another environment makes of the files."""
    here = Path(__file__).parent
    merged = {**os.environ, "PYTHONPATH": str(here.parent / "src"), "OMP_NUM_THREADS": str(threads), **environment}
    command = [sys.executable, "-c", ELSEWHERE, str(here), str(threads), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=merged, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The golden files, and larger ones of pictures: other batches, tiles and groups."""
    found = [f"{name}|{GOLDEN / f'{name}.lkz'}|{digest_of(decoded(name))}" for name in NAMES]
    folder, model = tmp_path_factory.mktemp("written"), load_model(GOLDEN / "tiles.safetensors")
    from test_coding_pictures import smooth

    pictures = [smooth(21, 30, 3), smooth(9, 40)]
    expected = digest_of({f"x{k}": pixels for k, pixels in enumerate(pictures)})
    for side, group in ((16, 1), (24, 5)):
        path = folder / f"{side}.lkz"
        path.write_bytes(Pictures(model, side=side, group=group).compress(pictures))
        found.append(f"tiles|{path}|{expected}")
    return found


def test_another_machine_decodes_the_same_bits(written: list[str]) -> None:
    """Without vector instructions and on two threads; that float32 does differ there shows that it is elsewhere."""
    there = elsewhere(written, 2, ATEN_CPU_CAPABILITY="default", ONEDNN_MAX_CPU_ISA="SSE41", MKL_CBWR="COMPATIBLE")
    assert all(there["files"].values())
    assert there["float32"] != float32()


@pytest.mark.long
@pytest.mark.parametrize(
    "environment",
    [
        {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
        {"ATEN_CPU_CAPABILITY": "default"},
        {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_other_machines_decode_the_same_bits(written: list[str], environment: dict[str, str], threads: int) -> None:
    """Integers: all of them. Floats: all, or refused before anything was decoded."""
    found = elsewhere(written, threads, **environment)["files"]
    tiles = [word.split("|")[2] for word in written if word.startswith("tiles")]
    assert all(found[digest] for digest in tiles)
    assert all(value is not False for value in found.values())


def test_any_batch_and_any_order_of_sums_gives_the_same_tables() -> None:
    """What verification and other machines rest on: parameters of one tile, of five, and in float64, bit for bit."""
    model: Any = load_model(GOLDEN / "tiles.safetensors")
    from test_coding_pictures import smooth

    from likely.coding.programs import intervals
    from likely.logprob import scoring
    from likely.space import Integers

    x = torch.from_numpy(np.stack([smooth(19, 23, 3, seed=i).transpose(2, 0, 1) for i in range(5)]))
    with scoring(model):
        at = model.at(Integers((3, 19, 23), 256))
        alone = [intervals(at.factors(1), at.factor_values(row[None]), 1) for row in x]
        at = model.double().at(Integers((3, 19, 23), 256))
        together = intervals(at.factors(5), at.factor_values(x), 5)
    for number, (start, frequency) in enumerate(together):
        assert np.array_equal(start.reshape(5, -1), [each[number][0] for each in alone])
        assert np.array_equal(frequency.reshape(5, -1), [each[number][1] for each in alone])


# Damage -------------------------------------------------------------------------------------------------------------


def damaged(blob: bytes, r: np.random.Generator) -> bytes:
    """A file with bytes changed, cut out, put in, moved about; in a tenth of them checksums are put right again."""
    bad = bytearray(blob)
    if r.random() < 0.1:
        mended(bad, container.read(blob), r)
    else:
        a, b = sorted(int(i) for i in r.integers(0, len(bad), 2))
        match int(r.integers(6)):
            case 0:
                bad[a] ^= int(r.integers(1, 256))
            case 1:
                del bad[a:b]
            case 2:
                bad[a:a] = r.bytes(int(r.integers(1, 50)))
            case 3:
                bad[a:b] = r.bytes(b - a)
            case 4:
                bad[a:b] = bad[a:b][::-1]
            case _:
                del bad[a:]
    return bytes(bad)


def mended(bad: bytearray, archive: Any, r: np.random.Generator) -> None:
    """Change a chunk or the index, and make all checksums say that it should be so."""
    where = len(bad) - 20 - 12 * len(archive.entries)
    number = int(r.integers(len(archive.entries)))
    entry = archive.entries[number]
    line = where + 12 * number
    if r.random() < 0.7:
        for at in r.integers(entry.start, entry.start + entry.size, int(r.integers(1, 4))):
            bad[int(at)] ^= int(r.integers(1, 256))
        data = bytes(bad[entry.start : entry.start + entry.size])
        bad[line + 8 : line + 12] = struct.pack("<I", zlib.crc32(data))
    else:
        bad[line + int(r.integers(8))] ^= 1 << int(r.integers(8))
    end = len(bad) - 12
    bad[end : end + 4] = struct.pack("<I", zlib.crc32(bytes(bad[where:end])))


def decoder(name: str) -> Callable[[bytes], list[Any]]:
    """What decodes files like a golden one, to pictures, or to rows and their labels."""
    model = load_model(GOLDEN / f"{name}.safetensors")
    if name == "tiles":
        return Pictures(model).decompress
    codec = Codec(model)
    return lambda blob: [each for each in codec.read(blob)[:2] if each is not None]


def hammer(decode: Callable[[bytes], list[Any]], blob: bytes, count: int, seed: int) -> dict[str, float]:
    """Decode damaged files: how many were refused, how many of them not before something had been decoded, how many
    held the same all the same, and how long the slowest took.

    Raises `AssertionError` where something else came out, and lets any error but `CodecError` through.
    """
    good, r = [np.asarray(each) for each in decode(blob)], np.random.default_rng(seed)
    told = {"refused": 0, "same": 0, "decoded": 0, "slowest": 0.0}
    for _ in range(count):
        bad, began = damaged(blob, r), time.process_time()
        try:
            found = decode(bad)
            assert len(found) == len(good) and all(map(np.array_equal, found, good)), "other pixels came out"
            told["same"] += 1
        except CodecError as error:
            told["refused"] += 1
            told["decoded"] += any(words in str(error) for words in ("it began", "is empty", "went in", "was decoded"))
        told["slowest"] = max(told["slowest"], time.process_time() - began)
    return told


COUNTS = {"mixture": 2000, "two-part": 1500, "integer-flow": 700, "tiles": 80}


@pytest.mark.parametrize("name", NAMES)
def test_random_damage(name: str) -> None:
    """Never other pixels; the same ones only where what is damaged is no part of them: notes, or nothing at all."""
    count = COUNTS.get(name, 250)
    told = hammer(decoder(name), (GOLDEN / f"{name}.lkz").read_bytes(), count, 0)
    assert told["decoded"] > 0
    assert told["refused"] > 0.9 * count
    assert told["slowest"] < 5


MEMORY = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from test_coding_forever import decoder, hammer
from pathlib import Path
import json
name, path, count, seed, extra = sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6])
import torch
torch.set_num_threads(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
decode = decoder(name)
hammer(decode, path.read_bytes(), 0, 0)  # a good decode
good = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open("/proc/self/statm") as statm:
    mapped = int(statm.read().split()[0]) * resource.getpagesize()
limit = mapped + extra
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
told = hammer(decode, path.read_bytes(), count, seed)
told["good_kib"], told["peak_kib"] = good, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps(told))
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "count"),
    [
        *(("tiles", 10_000), ("mixture", 60_000), ("bits-back", 30_000)),
        *(("two-part", 10_000), ("integer-flow", 10_000), ("labels", 10_000), ("joint", 10_000)),
        *(("joint-unlabelled", 10_000), ("joint-latent", 10_000)),
    ],
)
def test_a_hundred_thousand_damaged_files(name: str, count: int, tmp_path: Path) -> None:
    """Always an error or the same, in bounded time, and in less than twice the memory of a good decode.

    The address space is limited while it happens: whoever believed a length would run into that.
    """
    path = tmp_path / f"{name}.lkz"
    if name == "tiles":
        from test_coding_pictures import smooth

        model = load_model(GOLDEN / "tiles.safetensors")
        pictures = [smooth(9, 12, 3), smooth(5, 12)] * 3
        path.write_bytes(Pictures(model, side=8, group=2, chunk=250).compress(pictures))
    else:
        model = load_model(GOLDEN / f"{name}.safetensors")
        arrays = np.load(GOLDEN / f"{name}.npz")
        x, y = (torch.from_numpy(arrays[key]) if key in arrays.files else None for key in ("x", "y"))
        copies = 1 if name == "two-part" else 4  # of many rows bits-back would be made
        y = None if y is None else y.repeat(copies)
        path.write_bytes(Codec(model, chunk=40).compress(x.repeat(copies, *[1] * len(model.space.shape)), y))
    here = Path(__file__).parent
    merged = {**os.environ, "PYTHONPATH": str(here.parent / "src"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", MEMORY, str(here), name, str(path), str(count), "7", str(256 << 20)]
    done = subprocess.run(words, capture_output=True, text=True, env=merged, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["refused"] > 0.95 * count
    assert told["decoded"] > 0.02 * count
    assert told["peak_kib"] < 2 * told["good_kib"]
    assert told["slowest"] < 10
    sys.stderr.write(f"{name}: {told}\n")
