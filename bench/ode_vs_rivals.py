"""log p by an ODE, with exact divergence and with Hutchinson's, and a step of flow matching, against flow-matching.

D = 16, a field of two hidden layers of 128, SiLU, batch 512, float32, one thread. Both solve with a fourth-order
Runge-Kutta method on the same grid of 10 steps, 40 evaluations of the field, from the same kind of standard normal;
the rival's field gets t beside x, ours two sines and cosines of t as well: every row states the
parameters. A reading of ours also checks itself (it doubles its grid until the error is within the tolerance): that
one is timed as well, with the number of steps that it ended on. Run it where the rival is installed beside `likely`:

    python3 -m venv .venv-rivals && .venv-rivals/bin/pip install -e . flow-matching==1.0.10
    .venv-rivals/bin/python bench/ode_vs_rivals.py [CASE ...]
"""

from __future__ import annotations

import sys

import timing  # first: it sets the number of threads
import torch
from flow_matching.path import CondOTProbPath
from flow_matching.solver import ODESolver
from torch import Tensor, nn

from likely.families.flow.base import log_normal
from likely.families.flow.continuous import ContinuousFlow
from likely.noise import Noise
from likely.registry import build
from likely.space import Reals

D, WIDTH, BATCH, STEPS, REPEATS = 16, 128, 512, 10, 9


class Velocity(nn.Module):
    """The rival's field: t beside x, as in its examples."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(D + 1, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, D)
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(torch.cat([x, t.reshape(-1, 1).expand(x.shape[0], 1)], 1))


def ours(**fields: object) -> ContinuousFlow:
    model = build("continuous-flow", Reals((D,)), width=WIDTH, hidden=2, steps=STEPS, **fields)
    with torch.no_grad():
        nn.Linear.reset_parameters(model.field.last)  # zero at the start: there would be nothing to solve
    return model


def train_step(model: nn.Module, loss) -> object:
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step() -> None:
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()

    return step


def main() -> None:
    torch.set_num_threads(1)
    x, noise, theirs = Noise(0, BATCH).normal((D,)), Noise(1, BATCH), Velocity()
    exact, hutchinson, solver = ours(), ours(divergence="hutchinson"), ODESolver(velocity_model=theirs)
    sizes = [sum(p.numel() for p in m.parameters()) for m in (exact, theirs)]
    matching, rival, path = ours(objective="matching"), Velocity(), CondOTProbPath()

    def likelihood(divergence: bool) -> object:
        return lambda: solver.compute_likelihood(
            x, log_normal, step_size=1 / STEPS, method="rk4", exact_divergence=divergence
        )

    def rival_loss() -> Tensor:
        sample = path.sample(t=torch.rand(BATCH), x_0=torch.randn(BATCH, D), x_1=x)
        return (rival(sample.x_t, sample.t) - sample.dx_t).square().mean()

    @torch.no_grad()
    def fixed(model: ContinuousFlow) -> Tensor:
        return model.log_prob_at(x, steps=STEPS, noise=noise)

    @torch.no_grad()
    def reading() -> Tensor:
        return exact.log_prob_estimate(x, noise=noise)

    mine, other = train_step(matching, lambda: matching.loss(x, noise=Noise(2, BATCH))), train_step(rival, rival_loss)
    cases = {
        "log p, exact divergence": (lambda: fixed(exact), likelihood(True)),
        "log p, Hutchinson": (lambda: fixed(hutchinson), likelihood(False)),
        "log p, exact divergence, solved to 1e-5": (reading, likelihood(True)),
        "flow matching train step": (lambda: [mine() for _ in range(5)], lambda: [other() for _ in range(5)]),
    }
    for case in sys.argv[1:] or cases:
        a, b = cases[case]
        times = timing.race({"ours": a, "rival": b}, REPEATS)
        row = timing.against("ode_vs_rivals", case, "flow-matching 1.0.10", times)
        more = {
            "batch": BATCH,
            "dims": D,
            "evaluations": None if "to 1e-5" in case or "step" in case else 4 * STEPS,
            "calls": 5 if "step" in case else 1,
            "parameters_ours": sizes[0],
            "parameters_rival": sizes[1],
        }
        timing.record(timing.RESULTS / "ode.jsonl", row | more, ("flow-matching", "torchdiffeq"))


if __name__ == "__main__":
    main()
