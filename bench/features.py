"""Features for kernel distances: the last hidden layer of a small classifier, trained here, named by its accuracy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS, BATCH, WIDTH = 800, 128, 64


def classifier(data: Any) -> tuple[str, Callable[[Tensor], Tensor]]:
    """The features' name, and raw images (n, C, H, W) to features (n, 64), learned from `data`'s training labels."""
    channels, height, width = data.space.shape
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * (height // 4) * (width // 4), WIDTH),
            nn.ReLU(),
        )
        head = nn.Linear(WIDTH, data.condition.levels)
        optimiser = torch.optim.AdamW([*net.parameters(), *head.parameters()], lr=2e-3)
        for _ in range(STEPS):
            rows = torch.randint(len(data.train), (BATCH,))
            x, y = data.space.centred(data.train.x[rows], torch.float32), data.train.y[rows].long()
            optimiser.zero_grad()
            F.cross_entropy(head(net(x)), y).backward()
            optimiser.step()

    def features(x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([net(data.space.centred(part, torch.float32)) for part in x.split(256)]) / scale

    scale = 1.0
    scale = float(features(data.train.x[:2000]).square().mean().sqrt())  # so that they are of order one
    with torch.no_grad():
        right = (head(scale * features(data.test.x[:2000])).argmax(1) == data.test.y[:2000]).double().mean()
    return f"{WIDTH} features of a classifier of {data.name} (right on {float(right):.3f})", features
