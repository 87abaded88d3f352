"""A picture turned and blurred, to see when a model ceases to know it."""

from __future__ import annotations

import torch
from scipy import ndimage
from torch import Tensor

from likely.space import Integers
from likely.tasks.pictures import is_picture


def alter(x: Tensor, space: Integers, *, turn: float = 0.0, blur: float = 0.0, invert: bool = False) -> Tensor:
    """Pictures x (n, *shape) turned counter-clockwise by `turn` degrees about their centre, blurred by a Gaussian of
    `blur` pixels' standard deviation, and made a negative if asked; rounded to the space's levels.

    What comes in from outside the frame has the level that is most common at the picture's edge. Multiples of 90
    degrees of square pictures are exact. Raises `ValueError` for anything but pictures, and for a negative blur.
    """
    if not is_picture(space):
        raise ValueError(f"only pictures can be turned and blurred; the model's data are {space}")
    if not 0 <= blur < float("inf") or not abs(turn) < float("inf"):
        raise ValueError(f"turn is {turn} and blur {blur}; accepts finite numbers, blur at least 0")
    x = space.check(x, "x")
    height, width = space.shape[-2:]
    y = x.rot90(round(turn / 90), (-2, -1)) if turn % 90 == 0 and height == width else _turned(x, turn)
    if blur:
        y = torch.from_numpy(ndimage.gaussian_filter(y.double().numpy(), blur, axes=(-2, -1), mode="nearest"))
    y = space.levels - 1 - y if invert else y
    return y.round().clamp(0, space.levels - 1).to(x.dtype) if y.dtype.is_floating_point else y.to(x.dtype)


def _turned(x: Tensor, turn: float) -> Tensor:
    rows = []
    for row in x.double():
        edge = torch.cat([row[..., 0, :], row[..., -1, :], row[..., :, 0], row[..., :, -1]], -1)
        channels = row.reshape(-1, *row.shape[-2:])
        fills = edge.reshape(len(channels), -1).mode(-1).values
        each = [
            ndimage.rotate(channel.numpy(), turn, reshape=False, order=1, mode="constant", cval=float(fill))
            for channel, fill in zip(channels, fills, strict=True)
        ]
        rows.append(torch.stack([torch.from_numpy(channel) for channel in each]).reshape(row.shape))
    return torch.stack(rows) if rows else x.double()
