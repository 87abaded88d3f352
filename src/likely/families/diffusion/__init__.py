"""Diffusion models in one parametrisation: schedule, prediction, weighting and sampler are four independent choices.

Noise is added to x along a falling log-SNR lambda,

    z = alpha x + sigma eps,   alpha^2 = sigmoid(lambda),  sigma^2 = sigmoid(-lambda),  eps ~ N(0, I),

and a network learns x_hat(z, lambda) = E[x given z], from which every other quantity follows. DDPM, variational
diffusion, EDM, v-prediction and flow matching are presets of this one family: rows of its table of choices, not
classes.
"""

from __future__ import annotations

from typing import Any

from likely.config.diffusion import Diffusion as Config
from likely.families import Tiny
from likely.families.diffusion.classes import ClassDiffusion
from likely.families.diffusion.model import Diffusion, Terms
from likely.families.diffusion.networks import network
from likely.families.diffusion.trajectory import Trajectory
from likely.families.diffusion.views import ProbabilityFlow, Truncated
from likely.space import Integers, Reals, Space

__all__ = ["TINY", "ClassDiffusion", "Diffusion", "ProbabilityFlow", "Terms", "Trajectory", "Truncated", "model"]


def model(config: Config, space: Space, condition: Space | None, build: Any) -> Diffusion | ClassDiffusion | Trajectory:
    """The diffusion model of a config over arrays, a joint p(x, y) where the condition is labels.

    Raises `ValueError` where they do not fit each other.
    """
    if not isinstance(space, Integers | Reals) or not space.shape:
        raise ValueError(f"space is {space}; diffusion accepts arrays of Integers or Reals")
    if config.whole_paths and config.steps is None:
        raise ValueError("whole_paths is True with steps=None, continuous time; accepts a number of steps")
    labels = isinstance(condition, Integers) and condition.shape == ()
    vector = 0 if condition is None else config.width
    net = network(config, space, vector)
    reader = network(config, space, vector) if config.decoder == "separate" else None
    if config.whole_paths:
        return Trajectory(Diffusion(config, space, condition, net, reader))
    return (ClassDiffusion if labels else Diffusion)(config, space, condition, net, reader)


def _tiny(space: Space, condition: Space | None = None, **fields: Any) -> Tiny:
    return Tiny(Config(**{"net": "mlp", "width": 16, "blocks": (1,), **fields}), space, condition)


# so few and so noisy steps that importance weights tell right from wrong
_PATHS = {"whole_paths": True, "steps": 3, "high": 1.5, "low": 0.0}
_LABELS, _FOUR, _TWO = Integers((), 2), Integers((2,), 4), Reals((2,))

TINY: dict[str, Tiny] = {
    "cosine, v": _tiny(_FOUR),
    "linear, noise, bound": _tiny(_FOUR, schedule="linear", prediction="noise", weighting="bound"),
    "learned": _tiny(_FOUR, schedule="learned", weighting="bound", low=-5.0),
    "edm": _tiny(_FOUR, schedule="edm", prediction="edm", times="lognormal"),
    "flow, velocity": _tiny(_FOUR, schedule="flow", prediction="velocity"),
    "x, min-snr": _tiny(_FOUR, prediction="x", weighting="min-snr"),
    "ddpm": _tiny(_FOUR, schedule="ddpm", prediction="noise", steps=999, decoder="denoiser"),
    "separate decoder": _tiny(_FOUR, decoder="separate", high=2.0),
    "paths": _tiny(_FOUR, **_PATHS),
    "paths, ddpm": _tiny(_FOUR, **_PATHS, schedule="ddpm", prediction="noise", decoder="denoiser", weighting="bound"),
    "paths, labels": _tiny(
        _FOUR, _LABELS, **{**_PATHS, "steps": 2}, schedule="learned", prediction="edm", weighting="bound"
    ),
    "paths, separate decoder": _tiny(_FOUR, **{**_PATHS, "high": 2.0}, decoder="separate"),
    "paths, reals": _tiny(Reals((1,)), **_PATHS, schedule="flow", prediction="velocity"),
    "paths, reals, denoiser": _tiny(_TWO, **{**_PATHS, "steps": 2}, decoder="denoiser", weighting="bound"),
    "reals": _tiny(_TWO),
    "reals, separate decoder": _tiny(_TWO, decoder="separate", high=2.0),
    "reals, vector condition": _tiny(_TWO, Reals((2,))),
    "labels": _tiny(_FOUR, _LABELS, weighting="bound"),
    "labels, steps": _tiny(_FOUR, _LABELS, prediction="noise", steps=50, decoder="denoiser"),
    "labels, reals": _tiny(_TWO, _LABELS),
}
