"""Samples nobody could have picked: the first n of a seed that follows from the weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from likely.space import Rows
from likely.train import Ledger
from likely.train.checkpoint import WEIGHTS, Checkpoints


def proof_seed(weights: str, settings: dict[str, Any], nonce: str) -> int:
    """The seed that is SHA-256 of (weights manifest, sampler settings, the ledger's first nonce), cut to 62 bits.

    It cannot be searched: another seed would need other weights, other settings or another run.
    """
    text = json.dumps([weights, settings, nonce], sort_keys=True, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 2


def proof_seed_of(run: Path, settings: dict[str, Any]) -> int:
    """The proof seed of a run as it stands now."""
    weights = hashlib.sha256(Checkpoints(run).newest()[1][WEIGHTS]).hexdigest()
    return proof_seed(weights, settings, Ledger(run).lines()[0]["nonce"])


def digest(x: Any) -> str:
    """SHA-256 of values as int64 or float64 bytes, with their shape; of a table's cells with unseen ones as 0."""
    if isinstance(x, Rows):
        x = x.cells.where(x.seen, 0)
    wide = x.double() if x.dtype.is_floating_point else x.to(torch.int64)
    return hashlib.sha256(repr(tuple(x.shape)).encode() + wide.contiguous().numpy().tobytes()).hexdigest()
