"""The noise u that fills the unit cells of integers, drawn from q(u given x): uniform, or a flow that learns.

"A note on the evaluation of generative models" (Theis, van den Oord, Bethge, 2016); "Flow++: Improving Flow-Based
Generative Models with Variational Dequantization and Architecture Design" (Ho, Chen, Srinivas, Duan, Abbeel, 2019).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from likely.config.flow import Flow as FlowConfig
from likely.families.flow.cells import Fill, FlowFill, UniformFill
from likely.families.flow.conditioner import Conditioner
from likely.families.flow.multiscale import Squeeze
from likely.families.flow.transforms import AffineCoupling, Chain, LearnedNormal, Reversal
from likely.noise import Noise
from likely.space import Integers


class UniformNoise(nn.Module):
    """u uniform on the whole cell (0, 1)."""

    def __init__(self, space: Integers) -> None:
        super().__init__()
        self.shape = space.shape

    def forward(self, x: Tensor, noise: Noise, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """u, 1 - u (both (B * k, *shape)) and log q(u given x), (B * k,)."""
        u = noise.uniform(self.shape, dtype=dtype)
        return u, 1 - u, u.new_zeros(()).expand(u.shape[0])

    def fill(self) -> Fill:
        """The same on a lattice."""
        return UniformFill()


class FlowNoise(nn.Module):
    """u = Phi(g(eps; x)) with g a chain of couplings that sees x: q(u given x) learns with the model.

    The network that looks at x runs once a row, the couplings once a draw.
    """

    def __init__(self, config: FlowConfig, space: Integers) -> None:
        super().__init__()
        self.space, self.squeeze = space, Squeeze()
        shape = space.shape
        self.image = len(shape) == 3 and config.levels > 0 and not (shape[1] % 2 or shape[2] % 2)
        width, parts = config.width, []
        if self.image:
            channels, sites = 4 * shape[0], (shape[1] // 2, shape[2] // 2)
            self.look: nn.Module = nn.Conv2d(channels, width, 3, padding=1)
            self.latent: tuple[int, ...] = (channels, *sites)
        else:
            channels = space.dims
            self.look = nn.Linear(channels, width)
            self.latent = (channels,)
        for _ in range(config.noise_depth if channels > 1 else 0):
            kept = channels // 2
            net = Conditioner(
                kept,
                2 * (channels - kept),
                width=width,
                hidden=2,
                activation=config.activation,
                context=width,
                image=self.image,
            )
            parts += [AffineCoupling(kept, net), Reversal()]
        last = LearnedNormal(self.latent)
        # at the start every coupling scales the half that it moves by sigmoid(2): undone here, so that q begins uniform
        last.log_sigma.data.fill_(len(parts) / 4 * math.log(1 / (1 + math.exp(-2))))
        self.transform = Chain([*parts, last])

    def forward(self, x: Tensor, noise: Noise, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """u, 1 - u (both (B * k, *shape)) and log q(u given x), (B * k,)."""
        seen = noise.expand(self.seen(x, dtype))
        eps = noise.normal((self.space.dims,), dtype=dtype)
        g, log_det = self.transform(eps.reshape(-1, *self.latent), seen)
        # log q(u) = log N(eps) - log |dg/deps| - log phi(g)
        log_q = 0.5 * (g.flatten(1).square().sum(1) - eps.square().sum(1)) - log_det
        g = self.arranged(g)
        return torch.special.ndtr(g), torch.special.ndtr(-g), log_q

    def fill(self) -> Fill:
        """The same on a lattice."""
        return FlowFill(self)

    def seen(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """What the couplings see of x."""
        return F.silu(self.look(self.laid_out(self.space.centred(x, dtype))))

    def laid_out(self, x: Tensor) -> Tensor:
        """x (B, *shape) as the couplings take it, (B, *latent)."""
        return self.squeeze(x)[0] if self.image else x.flatten(1)

    def arranged(self, g: Tensor) -> Tensor:
        """The inverse."""
        return self.squeeze.inverse(g) if self.image else g.reshape(-1, *self.space.shape)
