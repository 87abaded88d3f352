"""F6: what stands on Lipschitz constants below 1 keeps them there."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from likely.conformance.general import readings
from likely.conformance.report import Failed, Skip, promise
from likely.conformance.subject import Subject
from likely.families.flow.residual import Block
from likely.logprob import scoring
from likely.nets.lipschitz import Spectral
from likely.noise import Noise
from likely.verbs import Invertible, has, takes_y


@promise
def contractions(subject: Subject) -> str:
    """F6 Layers keep their Lipschitz coefficient after any update, and residual blocks are contractions.

    On a float64 copy whose linear layers (`likely.nets.lipschitz.Spectral`) were multiplied by 5, an update, with its
    `after_step`: each layer's norm, by 1000 rounds of power iteration through autograd, is at most its coefficient,
    below 1, and 1 %; a block x + g(x) has |g(a) - g(b)| < |a - b| for 4000 pairs, far and near; and encode undoes
    decode within 1e-8.
    """
    if not isinstance(subject.model, nn.Module) or not any(isinstance(m, Spectral) for m in subject.model.modules()):
        raise Skip("no Lipschitz layers")
    model: Any = copy.deepcopy(subject.wide("given"))
    layers = [part for part in model.modules() if isinstance(part, Spectral)]
    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(5)
    model.after_step()
    excess = max(_norm(layer, subject.seed) / layer.coefficient - 1 for layer in layers)
    if not (excess <= 0.01 and all(layer.coefficient < 1 for layer in layers)):
        raise Failed(f"a layer's norm is {excess:.1%} above its coefficient after an update; accepts 1 %, and below 1")
    ratios: list[float] = []

    def compare(block: Block, inputs: tuple[Tensor, ...], _answer: Any) -> None:
        shape = inputs[0].shape[1:]
        a, b = (3 * Noise(subject.seed + i, 4000).normal(shape, dtype=torch.float64) for i in (71, 72))
        b[::2] = a[::2] + 1e-4 * b[::2]
        apart = (block.g(a) - block.g(b)).flatten(1).norm(dim=1) / (a - b).flatten(1).norm(dim=1)
        ratios.append(float(apart.max()))

    x, y = subject.some(8)
    hooks = [part.register_forward_hook(compare) for part in model.modules() if isinstance(part, Block)]
    with scoring(model):
        name, noisy = next(readings(model))
        noise = {"noise": Noise(subject.seed + 74, 8)} if noisy else {}
        getattr(model, name)(subject.wider(x), y if takes_y(model) else None, **noise)
        for hook in hooks:
            hook.remove()
        gap = 0.0
        if has(model, Invertible):
            z = 3 * Noise(subject.seed + 73, 8).normal((subject.space.dims,), dtype=torch.float64)
            gap = float((model.encode(model.decode(z, y), y) - z).abs().max())
    if not max(ratios, default=0.0) < 1:
        raise Failed(f"a block moves two points {max(ratios):.3f} times as far apart as they were; accepts less than 1")
    if not gap <= 1e-8:
        raise Failed(f"encode(decode(z)) is off by {gap:.1e}; accepts 1e-8")
    return (
        f"norms {excess:+.1%} from their bounds, pairs at most {max(ratios, default=0.0):.3f} apart, inverse {gap:.0e}"
    )


def _norm(layer: Spectral, seed: int) -> float:
    """The largest singular value of the map itself, by power iteration with autograd for its transpose."""
    shape = layer.v.shape if layer.v.ndim > 1 else (*layer.v.shape, *[1] * (layer.weight.ndim - 2))
    v, sigma = Noise(seed + 70, 1).normal(shape, dtype=torch.float64), 0.0
    for _ in range(1000):
        v = (v / v.norm()).detach().requires_grad_()
        image = layer.along(v)
        sigma = float(image.detach().norm())
        (v,) = torch.autograd.grad(image, v, image.detach())
    return sigma
