"""Train step, log p and sampling of masked autoregressive and spline flows against zuko and nflows, on one thread.

D = 16, five layers with (masked) networks of two hidden layers of 64, ReLU, 8 bins on [-5, 5], batch 512, float32, a
fixed standard normal base. Parameters are equal for the autoregressive flows and for nflows' coupling. zuko's coupling
(`passes=2`) moves all 16 dimensions in each layer, half of them without looking at anything, by a masked network of
twice the outputs. So it is raced twice, at equal parameters: against as many layers of our coupling with wider
networks ("as many layers"), and against twice as many layers with narrower ones ("as many splines").

    python3 -m venv .venv-rivals && .venv-rivals/bin/pip install -e . zuko==1.6.0 nflows==0.14
    .venv-rivals/bin/python bench/splines_vs_rivals.py
"""

from __future__ import annotations

import sys

import timing  # first: it sets the number of threads
import torch
import torch.nn.functional as F
import zuko
from nflows import distributions, flows, transforms
from nflows.nn import nets
from torch import Tensor, nn

from likely.noise import Noise
from likely.registry import build
from likely.space import Reals

D, LAYERS, WIDTH, BINS, BOUND, BATCH, REPEATS = 16, 5, 64, 8, 5.0, 512, 9


def of_zuko(kind: str) -> tuple[nn.Module, object, object]:
    hidden = {"transforms": LAYERS, "hidden_features": (WIDTH, WIDTH)}
    if kind == "maf":
        flow = zuko.flows.MAF(D, **hidden)
    else:
        flow = zuko.flows.NSF(D, bins=BINS, passes=2 if kind == "coupling spline" else None, **hidden)
    return flow, lambda x: flow().log_prob(x), lambda: flow().sample((BATCH,))


def of_nflows(kind: str) -> tuple[nn.Module, object, object]:
    spline = {"num_bins": BINS, "tails": "linear", "tail_bound": BOUND}
    masked = {"features": D, "hidden_features": WIDTH, "num_blocks": 1, "use_residual_blocks": False}
    parts = []
    for layer in range(LAYERS):
        if kind == "maf":
            parts.append(transforms.MaskedAffineAutoregressiveTransform(**masked, activation=F.relu))
        elif kind == "autoregressive spline":
            parts.append(
                transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
                    **masked, **spline, activation=F.relu
                )
            )
        else:
            mask = torch.arange(D) < D // 2 if layer % 2 else torch.arange(D) >= D // 2
            parts.append(
                transforms.PiecewiseRationalQuadraticCouplingTransform(
                    mask.int(),
                    lambda inputs, outputs: _MLP([inputs], [outputs], [WIDTH, WIDTH], activation=F.relu),
                    **spline,
                )
            )
        if kind != "coupling spline":
            parts.append(transforms.ReversePermutation(D))
    flow = flows.Flow(transforms.CompositeTransform(parts), distributions.StandardNormal([D]))
    return flow, flow.log_prob, lambda: flow.sample(BATCH)


class _MLP(nets.MLP):
    """nflows' own network, taking the context that its coupling hands over."""

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        return super().forward(inputs)


def ours(kind: str, *, width: int = WIDTH, depth: int = LAYERS) -> nn.Module:
    return build(
        "flow",
        Reals((D,)),
        architecture="realnvp" if kind == "coupling spline" else "autoregressive",
        coupling="affine" if kind == "maf" else "spline",
        bins=BINS,
        bound=BOUND,
        depth=depth,
        width=width,
        hidden=2,
        activation="relu",
        prior="normal",
    )


def shaken(model: nn.Module) -> nn.Module:
    """Away from the identity: splines at rest would find every number in the same bin."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn(p.shape, generator=generator)
    return model


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def equal(model: nn.Module, depth: int) -> int:
    """The width at which so many layers of our spline coupling have at least the model's parameters."""
    return next(w for w in range(8, 4 * WIDTH) if size(ours("coupling spline", width=w, depth=depth)) >= size(model))


def main(only: str = "") -> None:
    torch.set_num_threads(1)
    x, noise = Noise(0, BATCH).normal((D,)), Noise(1, BATCH)
    for kind in ("maf", "autoregressive spline", "coupling spline"):
        for rival, version, make in (("zuko", "1.6.0", of_zuko), ("nflows", "0.14", of_nflows)):
            model, log_prob, sample = make(kind)
            shaken(model)
            variants = {kind: {}}
            if kind == "coupling spline" and rival == "zuko":
                variants = {
                    f"{kind}, as many layers": {"width": equal(model, LAYERS), "depth": LAYERS},
                    f"{kind}, as many splines": {"width": equal(model, 2 * LAYERS), "depth": 2 * LAYERS},
                }
            for name, fields in variants.items():
                if only not in f"{name} {rival}":
                    continue
                mine = shaken(ours(kind, **fields))
                steps = {
                    "ours": timing.train_step(mine, lambda mine=mine: mine.loss(x, noise=noise)),
                    "rival": timing.train_step(model, lambda log_prob=log_prob: -log_prob(x).mean()),
                }
                reads = {
                    "ours": torch.no_grad()(lambda mine=mine: mine.log_prob(x)),
                    "rival": torch.no_grad()(lambda log_prob=log_prob: log_prob(x)),
                }
                draws = {
                    "ours": torch.no_grad()(lambda mine=mine: mine.sample(BATCH, noise=Noise(2, BATCH))),
                    "rival": torch.no_grad()(sample),
                }
                for case, cases in (("train step", steps), ("log p", reads), ("sample", draws)):
                    times = timing.race(cases, REPEATS)
                    row = timing.against("splines_vs_rivals", f"{name}: {case}", f"{rival} {version}", times)
                    more = {
                        "batch": BATCH,
                        "dims": D,
                        "layers_ours": fields.get("depth", LAYERS),
                        "layers_rival": LAYERS,
                        "width_ours": fields.get("width", WIDTH),
                        "width_rival": WIDTH,
                        "parameters_ours": size(mine),
                        "parameters_rival": size(model),
                    }
                    timing.record(timing.RESULTS / "splines.jsonl", row | more, ("zuko", "nflows"))


if __name__ == "__main__":
    main(*sys.argv[1:])
