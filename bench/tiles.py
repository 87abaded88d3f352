"""Pictures of any sizes as tiles: what the size of a tile costs in bits, and what coding takes in time and memory.

    python bench/tiles.py MODEL PICTURES... --sides 64,128,256,1024

MODEL is "default", a run or a model file. Every file is decoded and compared. One process, one thread, CPU seconds;
the resident memory is the largest so far, so sides should rise.
"""

from __future__ import annotations

import argparse
import io
import resource
import time
from pathlib import Path

import numpy as np
import timing
from PIL import Image

import likely as lk
from likely.coding import Picture, Pictures

RESULTS = Path(__file__).parent / "results" / "tiles.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--sides", default="64,128,256,1024")
    options = parser.parse_args()
    model = lk.load_model(options.model)
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in options.pictures]
    numbers = sum(picture.size for picture in pictures)
    for side in map(int, options.sides.split(",")):
        codec, out = Pictures(model, side=side, group=max(1, 2 * 256**2 // side**2)), io.BytesIO()
        began = time.process_time()
        codec.write((Picture.of(picture) for picture in pictures), out, verify=False)
        encoded = time.process_time()
        back = codec.decompress(out.getvalue())
        decoded = time.process_time()
        record = {
            "bench": "tiles",
            "side": side,
            "pictures": len(pictures),
            "bits_per_dim": 8 * out.tell() / numbers,
            "exact": all(np.array_equal(a, b) for a, b in zip(back, pictures, strict=True)),
            "encode_mb_s": numbers / (encoded - began) / 1e6,
            "decode_mb_s": numbers / (decoded - encoded) / 1e6,
            "resident_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        timing.record(RESULTS, record)


if __name__ == "__main__":
    main()
