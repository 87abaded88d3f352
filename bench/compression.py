"""Real files of every codec: bits per dimension with everything in them, what the model promised, speed and memory.

`python3 do.py bench compression [CASE ...]`, or `CASE=RUN` to use a run folder that is there; `LIKELY_DATA` names the
folder of the data. A model that is not in build/compression/CASE is trained there first, on one thread, for the CPU
seconds of its case, with the number of steps set from the speed of the first ones.

Each file is written by one process and read by another, which compares what it finds with the data; both say how
long they took on one thread, and how much memory at most. Writing includes reading everything again, as it does for
users: a file that was not decoded is none. Beside each figure stands what it should be (`AIMS`); a miss is said, and
ends the script with status 1. The case "anchors" has everyday codecs on the same pictures, all in one mosaic, the fair
form for them, or a file an image; each decoded and compared.
"""

from __future__ import annotations

from timing import RESULTS, record  # first: it sets the number of threads
import argparse
import importlib.util
import json
import lzma
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import likely as lk
from likely.coding import Codec
from likely.space import Integers
from likely.tasks.codecs import Everyday, codec_bits, everyday, kept, mosaic
from likely.tasks.compress import describe
from likely.train import Ledger
from likely.train.checkpoint import DEFAULT

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "build" / "compression"
SINGLE = 100
"""Images that two-part codes have a file each for."""
ANCHOR_ROWS = 300
"""Images that everyday codecs have a file each for."""

IMAGES = {"ema": 0.99, "lr": 2e-3, "betas": (0.9, 0.99)}

CASES: dict[str, dict[str, Any]] = {
    "autoregressive": {
        "data": "fashion-mnist",
        "family": "autoregressive",
        "preset": "small",
        "model": {"width": 44, "layers": 6, "dilations": (1, 2)},
        "train": {**IMAGES, "ema": 0.998, "batch": 16, "precision": "bfloat16"},
        "seconds": 3600,
        "aim": 2.80,
    },
    "pyramid": {"data": "cifar10", "family": "pyramid", "weights": DEFAULT, "aim": None},
    "vae": {
        "data": "fashion-mnist",
        "family": "vae",
        "preset": "small",
        "train": {**IMAGES, "batch": 64},
        "seconds": 150,
    },
    "integer-flow": {
        "data": "fashion-mnist",
        "family": "integer-flow",
        "preset": "small",
        "train": {**IMAGES, "lr": 5e-4, "batch": 64},
        "seconds": 900,
    },
    "flow": {
        "data": "fashion-mnist",
        "family": "flow",
        "preset": "small",
        "train": {**IMAGES, "batch": 64},
        "seconds": 150,
    },
    "mixture": {
        "data": "fashion-mnist",
        "family": "mixture",
        "preset": "default",
        "train": {"pass_rows": 8192},
        "seconds": 60,
    },
}
AIMS = {"overhead": 0.005, "container_bytes": 256, "container_bytes_a_chunk": 12}
"""Payload over the model's own bits, at most this share more; container, at most so many bytes."""


def trained(name: str, data: Any) -> Path:
    """The run folder of a case, trained if it is not there, or not to its end."""
    case, run = CASES[name], PLACE / name
    if "weights" in case:  # those that come with the package
        return case["weights"]
    fields = {"threads": 1, "valid_every": 0, **case["train"]}
    if not run.exists():
        each, first = _pace(case, data, fields)
        steps = max(1, int((case["seconds"] - first) / each))
        run.parent.mkdir(parents=True, exist_ok=True)
    else:
        steps = None
    model = lk.build(case["family"], data.space, preset=case["preset"], **case.get("model", {}))
    result = lk.fit(model, data, run=run, steps=steps, resume=True, **fields)
    if result.signal is not None:
        raise SystemExit(128 + result.signal)
    return run


def _pace(case: dict[str, Any], data: Any, fields: dict[str, Any]) -> tuple[float, float]:
    """CPU seconds of a step, and of what comes once, from the first steps."""
    closed = not hasattr(lk.build(case["family"], data.space, preset=case["preset"]), "loss")
    few, many = (1, 2) if closed else (30, 230)
    took = []
    for steps in (few, many):
        model = lk.build(case["family"], data.space, preset=case["preset"], **case.get("model", {}))
        began = time.process_time()
        result = lk.fit(model, data, steps=steps, progress=False, **fields)
        if result.signal is not None:
            raise SystemExit(128 + result.signal)
        took.append(time.process_time() - began)
    each = (took[1] - took[0]) / (many - few)
    return each, took[0] - few * each


# A file by one process, and back by another --------------------------------------------------------------------------


def encode(run: str, rows: str, file: str) -> dict[str, Any]:
    """In a process of its own: rows (.npy) to a file."""
    x, codec = _loaded(run, rows)
    began = _clock()
    Path(file).write_bytes(codec.compress(x))
    return _took(began)


def decode(run: str, rows: str, file: str) -> dict[str, Any]:
    """In another: back, and compared."""
    x, codec = _loaded(run, rows)
    blob = Path(file).read_bytes()
    began = _clock()
    found = codec.decompress(blob)
    took = _took(began)
    if not torch.equal(found, x):
        raise ValueError(f"{file} does not hold {rows}")
    return took


def _loaded(run: str, rows: str) -> tuple[Tensor, Codec]:
    torch.set_num_threads(1)
    x = torch.from_numpy(np.load(rows))
    return x, Codec(_for(lk.load_model(run), x))


def _for(model: Any, x: Tensor) -> Any:
    """The model over rows such as x, where it serves more than one shape."""
    return model.at(Integers(tuple(x.shape[1:]), 256)) if hasattr(model, "at") else model


def _clock() -> tuple[float, float, int]:
    return time.process_time(), time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _took(began: tuple[float, float, int]) -> dict[str, Any]:
    cpu, wall, peak = (now - then for now, then in zip(_clock(), began, strict=True))
    return {
        "cpu_s": round(cpu, 2),
        "wall_s": round(wall, 2),
        "peak_mb": round((began[2] + peak) / 1024),
        "peak_more_mb": round(peak / 1024),  # than python, torch, the data and the model
    }


def _process(step: Callable[..., dict[str, Any]], *words: object) -> dict[str, Any]:
    command = [sys.executable, __file__, step.__name__, *map(str, words)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def streamed(name: str, run: Path, data: Any, rows: int) -> dict[str, Any]:
    """All rows in one file, there and back; the row of a case."""
    case, file = CASES[name], PLACE / f"{name}.lkz"
    file.parent.mkdir(parents=True, exist_ok=True)
    source = file.with_suffix(".npy")
    np.save(source, data.test.x[:rows].numpy().astype(np.uint8))
    steps = {step.__name__: _process(step, run, source, file) for step in (encode, decode)}
    told = describe(file.read_bytes())
    pixels = rows * data.space.dims
    payload, chunks = told["bytes"] - told["container_bytes"], sum(told["chunks"].values())
    row: dict[str, Any] = {
        "scheme": told["header"]["coding"]["scheme"],
        "rows": rows,
        "bytes": told["bytes"],
        "bits_per_dim": told["bits_per_dim"],
        "model_bits_per_dim": told["model_bits_per_dim"],
        "overhead": 8 * payload / told["header"]["content"]["nll_bits"] - 1,
        "container_bytes": told["container_bytes"],
        "chunks": told["chunks"],
        "group": told["header"]["coding"]["group"],
    }
    for step, took in steps.items():
        row |= {f"{step}_{key}": value for key, value in took.items()}
        row |= {
            f"{step}_images_s": round(rows / took["cpu_s"], 2),
            f"{step}_mb_s": round(pixels / 1e6 / took["cpu_s"], 4),
        }
    aims = {
        "overhead": (row["overhead"], AIMS["overhead"]),
        "container_bytes": (row["container_bytes"], AIMS["container_bytes"] + 12 * chunks),
    }
    if "aim" in case:
        aims["bits_per_dim"] = (row["bits_per_dim"], case["aim"] or _best(data, rows))
    return row | {
        "aims": {key: {"is": value, "at_most": most, "met": value <= most} for key, (value, most) in aims.items()}
    }


def _best(data: Any, rows: int) -> float:
    """Bits per dimension of the better of WebP and JPEG XL for the same images in one mosaic."""
    bits = codec_bits(data.test.x[:rows], data.space)
    return min(value for name in ("WebP", "JPEG XL") if (value := bits[name]) is not None)


def singles(run: Path, data: Any) -> dict[str, Any]:
    """Files of one image each, in the two-part code that is the default there."""
    codec, x = Codec(lk.load_model(run)), data.test.x[:SINGLE]
    sizes, payload, bound = [], 0, 0
    for i in range(len(x)):
        blob = codec.compress(x[i : i + 1])
        if not torch.equal(codec.decompress(blob).long(), x[i : i + 1].long()):
            raise ValueError(f"test row {i} did not come back")
        told = describe(blob)
        sizes.append(told["bytes"])
        payload += 8 * (told["bytes"] - told["container_bytes"])
        bound += told["header"]["content"]["nll_bits"]
    numbers = len(x) * data.space.dims
    return {
        "scheme": told["header"]["coding"]["scheme"],
        "rows": len(x),
        "files": len(x),
        "bytes": sum(sizes),
        "bits_per_dim": 8 * sum(sizes) / numbers,
        "payload_bits_per_dim": payload / numbers,
        "model_bits_per_dim": bound / numbers,
        "overhead": payload / bound - 1,
        "container_bytes": told["container_bytes"],
        "aims": {},
    }


# Everyday codecs -----------------------------------------------------------------------------------------------------


def anchors(name: str, data: Any, rows: int) -> Iterator[dict[str, Any]]:
    """A row a codec: one mosaic of the test images (for byte codecs their bytes), and a file an image for the first."""
    pixels = data.test.x[:rows].numpy().astype(np.uint8)
    whole = mosaic(pixels)
    for codec, (coder, is_picture) in _rivals().items():
        size, times = _timed(coder, whole if is_picture else pixels.reshape(len(pixels), -1), codec)
        small = [mosaic(each[None]) if is_picture else each.reshape(1, -1) for each in pixels[:ANCHOR_ROWS]]
        each = sum(len(kept(coder, picture, codec)) for picture in small)
        numbers = pixels.size / 1e6
        row = {
            "codec": codec,
            "rows": len(pixels),
            "bytes": size,
            "bits_per_dim": 8 * size / pixels.size,
            "bits_per_dim_alone": 8 * each / (len(small) * data.space.dims),
            "encode_mb_s": round(numbers / times[0], 3),
            "decode_mb_s": round(numbers / times[1], 3),
        }
        yield {"bench": "compression", "case": "anchors", "data": name, **row}


def _timed(coder: Everyday, picture: np.ndarray, name: str) -> tuple[int, tuple[float, float]]:
    """Bytes, and CPU seconds there and back."""
    marks = [time.process_time()]

    def noted(step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def timed(value: Any) -> Any:
            result = step(value)
            marks.append(time.process_time())
            return result

        return timed

    file = kept(Everyday(noted(coder.encode), noted(coder.decode)), picture, name)
    return len(file), (marks[1] - marks[0], marks[2] - marks[1])


def _rivals() -> dict[str, tuple[Everyday, bool]]:
    """Codecs of pictures, and of bytes (False)."""
    found = {name: (codec, True) for name, codec in everyday().items() if codec is not None}
    compress = lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)  # noqa: E731
    found["xz -9e"] = _of_bytes(compress, lzma.decompress), False
    if importlib.util.find_spec("imagecodecs"):
        import imagecodecs

        found["zstd -19"] = _of_bytes(lambda data: imagecodecs.zstd_encode(data, 19), imagecodecs.zstd_decode), False
        found["brotli 11"] = (
            _of_bytes(lambda data: imagecodecs.brotli_encode(data, 11), imagecodecs.brotli_decode),
            False,
        )
    return found


def _of_bytes(pack: Callable[[bytes], bytes], unpack: Callable[[bytes], bytes]) -> Everyday:
    """A codec of bytes as one of arrays (n, dims), whose shape is not in the file."""
    shape = {}

    def encode(pixels: np.ndarray) -> bytes:
        file = pack(pixels.tobytes())
        shape[file] = pixels.shape
        return file

    return Everyday(encode, lambda file: np.frombuffer(unpack(file), np.uint8).reshape(shape[file]))


def main() -> int:
    """The cases named on the command line, or all; status 1 where an aim was missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*", metavar="CASE[=RUN]")
    parser.add_argument("--rows", type=int, help="only so many test rows")
    parser.add_argument("--out", type=Path, default=RESULTS / "compression.jsonl")
    asked = parser.parse_args()
    rows = asked.rows
    torch.set_num_threads(1)
    missed = 0
    for word in asked.cases or [*CASES, "anchors"]:
        name, _, folder = word.partition("=")
        if name == "anchors":
            for data in (folder,) if folder else ("fashion-mnist", "cifar10"):
                for row in anchors(data, lk.load(data), asked.rows or 10_000):
                    record(asked.out, row, packages=("pillow",))
            continue
        if name not in CASES:
            raise SystemExit(f"case is {name!r}; accepts {', '.join(CASES)}, anchors")
        data = lk.load(CASES[name]["data"])
        run = Path(folder) if folder else trained(name, data)
        about = {"data": CASES[name]["data"], "family": CASES[name]["family"], **_about(run)}
        results = [streamed(name, run, data, min(rows or len(data.test.x), len(data.test.x)))]
        if name == "vae":
            results.append(singles(run, data))
        for row in results:
            record(asked.out, {"bench": "compression", "case": name, **about, **row})
            for key, aim in row["aims"].items():
                told = (
                    f"{name}: {key} {aim['is']:.5g}, at most {aim['at_most']:.5g}: {'met' if aim['met'] else 'MISSED'}"
                )
                print(told, file=sys.stderr)
                missed += not aim["met"]
    return int(missed > 0)


def _about(run: Path) -> dict[str, Any]:
    """How a model came about, from its ledger."""
    if run.is_file():
        return {"weights": run.name, "parameters": sum(p.numel() for p in lk.load_model(run).parameters())}
    lines = Ledger(run).read()
    start = next(line for line in lines if line["kind"] == "start")
    about = {
        "model": {key: value for key, value in start["model"]["config"].items() if key != "family"},
        "train": {key: start["train"].get(key) for key in ("batch", "lr", "betas", "ema", "precision")},
        "parameters": start["parameters"],
        "steps": max(line.get("step", 0) for line in lines),
    }
    before = start.get("start") or {}
    if "from" in before and Path(before["from"]).is_dir():  # training went on from another run
        about["after"] = {
            key: value for key, value in _about(Path(before["from"])).items() if key in ("train", "steps")
        }
    return about


if __name__ == "__main__":
    if sys.argv[1:2] in (["encode"], ["decode"]):
        print(json.dumps({"encode": encode, "decode": decode}[sys.argv[1]](*sys.argv[2:])))
    else:
        sys.exit(main())
