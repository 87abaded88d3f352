"""Which rows a training step sees: an order that depends on (n, batch, step, seed) alone.

Every epoch is a fresh permutation of all rows (the arg-sort of counter-based keys), and batches run across the ends of
epochs, so that no row is dropped. Resuming needs nothing but the step counter, and processes cut the same global
batch into slices, whatever their number.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from likely.data.splits import drawn_order


def batch_indices(n: int, batch: int, step: int, seed: int, *, rank: int = 0, world: int = 1) -> Tensor:
    """Rows (int64) of step `step` (from 0) among n rows: this rank's slice of a global batch of `batch` rows.

    The slices of ranks 0 .. world-1, one after the other, are the global batch. Raises `ValueError` when `world` does
    not divide `batch`: unequal slices would weigh rows unequally in an average over processes.
    """
    for name, value, least in (("n", n, 1), ("batch", batch, 1), ("step", step, 0), ("world", world, 1)):
        if value < least:
            raise ValueError(f"{name} is {value}; accepts {least} or more")
    if not 0 <= rank < world:
        raise ValueError(f"rank is {rank}; accepts 0 .. {world - 1} of {world} processes")
    if batch % world:
        raise ValueError(f"batch is {batch}, which {world} processes cannot share equally")
    share = batch // world
    first = step * batch + rank * share
    pieces = []
    while share:
        epoch, start = divmod(first, n)
        piece = _order(n, epoch, seed)[start : start + share]
        pieces.append(piece)
        first, share = first + len(piece), share - len(piece)
    return torch.cat(pieces)


@lru_cache(maxsize=4)
def _order(n: int, epoch: int, seed: int) -> Tensor:
    """The permutation of 0 .. n-1 of one epoch. Its keys are apart from all draws that models make with this seed."""
    return drawn_order(n, f"order of rows, seed {seed}, epoch {epoch}")
