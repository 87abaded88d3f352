"""Flows: log p(x) = log p(z) + log |det dz/dx| with z = f(x) invertible. Exact over reals, a bound over integers.

`transforms` are the invertible maps, each with its own inverse and log-determinant, `spline` and `masked` those of
neural spline flows and masked autoregressive flow; `conditioner` is the network inside a coupling; `model` puts them
in order; `dequantise` carries any exact density of the reals over to integers.

"Density estimation using Real NVP" (Dinh, Sohl-Dickstein, Bengio, 2017); "Glow: Generative Flow with Invertible 1x1
Convolutions" (Kingma, Dhariwal, 2018); "Flow++" (Ho, Chen, Srinivas, Duan, Abbeel, 2019); "Neural spline flows"
(Durkan, Bekasov, Murray, Papamakarios, 2019); "Masked autoregressive flow for density estimation" (Papamakarios,
Pavlakou, Murray, 2017).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from likely.config.flow import Flow as FlowConfig
from likely.families import Tiny
from likely.families.flow.dequantise import Dequantised, LogitCells, MarginalCells
from likely.families.flow.model import Flow
from likely.families.flow.noise import FlowNoise, UniformNoise
from likely.space import Integers, Reals, Space

__all__ = ["TINY", "Dequantised", "Flow", "FlowNoise", "LogitCells", "MarginalCells", "UniformNoise", "model"]


def model(config: FlowConfig, space: Space, condition: Space | None, build: Any) -> nn.Module:
    """A `Flow` over Reals; over Integers the same flow, `Dequantised`."""
    if isinstance(space, Reals):
        return Flow(config, space, condition)
    if not isinstance(space, Integers):
        raise ValueError(f"space is {space}; a flow accepts Reals or Integers")
    if not space.shape:
        raise ValueError(f"space is {space}; a flow accepts arrays, not a scalar")
    noise = FlowNoise(config, space) if config.dequantisation == "variational" else UniformNoise(space)
    cells = MarginalCells(space) if config.squash == "marginal" else LogitCells(space)
    flow = Flow(config, Reals(space.shape), condition)
    return Dequantised(flow, space, noise=noise, cells=cells, config=config)


def _tiny(**fields: Any) -> FlowConfig:
    return FlowConfig(**{"depth": 2, "width": 8, "noise_depth": 2, **fields})


_GLOW = {"architecture": "glow", "mixing": "linear"}
_SPLINE = {"coupling": "spline", "bins": 4}
_MASKED = {"architecture": "autoregressive"}
_TWO, _BITS = Reals((2,)), Integers((2,), 4)
_IMAGE, _GREYS, _LABEL = Reals((1, 2, 2)), Integers((1, 2, 2), 3), Integers((), 2)

TINY: dict[str, Tiny] = {
    "realnvp": Tiny(_tiny(), _TWO),
    "realnvp, normal prior": Tiny(_tiny(prior="normal"), _TWO),
    "realnvp, one dimension": Tiny(_tiny(), Reals((1,))),
    "realnvp, three dimensions": Tiny(_tiny(depth=3, mixing="permutation"), Reals((3,))),
    "realnvp, labels": Tiny(_tiny(), _TWO, _LABEL),
    "realnvp, vector condition": Tiny(_tiny(), _TWO, Reals((2,))),
    "realnvp, image": Tiny(_tiny(), _IMAGE),
    "additive": Tiny(_tiny(coupling="additive"), _TWO),
    "glow": Tiny(_tiny(**_GLOW), _TWO),
    "glow, labels in the prior": Tiny(_tiny(**_GLOW, conditioning="prior"), _TWO, _LABEL),
    "glow, labels in the couplings": Tiny(_tiny(**_GLOW, conditioning="coupling"), _TWO, _LABEL),
    "glow, image": Tiny(_tiny(**_GLOW), _IMAGE),
    "glow, odd image": Tiny(_tiny(**_GLOW), Reals((2, 1, 2))),
    "spline": Tiny(_tiny(**_SPLINE), _TWO),
    "spline, vector condition": Tiny(_tiny(**_SPLINE, mixing="linear"), _TWO, Reals((2,))),
    "spline, image": Tiny(_tiny(**_SPLINE, **_GLOW), _IMAGE),
    "maf": Tiny(_tiny(**_MASKED, depth=3), Reals((3,))),
    "maf, labels": Tiny(_tiny(**_MASKED, mixing="permutation"), _TWO, _LABEL),
    "maf, shifts alone": Tiny(_tiny(**_MASKED, coupling="additive"), _TWO),
    "autoregressive splines": Tiny(_tiny(**_MASKED, **_SPLINE), _TWO),
    "autoregressive splines, one dimension": Tiny(_tiny(**_MASKED, **_SPLINE), Reals((1,))),
    "autoregressive splines, vector condition": Tiny(_tiny(**_MASKED, **_SPLINE), _TWO, Reals((2,))),
    "dequantised": Tiny(_tiny(), _BITS),
    "dequantised, logit": Tiny(_tiny(squash="logit"), _BITS),
    "dequantised, labels": Tiny(_tiny(**_GLOW), _BITS, _LABEL),
    "dequantised, spline": Tiny(_tiny(**_SPLINE), _BITS),
    "dequantised, autoregressive splines": Tiny(_tiny(**_MASKED, **_SPLINE), _BITS, _LABEL),
    "dequantised, variational": Tiny(_tiny(dequantisation="variational"), _BITS),
    "dequantised, image": Tiny(_tiny(**_GLOW), _GREYS),
    "dequantised, variational image": Tiny(_tiny(**_GLOW, dequantisation="variational"), _GREYS, _LABEL),
}
