"""`fit`: one loop for gradient learners, adversarial pairs and learners in closed form."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from likely.config.train import TrainConfig, train_config
from likely.data.splits import sha256_of
from likely.train.checkpoint import WEIGHTS, Checkpoints, header, load_model, pack, unpack
from likely.train.clock import Spent
from likely.train.files import clean, lock
from likely.train.learners import (
    Batches,
    Closed,
    Gradient,
    NotFinite,
    learner,
    prepare,
    state_of,
    within,
)
from likely.train.ledger import Ledger
from likely.train.parallel import Team, place, together
from likely.train.progress import Events, Progress, memory
from likely.train.record import Record, create, restart, surroundings
from likely.train.start import start_from
from likely.train.stopping import Stopping
from likely.train.validate import LIKELIHOODS, score, valid_rows
from likely.verbs import ClosedForm, Trainable, has, require

FREE = ("steps", "save_every", "save_seconds", "keep", "device", "threads")
"""Fields that a resumed run may change."""


@dataclass(frozen=True)
class FitResult:
    """What training came to. `model` is the model that was given, trained in place."""

    model: nn.Module
    step: int
    """Updates made."""
    reason: str
    """Why it ended: "steps" (all made), "patience", "converged", "SIGINT" or "SIGTERM"."""
    history: list[dict[str, Any]] = field(repr=False)
    """The metrics lines: dicts with "kind" ("step", "valid" or "stop"), "step" and numbers."""
    seconds: float
    run: Path | None = None

    @property
    def signal(self) -> int | None:
        """The signal that ended training, or None."""
        return int(signal.Signals[self.reason]) if self.reason.startswith("SIG") else None


def fit(
    model: nn.Module,
    data: Any,
    *,
    steps: int | None = None,
    run: str | Path | None = None,
    resume: bool = False,
    start: str | Path | nn.Module | None = None,
    progress: bool | Events | None = None,
    asked: Mapping[str, Any] | None = None,
    **fields: Any,
) -> FitResult:
    """Train a model in place on `data.train`, scored on `data.valid` where there is one.

    `fields` are those of `TrainConfig`. With `run`, a folder keeps checkpoints and the ledger; `resume=True` goes on
    from its newest good checkpoint (or starts it) and ends where the unbroken run would have, bit for bit on the same
    kind of machine. `start` is a model, or where one was saved, whose weights this one starts from instead of its own
    and of a data-dependent start: one of the same family, or of a part (the diffusion model of a consistency model).
    `asked` are JSON values for the ledger's first line. `progress` is None (a bar on a terminal), False, True, or a
    function that gets events. SIGINT and SIGTERM save and stop.

    Raises `TypeError` for a model that cannot learn, `ValueError` for bad data, fields, start or run folders,
    `NotFinite` when a loss or gradient is not finite, `OSError` when the last checkpoint cannot be written.
    """
    require(model, (Trainable, ClosedForm), "fit")
    if steps is not None:
        fields["steps"] = steps
    config, run = train_config(**fields), None if run is None else Path(run)
    if run is not None and not resume and run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise ValueError(
            f"run is {run}, which exists; resume=True goes on with a run, anything else is not written over"
        )
    device = place(config.device)
    with contextlib.ExitStack() as stack:
        team = stack.enter_context(together(device))
        found = _continued(run, config, fields, team, stack)
        config = found[0] if found else config
        stack.enter_context(_surrounded(model, config, device))
        job = _Fit(model.to(device), data, config, run, team, device, dict(asked or {}), found, stack)
        return job.go(progress, start)


def resume(
    run: str | Path, data: Any, *, steps: int | None = None, progress: bool | Events | None = None, **fields: Any
) -> FitResult:
    """Go on with a run, the model built from its checkpoint; see `fit`. `fields` may be those of `FREE` only."""
    if not Checkpoints(run).steps():
        raise ValueError(f"run is {run}, which holds no checkpoint")
    return fit(load_model(run), data, steps=steps, run=run, resume=True, progress=progress, **fields)


class _Fit:
    """One call of `fit`: the state that its parts share."""

    def __init__(
        self,
        model: Any,
        data: Any,
        config: TrainConfig,
        run: Path | None,
        team: Team,
        device: torch.device,
        asked: dict[str, Any],
        found: tuple[TrainConfig, int, dict[str, bytes]] | None,
        stack: contextlib.ExitStack,
    ) -> None:
        self.model, self.data, self.config, self.run, self.team, self.device = model, data, config, run, team, device
        self.asked, self.found, self.stack = asked, found, stack
        if getattr(data, "space", model.space) != model.space:
            raise ValueError(f"data is {data.space}, the model is about {model.space}")
        labels = getattr(data, "condition", None)
        if model.condition is not None and labels is not None and labels != model.condition:
            raise ValueError(f"data has labels {labels}, the model is about labels {model.condition}")
        self.batches = Batches(model, data.train, device)
        self.valid = valid_rows(model, data, config, device)
        every = config.valid_every
        self.data_hash = "" if run is None else _data_hash(data, self.batches)
        self.valid_every = 0 if self.valid is None else max(1, config.steps // 10) if every is None else every
        self.log_every = 1 if has(model, ClosedForm) else config.log_every
        self.bits = any(has(model, verb) for verb in LIKELIHOODS) and not getattr(model, "surrogate", False)
        self.step, self.reason = 0, None
        self.window: dict[str, float] = {}
        self.counted = 0
        self.best: dict[str, Any] = {"score": None, "step": 0, "since": 0}
        self.best_weights: dict[str, Tensor] | None = None

    def go(self, progress: bool | Events | None, start: str | Path | nn.Module | None) -> FitResult:
        self.started: dict[str, Any] = {}
        if self.found is None and start is not None:
            self.started = {"start": start_from(self.model, start)}
        elif self.found is None:
            prepare(self.model, self.batches, self.config)
        self.learner: Gradient | Closed = learner(self.model, self.batches, self.config, self.team)
        history, spent = self._begin()
        show = progress if self.team.first else False
        bar = Progress(show, steps=self.config.steps, first=self.step, device=self.device)
        self.stack.callback(bar.close)
        self.record = Record(self.run if self.team.first else None, bar, history, spent)
        with Stopping() as stopping:
            self._loop(stopping, bar)
        if self.best_weights is not None:
            self.model.load_state_dict(self.best_weights)
        elif (ready := self.learner.ready()) is not self.model:
            self.model.load_state_dict(ready.state_dict())
        return FitResult(self.model, self.step, self.reason or "steps", history, self.record.seconds, self.run)

    def _loop(self, stopping: Stopping, bar: Progress) -> None:
        config, saved, mark = self.config, time.monotonic(), (time.monotonic(), self.step)
        began = self.step
        while self.step < config.steps and self.reason is None:
            try:
                seen = self.learner.step(self.step)
            except NotFinite as error:
                self.record.note("not finite", step=error.step, what=error.what, rows=error.rows)
                raise
            self.step += 1
            for player, loss in seen.losses.items():
                self.window[player] = self.window.get(player, 0.0) + loss
            self.counted += 1
            mean = next(iter(self.window.values())) / self.counted
            bar.step(self.step, mean, self._bits(mean))
            end = self.step == config.steps or seen.done
            if end or self.step % self.log_every == 0:
                now = time.monotonic()
                rate = (self.step - mark[1]) * seen.rows / max(now - mark[0], 1e-9)
                mark = (now, self.step)
                self._log(mean, seen.grad_norm, seen.lr, rate)
            if seen.done:
                self.reason = "converged"
            if self.valid_every and (end or self.step % self.valid_every == 0):
                self._validate()
            caught = self.team.any(stopping.caught, self.device)
            if caught and self.reason is None and self.step < config.steps:
                self.reason = signal.Signals(caught).name
            due = config.save_every is not None and self.step % config.save_every == 0
            late = config.save_seconds is not None and time.monotonic() - saved > config.save_seconds
            last = self.reason is not None or self.step == config.steps
            if due or late or last:
                self._save(last)
                saved = time.monotonic()
        # a kill may have come between the last checkpoint and the last line: then it is written now
        unsaid = self.record.run is not None and Ledger(self.record.run).last("stop") is None
        if self.step > began or unsaid:
            peak = {"memory": memory(self.device)}
            self.record.note("stop", step=self.step, reason=self.reason or "steps", timing=peak)

    def _begin(self) -> tuple[list[dict[str, Any]], Spent]:
        """Make the run folder, or put back what its checkpoint holds; the history and what was spent so far."""
        if self.found is not None and self.run is not None:
            _config, step, files = self.found
            where = Checkpoints(self.run).path(step)
            state = json.loads(files["state.json"])
            self._restore(state, files, where)
            if state["data"] != self.data_hash:
                raise ValueError(f"data is not what {self.run} was trained on: the training split has another SHA-256")
            self.step = step
            if self.reason is not None or step >= self.config.steps or not self.team.first:
                return Ledger(self.run).read("step", "valid", "stop"), json.loads(files["ledger.json"])
            return restart(self.run, step, files)
        if self.run is not None and self.team.first:
            parameters = list(self.model.parameters())
            start = {
                "asked": self.asked,
                **self.started,
                "model": header(self.model),
                "parameters": sum(p.numel() for p in parameters),
                "bytes": sum(p.numel() * p.element_size() for p in parameters),
                "train": self.config.model_dump(mode="json"),
                "data": getattr(self.data, "record", None) or {"train": self.data_hash},
                **surroundings(self.device, self.team.world),
            }
            create(self.run, start, self._files())
            self.stack.enter_context(lock(self.run / "lock", f"run {self.run}"))
        return [], {}

    def _log(self, loss: float, grad_norm: float | None, lr: float | None, rate: float) -> None:
        fields: dict[str, Any] = {"loss": loss, "bits_per_dim": self._bits(loss), "grad_norm": grad_norm, "lr": lr}
        if len(self.window) > 1:
            fields["losses"] = {player: total / self.counted for player, total in self.window.items()}
        timing = {"rows_per_second": round(rate, 1), "memory": memory(self.device)}
        self.record.note("step", step=self.step, **fields, timing=timing)
        self.window, self.counted = {}, 0

    def _validate(self) -> None:
        ready = self.learner.ready()
        fields = score(ready, self.valid, self.config, self.team)
        now, best = fields["score"], self.best
        if now is not None and (best["score"] is None or now > best["score"]):
            self.best = {"score": now, "step": self.step, "since": 0}
            if self.config.patience is not None:
                self.best_weights = {name: t.detach().clone() for name, t in ready.state_dict().items()}
        else:
            self.best = {**best, "since": best["since"] + 1}
        self.record.note("valid", step=self.step, **fields)
        if self.config.patience is not None and self.best["since"] >= self.config.patience and self.reason is None:
            self.reason = "patience"

    def _save(self, last: bool) -> None:
        if self.run is not None and self.team.first:
            self.record.checkpoint(self.step, self._files(), self.config.keep, last=last)

    def _files(self) -> dict[str, bytes]:
        """The state as files. Raises `NotFinite` rather than to write a NaN."""
        raw = self.model.state_dict()
        weights = self.best_weights or self.learner.ready().state_dict()
        tensors, counters = self.learner.state()
        if self.best_weights is not None or self.config.ema is not None:
            tensors |= {f"model/{name}": t for name, t in raw.items()}
        if hasattr(self.model, "training_state"):
            tensors |= {f"training/{name}": t for name, t in self.model.training_state().items()}
        for name, tensor in {**weights, **tensors}.items():
            if tensor.is_floating_point() and tensor.isnan().any():
                raise NotFinite(f"{name} holds a NaN, so that no checkpoint was written", self.step, [])
        state = {
            "format": 1,
            "step": self.step,
            "reason": self.reason if self.reason in ("patience", "converged") else None,
            "config": self.config.model_dump(mode="json"),
            "learner": counters,
            "window": self.window,
            "counted": self.counted,
            "best": self.best,
            "best_weights": self.best_weights is not None,
            "data": self.data_hash,
        }
        return {
            WEIGHTS: pack(weights, header(self.model)),
            "resume.safetensors": pack(tensors, {"format": 1}),
            "state.json": json.dumps(state, allow_nan=False).encode(),
        }

    def _restore(self, state: dict[str, Any], files: dict[str, bytes], where: Path) -> None:
        record, weights = unpack(files[WEIGHTS], where / WEIGHTS)
        own = header(self.model)
        for key in ("family", "config", "space", "condition"):
            if record[key] != own[key]:
                raise ValueError(f"model has the {key} {own[key]}, {where / WEIGHTS} has {record[key]}")
        _, tensors = unpack(files["resume.safetensors"], where / "resume.safetensors")
        raw = within(tensors, "model/") or weights
        state_of(self.model, {**tensors, **{f"model/{name}": t for name, t in raw.items()}}, str(where))
        self.learner.restore(tensors, state["learner"])
        if state["best_weights"]:
            self.best_weights = {name: t.to(self.device) for name, t in weights.items()}
        self.window, self.counted, self.best = state["window"], state["counted"], state["best"]
        self.reason = state["reason"]

    def _bits(self, loss: float) -> float | None:
        return loss / (self.model.space.dims * math.log(2)) if self.bits else None


def _continued(
    run: Path | None, asked: TrainConfig, fields: dict[str, Any], team: Team, stack: contextlib.ExitStack
) -> tuple[TrainConfig, int, dict[str, bytes]] | None:
    """Config, step and files of the run to go on with; None for a new one. The lock is held from here on."""
    old = run is not None and run.is_dir() and any(run.iterdir())
    if run is None or not team.any(int(old and team.first), torch.device("cpu")):
        return None
    if not Checkpoints(run).steps():
        raise ValueError(f"run is {run}, a folder that holds no checkpoint")
    if team.first:
        stack.enter_context(lock(run / "lock", f"run {run}"))
        clean(run / "checkpoints")
        step, files = Checkpoints(run).newest()
        Checkpoints(run).set_aside(step)
        team.any(1, torch.device("cpu"))
    else:
        team.any(1, torch.device("cpu"))
        step, files = Checkpoints(run).newest()
    recorded = TrainConfig.model_validate(json.loads(files["state.json"])["config"])
    for name in fields:
        given, had = getattr(asked, name), getattr(recorded, name)
        if given != had and name not in FREE:
            raise ValueError(f"{name} is {given!r}, {run} began with {had!r}; only {', '.join(FREE)} may change")
    return recorded.model_copy(update={name: getattr(asked, name) for name in fields if name in FREE}), step, files


@contextlib.contextmanager
def _surrounded(model: nn.Module, config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Threads as the config says, training mode, and a random state of our own; all put back afterwards."""
    threads, modes = torch.get_num_threads(), [(part, part.training) for part in model.modules()]
    torch.set_num_threads(config.threads or threads)
    model.train()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
            yield
    finally:
        torch.set_num_threads(threads)
        for part, mode in modes:
            part.training = mode


def _data_hash(data: Any, batches: Batches) -> str:
    known = getattr(data, "record", None) or {}
    return known.get("sha256", {}).get("train") or sha256_of(batches.x, batches.y)
