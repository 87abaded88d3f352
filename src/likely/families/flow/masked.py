"""Masked autoregressive flow: every dimension is moved by numbers that depend on the dimensions before it.

z_i = f(x_i; theta_i(x_1 .. x_(i-1), y)): the Jacobian is triangular, so that log |det dz/dx| = sum_i log df/dx_i. One
masked network gives all theta in one pass over x. The inverse goes from dimension to dimension, but each hidden unit
is worked out once, when the last dimension that it sees is there: D steps with the arithmetic of one pass, not D
passes.

"Masked autoregressive flow for density estimation" (Papamakarios, Pavlakou, Murray, 2017), with MADE's masks
("MADE: Masked Autoencoder for Distribution Estimation", Germain, Gregor, Murray, Larochelle, 2015).
"""

from __future__ import annotations

import torch
from torch import Tensor

from likely.families.flow.transforms import Answer, Elementwise, Transform, Volume
from likely.nets.masked import MaskedMLP

LIMIT = 7.0
"""Bound of |log sigma|: a conditional is at most e^7, about a thousand times, narrower or wider than before."""


class Affine(Elementwise):
    """z = (x - mu) / sigma, theta = (mu, r) and log sigma = LIMIT tanh(r / LIMIT) (eq. 3, 4, the scale bounded)."""

    parameters = 2

    def forward(self, x: Tensor, theta: Tensor) -> Answer:
        mu, r = theta
        log_sigma = LIMIT * (r / LIMIT).tanh()
        return (x - mu) * (-log_sigma).exp(), -log_sigma

    def inverse(self, z: Tensor, theta: Tensor) -> Tensor:
        mu, r = theta
        log_sigma = LIMIT * (r / LIMIT).tanh()
        return mu + z * log_sigma.exp()


class Shift(Elementwise):
    """z = x - mu, theta = (mu,)."""

    parameters = 1

    def forward(self, x: Tensor, theta: Tensor) -> Answer:
        return x - theta[0], torch.zeros_like(x)

    def inverse(self, z: Tensor, theta: Tensor) -> Tensor:
        return z + theta[0]


class MaskedAutoregressive(Transform):
    """z_i = each(x_i; net(x_1 .. x_(i-1), y)) on vectors (B, D)."""

    def __init__(self, net: MaskedMLP, each: Elementwise) -> None:
        super().__init__()
        self.net, self.each = net, each

    def forward(self, x: Tensor, y: Tensor | None = None, volume: Volume | None = None) -> Answer:
        theta = self.net(x[:, None], y).transpose(1, 2)  # (B, D, parameters), as the network's last product lies
        z, log_slope = self.each.forward(x, theta.movedim(2, 0).contiguous())
        return z, log_slope.sum(1)

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        cache, theta = self.net.start(z.shape[0], y)
        x = []
        for z_i in z.unbind(1):
            x_i = self.each.inverse(z_i, theta.T)
            x.append(x_i)
            theta = self.net.step(cache, x_i[:, None])
        return torch.stack(x, 1)
