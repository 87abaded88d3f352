"""What can be chosen about a continuous flow: what it learns by, its field, its solver. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from likely.config.base import FamilyConfig

Count = Annotated[int, Field(ge=1)]


class ContinuousFlow(FamilyConfig):
    """An ordinary differential equation from noise to data; over integers, dequantised."""

    family: Literal["continuous-flow"] = "continuous-flow"

    objective: Literal["likelihood", "matching"] = "likelihood"
    """What training lowers: -log p by the ODE itself, or the squared error of flow matching, which solves no ODE and
    is no likelihood. Readings of log p are the same for both."""

    net: Literal["mlp", "conv"] = "mlp"
    """The field's network: `mlp` takes any x as a vector, `conv` is for images (C, H, W)."""

    width: Count = 128
    """Hidden units (channels of `conv`) of the field's network."""

    hidden: Count = 2
    """Hidden layers of the field's network. Those of an `mlp` with one or two have their divergence in closed form."""

    activation: Literal["silu", "tanh"] = "silu"
    """Non-linearity of the field's network; smooth, as the solver's order needs it."""

    divergence: Literal["exact", "hutchinson"] = "exact"
    """How div f is found: exactly (at the price of one more layer for a small `mlp`, else of as many directional
    derivatives as there are dimensions), or along one random probe (unbiased, one directional derivative)."""

    probe: Literal["rademacher", "normal"] = "rademacher"
    """Hutchinson only: distribution of the probe, drawn once for a whole trajectory."""

    solver: Literal["rk4", "dopri5"] = "rk4"
    """`rk4`: a fixed grid, doubled for each row until that row stays within `tolerance`. `dopri5`: adaptive steps of
    the package torchdiffeq (extra `ode`); one step size serves all rows given, so they go one by one."""

    steps: Annotated[int, Field(ge=1)] = 8
    """Steps of the grid that `rk4` trains on, and of the coarsest that a reading may end on."""

    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """Error of log p in nats, and of z and x in standardised units, relative to 1 + size: the most that the last
    doubling may change (`rk4`), or rtol and atol of every step (`dopri5`)."""

    max_steps: Count = 1024
    """Steps after which a reading is given up with an error."""

    sigma_min: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Flow matching only: width of the noise that is left at the data's end of the path."""


PRESETS: dict[str, ContinuousFlow] = {
    "default": ContinuousFlow(),
    "matching": ContinuousFlow(objective="matching"),
    "digits": ContinuousFlow(objective="matching", width=256),
    "small": ContinuousFlow(objective="matching", net="conv", width=32, hidden=3, divergence="hutchinson"),
    "toys2d": ContinuousFlow(width=64, tolerance=1e-4),
}
