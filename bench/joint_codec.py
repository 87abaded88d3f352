"""Joints as codecs: files of digits with their labels, without, and with the likeliest class written down instead.

`python3 do.py bench joint_codec`. Joints are trained here on the digits' 1000 training rows, one thread. "With labels"
should cost -log2 p(x, y), "without" -log2 p(x); "the likeliest class" is what a code without bits-back would do for a
row without a label: -log2 of the largest p(x, y), worked out and not written. For VAEs all of these are a draw of the
bound, and bits-back's q of y, made of means of bounds, cannot reach it quite. Every file is decoded and compared. A
payload more than 0.5 % over the model's own bits ends the script with status 1; the initial bits count.
"""

from __future__ import annotations

from timing import RESULTS, record  # first: it sets the number of threads
import math
import sys
import time
from typing import Any

import torch

import likely as lk
from likely.coding import Codec, container
from likely.coding.container import Kind
from likely.logprob import log_posterior

CASES: dict[str, dict[str, Any]] = {
    "mixture, one a class": {
        "model": {"part": "mixture", "separate": True},
        "fit": {"steps": 10},
    },
    "autoregressive": {
        "model": {"part": "autoregressive:digits"},
        "fit": {"steps": 300, "lr": 2e-3, "ema": 0.99},
    },
    "autoregressive, one a class": {
        "model": {"part": "autoregressive:digits", "separate": True},
        "fit": {"steps": 60, "lr": 2e-3, "ema": 0.95},
    },
    "vae": {
        "model": {"part": {"family": "vae", "latent": 8, "hidden": (64,)}},
        "fit": {"steps": 1000, "lr": 2e-3, "ema": 0.99},
    },
}
OVER = 0.005


def main() -> int:
    """Every case, or those named; returns 1 where a payload is too large."""
    data, missed = lk.load("digits"), False
    x, y = data.test.x, data.test.y
    for name in sys.argv[1:] or CASES:
        case = CASES[name]
        model: Any = lk.build("joint", data.space, data.condition, **case["model"])
        lk.fit(model, data, progress=False, valid_every=0, **case["fit"])
        codec, numbers = Codec(model.eval()), x.numel()
        posterior = log_posterior(codec.model, x).nats  # of VAEs, from one draw a class
        for labelled in (True, False):
            began = time.process_time()
            blob = codec.compress(x, y if labelled else None)
            middle = time.process_time()
            rows = codec.read(blob)
            took = (middle - began, time.process_time() - middle)
            if not torch.equal(rows.x, x) or (labelled and not torch.equal(rows.y, y)):
                raise ValueError(f"{name}: the file does not hold the digits")
            archive = container.read(blob)
            payload = 8 * sum(entry.size for entry in archive.entries if entry.kind is not Kind.NOTES)
            reading = lk.log_prob(codec.model, x, y if labelled else None)
            says = float(codec.expected_bits(x, y if labelled else None).sum())
            missed |= payload > (1 + OVER) * says
            record(
                RESULTS / "joint_codec.jsonl",
                {
                    "bench": "joint_codec",
                    "case": name,
                    "labels": labelled,
                    "rows": len(x),
                    "kind": reading.kind.of_bits,
                    "model_bits_per_dim": round(says / numbers, 4),
                    "coded_bits_per_dim": round(payload / numbers, 4),
                    "over": round(payload / says - 1, 5),
                    "bits_per_dim": round(8 * len(blob) / numbers, 4),
                    "scheme": archive.header["coding"]["scheme"],
                    "group": archive.header["coding"]["group"],
                    "encode_cpu_s": round(took[0], 2),
                    "decode_cpu_s": round(took[1], 2),
                    "doubt_bits_a_row": round(-float((posterior.exp() * posterior).sum(1).mean()) / math.log(2), 4),
                    "likeliest_class_bits_per_dim": round(
                        (says - float(posterior.max(1).values.sum()) / math.log(2)) / numbers, 4
                    )
                    if not labelled
                    else None,
                },
            )
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
