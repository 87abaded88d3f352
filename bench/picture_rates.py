"""Pictures by the model that comes with the package, as real files, beside PNG, WebP (lossless) and JPEG XL.

    python bench/picture_rates.py [--model FILE] [--codecs NAME ..] [kodak] [cifar10] [summary] [tables]

kodak: each of the 12 photographs in `$LIKELY_DATA/kodak` as a file of its own, decoded and compared. cifar10: the first
1,000 test images as one file; for the others one mosaic of them, which is the best that they can do, and a file an
image. tables: the integer tables of one photograph, hashed in processes with other instruction sets, numbers of threads
and batch sizes. Seconds are CPU seconds on one thread, `encode` without the check that decodes again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from timing import RESULTS, record  # first: it sets the number of threads
import numpy as np
import torch
from PIL import Image

import likely as lk
from likely.coding.pictures import Pictures
from likely.coding.programs import intervals
from likely.logprob import scoring
from likely.space import Integers
from likely.tasks.codecs import Everyday, everyday, mosaic

OUT = RESULTS / "picture_rates.jsonl"
SETTINGS = [
    {},
    {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "2"},
    {"TABLES_ONEDNN": "off", "TABLES_BATCH": "3", "MKL_CBWR": "COMPATIBLE"},
]


def timed(encode: Callable[[], Any], decode: Callable[[Any], Any]) -> tuple[Any, Any, float, float]:
    """What comes out of both, and their CPU seconds."""
    clock = time.process_time()
    coded = encode()
    took, clock = time.process_time() - clock, time.process_time()
    back = decode(coded)
    return coded, back, took, time.process_time() - clock


def other(codec: Everyday, pictures: list[np.ndarray]) -> tuple[int, float, float]:
    """Bytes of a file each, and CPU seconds to encode and to decode; compared."""
    files, back, *times = timed(
        lambda: [codec.encode(pixels) for pixels in pictures], lambda files: [codec.decode(file) for file in files]
    )
    assert all(np.array_equal(a, b) for a, b in zip(back, pictures, strict=True))
    return sum(map(len, files)), *times


def ours(codec: Pictures, pictures: list[np.ndarray]) -> tuple[int, float, float]:
    """Bytes of one file, and CPU seconds; compared."""
    blob, back, *times = timed(lambda: codec.compress(pictures, verify=False), codec.decompress)
    assert all(np.array_equal(a, b) for a, b in zip(back, pictures, strict=True))
    return len(blob), *times


def row(case: str, name: str, numbers: int, found: tuple[int, float, float], pixels: int) -> dict:
    size, encode, decode = found
    return {
        "bench": "pictures",
        "case": case,
        "codec": name,
        "bytes": size,
        "bits_per_dim": round(8 * size / numbers, 4),
        "encode_s_per_megapixel": round(encode / pixels * 1e6, 2),
        "decode_s_per_megapixel": round(decode / pixels * 1e6, 2),
    }


def photographs() -> dict[str, np.ndarray]:
    folder = Path(os.environ["LIKELY_DATA"]) / "kodak"
    return {path.stem: np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.iterdir())}


def kodak(codecs: dict[str, Any]) -> None:
    for case, pixels in photographs().items():
        for name, each in codecs.items():
            record(OUT, row(f"kodak/{case}", name, pixels.size, each([pixels]), pixels.size // 3), ("pillow",))


def cifar10(codecs: dict[str, Any], n: int = 1000) -> None:
    x = lk.load("cifar10").test.x[:n].numpy().transpose(0, 2, 3, 1)
    whole = mosaic(x.transpose(0, 3, 1, 2))
    for name, each in codecs.items():
        cases = {"one file": list(x)} if name == "likely" else {"mosaic": [whole], "a file each": list(x)}
        for case, pictures in cases.items():
            line = row(f"cifar10 test, {n}, {case}", name, x.size, each(pictures), x.size // 3)
            record(OUT, line, ("pillow",))


def summary() -> None:
    """The means over the photographs, of the last line of each photograph and codec."""
    lines = [json.loads(line) for line in OUT.read_text().splitlines()]
    found = {(line["codec"], line["case"]): line for line in lines if line["case"].startswith("kodak/")}
    own = {case: line["bits_per_dim"] for (codec, case), line in found.items() if codec == "likely"}
    for name in dict.fromkeys(codec for codec, _ in found):
        rates = {case: line["bits_per_dim"] for (codec, case), line in found.items() if codec == name}
        times = {
            field: round(float(np.mean([line[field] for (codec, _), line in found.items() if codec == name])), 2)
            for field in ("encode_s_per_megapixel", "decode_s_per_megapixel")
        }
        line = {"bench": "pictures", "case": f"kodak, mean of {len(rates)}", "codec": name}
        line |= {"bits_per_dim": round(float(np.mean(list(rates.values()))), 4)}
        line |= {"likely_smaller_on": sum(own[case] < rate for case, rate in rates.items())} | times
        record(OUT, line, ("pillow",))


def digest(model: torch.nn.Module) -> str:
    """All intervals of four tiles of a photograph, in batches as the environment says."""
    pixels = photographs()["kodim05"][:256, :256]
    tiles = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).unfold(1, 128, 128).unfold(2, 128, 128)
    x = tiles.reshape(3, 4, 128, 128).transpose(0, 1)
    part, batch = model.at(Integers((3, 128, 128), 256)), int(os.environ.get("TABLES_BATCH", "4"))
    x, parts = torch.cat([x, x[: batch - 1]]), []
    onednn = os.environ.get("TABLES_ONEDNN") != "off"
    with scoring(part), torch.backends.mkldnn.flags(enabled=onednn):
        for low in range(0, 4, batch):
            piece = x[low : low + batch]
            found = intervals(part.factors(batch), part.factor_values(piece), batch)
            parts.append([np.stack([a.reshape(batch, -1), b.reshape(batch, -1)], 1) for a, b in found])
    hashes = hashlib.sha256()
    for groups in zip(*parts, strict=True):
        hashes.update(np.concatenate(groups)[:4].tobytes())
    return hashes.hexdigest()[:32]


def tables(place: str) -> None:
    """The same hash from every process."""
    seen = {}
    for setting in SETTINGS:
        command = [sys.executable, __file__, "--model", place, "digest"]
        done = subprocess.run(command, env=os.environ | setting, capture_output=True, text=True, check=True)
        seen[json.dumps(setting)] = done.stdout.strip()
    same = len(set(seen.values())) == 1
    record(OUT, {"bench": "pictures", "case": "tables in other processes", "settings": seen, "same": same})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("what", nargs="*", default=["kodak", "cifar10", "summary", "tables"])
    parser.add_argument("--codecs", nargs="*", help="these only: likely, PNG, WebP, 'JPEG XL'")
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = lk.load_model(given.model)
    if given.what == ["digest"]:
        print(digest(model))
        return
    codecs: dict[str, Any] = {"likely": partial(ours, Pictures(model))}
    codecs |= {name: partial(other, each) for name, each in everyday().items() if each is not None}
    codecs = {name: each for name, each in codecs.items() if name in (given.codecs or codecs)}
    for what in given.what:
        if what in ("kodak", "cifar10"):
            {"kodak": kodak, "cifar10": cifar10}[what](codecs)
        elif what == "tables":
            tables(given.model)
        else:
            summary()


if __name__ == "__main__":
    main()
