"""A transformer over patches with a clock, for sequences (B, C, L) and images (B, C, H, W).

Patches with fixed sinusoidal positions go through blocks h + g_1 attention(s_1 norm(h) + b_1), then
h + g_2 mlp(s_2 norm(h) + b_2), whose scales s, shifts b and gates g are an affine map of the embedding of the clock
("adaLN-zero": all gates are zero at the start). Queries and keys are RMS-normalised.

"Scalable Diffusion Models with Transformers" (Peebles, Xie, 2023); tokens stand among the keys and values
(likely/nets/attention.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from likely.nets.attention import Attention
from likely.nets.embedding import Condition, Embedding, beside, check_input, checked, zero

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"patch": 2, "width": 64, "depth": 4, "head": 32},
    "small": {"patch": 2, "width": 384, "depth": 12, "head": 64},  # DiT-S/2
}
"""Arguments of `DiT` beside the sizes of what goes in and out."""


class DiT(nn.Module):
    """net(x, log_snr, condition): x (B, channels, *spatial) to (B, outputs, *spatial); zero at the start.

    `patch` divides every side of x: `ValueError` if it does not. `vector`, `tokens` and `image` are the sizes of the
    condition's parts, 0 where there are none.
    """

    def __init__(
        self,
        channels: int,
        outputs: int | None = None,
        *,
        dims: Literal[1, 2] = 2,
        patch: int = 2,
        width: int = 64,
        depth: int = 4,
        head: int = 32,
        dropout: float = 0.0,
        vector: int = 0,
        tokens: int = 0,
        image: int = 0,
    ) -> None:
        super().__init__()
        if dims not in (1, 2):
            raise ValueError(f"dims is {dims!r}; accepts 1 for sequences, 2 for images")
        if width % (2 * dims):
            raise ValueError(f"width is {width}; accepts multiples of {2 * dims}: a sine and a cosine for each axis")
        self.dims, self.channels, self.patch = dims, channels, patch
        self.vector, self.tokens, self.image = vector, tokens, image
        outputs = channels if outputs is None else outputs
        into, out_of = ((nn.Conv1d, nn.ConvTranspose1d), (nn.Conv2d, nn.ConvTranspose2d))[dims - 1]
        self.embedding = Embedding(64, width, vector)
        self.token_norm = nn.LayerNorm(tokens) if tokens else None
        self.first = into(channels + image, width, patch, stride=patch)  # a linear map of each patch
        self.blocks = nn.ModuleList(Block(width, head, tokens, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(width, 2 * width)
        self.last = zero(out_of(width, outputs, patch, stride=patch))

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition | None = None) -> Tensor:
        check_input(x, log_snr, self.channels, self.dims)
        if any(side % self.patch for side in x.shape[2:]):
            raise ValueError(f"x has shape {tuple(x.shape)}; accepts sides that patch={self.patch} divides")
        condition = checked(condition, self.vector, self.tokens, self.image)
        e = self.embedding(log_snr, condition, x.dtype)
        tokens = None if condition.tokens is None else self.token_norm(condition.tokens.to(x.dtype))
        h = self.first(beside(x, condition))
        sizes = h.shape[2:]
        h = h.flatten(2).transpose(1, 2)
        h = h + positions(sizes, h.shape[2], h.dtype, h.device)
        for block in self.blocks:
            h = block(h, e, tokens, condition.mask)
        scale, shift = self.modulate(e)[:, None].chunk(2, 2)
        h = torch.addcmul(shift, self.norm(h), 1 + scale)
        return self.last(h.transpose(1, 2).unflatten(2, sizes))


class Block(nn.Module):
    """(B, N, width) to the same; the identity at the start."""

    def __init__(self, width: int, head: int, tokens: int, dropout: float) -> None:
        super().__init__()
        self.modulate = zero(nn.Linear(width, 6 * width))
        self.norm_one = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = Attention(width, head, tokens, norm=True)
        self.norm_two = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )

    def forward(self, h: Tensor, e: Tensor, tokens: Tensor | None, mask: Tensor | None) -> Tensor:
        s_1, b_1, g_1, s_2, b_2, g_2 = self.modulate(e)[:, None].chunk(6, 2)
        a = self.attention(torch.addcmul(b_1, self.norm_one(h), 1 + s_1), tokens, mask)
        h = torch.addcmul(h, g_1, a)
        return torch.addcmul(h, g_2, self.mlp(torch.addcmul(b_2, self.norm_two(h), 1 + s_2)))


def positions(sizes: Sequence[int], width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Sines and cosines of each site's place along each axis, at wavelengths 2 pi .. 2 pi 10^4: (sites, width)."""
    each = width // (2 * len(sizes))
    frequency = 1e4 ** -(torch.arange(each, dtype=torch.float64, device=device) / each)
    axes = [torch.arange(n, dtype=torch.float64, device=device) for n in sizes]
    angle = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(math.prod(sizes), -1, 1) * frequency
    return torch.cat([angle.sin(), angle.cos()], 2).flatten(1).to(dtype)
