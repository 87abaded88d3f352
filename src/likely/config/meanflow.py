"""What can be chosen of a mean flow. No torch here."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from likely.config.diffusion import Count, Network


class MeanFlow(Network):
    """A flow from noise to data that learns its mean velocity over a stretch of time, and so draws in one step."""

    free: ClassVar[frozenset[str]] = frozenset(
        {"dropout", "drop", "evaluations", "equal", "time_mean", "time_std", "offset"}
    )

    family: Literal["meanflow"] = "meanflow"

    evaluations: Count = 1
    """Steps of a draw, each of which asks the network once."""

    equal: Annotated[float, Field(ge=0, le=1)] = 0.75
    """Share of training rows with no stretch of time, r = t, which learn the velocity itself, as in flow matching."""

    time_mean: float = -0.4
    """Mean of log(t / (1 - t)), which is normal in training."""

    time_std: Annotated[float, Field(gt=0)] = 1.0
    """Its standard deviation."""

    offset: Annotated[float, Field(gt=0)] = 0.01
    """c in the loss log(|error|^2 + c): larger ones leave more weight to rows with large errors."""


_VECTOR: dict[str, Any] = {"net": "mlp", "width": 128, "blocks": (3,)}

PRESETS: dict[str, MeanFlow] = {
    "default": MeanFlow(),
    "digits": MeanFlow(width=32, multipliers=(1, 2)),
    "small": MeanFlow(width=32, multipliers=(1, 2, 2)),
    "vector": MeanFlow(**_VECTOR),
}
