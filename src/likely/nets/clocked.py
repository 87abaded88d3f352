"""A multilayer perceptron with a clock, for vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from likely.nets.embedding import Condition, Embedding, beside, check_input, checked, zero


class ClockedMLP(nn.Module):
    """x (B, D) to (B, outputs), D if None, through `blocks` residual blocks of `width`; zero at the start.

    A block is h + W2 dropout(silu(W1 silu(s * norm(h) + b))) with scale s and shift b from the embedding of the clock
    and, where the network was built with `vector=E`, of the condition's vector. With `image=C'` the condition's image
    (B, C') stands beside x.
    """

    def __init__(
        self,
        dims: int,
        outputs: int | None = None,
        *,
        width: int = 128,
        blocks: int = 3,
        dropout: float = 0.0,
        vector: int = 0,
        image: int = 0,
    ) -> None:
        super().__init__()
        self.dims, self.vector, self.image = dims, vector, image
        self.embedding = Embedding(64, width, vector)
        self.first = nn.Linear(dims + image, width)
        self.blocks = nn.ModuleList(Block(width, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.last = zero(nn.Linear(width, dims if outputs is None else outputs))

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition | None = None) -> Tensor:
        check_input(x, log_snr, self.dims, 0)
        condition = checked(condition, self.vector, 0, self.image)
        e = self.embedding(log_snr, condition, x.dtype)
        h = self.first(beside(x, condition))
        for block in self.blocks:
            h = block(h, e)
        return self.last(F.silu(self.norm(h)))


class Block(nn.Module):
    """(B, width) to the same."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(width, 2 * width)
        self.one = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.two = zero(nn.Linear(width, width))

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.modulate(e).chunk(2, 1)
        r = self.one(F.silu(torch.addcmul(shift, self.norm(h), 1 + scale)))
        return h + self.two(self.dropout(F.silu(r)))
