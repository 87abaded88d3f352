"""Consistency tuning: a trained diffusion model whose x_hat is moved from the mean of x to the end of the path.

On the path of the probability flow through z, from noise sigma~ = sigma / alpha = t down to none, a consistency
function f(z, t) says where it ends, and so draws in one step. It is learned by agreement between two points of (nearly)
one path, x + t eps and x + r eps with r < t and the same eps, the later one held still:

    w(t) (sqrt(|f(x + t eps, t) - f(x + r eps, r)|^2 + c^2) - c),    w = 1 / t^2 + 1 / sigma_data^2,
    r = t max(0, 1 - q^-(s + 1) (1 + k sigmoid(-b t))).

f is the diffusion model's own x_hat = (sigma F - b z) / (a sigma - b alpha), which is x itself where there is no noise:
f(x, 0) = x needs no further care. Where r lies below the first noise level of the process, f(., r) is taken to be x.
At first (stage s = 0) r is 0 for small t and t / 2 for large ones: near to what the diffusion model learned. Stages
bring r close to t. Both points are seen under the same dropout mask.

"Consistency Models Made Easy" (Geng, Pokle, Luo, Lin, Kolter, 2024), called ECT; "Consistency Models" (Song, Dhariwal,
Chen, Sutskever, 2023).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from likely.config.consistency import Consistency as Config
from likely.config.diffusion import Diffusion as DiffusionConfig
from likely.families import Tiny
from likely.families.diffusion.conditioning import hidden_rows
from likely.families.diffusion.core import along
from likely.families.diffusion.inside import drawn_with
from likely.families.diffusion.model import Process
from likely.families.diffusion.schedule import signal_noise
from likely.nets.embedding import Condition
from likely.noise import Noise
from likely.space import Integers, Reals, Space


class Consistency(nn.Module):
    """Draws over `Integers` or `Reals`, given y or not. Verbs: Trainable, Samples."""

    players = ("model",)
    surrogate = True
    self_taught = True
    seen: Tensor

    def __init__(self, config: Config, diffusion: Process) -> None:
        super().__init__()
        self.config, self.space, self.condition = config, diffusion.space, diffusion.condition
        self.diffusion = diffusion
        for name, parameter in diffusion.named_parameters():  # what else there is belongs to the likelihood: it rests
            parameter.requires_grad_(name.startswith(("core.", "embedding.")))
        # "Improved Techniques for Training Consistency Models" (Song, Dhariwal, 2023), section 3.3
        self.c = 0.00054 * math.sqrt(self.space.dims) if config.c is None else config.c
        self._check_again(config)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def end(self, z: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """f: where the path through z = (x + t eps) / sqrt(1 + t^2), (B, *shape), ends; t (B,)."""
        return self.diffusion.core.denoise(z, -2 * t.double().log(), condition)

    # Trainable -----------------------------------------------------------------------------------------------------

    def loss(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        player: str = "model",
        noise: Noise,
        teacher: Consistency | None = None,
    ) -> Tensor:
        """The mean over rows of the weighted distance to the ends that the `teacher` says, held still."""
        inner, config = self.diffusion, self.config
        hide = None if inner.embedding is None else hidden_rows(inner.config.drop, noise)
        y = None if y is None else noise.expand(y)
        x0 = noise.expand(inner.scaled(x))
        t = (config.log_sigma_mean + config.log_sigma_std * noise.normal(dtype=torch.float64)).exp()
        t = t.clamp(*self.ends)
        r, eps = self.partner(t), noise.normal(self.space.shape, dtype=x0.dtype)
        devices = [x0.device] if x0.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad():  # put back afterwards: one dropout mask for both
            goal = (teacher or self)._end_of(x0, r, eps, y, hide)
        error = (self._end_of(x0, t, eps, y, hide) - goal).square().flatten(1).sum(1)
        weight = t**-2 + config.diffusion.sigma_data**-2
        return (weight.to(error.dtype) * ((error + self.c**2).sqrt() - self.c)).mean()

    def partner(self, t: Tensor) -> Tensor:
        """r < t of the present stage, 0 where it would lie below the process's first noise level."""
        near = self.config.q ** (-1.0 - self.stage) * (1 + self.config.k * (-self.config.b * t).sigmoid())
        r = t * (1 - near)
        return torch.where(r < self.ends[0], 0.0, r)

    @property
    def stage(self) -> Tensor:
        """The number of the present stage, from 0; float64."""
        return (self.seen // self.config.stage_steps).double()

    @property
    def ends(self) -> tuple[float, float]:
        """sigma / alpha at the first and the last noise level of the process."""
        high, low = float(self.diffusion.schedule.high), float(self.diffusion.schedule.low)
        return math.exp(-high / 2), math.exp(-low / 2)

    def after_step(self) -> None:
        """Count the update."""
        self.seen += 1

    @torch.no_grad()
    def prepare(self, x: Tensor, y: Tensor | None = None, *, noise: Noise) -> None:
        """That of the diffusion model; a training that starts from a run has no need of it."""
        warnings.warn(
            "a consistency model tunes a trained diffusion, and this one begins from random weights: start from a run "
            "(--start RUN, or lk.fit(..., start=))",
            UserWarning,
            stacklevel=2,
        )
        self.diffusion.prepare(x, y, noise=noise)

    def _end_of(self, x0: Tensor, t: Tensor, eps: Tensor, y: Tensor | None, hide: Tensor | None) -> Tensor:
        """f at x_0 + t eps; x_0 itself where t = 0."""
        some = t.clamp(min=self.ends[0])
        alpha, sigma = signal_noise(-2 * some.log())
        z = along(alpha, x0) * x0 + along(sigma, x0) * eps
        end = self.end(z, some, self.diffusion._condition(y, len(x0), hide))
        return torch.where(along(t, x0) > 0, end, x0)

    # Samples -------------------------------------------------------------------------------------------------------

    def sample(self, n: int, y: Tensor | None = None, *, noise: Noise) -> Tensor:
        """n values of the space, in one step and one more for each of `config.again`."""
        *_, x = self.path(noise.normal(self.space.shape, dtype=self.diffusion._dtype), y, noise=noise)
        return self.diffusion.scaling.nearest(x)

    def path(self, z: Tensor, y: Tensor | None = None, *, noise: Noise) -> Iterator[Tensor]:
        """The ends after each step, from noise z (B, *shape) at the last noise level on; scaled."""
        condition = self.diffusion._condition(y, z.shape[0])
        x = self.end(z, z.new_full((len(z),), self.ends[1]), condition)
        yield x
        for s in self.config.again:
            t = z.new_full((len(z),), s, dtype=torch.float64)
            alpha, sigma = signal_noise(-2 * t.log())
            z = along(alpha, x) * x + along(sigma, x) * noise.normal(self.space.shape, dtype=x.dtype)
            x = self.end(z, t, condition)
            yield x

    def drawn(self, **settings: Any) -> Consistency:
        """This model with other levels of noise `again`. Raises `ValueError` for levels beyond those of the process."""
        other = drawn_with(self, settings, "again")
        self._check_again(other.config)
        return other

    def _check_again(self, config: Config) -> None:
        least, most = self.ends
        if any(not least <= s <= most for s in config.again):
            raise ValueError(
                f"again is {list(config.again)}; accepts sigma / alpha from {least:.3g} to {most:.3g}, its process's"
            )


def model(config: Config, space: Space, condition: Space | None, build: Any) -> Consistency:
    """The consistency model of a config; raises `ValueError` where its parts do not fit each other."""
    return Consistency(config, build(config.diffusion, space, condition))


def _tiny(space: Space, condition: Space | None = None, inner: dict[str, Any] | None = None, **fields: Any) -> Tiny:
    small = DiffusionConfig(**{"net": "mlp", "width": 16, "blocks": (1,), "high": 3.0, **(inner or {})})
    return Tiny(Config(diffusion=small, **fields), space, condition)


TINY: dict[str, Tiny] = {
    "one step": _tiny(Integers((2,), 4), stage_steps=50),
    "two steps, edm": _tiny(Reals((2,)), inner={"prediction": "edm", "schedule": "edm"}, again=(0.8,)),
    "three steps, vector condition": _tiny(Reals((2,)), Reals((2,)), again=(1.0, 0.3)),
}
