"""The order of an image's pixels, and what a pixel's distribution is worked out from: integers all.

Level l + 1 of an image is every second pixel of level l, in both directions: sizes are halved and rounded up, until
one pixel is left. From level l + 1 known, level l is filled in three groups of pixels (row, column):

    0    odd, odd      between four known ones on the diagonals
    1    even, odd     between two of the coarse level and two of group 0
    2    odd, even     as group 1, whose pixels are known by then

Beyond an edge the image is mirrored about its last row or column, which takes odd rows to odd ones: what is known stays
known there. Where a side has one pixel, and no parity can be kept, a pixel yet unknown stands for the coarse one above
it, in the encoder as in the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from likely.families.pyramid.network import ONE, TOP

PAD = 3
STARTS = ((1, 1), (0, 1), (1, 0))
"""The first row and column of each group."""
UNIT = 256
"""Interpolations are in units of 1/256 of a level of brightness."""
_DIAGONAL = [(-1, -1), (-1, 1), (1, -1), (1, 1)]
_CROSS = [(0, -1), (0, 1), (-1, 0), (1, 0)]
_KNIGHT = [(a * i, b * j) for a, b in ((1, 2), (2, 1)) for i in (-1, 1) for j in (-1, 1)]
_FAR = [(3 * i, 3 * j) for i, j in _CROSS]
_NEXT = [(2 * i, 2 * j) for i, j in _CROSS]  # of the same group
_WIDE = [(a * i, b * j) for a, b in ((1, 3), (3, 1), (3, 3)) for i in (-1, 1) for j in (-1, 1)]

NEAR = (_DIAGONAL, _CROSS, _CROSS)
WINDOW = ([*_DIAGONAL, *_WIDE], [*_CROSS, *_KNIGHT, *_FAR], [*_CROSS, *_KNIGHT, *_FAR, *_DIAGONAL])
"""Known pixels around one of each group, (rows, columns) away, the nearest four first."""
_WEIGHTS = ([81] * 4 + [-9] * 8 + [1] * 4, [80] * 4 + [-8] * 8, [80] * 4 + [-8] * 8)
"""Those of the interpolations; they add up to 256. Group 0: (-1, 9, 9, -1) / 16 along rows and columns."""
MISSED = ([], [*_CROSS[2:], *_KNIGHT[:4]], [*_CROSS[:2], *_KNIGHT[4:], *_DIAGONAL])
"""Pixels of the groups before, of the same level: how far their own interpolations missed them is known."""
SCALES = 7
"""Contrasts are told apart by powers of two: 1, 2, .. 64 levels."""
LEVELS = 3
"""The finest levels are told apart, all others are one."""


def sizes(height: int, width: int) -> list[tuple[int, int]]:
    """(rows, columns) of every level, from the image itself to one pixel."""
    found = [(height, width)]
    while found[-1] != (1, 1):
        found.append((-(-found[-1][0] // 2), -(-found[-1][1] // 2)))
    return found


def doubled(coarse: Tensor, size: tuple[int, int]) -> Tensor:
    """A level (..., h, w) on the grid of the finer one, each pixel four times: every one's place is right for one."""
    return coarse.repeat_interleave(2, -2).repeat_interleave(2, -1)[..., : size[0], : size[1]].contiguous()


def inputs(group: int, channel: int) -> int:
    """F, how many numbers `Surroundings.of` gives a network."""
    colour = (8, 4 + 4 + 1 + 4 + 1, 4 + 4 + 1 + 4 + 4 + 1 + 2)[channel]
    return len(WINDOW[group]) + len(MISSED[group]) + colour + 1 + SCALES + LEVELS


class Surroundings:
    """What is known around a group's pixels, from a level's canvas (C, n, H, W) whose unknown pixels are coarse.

    `missed`, of the same shape, is by how much the interpolations of the groups before were wrong, in 1/256 levels.
    """

    def __init__(self, canvas: Tensor, missed: Tensor, level: int, group: int, levels: int) -> None:
        self.level, self.group, self.levels = level, group, levels
        self.canvas, self.missed = canvas, missed
        self._margins = mirrored(missed) if MISSED[group] else missed
        self.first = STARTS[group]
        self.size = [(side - first + 1) // 2 for side, first in zip(canvas.shape[2:], self.first, strict=True)]
        self._kept: dict[int, tuple[Tensor, list[Tensor]]] = {}
        self._read()

    def fill(self, channel: int, value: Tensor) -> None:
        """Put the group's values (n, 1, S) of a channel on the canvas."""
        own = (channel, slice(None), slice(self.first[0], None, 2), slice(self.first[1], None, 2))
        self.canvas[own] = value.reshape(self.canvas[own].shape).to(self.canvas.dtype)
        self._read()
        self.missed[own] = self._at(channel, (0, 0)) * UNIT - self._interpolated(channel)[0]

    def of(self, channel: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Inputs (F, n, h, w); the interpolation in 1/256 levels, and the contrast as k and 2^k, (n, h, w) each.

        The first channel is interpolated; the others by their difference to it, which is known at the pixel.
        """
        near = NEAR[self.group]
        base, away = self._interpolated(channel)
        contrast = torch.stack(away[:4]).abs().sum(0)
        green_base, _ = self._interpolated(0)
        if channel == 0:
            parts = [*away, *self._colour(1), *self._colour(2)]
            absolute = [base / UNIT - self.levels // 2]
        else:
            here = self._at(0, (0, 0))
            surprise = here * UNIT - green_base
            contrast = contrast + surprise.abs()
            parts = [*away, surprise, *((self._at(0, o) - here) * UNIT for o in [*near, *_NEXT])]
            absolute = [here - self.levels // 2, base / UNIT / 2]
            if channel == 1:
                parts += self._colour(2)
            else:
                red, (red_base, _) = self._at(1, (0, 0)), self._interpolated(1)
                parts += [red * UNIT - red_base, *((self._at(1, o) - red) * UNIT for o in [*near, *_NEXT])]
                absolute.append(red / 2)
            base = base + here * UNIT
        parts += [self._at(channel, offset, self._margins) for offset in MISSED[self.group]]
        reached = [(contrast >= 4 * UNIT * 2**k).to(base.dtype) for k in range(SCALES - 1)]
        power = torch.stack(reached).sum(0)
        scale = 1 + sum((2**k * each for k, each in enumerate(reached)), torch.zeros_like(base))  # 2^power
        normal = (torch.stack(parts) * (ONE / UNIT) / scale + 0.5).floor_().clamp_(-TOP, TOP)
        rest = [(each + 0.5).floor().clamp(-TOP, TOP) for each in absolute]
        rest += [(power == k).to(base.dtype) * ONE for k in range(SCALES)]
        rest += [torch.full_like(base, ONE * (min(self.level, LEVELS - 1) == k)) for k in range(LEVELS)]
        return torch.cat([normal, torch.stack(rest)]), base.clamp(0, (self.levels - 1) * UNIT), power, scale

    def _read(self) -> None:
        """The canvas with its margins, the first channel and the others' differences to it."""
        planes = mirrored(self.canvas)
        self.planes = torch.cat([planes[:1], planes[1:] - planes[:1]])

    def _at(self, channel: int, offset: tuple[int, int], planes: Tensor | None = None) -> Tensor:
        """The numbers so far away from each pixel of the group, (n, h, w)."""
        planes = self.planes if planes is None else planes
        low = [PAD + f + o for f, o in zip(self.first, offset, strict=True)]
        rows, columns = (slice(a, a + 2 * s - 1, 2) for a, s in zip(low, self.size, strict=True))
        return planes[channel][:, rows, columns]

    def _interpolated(self, channel: int) -> tuple[Tensor, list[Tensor]]:
        """A channel's interpolation and how far each known pixel is from it, in 1/256 levels."""
        if channel not in self._kept:
            known = [self._at(channel, offset) for offset in WINDOW[self.group]]
            weights = _WEIGHTS[self.group]
            base = weights[0] * torch.stack(known[:4]).sum(0)
            for weight, each in zip(weights[4:], known[4:], strict=False):
                base.add_(each, alpha=weight)
            self._kept[channel] = base, [each * UNIT - base for each in known]
        return self._kept[channel]

    def _colour(self, channel: int) -> Sequence[Tensor]:
        """How the nearest four pixels' difference of a channel to the first departs from its mean."""
        if channel >= len(self.canvas):  # a grey image is a colour one whose channels agree
            return [self.canvas.new_zeros(self.canvas.shape[1], *self.size)] * 4
        near = torch.stack([self._at(channel, offset) for offset in NEAR[self.group]])
        return list(near * UNIT - near.sum(0) * (UNIT // 4))


def mirrored(canvas: Tensor) -> Tensor:
    """A canvas with three more pixels at each edge, mirrored about the outermost row and column."""
    if canvas.shape[1] and min(canvas.shape[2:]) > PAD:
        return F.pad(canvas, [PAD] * 4, mode="reflect")
    rows, columns = (_places(side, canvas.device) for side in canvas.shape[2:])
    return canvas[:, :, rows[:, None], columns]


def _places(side: int, device: torch.device) -> Tensor:
    period = max(2 * (side - 1), 1)
    place = torch.arange(-PAD, side + PAD, device=device).remainder(period)
    return torch.minimum(place, period - place) if side > 1 else place
