"""Convolutional networks between images of any height and width, and vectors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Residual(nn.Module):
    """x + f(x) with f two 3x3 convolutions; shapes stay."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def halved(sites: Sequence[int], times: int) -> tuple[int, int]:
    """(H, W) after so many halvings, rounded up each time."""
    height, width = sites
    for _ in range(times):
        height, width = -(-height // 2), -(-width // 2)
    return height, width


def encoder(inputs: int, sites: Sequence[int], channels: Sequence[int], blocks: int, outputs: int) -> nn.Sequential:
    """(B, inputs, H, W) to (B, outputs): for each number of channels a halving of the image and residual blocks."""
    layers: list[nn.Module] = []
    for width in channels:
        layers += [
            nn.Conv2d(inputs, width, 3, stride=2, padding=1),
            *(Residual(width) for _ in range(blocks)),
            nn.SiLU(),
        ]
        inputs = width
    height, width = halved(sites, len(channels))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * height * width, outputs))


def decoder(inputs: int, sites: Sequence[int], channels: Sequence[int], blocks: int, outputs: int) -> nn.Sequential:
    """(B, inputs) to (B, outputs, H, W): `encoder` backwards, with `channels` from coarse to fine."""
    height, width = halved(sites, len(channels))
    before = channels[0] if channels else inputs
    layers: list[nn.Module] = [nn.Linear(inputs, before * height * width), nn.Unflatten(1, (before, height, width))]
    for level, after in enumerate([*channels[1:], *channels[-1:]], 1):
        size = halved(sites, len(channels) - level)
        odd = [side % 2 for side in size]
        layers += [
            *(Residual(before) for _ in range(blocks)),
            nn.SiLU(),
            # 2n - 1 sites from n, and one more where the finer side is even
            nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=(1 - odd[0], 1 - odd[1])),
        ]
        before = after
    return nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(before, outputs, 3, padding=1))
