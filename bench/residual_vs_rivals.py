"""A residual flow's train step, log p and sampling against normflows and torchflows, on one thread; memory by terms.

D = 16, five blocks of [16, 64, 64, 16], batch 512, float32, Lipschitz coefficient .97 a layer: the same layer sizes.
Ours has an ActNorm around every block besides; each row states the parameters of both. Series: 2 terms always, then a
geometric(.5) number of them, in training; 20 and geometric(.5) for scores (torchflows has settings of its own). Every
row states how far one row's log p moves between two calls, as the standard deviation over 64 calls after the same 100
steps on the same data, and how far the mean over the batch does, in training. A step includes what keeps the layers
Lipschitz: 5 rounds of power iteration in normflows, as its documentation does; until it settles, here.

    python3 -m venv .venv-rivals && .venv-rivals/bin/pip install -e . normflows==1.7.3 torchflows==1.2.1
    .venv-rivals/bin/python bench/residual_vs_rivals.py
"""

from __future__ import annotations

import timing  # first: it sets the number of threads
import normflows
import torch
from torch import Tensor, nn
from torchflows.bijections.finite.residual.architectures import ResFlow
from torchflows.bijections.finite.residual.iterative import ResFlowBlock, SpectralLinear
from torchflows.flows import Flow

from likely.families.flow.fixed_point import solve
from likely.families.flow.residual import Block, ExactJacobian, ResidualFlow
from likely.noise import Noise
from likely.registry import build
from likely.space import Reals

D, BLOCKS, WIDTH, BATCH, REPEATS = 16, 5, 64, 512, 9
OURS = {"block": "residual", "activation": "lipswish", "blocks": BLOCKS, "width": WIDTH, "lipschitz": 0.97}
SERIES = {"tail": "geometric", "tail_mean": 2.0, "train_terms": 2, "score_terms": 20}
RESULTS = timing.RESULTS / "residual.jsonl"
PACKAGES = ("normflows", "torchflows")


class Ours:
    """A flow of ours, as the race calls it."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.draw = model, 0

    def _noise(self) -> Noise:
        self.draw += 1
        return Noise(self.draw, BATCH)

    def loss(self, x: Tensor) -> Tensor:
        return self.model.loss(x, noise=self._noise())

    def after_step(self) -> None:
        self.model.after_step()

    def log_prob(self, x: Tensor) -> Tensor:
        if isinstance(self.model, ResidualFlow):
            return self.model.log_prob_estimate(x, noise=self._noise())
        return self.model.log_prob(x)

    def sample(self) -> Tensor:
        return self.model.sample(BATCH, noise=self._noise())

    def round_trip(self, x: Tensor) -> Tensor:
        return self.model.decode(self.model.encode(x))


class OfNormflows:
    def __init__(self) -> None:
        parts = []
        for _ in range(BLOCKS):
            net = normflows.nets.LipschitzMLP([D, WIDTH, WIDTH, D], lipschitz_const=0.97, init_zeros=False)
            parts.append(normflows.flows.Residual(net, n_dist="geometric", n_exact_terms=2))
        base = normflows.distributions.DiagGaussian(D, trainable=False)
        self.model = normflows.NormalizingFlow(base, parts)

    def loss(self, x: Tensor) -> Tensor:
        return self.model.forward_kld(x)

    def after_step(self) -> None:
        normflows.utils.update_lipschitz(self.model, 5)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.model.log_prob(x)

    def sample(self) -> Tensor:
        return self.model.sample(BATCH)[0]

    def round_trip(self, x: Tensor) -> Tensor:
        return self.model.forward(self.model.inverse(x))


class OfTorchflows:
    def __init__(self) -> None:
        bijection, blocks = ResFlow((D,), n_layers=1), []
        for _ in range(BLOCKS):
            sizes = [(D, WIDTH), (WIDTH, WIDTH), (WIDTH, D)]
            layers = [part for a, b in sizes for part in (nn.Tanh(), SpectralLinear(a, b))][1:]
            blocks.append(ResFlowBlock((D,), g=nn.Sequential(*layers)))
        bijection.layers = nn.ModuleList(blocks)
        self.model = Flow(bijection)

    def loss(self, x: Tensor) -> Tensor:
        return -self.model.log_prob(x).mean()

    def after_step(self) -> None:
        pass  # it iterates, from a random vector, in every forward pass

    def log_prob(self, x: Tensor) -> Tensor:
        return self.model.log_prob(x)

    def sample(self) -> Tensor:
        return self.model.sample((BATCH,))

    def round_trip(self, x: Tensor) -> Tensor:
        return self.model.bijection.inverse(self.model.bijection.forward(x, skip_log_det=True)[0], skip_log_det=True)[0]


def train_step(side, x: Tensor):
    optimiser = torch.optim.Adam((p for p in side.model.parameters() if p.requires_grad), lr=1e-3)

    def step() -> None:
        side.model.train()
        optimiser.zero_grad()
        side.loss(x).backward()
        optimiser.step()
        side.after_step()

    return step


def scored(side, call):
    """The call in evaluation mode. normflows needs gradients to be on for its own derivatives."""

    def run() -> None:
        side.model.eval()
        with torch.set_grad_enabled(isinstance(side, OfNormflows)):
            call()

    return run


def spread(side, x: Tensor) -> dict[str, float]:
    """Deviations between calls, in nats: of a row's score, of a row's and of the batch's training figure."""

    def over(call) -> Tensor:
        return torch.stack([call().detach() for _ in range(64)]).std(0)

    side.model.eval()
    score = over(lambda: side.log_prob(x)).square().mean().sqrt()
    side.model.train()
    batch = over(lambda: side.loss(x))
    gap = (side.round_trip(x[:64]) - x[:64]).abs().max() if not isinstance(side, OfNormflows) else trip(side, x)
    return {"score_sd": round(float(score), 5), "batch_loss_sd": round(float(batch), 5), "round_trip": float(gap)}


def trip(side: OfNormflows, x: Tensor) -> Tensor:
    side.model.eval()
    return (side.round_trip(x[:64]) - x[:64]).abs().max()


def race(ours: Ours, other, name: str, label: str, x: Tensor) -> None:
    mine, theirs = train_step(ours, x), train_step(other, x)
    for _ in range(100):
        mine()
        theirs()
    about = {
        "ours": label,
        "batch": BATCH,
        "dims": D,
        "parameters_ours": sum(p.numel() for p in ours.model.parameters()),
        "parameters_rival": sum(p.numel() for p in other.model.parameters()),
        "spread_between_calls_ours": spread(ours, x),
        "spread_between_calls_rival": spread(other, x),
    }
    cases = {
        "train step": (mine, theirs),
        "log p": (scored(ours, lambda: ours.log_prob(x)), scored(other, lambda: other.log_prob(x))),
        "sample": (scored(ours, ours.sample), scored(other, other.sample)),
    }
    for case, (a, b) in cases.items():
        times = timing.race({"ours": a, "rival": b}, REPEATS)
        timing.record(RESULTS, timing.against("residual_vs_rivals", case, name, times) | about, PACKAGES)


def memory() -> None:
    """Bytes that autograd keeps for a training step, by the number of terms that are always taken: ours, normflows."""
    x = Noise(0, BATCH).normal((D,))
    for terms in (2, 10, 40):
        kept = {}
        theirs = OfNormflows()
        for block in theirs.model.flows:
            block.iresblock.n_exact_terms, block.iresblock.grad_in_forward = terms, False
        ours = Ours(build("residual", Reals((D,)), **OURS, **SERIES | {"train_terms": terms}))
        for name, side in (("ours", ours), ("normflows without backward in forward", theirs)):
            sizes: dict[int, int] = {}

            def keep(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
                sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
                loss = side.loss(x)
            kept[name] = sum(sizes.values())
            loss.backward()
        row = {"bench": "residual_vs_rivals", "case": "memory of a step", "terms": terms, "batch": BATCH, "bytes": kept}
        timing.record(RESULTS, row, PACKAGES)


def inverse(model: ResidualFlow, x: Tensor) -> None:
    """Evaluations of g until a block's inverse is there, plain and accelerated, on a trained flow; float32 and 64."""
    for dtype in (torch.float32, torch.float64):
        wide = model.to(dtype)
        blocks = [part for part in wide.modules() if isinstance(part, Block)]
        seen: list[Tensor] = []
        hooks = [
            b.register_forward_hook(lambda _b, _x, answer, seen=seen: seen.append(answer[0].detach())) for b in blocks
        ]
        wide.encode(x.to(dtype))
        for hook in hooks:
            hook.remove()
        with torch.no_grad():
            plain, fast = ([solve(b.g, z, m)[2] for b, z in zip(blocks, seen, strict=True)] for m in (0, 5))
        row = {"bench": "residual_vs_rivals", "case": "evaluations of an inverse", "dtype": str(dtype)}
        timing.record(RESULTS, row | {"rows": len(x), "plain": plain, "anderson": fast}, PACKAGES)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = Noise(0, BATCH).normal((D,))
    x = torch.cat([x[:, :8], x[:, 8:] * 0.3 + x[:, :8].sin()], 1)
    for name, make in (("normflows 1.7.3", OfNormflows), ("torchflows 1.2.1", OfTorchflows)):
        race(Ours(build("residual", Reals((D,)), **OURS, **SERIES)), make(), name, "residual flow", x)
    few = SERIES | {"tail": "poisson", "tail_mean": 1.0, "train_terms": 1, "score_terms": 8}
    label = "residual flow, fewer terms: 1 + Poisson(1) in training, 8 + Poisson(1) for scores"
    race(Ours(build("residual", Reals((D,)), **OURS, **few)), OfNormflows(), "normflows 1.7.3", label, x)
    dense = build("residual", Reals((D,)), blocks=BLOCKS, depth=3, growth=44, **SERIES)
    race(Ours(dense), OfNormflows(), "normflows 1.7.3", "i-DenseNet", x)
    exact = ExactJacobian(build("residual", Reals((D,)), **OURS))
    race(Ours(exact), OfNormflows(), "normflows 1.7.3", "residual flow, exact Jacobian", x)
    memory()
    inverse(dense, x)


if __name__ == "__main__":
    main()
