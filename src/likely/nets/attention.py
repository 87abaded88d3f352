"""Attention of sites to one another, and to tokens that stand beside them among the keys and values.

"Attention Is All You Need" (Vaswani and others, 2017); tokens among the keys and values as in "Photorealistic
Text-to-Image Diffusion Models with Deep Language Understanding" (Saharia and others, 2022), section 2.4; RMS norms of
queries and keys as in "Scaling Vision Transformers to 22 Billion Parameters" (Dehghani and others, 2023).
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


def forward_mode() -> AbstractContextManager[None]:
    """Within it, networks with attention may go through `torch.func.jvp`: the fused kernels cannot."""
    return sdpa_kernel(SDPBackend.MATH)


class Attention(nn.Module):
    """(B, N, width) to the same; tokens (B, M, `tokens`) are read too where it was built with them.

    Heads have `head` channels, or the fewest above that divide the width; `width` if `head` is more. With `norm`
    queries and keys are RMS-normalised.
    """

    def __init__(self, width: int, head: int, tokens: int = 0, norm: bool = False) -> None:
        super().__init__()
        self.heads = heads = next(n for n in range(max(width // head, 1), 0, -1) if width % n == 0)
        self.qkv = nn.Linear(width, 3 * width)
        self.tokens = nn.Linear(tokens, 2 * width) if tokens else None
        self.norm = nn.ModuleList(nn.RMSNorm(width // heads) if norm else nn.Identity() for _ in "qk")
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor, tokens: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        q, k, v = self._split(self.qkv(h), 3)
        if tokens is not None:
            k_t, v_t = self._split(self.tokens(tokens), 2)
            k, v = torch.cat([k, k_t], 2), torch.cat([v, v_t], 2)
            if mask is not None:
                mask = F.pad(mask, (h.shape[1], 0), value=True)[:, None, None, :]
        q, k = (norm(part) for norm, part in zip(self.norm, (q, k), strict=True))
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(a.transpose(1, 2).flatten(2))

    def _split(self, h: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, N, parts * width) to `parts` of (B, heads, N, width / heads)."""
        return h.unflatten(2, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
