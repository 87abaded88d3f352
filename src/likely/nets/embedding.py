"""What networks with a clock are told beside x: the log-SNR, and a condition.

The clock of diffusion is lambda, the log signal-to-noise ratio, about -20 .. 20. Networks see sines and cosines of
lambda / 4, a number of order one ("Elucidating the Design Space of Diffusion-Based Generative Models", Karras and
others, 2022, whose c_noise is ln(sigma) / 4 = -lambda / 8). No time in [0, 1] goes through sinusoids that were meant
for 0 .. 1000.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from likely.nets.mlp import mlp

Layer = TypeVar("Layer", bound=nn.Module)

SLOWEST, FASTEST = 2.0**-3, 2.0**4
"""Angular frequencies for lambda / 4: the slowest is monotone over lambda = -40 .. 40, the fastest tells lambdas apart
that differ by some hundredths."""


@dataclass(frozen=True)
class Condition:
    """What is known beside x, for B rows.

    `vector` (B, E) joins the embedding of the clock; `tokens` (B, N, F) are attended to, those where `mask` (B, N)
    is False left out (all may be); `image` (B, C', *spatial) stands beside the channels of x.
    """

    vector: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None
    image: Tensor | None = None

    def take(self, rows: Tensor | slice) -> Condition:
        """These rows; they may repeat."""
        return Condition(*(None if part is None else part[rows] for part in self._parts()))

    @staticmethod
    def concat(conditions: Sequence[Condition]) -> Condition:
        """One batch of several, for instance with and without the caption; all have the same parts."""
        given = [tuple(part is not None for part in c._parts()) for c in conditions]
        if len(set(given)) != 1:
            raise ValueError(f"conditions have different parts: {given} of (vector, tokens, mask, image)")
        parts = zip(*(c._parts() for c in conditions), strict=True)
        return Condition(*(None if part[0] is None else torch.cat(part) for part in parts))

    def _parts(self) -> tuple[Tensor | None, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))


def checked(condition: Condition | None, vector: int, tokens: int, image: int) -> Condition:
    """The condition of a network built with these sizes (0: without); `ValueError` where a part is missing or odd."""
    condition = Condition() if condition is None else condition
    for name, part, axis, size in (
        ("vector", condition.vector, -1, vector),
        ("tokens", condition.tokens, -1, tokens),
        ("image", condition.image, 1, image),
    ):
        if part is None and size:
            raise ValueError(f"condition.{name} is missing; this network was built with {name}={size}")
        if part is not None and part.shape[axis] != size:
            was = f"built with {name}={size}" if size else f"not built with {name}"
            raise ValueError(f"condition.{name} has shape {tuple(part.shape)}; this network was {was}")
    if condition.mask is not None and condition.tokens is None:
        raise ValueError("condition.mask is given without tokens")
    return condition


def check_input(x: Tensor, log_snr: Tensor, channels: int, dims: int) -> None:
    """`ValueError` unless x is (B, channels, *spatial) with so many spatial axes, and log_snr (B,)."""
    if x.ndim != dims + 2 or x.shape[1] != channels:
        wanted = ("", ", L", ", H, W")[dims]
        raise ValueError(f"x has shape {tuple(x.shape)}; accepts (B, {channels}{wanted})")
    if log_snr.shape != x.shape[:1]:
        raise ValueError(f"log_snr has shape {tuple(log_snr.shape)}; accepts ({len(x)},), one for each row of x")


def beside(x: Tensor, condition: Condition) -> Tensor:
    """x with the condition's image among its channels."""
    return x if condition.image is None else torch.cat([x, condition.image.to(x.dtype)], 1)


def waves(a: Tensor, features: int) -> Tensor:
    """Cosines and sines of a (B,), a number of order one, at `features` / 2 frequencies: (B, features)."""
    octaves = torch.linspace(0, 1, features // 2, dtype=a.dtype, device=a.device)
    angle = a[:, None] * (SLOWEST * (FASTEST / SLOWEST) ** octaves)
    return torch.cat([angle.cos(), angle.sin()], 1)


class Embedding(nn.Module):
    """log-SNR (B,) and the condition's vector (B, E) to (B, size), ready for the linear maps of the blocks."""

    def __init__(self, features: int, size: int, vector: int = 0) -> None:
        super().__init__()
        self.features = features
        self.clock = mlp(features, [size], size)
        self.vector = nn.Linear(vector, size) if vector else None

    def forward(self, log_snr: Tensor, condition: Condition, dtype: torch.dtype) -> Tensor:
        e = self.clock(waves(log_snr / 4, self.features).to(dtype))
        if self.vector is not None:
            e = e + self.vector(condition.vector.to(dtype))
        return F.silu(e)


def zero(layer: Layer) -> Layer:
    """The layer with all its parameters at zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


Network = Callable[[Tensor, Tensor, Condition | None], Tensor]
"""net(x, log_snr, condition): x (B, C, *spatial) or (B, D) of about unit variance, log_snr (B,)."""
