"""What in the training data is most like this? The nearest rows by Euclidean distance between values.

Whoever suspects that a model repeats its training data, or wonders why it calls an input strange, wants to see them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likely.space import Integers, Reals, Space


@dataclass(frozen=True)
class Near:
    """The k nearest rows of each of B: `index` (B, k) among the training rows, nearest first, and `distance` (B, k),
    the root of the mean square difference of a dimension, in raw units."""

    index: Tensor
    distance: Tensor


class Neighbours:
    """An index of rows (n, *shape) of integers or reals, made once. Raises `TypeError` for other spaces."""

    def __init__(self, x: Any, space: Space) -> None:
        from sklearn.neighbors import NearestNeighbors

        if not isinstance(space, Integers | Reals):
            raise TypeError(f"neighbours are looked for among values of Integers or Reals; these are {space}")
        self.space, self.rows = space, space.len(x)
        self._tree = NearestNeighbors(algorithm="brute").fit(self._flat(x))

    def nearest(self, x: Any, k: int = 5) -> Near:
        """The k training rows nearest to each row of x."""
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= self.rows:
            raise ValueError(f"k is {k!r}; accepts 1 .. {self.rows}, the number of rows there are")
        distance, index = self._tree.kneighbors(self._flat(self.space.check(x, "x")), k)
        return Near(torch.from_numpy(index), torch.from_numpy(distance / math.sqrt(self.space.dims)))

    def _flat(self, x: Any) -> np.ndarray:
        return x.reshape(len(x), -1).double().numpy()
