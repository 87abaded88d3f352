"""Continuous flow: x(t) moves along a learned field from noise at t = 0 to data at t = 1.

    dx/dt = f(x, t),   log p(x(1)) = log N(x(0); 0, I) - int_0^1 div f(x(t), t) dt,

"FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models" (Grathwohl, Chen, Bettencourt,
Sutskever, Duvenaud, 2019). It learns by that likelihood, or by regression on the velocity of straight lines from noise
x_0 to data x_1, x_t = (1 - (1 - sigma) t) x_0 + t x_1 ("Flow Matching for Generative Modeling", Lipman, Chen, Ben-Hamu,
Nickel, Le, 2023), which solves no ODE.

A solver answers to a tolerance, so log p is an estimate, on neither side (`Estimated`, not `unbiased`), and every
reading says how it was solved: on fixed grids, row by row, see `likely.ode`. `dopri5` is there as the adaptive
alternative, solved row by row too, for otherwise the score of a row would depend on its neighbours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from likely.config.continuous_flow import ContinuousFlow as ContinuousFlowConfig
from likely.extras import need
from likely.families import Tiny
from likely.families.flow.base import FlowModel, context_size, log_normal
from likely.families.flow.dequantise import Dequantised
from likely.families.flow.field import (
    ConvField,
    Divergence,
    ExactDivergence,
    Field,
    Hutchinson,
    Ignored,
    MlpField,
    Rate,
)
from likely.families.flow.transforms import Answer, Chain, Standardise, Transform, Volume
from likely.noise import Noise
from likely.ode import ORDER, Limits, StepLimit, attainable, refined, rk4, unsolved
from likely.space import Integers, Reals, Space


class ODE(Transform):
    """x at t = 1 to z at t = 0 along a field; the log-determinant by a `Divergence`, NaN without one.

    Raises `StepLimit` where the tolerance is out of reach.
    """

    def __init__(self, field: Field, shape: tuple[int, ...], config: ContinuousFlowConfig) -> None:
        super().__init__()
        self.field, self.shape, self.config = field, shape, config

    def forward(self, x: Tensor, y: Tensor | None = None, volume: Volume | None = None) -> Answer:
        return self._solved(x, y, volume, 1.0, 0.0)

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self._solved(z.reshape(-1, *self.shape), y, None, 0.0, 1.0)[0]

    def _solved(self, x: Tensor, y: Tensor | None, volume: Volume | None, start: float, end: float) -> Answer:
        how = volume if isinstance(volume, Divergence) else Ignored()
        y = None if y is None else y.flatten(1)
        if not x.shape[0]:
            log_det = x.new_zeros(0)
        elif self.config.solver == "dopri5":
            x, log_det = self._adaptive(x, y, how, start, end)
        elif how.steps is not None:
            x, log_det = self._grid(x, y, how, start, end, how.steps)
        else:
            x, log_det = self._refined(x, y, how, start, end)
        return x, log_det if isinstance(volume, Divergence) else torch.full_like(log_det, torch.nan)

    def _rate(self, t: Tensor, x: Tensor, y: Tensor | None, how: Divergence) -> Answer:
        """dx/dt and d log |det| / dt."""
        return how(Rate(self.field, t.to(x).reshape(1, 1), y), x)

    def _grid(self, x: Tensor, y: Tensor | None, how: Divergence, start: float, end: float, steps: int) -> Answer:
        """The classical fourth-order method of Runge and Kutta on `steps` equal steps."""
        return rk4(lambda t, x: self._rate(t, x, y, how), x, start, end, steps)

    def _refined(self, x: Tensor, y: Tensor | None, how: Divergence, start: float, end: float) -> Answer:
        """Grids of twice as many steps each; a row keeps the first that moves it by no more than the tolerance."""
        config = self.config
        limits = Limits(max(config.steps // 2, 1), config.max_steps, config.tolerance)
        solution = refined(
            lambda steps: self._grid(x, y, how, start, end, steps), limits, volume=not isinstance(how, Ignored)
        )
        return solution.x, solution.log_det

    def _adaptive(self, x: Tensor, y: Tensor | None, how: Divergence, start: float, end: float) -> Answer:
        """dopri5 of torchdiffeq: row by row, or in training (where `how` has a grid) all rows with one step size."""
        odeint = need("torchdiffeq", "ode").odeint
        limits = Limits(self.config.steps, self.config.max_steps, self.config.tolerance)
        tolerance = attainable(self.config.tolerance, x.dtype)
        span = torch.tensor([start, end], dtype=x.dtype, device=x.device)

        def solve(x: Tensor, y: Tensor | None, how: Divergence) -> Answer:
            state = x, x.new_zeros(x.shape[0])
            options = {"max_num_steps": self.config.max_steps}
            try:
                z, log_det = odeint(
                    lambda t, s: self._rate(t, s[0], y, how),
                    state,
                    span,
                    rtol=tolerance,
                    atol=tolerance,
                    method="dopri5",
                    options=options,
                )
            except AssertionError as error:  # the package's only sign that the steps ran out, or fell to nothing
                raise StepLimit(f"{unsolved(limits, 'a row')} ({error})") from error
            return z[-1], log_det[-1]

        if how.steps is not None:
            return solve(x, y, how)
        rows = [solve(x[i : i + 1], None if y is None else y[i : i + 1], how.row(i)) for i in range(x.shape[0])]
        zs, log_dets = zip(*rows, strict=True)
        return torch.cat(zs), torch.cat(log_dets)


class ContinuousFlow(FlowModel):
    """A density over `Reals` by an ordinary differential equation.

    Verbs: Trainable, Samples, Estimated, Invertible (z is flat, (B, D)); all to `tolerance`.
    """

    unbiased = False
    order = ORDER

    def __init__(self, config: ContinuousFlowConfig, space: Reals, condition: Space | None = None) -> None:
        context = context_size(condition)
        network = (config.width, config.hidden, config.activation, context)
        if config.net == "conv":
            if len(space.shape) != 3:
                raise ValueError(f"net is 'conv' over {space}; it accepts images (C, H, W): choose net 'mlp'")
            shape, field = space.shape, ConvField(space.shape[0], *network)
        else:
            shape, field = (space.dims,), MlpField(space.dims, *network)
        super().__init__(config, space, condition, shape, Chain([Standardise(shape[0]), ODE(field, shape, config)]))
        self.field, self.surrogate = field, config.objective == "matching"
        self.tolerance = config.tolerance

    @property
    def reading_note(self) -> str:
        """How a reading of log p is made, for who reads the number."""
        means = {"exact": "exact divergence", "hutchinson": "Hutchinson's divergence"}[self.config.divergence]
        return f"ODE by {self.config.solver} to {attainable(self.tolerance, self._dtype):.0e}, {means}"

    def log_prob_estimate(self, x: Tensor, y: Tensor | None = None, *, noise: Noise) -> Tensor:
        """log p(x), or log p(x given y), to the tolerance, (B * k,) in nats; with Hutchinson's probe unbiased but for
        that."""
        return self._log_prob(x, y, noise, None)

    def log_prob_at(self, x: Tensor, y: Tensor | None = None, *, steps: int, noise: Noise) -> Tensor:
        """The same on a fixed grid of `steps`: its error falls with the power `order` of them."""
        return self._log_prob(x, y, noise, steps)

    def loss(self, x: Tensor, y: Tensor | None = None, *, player: str = "model", noise: Noise) -> Tensor:
        """The mean over rows of -log p in nats, or of the squared error of flow matching summed over dimensions."""
        if self.config.objective == "matching":
            return self._matching(x, y, noise)
        return -self._log_prob(x, y, noise, self.config.steps).mean()

    def loss_and_features(self, x: Tensor, y: Tensor | None = None, *, noise: Noise) -> tuple[Tensor, list[Tensor]]:
        """`loss`, and z as the features; one pass, but flow matching has to solve the ODE for them."""
        if self.config.objective == "matching":
            return self._matching(x, y, noise), [self._forward(x, y, Ignored(self.config.steps))[0]]
        z, log_det = self._forward(x, y, self._volume(noise, self.config.steps))
        return -(log_normal(z) + log_det).mean(), [z]

    def _log_prob(self, x: Tensor, y: Tensor | None, noise: Noise, steps: int | None) -> Tensor:
        if self.config.divergence == "exact":  # all draws are the same
            z, log_det = self._forward(x, y, ExactDivergence(steps))
            return noise.expand(log_normal(z) + log_det)
        y = y if y is None else noise.expand(y)
        z, log_det = self._forward(noise.expand(x), y, self._volume(noise, steps))
        return log_normal(z) + log_det

    def _volume(self, noise: Noise, steps: int | None) -> Divergence:
        if self.config.divergence == "exact":
            return ExactDivergence(steps)
        if self.config.probe == "normal":
            return Hutchinson(noise.normal(self.shape, dtype=self._dtype), steps)
        return Hutchinson(1 - 2 * noise.integers(2, self.shape).to(self._dtype), steps)

    def _matching(self, x: Tensor, y: Tensor | None, noise: Noise) -> Tensor:
        x, y = noise.expand(x), None if y is None else noise.expand(y)
        x1, _ = self.transform.parts[0](x.to(self._dtype).reshape(-1, *self.shape))  # ty: ignore
        x0, t = noise.normal(self.shape, dtype=self._dtype), noise.uniform((1,), dtype=self._dtype)
        # x_t = (1 - (1 - sigma) t) x_0 + t x_1 moves with the constant velocity x_1 - (1 - sigma) x_0
        straight = x1 - (1 - self.config.sigma_min) * x0
        x_t = x0 + t.reshape(-1, *[1] * len(self.shape)) * straight
        context = self._context(y)
        velocity = self.field(t, x_t, None if context is None else context.flatten(1))
        return (velocity - straight).square().flatten(1).sum(1).mean()


def model(config: ContinuousFlowConfig, space: Space, condition: Space | None, build: Any) -> Any:
    """A `ContinuousFlow` over Reals; over Integers the same flow, `Dequantised`."""
    if not isinstance(space, Reals | Integers) or not space.shape:
        raise ValueError(f"space is {space}; a continuous flow accepts arrays of Reals or Integers")
    if config.solver == "dopri5":
        need("torchdiffeq", "ode")  # better now than after training
    if config.max_steps < config.steps:
        raise ValueError(f"max_steps is {config.max_steps}; accepts at least steps, {config.steps}")
    if isinstance(space, Reals):
        return ContinuousFlow(config, space, condition)
    return Dequantised(ContinuousFlow(config, Reals(space.shape), condition), space, config=config)


def _tiny(**fields: Any) -> ContinuousFlowConfig:
    return ContinuousFlowConfig(**{"width": 8, "steps": 4, "tolerance": 1e-6, **fields})


_TWO, _IMAGE, _HUTCHINSON = Reals((2,)), Reals((1, 2, 2)), {"divergence": "hutchinson"}

TINY: dict[str, Tiny] = {
    "exact": Tiny(_tiny(), _TWO),
    "one layer, tanh": Tiny(_tiny(hidden=1, activation="tanh"), Reals((3,))),
    "three layers": Tiny(_tiny(hidden=3), _TWO),
    "hutchinson": Tiny(_tiny(**_HUTCHINSON), _TWO),
    "hutchinson, normal probe": Tiny(_tiny(**_HUTCHINSON, probe="normal"), _TWO),
    "labels": Tiny(_tiny(), _TWO, Integers((), 2)),
    "vector condition": Tiny(_tiny(**_HUTCHINSON), _TWO, Reals((2,))),
    "matching": Tiny(_tiny(objective="matching"), _TWO),
    "matching, labels, noise left": Tiny(_tiny(objective="matching", sigma_min=0.1), _TWO, Integers((), 2)),
    "image as a vector": Tiny(_tiny(), _IMAGE),
    "image": Tiny(_tiny(net="conv", width=4), _IMAGE),
    "image, hutchinson, labels": Tiny(_tiny(net="conv", width=4, **_HUTCHINSON), _IMAGE, Integers((), 2)),
    "dequantised": Tiny(_tiny(), Integers((2,), 4)),
    "dequantised, matching": Tiny(_tiny(objective="matching"), Integers((2,), 4)),
}
