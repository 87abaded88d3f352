"""How far draws are from data: a kernel distance on features whose name is always said.

The squared maximum mean discrepancy with the kernel k(a, b) = (a . b / d + 1)^3 over d features ("A kernel two-sample
test", Gretton, Borgwardt, Rasch, Schoelkopf, Smola, 2012; this kernel in "Demystifying MMD GANs", Binkowski,
Sutherland, Arbel, Gretton, 2018). Such a number means something beside another one on the same features and nothing
otherwise, so `KernelDistance` carries their name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BLOCKS = 20
"""Of the jackknife."""


@dataclass(frozen=True)
class KernelDistance:
    """An unbiased estimate of the squared distance, its standard error, and the features it is about.

    It may be below 0, where draws and data cannot be told apart.
    """

    value: float
    stderr: float
    features: str
    rows: tuple[int, int]

    def __str__(self) -> str:
        return f"kernel distance {self.value:.4f} ± {self.stderr:.4f} on {self.features}"


def kernel_distance(drawn: Any, data: Any, features: str) -> KernelDistance:
    """The distance between features of draws (n, d) and of data (m, d); `features` names them.

    The error is a jackknife's over 20 blocks of rows of both. Raises `ValueError` for fewer than 40 rows, or features
    of different numbers.
    """
    a, b = (torch.as_tensor(each).double() for each in (drawn, data))
    for name, each in (("drawn", a), ("data", b)):
        if each.ndim != 2 or len(each) < 2 * BLOCKS or each.shape[1] != b.shape[1]:
            raise ValueError(f"{name} has shape {tuple(each.shape)}; accepts {2 * BLOCKS} or more rows of features")
    pairs = [_kernel(a, a).fill_diagonal_(0), _kernel(b, b).fill_diagonal_(0), _kernel(a, b)]
    blocks = [torch.arange(len(each)) % BLOCKS for each in (a, b)]
    whole = _discrepancy(*pairs)
    left_out = []
    for block in range(BLOCKS):
        i, j = (each != block for each in blocks)
        left_out.append(_discrepancy(pairs[0][i][:, i], pairs[1][j][:, j], pairs[2][i][:, j]))
    spread = torch.stack(left_out)
    stderr = math.sqrt((BLOCKS - 1) / BLOCKS * float((spread - spread.mean()).square().sum()))
    return KernelDistance(float(whole), stderr, features, (len(a), len(b)))


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _discrepancy(aa: Tensor, bb: Tensor, ab: Tensor) -> Tensor:
    """Eq. 3 of Gretton et al.; the diagonals of aa and bb are 0."""
    n, m = ab.shape
    return aa.sum() / (n * (n - 1)) + bb.sum() / (m * (m - 1)) - 2 * ab.mean()
