"""Small learners and data for the tests of training."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from likely.noise import Noise
from likely.space import Column, Integers, Reals, Rows, Space


class Net(nn.Module):
    """p(x) of six bits, the last three given the first three, with everything that makes resuming hard: dropout, noise
    in the loss, a counter, a matrix kept on the unit sphere, and a replay buffer that no state dict holds."""

    players = ("model",)
    condition = None

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.space = Integers((6,), 2)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Parameter(torch.zeros(3))
            self.net = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))
        self.centre: Tensor
        self.register_buffer("centre", torch.zeros(3))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.replay = torch.zeros(5)

    def prepare(self, x: Tensor, y: Any, *, noise: Noise) -> None:
        self.centre += x[:, :3].float().mean(0) + 0.01 * noise.normal((3,)).mean(0)

    def log_prob(self, x: Tensor, y: Any = None) -> Tensor:
        x = x.to(self.first.dtype)
        logits = torch.cat([self.first.expand(len(x), 3), self.net(x[:, :3] - self.centre)], 1)
        return -nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)

    def loss(self, x: Tensor, y: Any = None, *, player: str = "model", noise: Noise) -> Tensor:
        jitter = 0.1 * (noise.normal((3,)) * self.first).sum(1) + 0.01 * self.replay.mean()
        with torch.no_grad():
            self.replay.mul_(0.9).add_(noise.uniform((5,))[0])
        return (jitter - self.log_prob(x)).mean()

    def after_step(self) -> None:
        self.step += 1

    def training_state(self) -> dict[str, Tensor]:
        return {"replay": self.replay}


class Pair(nn.Module):
    """Two players: one number follows the mean of the data, the other judges."""

    players = ("maker", "judge")
    condition = None

    def __init__(self) -> None:
        super().__init__()
        self.space = Reals((2,))
        self.maker, self.judge = nn.Linear(2, 2), nn.Linear(2, 1)
        for i, p in enumerate(self.parameters()):
            nn.init.constant_(p, 0.1 * (i + 1))

    def player_parameters(self, player: str) -> Any:
        return (self.maker if player == "maker" else self.judge).parameters()

    def loss(self, x: Tensor, y: Any = None, *, player: str = "maker", noise: Noise) -> Tensor:
        made = self.maker(noise.normal((2,)))
        if player == "maker":
            return nn.functional.softplus(-self.judge(made)).mean()
        real, fake = self.judge(x.float()), self.judge(made.detach())
        return (nn.functional.softplus(-real) + nn.functional.softplus(fake)).mean()


class Mix(nn.Module):
    """A mixture of two products of Bernoullis, by EM."""

    condition = None

    def __init__(self) -> None:
        super().__init__()
        self.space = Integers((6,), 2)
        self.register_buffer("weights", torch.full((2,), 0.5, dtype=torch.float64))
        self.register_buffer("means", torch.full((2, 6), 0.5, dtype=torch.float64))

    def prepare(self, x: Tensor, y: Any, *, noise: Noise) -> None:
        self.means.copy_(0.25 + 0.5 * x[:2].double())

    def parts(self, x: Tensor) -> Tensor:
        x = x.double()
        return self.weights.log() + x @ self.means.T.log() + (1 - x) @ (1 - self.means.T).log()

    def log_prob(self, x: Tensor, y: Any = None) -> Tensor:
        return self.parts(x).logsumexp(1)

    def statistics(self, x: Tensor, y: Any = None) -> dict[str, Tensor]:
        parts = self.parts(x)
        share = parts.softmax(1)
        total = parts.logsumexp(1).sum()
        count = torch.tensor(len(x), dtype=torch.float64)
        return {"weight": share.sum(0), "sum": share.T @ x.double(), "log_prob": total, "count": count}

    def absorb(self, statistics: dict[str, Tensor]) -> None:
        self.weights.copy_(statistics["weight"] / statistics["count"])
        self.means.copy_((statistics["sum"] + 0.5) / (statistics["weight"][:, None] + 1))


def bits(n: int = 230, seed: int = 0) -> Any:
    """Six bits: the first three make the last three likely."""
    u = Noise(seed, n).uniform((6,))
    x = torch.cat([u[:, :3] < 0.3, (u[:, :3] < 0.3) ^ (u[:, 3:] < 0.1)], 1).to(torch.uint8)
    return SimpleNamespace(train=SimpleNamespace(x=x[: n - 40], y=None), valid=SimpleNamespace(x=x[n - 40 :], y=None))


def synthetic(space: Space, condition: Space | None, n: int = 64, seed: int = 0) -> Any:
    """Rows of any space, with a condition where there is one; train and valid are the same."""
    noise = Noise(seed, n)

    def values(space: Space) -> Any:
        if isinstance(space, Integers):
            return (noise.uniform(space.shape).pow(1.7) * space.levels).long().clamp_(max=space.levels - 1)
        if isinstance(space, Reals):
            return noise.normal(space.shape)
        columns = [_cells(c, noise) for c in space.columns]  # ty: ignore[unresolved-attribute]
        seen = torch.stack([~torch.tensor(c.missing) | (noise.uniform() > 0.2) for c in space.columns], 1)  # ty: ignore
        return Rows(torch.stack(columns, 1), seen)

    split = SimpleNamespace(x=values(space), y=None if condition is None else values(condition))
    return SimpleNamespace(train=split, valid=split)


def _cells(column: Column, noise: Noise) -> Tensor:
    return noise.normal() if column.categories is None else noise.integers(len(column.categories)).to(torch.float32)


NET: dict[str, Any] = {"batch": 24, "accumulate": 2, "ema": 0.95, "lr": 0.01, "log_every": 3, "valid_every": 4}
NET |= {"patience": 50, "threads": 1, "save_every": 2, "save_seconds": None}
MIX: dict[str, Any] = {"pass_rows": 50, "tol": 0.0, "threads": 1, "save_every": 2, "save_seconds": None}
