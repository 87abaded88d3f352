"""Splits that can be checked: decided by hash or by order, disjoint, and recorded.

A split by *content* ranks the rows by the SHA-256 of their bytes: the first ones are test, the next ones valid, the
rest train, and equal rows stay together, so that no test image is also a training image. Data that repeat by their
nature (bits, small tables) are split by the hash of the row's *position* instead: there, keeping equal rows together
would take whole outcomes away from training. *Order* keeps the file's order.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likely.noise import Noise
from likely.space import Rows

RULES = {
    "content": "rows ranked by SHA-256 of their content: first test, then valid, the rest train; equal rows together",
    "index": "rows ranked by SHA-256 of their position: first test, then valid, the rest train",
    "order": "file order: first train, then valid, then test",
}


def carve(keys: np.ndarray, valid: int, test: int) -> dict[str, Tensor]:
    """Positions of train, valid and test rows, each in file order. keys: (N,) uint64, one a row; valid and test are
    the wanted counts, exceeded only where equal keys have to stay together."""
    groups, group, size = np.unique(keys, return_inverse=True, return_counts=True)
    before = np.cumsum(size) - size
    # A group of equal rows goes where its first row falls.
    part = np.where(before < test, 2, np.where(before < test + valid, 1, 0))[group] if len(groups) else group
    return {name: torch.from_numpy(np.flatnonzero(part == k)) for k, name in enumerate(("train", "valid", "test"))}


def in_order(n: int, valid: int, test: int) -> dict[str, Tensor]:
    """Positions of train, valid and test rows when file order decides."""
    rows = torch.arange(n)
    return {"train": rows[: n - valid - test], "valid": rows[n - valid - test : n - test], "test": rows[n - test :]}


def index_keys(n: int) -> np.ndarray:
    """(n,) uint64: the first eight bytes of the SHA-256 of each row's position, in decimal."""
    return _words([hashlib.sha256(b"%d" % i).digest()[:8] for i in range(n)])


def content_keys(x: Any) -> np.ndarray:
    """(N,) uint64: the first eight bytes of the SHA-256 of each row of a checked value."""
    if isinstance(x, Rows):
        cells = torch.where(x.seen, x.cells, 0).contiguous().numpy().view(np.uint8)
        rows = np.concatenate([cells, x.seen.numpy().view(np.uint8)], axis=1)
    else:
        rows = np.ascontiguousarray(x.numpy()).reshape(x.shape[0], math.prod(x.shape[1:])).view(np.uint8)
    flat, width = rows.reshape(-1).data, rows.shape[1]
    return _words([hashlib.sha256(flat[i : i + width]).digest()[:8] for i in range(0, width * len(rows), width)])


def drawn_order(n: int, what: str) -> Tensor:
    """A permutation (n,) of 0 .. n-1 that depends on the text `what` alone."""
    key = int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], "big")
    return Noise(key, n).uniform(dtype=torch.float64).argsort(stable=True)


def duplicates(keys: dict[str, np.ndarray]) -> dict[str, int]:
    """For each pair of splits: how many rows of the second also stand, exactly equal, in the first."""
    pairs = [("train", "valid"), ("train", "test"), ("valid", "test")]
    return {f"{a}/{b}": int(np.isin(keys[b], keys[a]).sum()) for a, b in pairs}


def sha256_of(x: Any, y: Tensor | None) -> str:
    """SHA-256, in hexadecimal, of a split: shapes, kinds of number and bytes of everything in it."""
    digest = hashlib.sha256()
    for tensor in [*(x if isinstance(x, Rows) else [x]), *([] if y is None else [y])]:
        array = np.ascontiguousarray(tensor.numpy())
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _words(digests: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)
