"""One step of learning: by gradient (one player or several), or in closed form.

Everything random follows from (seed, step): the rows of a batch, the noise of the loss (row ids are
step * batch + position) and dropout. A learner's state is therefore its tensors and a few counters, and neither the
number of processes nor that of pieces moves a result beyond rounding.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from likely.config.train import TrainConfig
from likely.data.batches import batch_indices
from likely.logprob import check_condition
from likely.noise import Noise
from likely.space import Integers, Space
from likely.train.checkpoint import load_weights
from likely.train.ema import Average
from likely.train.parallel import Loss, Team
from likely.verbs import ClosedForm, has, name_of


class NotFinite(FloatingPointError):
    """Training met a NaN or an infinity and stopped before it reached the weights or a checkpoint.

    `step` counts from 1; `rows` are the rows of the training split in that batch.
    """

    def __init__(self, what: str, step: int, rows: list[int]) -> None:
        shown = ", ".join(map(str, rows[:8])) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
        batch = f"; its batch was rows {shown} of the training split" if rows else ""
        super().__init__(f"{what} at step {step}{batch}")
        self.what, self.step, self.rows = what, step, rows


@dataclass(frozen=True)
class Outcome:
    """What a step saw. `losses` has one value a player, nats per row."""

    losses: dict[str, float]
    rows: int
    grad_norm: float | None = None
    lr: float | None = None
    done: bool = False


class Batches:
    """The rows of a split, checked once, and their batches on a device."""

    def __init__(self, model: Any, split: Any, device: torch.device, name: str = "data.train") -> None:
        self.space: Space = model.space
        self.condition: Space | None = model.condition
        self.x = self.space.check(split.x, f"{name}.x")
        self.n = self.space.len(self.x)
        if self.n == 0:
            raise ValueError(f"{name} has no rows")
        self.y = _conditions(model, split.y if self.condition is not None else None, self.n, name)
        self.device = device

    def take(self, index: Tensor | slice) -> tuple[Any, Any]:
        """Rows x and conditions y on the device."""
        x = self.space.to(self.space.take(self.x, index), self.device)
        if self.y is None or self.condition is None:
            return x, None
        return x, self.condition.to(self.condition.take(self.y, index), self.device)


def _conditions(model: Any, y: Any, n: int, name: str) -> Any:
    """y as checked values to learn from. Labels may be -1, unknown, in training, for models that can use such rows."""
    missing = y == -1 if isinstance(y, Tensor) and isinstance(model.condition, Integers) else None
    if missing is None or not missing.any():
        return check_condition(model, y, n, learning=True)
    if name != "data.train" or not getattr(model, "unlabelled", False):
        raise ValueError(
            f"{name}.y is -1, no label, in {int(missing.sum())} of {n} rows, which {name_of(model)} cannot use there; "
            "accepts -1 in training rows, for joints p(x, y) that learn by gradient"
        )
    return check_condition(model, y.masked_fill(missing, 0), n, learning=True).masked_fill(missing, -1)


def learner(model: nn.Module, batches: Batches, config: TrainConfig, team: Team) -> Gradient | Closed:
    """The way in which a model learns; closed form where it has one."""
    return Closed(model, batches, config, team) if has(model, ClosedForm) else Gradient(model, batches, config, team)


def prepare(model: Any, batches: Batches, config: TrainConfig) -> None:
    """A model's data-dependent start, where it has one, on a first big batch."""
    if hasattr(model, "prepare"):
        rows = min(batches.n, config.pass_rows if has(model, ClosedForm) else config.prepare_rows)
        x, y = batches.take(batch_indices(batches.n, rows, 0, config.seed))
        with torch.no_grad():
            seed_dropout(derived(config.seed, "prepare"), batches.device)
            model.prepare(x, y, noise=Noise(derived(config.seed, "prepare"), torch.arange(rows, device=batches.device)))


class Gradient:
    """AdamW or Adamax on `model.loss`: every player takes its turn at each batch."""

    def __init__(self, model: Any, batches: Batches, config: TrainConfig, team: Team) -> None:
        if config.batch % (team.world * config.accumulate):
            raise ValueError(
                f"batch is {config.batch}; accepts multiples of {team.world} processes x accumulate={config.accumulate}"
            )
        self.model, self.batches, self.config, self.team = model, batches, config, team
        self.players: tuple[str, ...] = tuple(model.players)
        self.parameters: dict[str, list[nn.Parameter]] = {}
        self.optimisers: dict[str, torch.optim.Optimizer] = {}
        for player in self.players:
            own = model.player_parameters(player) if len(self.players) > 1 else model.parameters()
            self.parameters[player] = [p for p in dict.fromkeys(own) if p.requires_grad]
            if not self.parameters[player]:
                raise ValueError(f"model has no parameters to train for the player {player!r}")
            self.optimisers[player] = _optimiser(self.parameters[player], config)
        self.average = None if config.ema is None else Average(model, config.ema)
        self.loss = team.wrap(_compiled(Loss(model)) if config.compile else Loss(model))
        self.seeds = {player: derived(config.seed, f"noise of {player}") for player in self.players}

    def step(self, step: int) -> Outcome:
        """Update number `step` (from 0). Raises `NotFinite` with the weights as they were."""
        config, team = self.config, self.team
        lr = learning_rate(config, step)
        losses, norms = {}, []
        for player in self.players:
            for optimiser in self.optimisers.values():
                optimiser.zero_grad(set_to_none=True)
            loss = self._backward(player, step)
            norm = nn.utils.clip_grad_norm_(self.parameters[player], config.clip or math.inf)
            # the one wait for a GPU in a step: what is not finite never reaches the weights
            seen = torch.stack([team.sum(loss) / team.world, norm.detach().double()])
            losses[player], grad_norm = seen.tolist()
            if not math.isfinite(losses[player]) or not math.isfinite(grad_norm):
                what = "gradient" if math.isfinite(losses[player]) else f"loss ({losses[player]})"
                rows = batch_indices(self.batches.n, config.batch, step, config.seed).tolist()
                raise NotFinite(f"the {what} of the player {player!r} is not finite", step + 1, rows)
            norms.append(grad_norm)
            for group in self.optimisers[player].param_groups:
                group["lr"] = lr
            self.optimisers[player].step()
        if hasattr(self.model, "after_step"):
            self.model.after_step()
        if self.average is not None:
            self.average.update()
        return Outcome(losses, config.batch, max(norms), lr)

    def _backward(self, player: str, step: int) -> Tensor:
        """Gradients of one player's loss over this process's share of a batch; the loss (a tensor, to be averaged)."""
        config, team, device = self.config, self.team, self.batches.device
        pieces = team.world * config.accumulate
        size = config.batch // pieces
        total = torch.zeros((), dtype=torch.float64, device=device)
        for piece in range(config.accumulate):
            part = team.rank * config.accumulate + piece
            x, y = self.batches.take(
                batch_indices(self.batches.n, config.batch, step, config.seed, rank=part, world=pieces)
            )
            first = step * config.batch + part * size
            noise = Noise(self.seeds[player], torch.arange(first, first + size, device=device))
            seed_dropout((self.seeds[player] + 0x9E3779B97F4A7C15 * (first + 1)) % 2**63, device)
            last = piece + 1 == config.accumulate
            with contextlib.nullcontext() if last else team.unsynced(self.loss):
                with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                    loss = self.loss(x, y, player, noise)
                (loss / config.accumulate).backward()
            total += loss.detach().double() / config.accumulate
        return total

    def ready(self) -> nn.Module:
        """The weights that answer: the averaged ones where there is an average."""
        return self.model if self.average is None else self.average.ready()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON values that resume, the model's own state dict left out."""
        tensors, record = {}, {}
        if self.average is not None:
            tensors |= {f"average/{name}": t for name, t in self.average.state().items()}
        for player, optimiser in self.optimisers.items():
            state = optimiser.state_dict()
            record[player] = {"groups": state["param_groups"], "values": {}}
            for index, values in state["state"].items():
                for key, value in values.items():
                    if isinstance(value, Tensor):
                        tensors[f"optimiser/{player}/{index}/{key}"] = value
                    else:
                        record[player]["values"].setdefault(str(index), {})[key] = value
        return tensors, record

    def restore(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Put back what `state` gave."""
        if self.average is not None:
            self.average.restore(within(tensors, "average/"))
        for player, optimiser in self.optimisers.items():
            state: dict[int, dict[str, Any]] = {int(i): dict(v) for i, v in record[player]["values"].items()}
            for name, tensor in within(tensors, f"optimiser/{player}/").items():
                index, key = name.split("/")
                state.setdefault(int(index), {})[key] = tensor
            optimiser.load_state_dict({"state": state, "param_groups": record[player]["groups"]})


class Closed:
    """EM, or a closed form reached in one step: statistics of all rows, then `absorb`."""

    def __init__(self, model: Any, batches: Batches, config: TrainConfig, team: Team) -> None:
        self.model, self.batches, self.config, self.team = model, batches, config, team
        self.before: float | None = None

    @torch.no_grad()
    def step(self, step: int) -> Outcome:
        """One pass. Raises `NotFinite` with the weights as they were, or when they come out as NaN."""
        n, team = self.batches.n, self.team
        low, high = n * team.rank // team.world, n * (team.rank + 1) // team.world
        total: dict[str, Tensor] = {}
        for start in range(low, max(high, low + 1), self.config.pass_rows):
            part = self.model.statistics(*self.batches.take(slice(start, min(start + self.config.pass_rows, high))))
            total = {key: total[key] + part[key] for key in total} if total else part
        total = {key: team.sum(total[key].clone()) for key in sorted(total)}
        mean = float(total["log_prob"] / total["count"])
        bad = sorted(key for key, value in total.items() if value.is_floating_point() and not value.isfinite().all())
        if bad or not math.isfinite(mean):
            raise NotFinite(f"the statistics {', '.join(bad)} are not finite", step + 1, [])
        self.model.absorb(total)
        if any(p.isnan().any() for p in (*self.model.parameters(), *self.model.buffers()) if p.is_floating_point()):
            raise NotFinite("the weights that `absorb` made are not finite", step + 1, [])
        if hasattr(self.model, "after_step"):
            self.model.after_step()
        done = self.before is not None and mean - self.before < self.config.tol
        self.before = mean
        return Outcome({"model": -mean}, n, done=done)

    def ready(self) -> nn.Module:
        """The weights that answer."""
        return self.model

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON values that resume, the model's own state dict left out."""
        return {}, {"before": self.before}

    def restore(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Put back what `state` gave."""
        self.before = record["before"]


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of update `step` (from 0): a linear rise, then a half cosine to 0, or a constant."""
    warm = round(config.warmup * config.steps)
    if step < warm:
        return config.lr * (step + 1) / warm
    if config.schedule == "constant":
        return config.lr
    done = (step - warm) / max(1, config.steps - warm)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def derived(seed: int, what: str) -> int:
    """A 63-bit seed for one use, apart from those of all others."""
    return int.from_bytes(hashlib.sha256(f"{what}, seed {seed}".encode()).digest()[:8], "big") >> 1


def seed_dropout(seed: int, device: torch.device) -> None:
    """Seed torch's own generator, which `fit` has forked: dropout and the like draw from it.

    Not by `torch.manual_seed`: where a GPU library is not initialised that keeps a stack trace for later at each call.
    """
    generator = torch.default_generator if device.type == "cpu" else torch.cuda.default_generators[device.index]
    generator.manual_seed(seed)


def within(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, under the rest of their names."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def state_of(model: Any, tensors: Mapping[str, Tensor], where: str) -> None:
    """Put weights and `training/...` tensors back into a model, in place."""
    load_weights(model, within(tensors, "model/"), where)
    saved = within(tensors, "training/")
    own = model.training_state() if hasattr(model, "training_state") else {}
    if own.keys() != saved.keys():
        raise ValueError(f"{where}: training_state has {sorted(saved)}, the model's has {sorted(own)}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved[name])


def _optimiser(parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimiser == "adamax":
        return torch.optim.Adamax(groups, lr=config.lr, betas=config.betas)
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=fused)


def _compiled(loss: nn.Module) -> nn.Module:
    """The loss compiled, or as it is where compiling fails at the first step."""
    fast: Any = torch.compile(loss)

    class Compiled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loss, self.works = loss, True

        def forward(self, *arguments: Any) -> Tensor:
            if self.works:
                try:
                    return fast(*arguments)
                except torch._dynamo.exc.TorchDynamoException as error:  # ty: ignore
                    warnings.warn(f"compiling the loss failed, going on without: {error}", RuntimeWarning, stacklevel=2)
                    self.works = False
            return self.loss(*arguments)

    return Compiled()
