"""Train step, log p and sampling of an affine coupling flow against normflows and zuko, on one thread.

D = 16, five couplings with networks of two hidden layers of 64, ReLU (normflows: leaky ReLU), batch 512, float32, a
fixed standard normal base: the same layer sizes, so the same number of parameters, which every row states. Scales are
sigmoid(r + 2) here and each rival's default there. Run it where the rivals are installed beside `likely`:

    python3 -m venv .venv-rivals && .venv-rivals/bin/pip install -e . normflows==1.7.3 zuko==1.6.0
    .venv-rivals/bin/python bench/flow_vs_rivals.py
"""

from __future__ import annotations

import timing  # first: it sets the number of threads
import normflows
import torch
import zuko
from torch import Tensor, nn

from likely.noise import Noise
from likely.registry import build
from likely.space import Reals

D, LAYERS, WIDTH, BATCH, REPEATS, INNER = 16, 5, 64, 512, 15, 3


def of_normflows() -> tuple[nn.Module, object, object]:
    parts = []
    for _ in range(LAYERS):
        net = normflows.nets.MLP([D // 2, WIDTH, WIDTH, D], init_zeros=True)
        parts += [normflows.flows.AffineCouplingBlock(net), normflows.flows.Permute(D, mode="swap")]
    flow = normflows.NormalizingFlow(normflows.distributions.DiagGaussian(D, trainable=False), parts)
    return flow, flow.log_prob, lambda: flow.sample(BATCH)


def of_zuko() -> tuple[nn.Module, object, object]:
    flow = zuko.flows.NICE(D, transforms=LAYERS, hidden_features=(WIDTH, WIDTH))
    return flow, lambda x: flow().log_prob(x), lambda: flow().sample((BATCH,))


def several(call) -> object:
    """INNER calls, without gradients: one alone is near the clock's resolution."""

    @torch.no_grad()
    def run() -> None:
        for _ in range(INNER):
            call()

    return run


def main() -> None:
    torch.set_num_threads(1)
    x, noise = Noise(0, BATCH).normal((D,)), Noise(1, BATCH)
    ours = build("flow", Reals((D,)), depth=LAYERS, width=WIDTH, hidden=2, activation="relu", prior="normal")
    for rival, version, make in (("normflows", "1.7.3", of_normflows), ("zuko", "1.6.0", of_zuko)):
        model, log_prob, sample = make()
        sizes = [sum(p.numel() for p in m.parameters()) for m in (ours, model)]

        def rival_loss(log_prob=log_prob) -> Tensor:
            return -log_prob(x).mean()

        mine, other = timing.train_step(ours, lambda: ours.loss(x, noise=noise)), timing.train_step(model, rival_loss)
        cases = {
            "train step": (lambda f=mine: [f() for _ in range(INNER)], lambda f=other: [f() for _ in range(INNER)]),
            "log p": (several(lambda: ours.log_prob(x)), several(lambda f=log_prob: f(x))),
            "sample": (several(lambda: ours.sample(BATCH, noise=Noise(2, BATCH))), several(sample)),
        }
        for case, (a, b) in cases.items():
            times = timing.race({"ours": a, "rival": b}, REPEATS)
            row = timing.against("flow_vs_rivals", case, f"{rival} {version}", times)
            more = {
                "calls": INNER,
                "batch": BATCH,
                "dims": D,
                "parameters_ours": sizes[0],
                "parameters_rival": sizes[1],
            }
            timing.record(timing.RESULTS / "flow.jsonl", row | more, ("normflows", "zuko"))


if __name__ == "__main__":
    main()
