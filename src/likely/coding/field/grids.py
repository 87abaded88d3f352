"""A pyramid of integer latents, and the order in which they are decoded.

Grid l has ceil(H / 2^l) x ceil(W / 2^l) latents: full resolution down to 1/64. A latent is predicted from twelve that
were decoded before it, in the same grid (o: itself):

    . . . . .           t - 6 .. t - 2
    . . . .             t - 4 .. t - 1
  . . . o               t - 3 .. t - 1

with t = x + 2 y. All of them have a smaller t than the latent itself, so that all latents of one t, in all grids, are
decoded at once: W + 2 H steps instead of 4/3 W H.
"""

from __future__ import annotations

import numpy as np

from likely.coding.tables import Ints

MOST_LEVELS = 7
NEIGHBOURS = (
    *((0, -1), (0, -2), (0, -3)),
    *((-1, -2), (-1, -1), (-1, 0), (-1, 1)),
    *((-2, -2), (-2, -1), (-2, 0), (-2, 1), (-2, 2)),
)
"""(rows, columns) away."""
SLANT = 2
TOP, LEFT, RIGHT = 2, 3, 2
"""The margin of zeros around a grid: what lies outside of it is zero."""


def levels_of(height: int, width: int) -> int:
    """How many grids a picture has: seven, or until the coarsest is a single latent."""
    return min(MOST_LEVELS, 1 + (max(height, width) - 1).bit_length())


def shapes_of(height: int, width: int) -> list[tuple[int, int]]:
    """(rows, columns) of the grids, finest first."""
    return [(-(-height >> level), -(-width >> level)) for level in range(levels_of(height, width))]


class Grids:
    """All latents of a picture in one flat array with margins, and their order.

    `place` (N,) says where in the array a latent stands, in coding order: by t, the grids one after the other, row by
    row. `ends` says where each t ends in it.
    """

    def __init__(self, height: int, width: int) -> None:
        self.shapes = shapes_of(height, width)
        self._begin, places, times, levels, self.size = [], [], [], [], 0
        self._stride = [w + LEFT + RIGHT for _, w in self.shapes]
        for level, (h, w) in enumerate(self.shapes):
            y, x = np.divmod(np.arange(h * w), w)
            self._begin.append(self.size)
            places.append(self.size + (y + TOP) * self._stride[level] + x + LEFT)
            times.append(x + SLANT * y)
            levels.append(np.full(h * w, level))
            self.size += (h + TOP) * self._stride[level]
        t = np.concatenate(times)
        order = np.argsort(t, kind="stable")
        self.place, self._level = np.concatenate(places)[order], np.concatenate(levels)[order]
        self.ends = np.unique(np.cumsum(np.bincount(t)))
        self._away = np.array([[dy * stride + dx for dy, dx in NEIGHBOURS] for stride in self._stride])

    def empty(self) -> Ints:
        """The array before anything is decoded."""
        return np.zeros(self.size, np.int64)

    def contexts(self, flat: Ints, part: slice) -> Ints:
        """The neighbours of some latents in coding order, (n, 12)."""
        return flat[self.place[part, None] + self._away[self._level[part]]]

    def flat(self, grids: list[Ints]) -> Ints:
        """The array that holds `grids` (h, w)."""
        flat = self.empty()
        for level, grid in enumerate(grids):
            self._view(flat, level)[:] = grid
        return flat

    def grids(self, flat: Ints) -> list[Ints]:
        """The grids in an array, without margins."""
        return [self._view(flat, level) for level in range(len(self.shapes))]

    def _view(self, flat: Ints, level: int) -> Ints:
        (h, w), begin, stride = self.shapes[level], self._begin[level], self._stride[level]
        return flat[begin : begin + (h + TOP) * stride].reshape(h + TOP, stride)[TOP:, LEFT : LEFT + w]
