"""Pictures by the model that comes with the package, as real files, beside PNG, WebP (lossless) and JPEG XL.

    python bench/picture_rates.py [--model FILE] [kodak] [cifar10] [tables]

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
from pathlib import Path

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
OTHERS = {name: codec for name, codec in everyday().items() if codec is not None}
SETTINGS = [
    {},
    {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "2"},
    {"TABLES_ONEDNN": "off", "TABLES_BATCH": "3", "MKL_CBWR": "COMPATIBLE"},
]


def other(codec: Everyday, pixels: np.ndarray) -> tuple[int, float, float]:
    """Bytes, and CPU seconds to encode and to decode; compared."""
    clock = time.process_time()
    blob = codec.encode(pixels)
    encode, clock = time.process_time() - clock, time.process_time()
    back = codec.decode(blob)
    decode = time.process_time() - clock
    assert np.array_equal(back, pixels)
    return len(blob), encode, decode


def ours(codec: Pictures, pictures: list[np.ndarray]) -> tuple[int, float, float]:
    clock = time.process_time()
    blob = codec.compress(pictures, verify=False)
    encode, clock = time.process_time() - clock, time.process_time()
    back = codec.decompress(blob)
    decode = time.process_time() - clock
    assert all(np.array_equal(a, b) for a, b in zip(back, pictures, strict=True))
    return len(blob), encode, decode


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


def kodak(codec: Pictures) -> None:
    totals: dict[str, list[float]] = {}
    for case, pixels in photographs().items():
        found = {"likely": ours(codec, [pixels])} | {name: other(each, pixels) for name, each in OTHERS.items()}
        for name, each in found.items():
            line = row(f"kodak/{case}", name, pixels.size, each, pixels.size // 3)
            record(OUT, line, ("pillow",))
            totals.setdefault(name, []).append(line["bits_per_dim"])
    for name, rates in totals.items():
        better = sum(a < b for a, b in zip(totals["likely"], rates, strict=True))
        line = {
            "bench": "pictures",
            "case": "kodak, mean of 12",
            "codec": name,
            "bits_per_dim": np.mean(rates).round(4),
        }
        record(OUT, line | {"likely_smaller_on": better}, ("pillow",))


def cifar10(codec: Pictures, n: int = 1000) -> None:
    x = lk.load("cifar10").test.x[:n].numpy().transpose(0, 2, 3, 1)
    whole = mosaic(x.transpose(0, 3, 1, 2))
    record(OUT, row(f"cifar10 test, {n}, one file", "likely", x.size, ours(codec, list(x)), x.size // 3), ("pillow",))
    for name, each in OTHERS.items():
        record(OUT, row(f"cifar10 test, {n}, mosaic", name, x.size, other(each, whole), x.size // 3), ("pillow",))
        size, *times = np.array([other(each, image) for image in x]).sum(0)
        found = int(size), *times
        record(OUT, row(f"cifar10 test, {n}, a file each", name, x.size, found, x.size // 3), ("pillow",))


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
    parser.add_argument("what", nargs="*", default=["kodak", "cifar10", "tables"])
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = lk.load_model(given.model)
    if given.what == ["digest"]:
        print(digest(model))
        return
    for what in given.what:
        if what == "tables":
            tables(given.model)
        else:
            {"kodak": kodak, "cifar10": cifar10}[what](Pictures(model))


if __name__ == "__main__":
    main()
