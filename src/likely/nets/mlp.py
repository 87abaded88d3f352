"""A multilayer perceptron."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


def mlp(inputs: int, hidden: Iterable[int], outputs: int, activation: type[nn.Module] = nn.SiLU) -> nn.Sequential:
    """(B, inputs) to (B, outputs) through hidden layers of these widths; without any, one affine map."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), activation()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))
