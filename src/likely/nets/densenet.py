"""Dense blocks whose layers are concatenated to what they read, with a Lipschitz constant below 1.

    h_0 = x,   h_i = [e1 h_(i-1), e2 phi(W_i h_(i-1))],   g(x) = W h_depth,

with e1^2 + e2^2 = c^2: concatenating a K1- and a K2-Lipschitz map gives a sqrt(K1^2 + K2^2)-Lipschitz one. So
Lip(g) <= c^(depth + 1) with every W at norm c.

"Invertible DenseNets with concatenated LipSwish" (Perugachi-Diaz, Tomczak, Bhulai, 2021), sections 3.1 and 3.2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from likely.nets.lipschitz import Push, Smooth


class Concatenated(Smooth):
    """x -> [e1 x, e2 f(x)] along `axis`, e_j = c a_j / |a| with a_j = softplus(k_j) + 0.1."""

    k: Tensor

    def __init__(self, f: Smooth, coefficient: float, *, axis: int, learnable: bool) -> None:
        super().__init__()
        self.f, self.coefficient, self.axis = f, coefficient, axis
        if learnable:
            self.k = nn.Parameter(torch.ones(2))
        else:
            self.register_buffer("k", torch.ones(2))

    @torch.no_grad()
    def make_symmetric(self) -> None:
        """e1 = e2, where they start."""
        self.k.fill_(1.0)

    def weights(self) -> Tensor:
        """e1 and e2."""
        a = F.softplus(self.k) + 0.1
        return self.coefficient * a / a.norm()

    def forward(self, x: Tensor) -> Tensor:
        e1, e2 = self.weights()
        return torch.cat([e1 * x, e2 * self.f(x)], self.axis)

    def linearise(self, x: Tensor) -> tuple[Tensor, Push]:
        e1, e2 = self.weights()
        y, push = self.f.linearise(x)
        return torch.cat([e1 * x, e2 * y], self.axis), lambda t: torch.cat([e1 * t, e2 * push(t)], self.axis)
