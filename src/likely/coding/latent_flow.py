"""Bits-back for latent models whose prior is a flow: z under it by local bits-back. Experimental, as that is.

A place k of the lattice is a cell of width 2^-fine: digits off the stack choose a place of the finer lattice in it,
which the flow's moves take to a normal number. That costs the mean over the cell of -log p(z), no more than its width
adds to -log of the cell's mass.
"""

from __future__ import annotations

from typing import Any

import torch

from likely.coding.ans import Stack
from likely.coding.latent import Chained, Lattice
from likely.coding.local import FINE, Walker
from likely.coding.tables import Ints

REACH = 64
"""Latents lie within +-64."""


class LocalPrior(Chained):
    """Under a prior that has moves."""

    name = "bits-back-local"

    def __init__(self, model: Any, group: int, lattice: Lattice | None = None) -> None:
        super().__init__(model, group, lattice or Lattice(self.fine, REACH))
        self.moves = model.prior().moves()

    def put(self, stack: Stack, k: Ints, key: int) -> None:
        walker, low = self._walker(stack, len(k), key)
        i = (k - (self.lattice.reach << self.lattice.fine) << low) + walker.pop_noise(k.shape, low) - (1 << low - 1)
        walker.push_any_normal(self.moves.forward(torch.from_numpy(i), None, walker).numpy().reshape(-1))

    def take(self, stack: Stack, rows: int, key: int) -> Ints:
        walker, low = self._walker(stack, rows, key)
        z = torch.from_numpy(walker.pop_any_normal(rows * self.moves.dims)).reshape(rows, -1)
        i = self.moves.inverse(z, None, walker).numpy() + (1 << low - 1)
        walker.push_noise(i & ((1 << low) - 1), low)
        return ((i >> low) + (self.lattice.reach << self.lattice.fine)).clip(0, self.lattice.size - 1)

    def _walker(self, stack: Stack, rows: int, key: int) -> tuple[Walker, int]:
        """The walker of a group, and by how many bits its lattice is finer."""
        return Walker(stack, max(rows, self.size), FINE, key), FINE - self.lattice.fine
