"""A U-Net with a clock, for sequences (B, C, L) and images (B, C, H, W) of any size.

Residual blocks, group norm -> SiLU -> 3x3 convolution twice, read the embedding of the clock; on the way down the
sites are halved (rounded up), on the way up features of the same size from the way down stand beside the others.
Two orders of the parts:

- "ddpm": blocks run at every size, the input's included; each of them leaves its features for the way up ("Denoising
  Diffusion Probabilistic Models", Ho, Jain, Abbeel, 2020);
- "efficient": each level halves the sites before its blocks and doubles them after its blocks' convolutions, leaves
  features for the way up once, and has more blocks the smaller the size, so that parameters stand where a site is
  cheap ("Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding", Saharia and others, 2022,
  appendix B).

Memory layout is the caller's: `net.to(memory_format=torch.channels_last)` takes 5 to 10 % off a step on a CPU, but
PyTorch has no tangents of group norm in that layout.

Scale and shift of the second norm come from the embedding ("Diffusion Models Beat GANs on Image Synthesis", Dhariwal,
Nichol, 2021), or, as in DDPM, a shift before it alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from likely.nets.attention import Attention
from likely.nets.embedding import Condition, Embedding, beside, check_input, checked, zero

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"width": 32, "multipliers": (1, 2, 2), "blocks": (1, 1, 1), "attention": (2,)},
    # 35.7 million parameters at three channels: DDPM's network for CIFAR-10, attention at 16 x 16
    "ddpm": {
        "width": 128,
        "multipliers": (1, 2, 2, 2),
        "blocks": (2, 2, 2, 2),
        "attention": (1,),
        "head": 256,
        "scale": False,
        "dropout": 0.1,
    },
    "efficient": {
        "width": 64,
        "multipliers": (1, 2, 4),
        "blocks": (1, 2, 4),
        "attention": (2,),
        "order": "efficient",
        "rescale": True,
    },
}
"""Arguments of `UNet` beside the sizes of what goes in and out."""


class UNet(nn.Module):
    """net(x, log_snr, condition): x (B, channels, *spatial) to (B, outputs, *spatial); zero at the start.

    Level l has `multipliers[l] * width` channels, `blocks[l]` blocks down and one more up, and attention over the
    sites where l is in `attention`, with heads of `head` channels. `vector`, `tokens` and `image` are the sizes of the
    condition's parts, 0 where there are none. `rescale` divides each residual sum by sqrt 2.
    """

    def __init__(
        self,
        channels: int,
        outputs: int | None = None,
        *,
        dims: Literal[1, 2] = 2,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: Sequence[int] = (1, 1, 1),
        attention: Sequence[int] = (2,),
        head: int = 64,
        order: Literal["ddpm", "efficient"] = "ddpm",
        scale: bool = True,
        rescale: bool = False,
        dropout: float = 0.0,
        vector: int = 0,
        tokens: int = 0,
        image: int = 0,
    ) -> None:
        super().__init__()
        if dims not in CONV:
            raise ValueError(f"dims is {dims!r}; accepts 1 for sequences, 2 for images")
        if width % 2:
            raise ValueError(f"width is {width}; accepts even numbers: the clock is read by pairs of sine and cosine")
        if order not in ("ddpm", "efficient"):
            raise ValueError(f"order is {order!r}; accepts 'ddpm', 'efficient'")
        if len(blocks) != len(multipliers) or min(blocks, default=0) < 1:
            wanted = f"one number, 1 or more, for each multiplier of {tuple(multipliers)}"
            raise ValueError(f"blocks is {tuple(blocks)}; accepts {wanted}")
        if not set(attention) <= set(range(len(multipliers))):
            raise ValueError(f"attention is {tuple(attention)}; accepts levels 0 .. {len(multipliers) - 1}")
        if tokens and not attention:
            raise ValueError("tokens are read by attention; accepts tokens with at least one level in attention")
        self.dims, self.channels, self.vector, self.tokens, self.image = dims, channels, vector, tokens, image
        widths, size, efficient = [m * width for m in multipliers], 4 * width, order == "efficient"
        self.embedding = Embedding(width, size, vector)
        self.token_norm = nn.LayerNorm(tokens) if tokens else None

        def block(before: int, after: int, attend: bool, joins: int = 0, leaves: bool = False) -> Block:
            sites = Sites(after, head, tokens) if attend else None
            return Block(before, after, size, dims, sites, scale, rescale, dropout, joins, leaves)

        self.first = CONV[dims](channels + image, width, 3, padding=1)
        down, up, left, h = nn.ModuleList(), nn.ModuleList(), [width], width
        for level, w in enumerate(widths):
            if efficient:
                down.append(Down(h, w, dims, leaves=False))
                h = w
            for number in range(blocks[level]):
                leaves = not efficient or number == blocks[level] - 1
                down.append(block(h, w, level in attention, leaves=leaves))
                h = w
                left += [w] * leaves
            if not efficient and level < len(widths) - 1:
                down.append(Down(w, w, dims, leaves=True))
                left.append(w)
        self.middle = nn.ModuleList([block(h, h, bool(attention)), block(h, h, False)])
        for level, w in reversed(list(enumerate(widths))):
            for number in range(blocks[level] + (not efficient)):
                joins = left.pop() if not efficient or number == 0 else 0
                up.append(block(h, w, level in attention, joins=joins))
                h = w
            if efficient:
                h = widths[level - 1] if level else width
                up.append(Up(w, h, dims, late=True))
            elif level:
                up.append(Up(w, w, dims, late=False))
        if efficient:
            up.append(block(h, width, False, joins=left.pop()))
        self.down, self.up = down, up
        self.norm = group_norm(width * (1 if efficient else multipliers[0]))
        self.last = zero(CONV[dims](self.norm.num_channels, channels if outputs is None else outputs, 3, padding=1))

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition | None = None) -> Tensor:
        check_input(x, log_snr, self.channels, self.dims)
        condition = checked(condition, self.vector, self.tokens, self.image)
        e = self.embedding(log_snr, condition, x.dtype)
        tokens = None if condition.tokens is None else self.token_norm(condition.tokens.to(x.dtype))
        h = self.first(beside(x, condition))
        skips = [h]
        for part in self.down:
            h = part(h, e, tokens, condition.mask)
            if part.leaves:
                skips.append(h)
        for part in self.middle:
            h = part(h, e, tokens, condition.mask)
        for part in self.up:
            if isinstance(part, Up):
                h = part(h, skips[-1].shape[2:])
            else:
                h = torch.cat([h, skips.pop()], 1) if part.joins else h
                h = part(h, e, tokens, condition.mask)
        return self.last(F.silu(self.norm(h)))


CONV: dict[int, type[nn.Conv1d] | type[nn.Conv2d]] = {1: nn.Conv1d, 2: nn.Conv2d}


def group_norm(channels: int) -> nn.GroupNorm:
    """Up to 32 groups, of at least four channels where there are as many."""
    return nn.GroupNorm(math.gcd(32, max(channels // 4, 1), channels), channels)


class Block(nn.Module):
    """A residual block and, with `sites`, attention: (B, before + joins, *spatial) to (B, after, *spatial).

    `joins` channels from the way down stand beside the `before` others; with `leaves` its own are left for the way up.
    """

    def __init__(
        self,
        before: int,
        after: int,
        embedding: int,
        dims: int,
        sites: Sites | None,
        scale: bool,
        rescale: bool,
        dropout: float,
        joins: int,
        leaves: bool,
    ) -> None:
        super().__init__()
        self.joins, self.leaves, self.scale = joins, leaves, scale
        self.gain = math.sqrt(0.5) if rescale else 1.0
        before, conv = before + joins, CONV[dims]
        self.norm_one = group_norm(before)
        self.one = conv(before, after, 3, padding=1)
        self.modulate = nn.Linear(embedding, 2 * after if scale else after)
        self.norm_two = group_norm(after)
        self.dropout = nn.Dropout(dropout)
        self.two = zero(conv(after, after, 3, padding=1))
        self.skip = conv(before, after, 1) if before != after else nn.Identity()
        self.sites = sites

    def forward(self, h: Tensor, e: Tensor, tokens: Tensor | None, mask: Tensor | None) -> Tensor:
        r = self.one(F.silu(self.norm_one(h)))
        m = self.modulate(e)[(..., *[None] * (h.ndim - 2))]
        if self.scale:
            scale, shift = m.chunk(2, 1)
            r = torch.addcmul(shift, self.norm_two(r), 1 + scale)
        else:
            r = self.norm_two(r + m)
        h = (self.skip(h) + self.two(self.dropout(F.silu(r)))) * self.gain
        return h if self.sites is None else self.sites(h, tokens, mask)


class Sites(nn.Module):
    """h plus attention over its sites, in heads of `head` channels."""

    def __init__(self, channels: int, head: int, tokens: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.attention = Attention(channels, head, tokens)
        zero(self.attention.out)

    def forward(self, h: Tensor, tokens: Tensor | None, mask: Tensor | None) -> Tensor:
        a = self.attention(self.norm(h).flatten(2).transpose(1, 2), tokens, mask)
        return h + a.transpose(1, 2).reshape(h.shape)


class Down(nn.Module):
    """(B, before, *spatial) to (B, after, *half of it, rounded up)."""

    def __init__(self, before: int, after: int, dims: int, leaves: bool) -> None:
        super().__init__()
        self.leaves = leaves
        self.conv = CONV[dims](before, after, 3, stride=2, padding=1)

    def forward(self, h: Tensor, *_: Tensor | None) -> Tensor:
        return self.conv(h)


class Up(nn.Module):
    """To the spatial size that is asked for, by nearest neighbours; the convolution before (`late`) or after it."""

    def __init__(self, before: int, after: int, dims: int, late: bool) -> None:
        super().__init__()
        self.late = late
        self.conv = CONV[dims](before, after, 3, padding=1)

    def forward(self, h: Tensor, size: torch.Size) -> Tensor:
        if self.late:
            return F.interpolate(self.conv(h), size)
        return self.conv(F.interpolate(h, size))
