"""Other ways of drawing from a model than its own: a sampler's settings, or a temperature.

What is drawn so follows a law of its own: only the model's own draws are draws from p(x).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from likely.noise import Noise
from likely.verbs import Ordered, Samples, has, name_of

HOTTEST = 10.0
"""Temperatures lie above 0 and are at most this."""


class Tempered(nn.Module):
    """Draws of an `Ordered` model whose every site is drawn from p(x_i given those before)^(1/t), normalised. Samples.

    Below t = 1 sites are drawn more often as what is likely there, above it less often; at 1 it is the model itself. A
    mixture of logistics has no such power in closed form: its weights are taken to 1/t, and its scales times t, which
    draws towards the middle of a component and not to an end of the levels, however likely that is.
    """

    def __init__(self, model: Any, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature
        self.space, self.condition = model.space, model.condition

    def sample(self, n: int, y: Tensor | None = None, *, noise: Noise) -> Any:
        """n values of the space, one site after the other."""
        state, each = self.model.start(n, y)
        shape, kind = (self.model.sites, each.observation.uniforms), each.parameters.dtype
        values = []
        for u in noise.uniform(shape, dtype=kind).unbind(1):
            values.append(each.tempered(self.temperature).sample(u))
            state, each = self.model.step(state, values[-1])
        return self.model.from_sites(torch.stack(values, 2))


def sites_of(model: Any) -> Any:
    """The `Ordered` model that draws x: the model, or the one p(x given y) of a joint; None where there is none."""
    inner = getattr(model, "one_for_all", None) or model
    return inner if has(inner, Ordered, Samples) else None


def with_settings(model: Any, settings: dict[str, Any]) -> Any:
    """The model that draws as the settings say. Raises `ValueError` where this one cannot, or not with these.

    A joint's class is not drawn at another temperature than 1: such a model wants y for every row.
    """
    if not settings:
        return model
    if hasattr(model, "drawn"):
        return model.drawn(**settings)
    told = " ".join(f"{name}={value}" for name, value in settings.items())
    if (inner := sites_of(model)) is None:
        raise ValueError(f"how is {told}, but {name_of(model)} draws in one way only; leave it out")
    if set(settings) != {"temperature"}:
        raise ValueError(f"how is {told}; {name_of(model)} accepts temperature=T")
    t = settings["temperature"]
    if isinstance(t, bool) or not isinstance(t, int | float) or not 0 < t <= HOTTEST:
        raise ValueError(f"temperature is {t!r}; accepts a number above 0, at most {HOTTEST:g}")
    return model if t == 1 else Tempered(inner, float(t))
