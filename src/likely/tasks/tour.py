"""The story that the project exists for, told with a few minutes of training on 1,797 handwritten digits.

A joint p(x, y) and a plain softmax classifier learn the same digits. Then the digits are turned by 90 degrees:
the classifiers stay sure, and p(x) knows that it has seen nothing of the kind. Every number goes into the run's
ledger, and the page is made from there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from likely.coding import Codec
from likely.config.recipe import Recipe
from likely.data import Data
from likely.logprob import Kind, Posterior, sample
from likely.noise import Noise
from likely.space import Integers
from likely.tasks.codecs import codec_bits
from likely.tasks.compress import compress, describe, gather
from likely.tasks.decide import Decisions, decide
from likely.tasks.evaluate import evaluate, kept_accuracy
from likely.tasks.learn import Stopped, learn
from likely.tasks.metrics import auroc
from likely.tasks.samples import digest, proof_seed_of
from likely.train import Ledger

FILE = "digits.lkz"
"""The test digits, compressed, in the run folder."""
GALLERY = 6
"""Single pictures shown of each sort: upright and turned."""


def tour(run: Path, *, seed: int = 0, progress: Any = None, say: Callable[[str], None] = lambda line: None) -> Any:
    """Train, measure, and write everything to `run`, the figures to its ledger; returns them as they stand there.

    `progress` is passed on to `fit`, `say` gets one line a stage.
    """
    began = time.monotonic()
    say("training a joint model p(x, y) on 1,000 handwritten digits")
    recipe = Recipe.model_validate(RECIPE | {"train": RECIPE["train"] | {"seed": seed}})
    result, data = learn(recipe, run, progress=progress)
    if result.signal is not None:
        raise Stopped(result.signal)
    model, trained = result.model, time.monotonic() - began
    say("training a plain softmax classifier beside it")
    softmax = Softmax(data.space, data.condition.levels, seed)
    softmax.fit(data.train.x, data.train.y, seed)

    say("asking both about test digits, upright and turned by 90 degrees")
    turned = data.test.x.rot90(1, (-2, -1))
    record = _measure(model, softmax, data, turned)
    verdicts = _gallery(model, data, turned)

    say("compressing the test digits to a real file, and reading it again")
    record["file"] = _compressed(model, data, run / FILE)

    labels = torch.arange(64) % data.condition.levels
    settings = {"n": 64, "y": labels.tolist()}
    chosen = proof_seed_of(run, settings)
    say("drawing the first 64 samples of the seed that the weights fix")
    draws = sample(model, 64, labels, seed=chosen)
    record |= {
        "samples": {"seed": chosen, "sha256": digest(draws), "labels": labels.tolist(), "pixels": draws.tolist()},
        "parameters": sum(p.numel() for p in model.parameters()),
        "gallery": verdicts,
        "train_seconds": round(trained, 2),
        "seconds": round(time.monotonic() - began, 2),
        "run": str(run),
    }
    return Ledger(run).append("tour", figures=record)["figures"]


RECIPE: dict[str, Any] = {
    "family": "joint",
    "model": {"part": "autoregressive:digits"},
    "data": {"source": "digits"},
    "train": {
        "steps": 600,
        "batch": 50,
        "lr": 2e-3,
        "betas": [0.9, 0.99],
        "ema": 0.99,
        "valid_every": 400,
        "threads": 1,
    },
}
"""What the tour trains."""


class Softmax(nn.Module):
    """The usual classifier, p(y given x) and nothing else: one hidden layer, trained on cross-entropy."""

    def __init__(self, space: Integers, classes: int, seed: int) -> None:
        super().__init__()
        self.space = space
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.net = nn.Sequential(nn.Linear(space.dims, 256), nn.ReLU(), nn.Linear(256, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.net(self.space.centred(x, torch.float32).flatten(1))

    def fit(self, x: Tensor, y: Tensor, seed: int, epochs: int = 60, batch: int = 50) -> None:
        """AdamW on the cross-entropy, a fresh order every epoch."""
        optimiser = torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=1e-2)
        order = Noise(seed, len(x)).uniform((epochs,)).argsort(0)
        for epoch in range(epochs):
            for rows in order[:, epoch].split(batch):
                loss = F.cross_entropy(self(x[rows]), y[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()

    def posterior(self, x: Tensor) -> Posterior:
        """log p(y given x), exact for what it is."""
        with torch.no_grad():
            return Posterior(self(x).double().log_softmax(1), Kind.EXACT)


def _measure(model: Any, softmax: Softmax, data: Data, turned: Tensor) -> dict[str, Any]:
    """The figures of points 2 and 3, and the values behind their pictures."""
    upright, other = evaluate(model, data.test), evaluate(model, type(data.test)(turned, data.test.y))
    plain, plain_other = softmax.posterior(data.test.x), softmax.posterior(turned)
    bits, error = upright.log_prob.mean_bits_per_dim
    count = len(turned)
    right = lambda posterior: torch.cat([posterior.label == data.test.y, torch.zeros(count, dtype=torch.bool)])  # noqa: E731
    trust = {
        "px": (upright.log_prob.nats, other.log_prob.nats, right(upright.posterior)),
        "py": (upright.posterior.log_odds, other.posterior.log_odds, right(upright.posterior)),
        "softmax": (plain.log_odds, plain_other.log_odds, right(plain)),
    }
    record: dict[str, Any] = {
        "bits_per_dim": bits,
        "bits_per_dim_stderr": error,
        "kind": upright.log_prob.kind.of_bits,
        "codecs": codec_bits(data.test.x, data.space),
        "accuracy": upright.accuracy,
        "softmax_accuracy": float((plain.label == data.test.y).double().mean()),
        "test_rows": count,
        "bits_upright": upright.log_prob.bits_per_dim.tolist(),
        "bits_turned": other.log_prob.bits_per_dim.tolist(),
        "sure": {
            "joint_upright": _sure(upright.posterior),
            "joint_turned": _sure(other.posterior),
            "softmax_upright": _sure(plain),
            "softmax_turned": _sure(plain_other),
        },
        "curves": {},
    }
    shares = [i / 50 for i in range(1, 51)]
    for name, (inside, outside, correct) in trust.items():
        pool = torch.cat([inside, outside])
        record[f"auroc_rot90_{name}"] = auroc(inside, outside)
        record[f"kept_half_{name}"] = kept_accuracy(pool, correct, count)
        record["curves"][name] = [kept_accuracy(pool, correct, max(1, round(s * 2 * count))) for s in shares]
    return record | {"shares": shares}


def _compressed(model: Any, data: Data, path: Path) -> dict[str, Any]:
    """All test digits and their labels in one file, read again from the disk; what it came to."""
    began = time.monotonic()
    codec, inputs = Codec(model), gather(data, model)
    compress(codec, inputs, path)
    encoded = time.monotonic() - began
    blob = path.read_bytes()
    rows = codec.read(blob)
    same = torch.equal(rows.x, inputs.x.to(rows.x.dtype)) and rows.y is not None and torch.equal(rows.y, data.test.y)
    if not same:
        raise ValueError(f"{path} does not hold the test digits")
    told = describe(blob)
    labels = -float(model.log_prior().detach().double()[data.test.y].mean()) / math.log(2) / data.space.dims
    return {
        "path": str(path),
        **{key: told[key] for key in ("bytes", "raw_bytes", "rows", "bits_per_dim", "container_bytes")},
        "labels_bits_per_dim": labels,
        "model_bits_per_dim": told["model_bits_per_dim"],
        "encode_seconds": round(encoded, 2),
        "decode_seconds": round(time.monotonic() - began - encoded, 2),
    }


def _sure(posterior: Posterior) -> float:
    """Mean of max p(y given x): how sure a classifier says that it is."""
    return float(posterior.nats.max(1).values.exp().mean())


def _gallery(model: Any, data: Data, turned: Tensor) -> list[dict[str, Any]]:
    """The first few test digits and the same ones turned, each with its verdict."""
    x = torch.cat([data.test.x[:GALLERY], turned[:GALLERY]])
    decisions: Decisions = decide(model, x, data.valid.x, classes=data.classes)
    return [
        {"pixels": x[i].tolist(), "turned": i >= GALLERY, "truth": int(data.test.y[i % GALLERY])}
        | decisions.to_json()[i]
        for i in range(len(x))
    ]
