"""Rows from elsewhere to try a detector on: other data brought to the model's space by a stated rule, and sets made
from the inside rows themselves. Nothing is ever normalised by the statistics of the strangers.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor

from likely.noise import Noise
from likely.space import Integers, Rows, Space, Table


def adapt(x: Tensor, source: Space, target: Space, name: str = "x") -> tuple[Tensor, str]:
    """Rows of one image space as rows of another, and the rule that was followed, in words.

    Sizes: scaled to cover the target's height and width (bilinear, with antialiasing where it shrinks), cropped at the
    centre. Channels: grey is copied into three, colour becomes its luma (ITU-R 601). Levels: stretched so that the
    highest stays the highest, rounded. Raises `ValueError` for anything but images.
    """
    if source == target:
        return x, "as it is"
    if not is_image(source) or not is_image(target):
        raise ValueError(f"{name} lives in {source}, the model in {target}; only images can be adapted")
    (c, h, w), (channels, height, width) = _chw(source), _chw(target)
    values, rule = x.reshape(-1, c, h, w).double(), []
    if c != channels:
        if (c, channels) == (1, 3):
            values = values.expand(-1, 3, -1, -1)
            rule.append("grey copied into three channels")
        elif (c, channels) == (3, 1):
            values = (values * values.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
            rule.append("colour to its luma (ITU-R 601)")
        else:
            raise ValueError(f"{name} has {c} channels, the model's images {channels}; accepts 1 or 3 on either side")
    if (h, w) != (height, width):
        scale = max(height / h, width / w)
        size = (max(height, round(h * scale)), max(width, round(w * scale)))
        values = F.interpolate(values, size, mode="bilinear", antialias=True)
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        values = values[:, :, top : top + height, left : left + width]
        rule.append(f"{h}x{w} to {height}x{width}, bilinear with antialiasing")
    if source.levels != target.levels:
        values = values * ((target.levels - 1) / (source.levels - 1))
        rule.append(f"{source.levels} levels to {target.levels}")
    values = values.round().clamp(0, target.levels - 1)
    kind = torch.uint8 if target.levels <= 256 else torch.int64
    return target.check(values.to(kind).reshape(-1, *target.shape), name), "; ".join(rule)


def made(x: Any, space: Space, seed: int = 0) -> dict[str, tuple[Any, str]]:
    """The sets that are always there, made from inside rows x: name -> (rows, what they are)."""
    if not is_image(space):
        sets = {"shuffled": (_shuffled(x, space, seed), "every column in an order of its own")}
        if isinstance(space, Integers):
            sets["noise"] = (_noise(x, space, seed), "uniform values")
        return sets
    turn = "turned by 90 degrees" if space.shape[-1] == space.shape[-2] else "turned by 180 degrees"
    return {
        "constant": (_constant(x, space), "every image at its own mean, channel by channel"),
        "noise": (_noise(x, space, seed), "uniform values"),
        "blurred": (blurred(x, space), "twice by the binomial filter 1 4 6 4 1"),
        "negatives": (space.levels - 1 - x.to(torch.int64), "levels - 1 - x"),
        "turned": (x.rot90(1 if "90" in turn else 2, (-2, -1)), turn),
    }


def blurred(x: Tensor, space: Integers) -> Tensor:
    """Images smoothed twice by the separable binomial filter 1 4 6 4 1, edges mirrored."""
    height, width = space.shape[-2:]
    values = x.double().reshape(-1, 1, height, width)
    kernel = values.new_tensor([1, 4, 6, 4, 1]) / 16
    for _ in range(2):
        for axis, size in ((2, height), (3, width)):
            reach = min(2, size - 1)
            taps = kernel[2 - reach : 3 + reach] / kernel[2 - reach : 3 + reach].sum()
            pad = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
            values = F.conv2d(
                F.pad(values, pad, mode="reflect"), taps.reshape((1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1))
            )
    return values.round().to(torch.int64).reshape(x.shape)


def _constant(x: Tensor, space: Integers) -> Tensor:
    return x.double().mean((-2, -1), keepdim=True).round().to(torch.int64).expand(x.shape).contiguous()


def _noise(x: Any, space: Integers, seed: int) -> Tensor:
    return Noise(seed, space.len(x)).integers(space.levels, space.shape)


def _shuffled(x: Any, space: Space, seed: int) -> Any:
    """Each column in an order of its own: what single columns look like stays, what holds them together goes."""
    cells = x.cells if isinstance(x, Rows) else x.reshape(len(x), -1)
    order = Noise(seed, len(cells)).uniform((cells.shape[1],)).argsort(0)
    if isinstance(space, Table):
        return Rows(cells.gather(0, order), x.seen.gather(0, order))
    return cells.gather(0, order).reshape(x.shape)


def is_image(space: Space) -> TypeGuard[Integers]:
    """Whether a space holds images: (H, W) or (C, H, W) integers."""
    return isinstance(space, Integers) and len(space.shape) in (2, 3)


def _chw(space: Integers) -> tuple[int, ...]:
    return (1, *space.shape) if len(space.shape) == 2 else space.shape
