"""Mean flow: draws in one step, by the mean velocity of a flow over a stretch of time; learned without a teacher.

Between data x at t = 0 and noise eps at t = 1 lies z_t = (1 - t) x + t eps, and the flow from one to the other has the
velocity v(z, t) = E[eps - x given z_t = z]. Its mean over the stretch from r to t,

    u(z_t, r, t) = 1 / (t - r) int_r^t v(z_s, s) ds   along the flow's own path,    z_r = z_t - (t - r) u(z_t, r, t),

takes any step at once. Differentiating (t - r) u along the path gives the identity that it is learned by (eq. 6),

    u = v - (t - r) (v d_z u + d_t u),

with eps - x in place of v, the derivative by one forward-mode product and held still. At r = t that is flow matching.

The time is that of rectified flows, not the log-SNR lambda of the other models here: lambda = 2 log((1 - t) / t), and z
is their variance-preserving z times sqrt((1 - t)^2 + t^2). Networks, which are told lambda there, are told
4 tanh(lambda / 4) = 4 (1 - 2 t) here: the same in the middle, and with finite slope at both ends, which derivatives by
t need. The length t - r reaches them as a condition's vector.

"Mean Flows for One-step Generative Modeling" (Geng, Deng, Bai, Kolter, He, 2025); "Flow Straight and Fast" (Liu, Gong,
Liu, 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from likely.config.meanflow import MeanFlow as Config
from likely.families import Tiny
from likely.families.diffusion.conditioning import hidden_rows
from likely.families.diffusion.core import along
from likely.families.diffusion.inside import Inside, drawn_with
from likely.families.diffusion.networks import network
from likely.families.diffusion.schedule import signal_noise
from likely.nets.attention import forward_mode
from likely.nets.embedding import Condition, waves
from likely.nets.mlp import mlp
from likely.noise import Noise
from likely.space import Integers, Reals, Space

Field = Callable[[Tensor, Tensor, Tensor], Tensor]
"""z (B, *shape), r and t (B,) to u."""
FEATURES = 64
"""Sines and cosines of t - r."""


class MeanFlow(Inside):
    """Draws over `Integers` or `Reals`, given y or not. Verbs: Trainable, Samples, Denoiser.

    It denoises because u(z, t, t) is the velocity, of which E[x given z] = z - t u(z, t, t) is a reading.
    """

    config: Config
    players = ("model",)
    surrogate = True
    self_taught = True

    def __init__(self, config: Config, space: Integers | Reals, condition: Space | None, net: nn.Module) -> None:
        super().__init__(config, space, condition)
        self.net, self.span = net, mlp(FEATURES, [config.width], config.width)

    def mean_velocity(self, z: Tensor, r: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """u for z (B, *shape) at times r <= t, (B,) each."""
        r, t = r.to(z.dtype), t.to(z.dtype)
        length = self.span(waves(4 * (t - r), FEATURES))
        vector = length if condition is None else length + condition.vector
        size = ((1 - t).square() * self.config.sigma_data**2 + t.square()).sqrt()
        return self.net(z / along(size, z), 4 * (1 - 2 * t), Condition(vector=vector))

    # Trainable -----------------------------------------------------------------------------------------------------

    def loss(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        player: str = "model",
        noise: Noise,
        teacher: MeanFlow | None = None,
    ) -> Tensor:
        """The mean over rows of log(|u - target|^2 + c), with the target from the `teacher`, held still.

        Its gradient is that of |u - target|^2 with the weight 1 / (|u - target|^2 + c), which is how the paper has it.
        """
        hide = None if self.embedding is None else hidden_rows(self.config.drop, noise)
        y = None if y is None else noise.expand(y)
        x0 = noise.expand(self.scaled(x))
        pair = self.config.time_mean + self.config.time_std * noise.normal((2,), dtype=torch.float64)
        r, t = pair.sigmoid().to(x0.dtype).sort(1).values.unbind(1)
        r = torch.where(noise.uniform() < self.config.equal, t, r)
        eps = noise.normal(self.space.shape, dtype=x0.dtype)
        z, v = x0.lerp(eps, along(t, x0)), eps - x0
        u, goal = self.mean_velocity(z, r, t, self._condition(y, noise.count, hide)), v.clone()
        rows = (r < t).nonzero()[:, 0]  # where r = t the target is v itself
        if len(rows):
            with torch.no_grad():
                field = (teacher or self)._field(y, noise.count, hide, rows)
                goal[rows] = target(field, z[rows], r[rows], t[rows], v[rows])
        return ((u - goal).square().flatten(1).sum(1) + self.config.offset).log().mean()

    def _field(self, y: Tensor | None, n: int, hide: Tensor | None, rows: Tensor) -> Field:
        """u(z, r, t) for some rows of a batch."""
        condition = self._condition(y, n, hide)
        given = None if condition is None else condition.take(rows)
        return lambda z, r, t: self.mean_velocity(z, r, t, given)

    # Samples -------------------------------------------------------------------------------------------------------

    def sample(self, n: int, y: Tensor | None = None, *, noise: Noise) -> Tensor:
        """n values of the space, in `config.evaluations` steps."""
        *_, z = self.path(noise.normal(self.space.shape, dtype=self._dtype), y)
        return self.scaling.nearest(z)

    def path(self, z: Tensor, y: Tensor | None = None, *, noise: Noise | None = None) -> Iterator[Tensor]:
        """The states after each step from noise z (B, *shape) at t = 1 to scaled data at t = 0; no noise is drawn."""
        condition = self._condition(y, z.shape[0])
        times = torch.linspace(1, 0, self.config.evaluations + 1, dtype=z.dtype, device=z.device)
        for t, r in pairwise(times):
            z = z - (t - r) * self.mean_velocity(z, r.expand(len(z)), t.expand(len(z)), condition)
            yield z

    def drawn(self, **settings: Any) -> MeanFlow:
        """This model with another number of `evaluations`."""
        return drawn_with(self, settings, "evaluations")

    # Denoiser ------------------------------------------------------------------------------------------------------

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """The log-SNRs 2 log((1 - t) / t) of training's times, up to four standard deviations from their mean."""
        middle, reach = -2 * self.config.time_mean, 2 * 4 * self.config.time_std
        return middle - reach, middle + reach

    def denoise(self, x_t: Tensor, log_snr: Tensor, y: Tensor | None = None) -> Tensor:
        """E[x given x_t], scaled, for x_t = alpha x + sigma eps (B, *shape) with alpha^2 + sigma^2 = 1.

        Without y the condition counts as unknown.
        """
        alpha, sigma = signal_noise(log_snr.double())
        z, t = x_t / along(alpha + sigma, x_t), sigma / (alpha + sigma)
        return self.within(z - along(t, z) * self.mean_velocity(z, t, t, self._condition(y, len(z))))


def target(u: Field, z: Tensor, r: Tensor, t: Tensor, v: Tensor) -> Tensor:
    """v - (t - r) (v d_z u + d_t u), the value that u(z, r, t) is to take where the flow moves with v (B, *shape)."""
    with forward_mode():
        _, slope = torch.func.jvp(u, (z, r, t), (v, torch.zeros_like(r), torch.ones_like(t)))
    return v - along(t - r, z) * slope


def model(config: Config, space: Space, condition: Space | None, build: Any) -> MeanFlow:
    """The mean flow of a config over arrays; raises `ValueError` where they do not fit each other."""
    if not isinstance(space, Integers | Reals) or not space.shape:
        raise ValueError(f"space is {space}; meanflow accepts arrays of Integers or Reals")
    return MeanFlow(config, space, condition, network(config, space, config.width))


def _tiny(space: Space, condition: Space | None = None, **fields: Any) -> Tiny:
    return Tiny(Config(**{"net": "mlp", "width": 16, "blocks": (1,), **fields}), space, condition)


TINY: dict[str, Tiny] = {
    "one step": _tiny(Integers((2,), 4)),
    "two steps, reals": _tiny(Reals((2,)), evaluations=2),
    "vector condition": _tiny(Reals((2,)), Reals((2,))),
}
