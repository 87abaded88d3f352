"""The score on the validation split: the best likelihood reading that a model has, else minus its loss."""

from __future__ import annotations

from typing import Any

import torch

from likely.config.train import TrainConfig
from likely.logprob import Kind, LogProb, log_prob, scoring
from likely.noise import Noise
from likely.train.learners import Batches, derived
from likely.train.parallel import Team
from likely.train.record import finite
from likely.verbs import Bounded, Estimated, Exact, Unnormalised, Weighted, has, takes_y

LIKELIHOODS = (Exact, Weighted, Bounded, Estimated)


def valid_rows(model: Any, data: Any, config: TrainConfig, device: torch.device) -> Batches | None:
    split = getattr(data, "valid", None)
    """The validation split, checked; None where there is none or it is not asked for."""
    if split is None or not len(split.x[0] if isinstance(split.x, tuple) else split.x) or config.valid_every == 0:
        if config.patience is not None:
            raise ValueError(f"patience is {config.patience}, but there is no validation split, or valid_every is 0")
        return None
    return Batches(model, split, device, "data.valid")


def score(model: Any, valid: Batches, config: TrainConfig, team: Team) -> dict[str, Any]:
    """The validation score (higher is better) and what it is: a log-likelihood, or minus the loss.

    A joint without p(x given y) has a likelihood of x, which says nothing about y: it is reported, the loss judges.
    """
    n = min(valid.n, config.valid_rows)
    seed = derived(config.seed, "validation")
    likely = any(has(model, verb) for verb in (*LIKELIHOODS, Unnormalised))
    fields = _likelihood(model, valid, n, seed, team) if likely else {}
    if likely and (model.condition is None or takes_y(model)):
        return fields
    x, y = valid.take(slice(0, n))
    with scoring(model):
        noise = Noise(seed, torch.arange(n, device=valid.device))
        loss = float(model.loss(x, y, player=model.players[0], noise=noise))
    return {**fields, "score": finite(-loss), "loss": finite(loss), "rows": n}


def _likelihood(model: Any, valid: Batches, n: int, seed: int, team: Team) -> dict[str, Any]:
    """log p(x given y) where the model takes y, else log p(x), over the first n rows, shared by the processes."""
    low, high = n * team.rank // team.world, n * (team.rank + 1) // team.world
    x, y = valid.space.take(valid.x, slice(low, high)), None
    if takes_y(model) and valid.y is not None and valid.condition is not None:
        y = valid.condition.take(valid.y, slice(low, high))
    part = log_prob(model, x, y, seed=seed, rows=torch.arange(low, high))
    nats = torch.zeros(n, dtype=torch.float64)
    nats[low:high] = part.nats
    every = LogProb(team.sum(nats.to(valid.device)).cpu(), part.kind, part.space, part.k)
    bits = None if part.kind is Kind.UNNORMALISED else finite(every.mean_bits_per_dim[0])
    fields = {"score": finite(every.mean), "stderr": finite(every.stderr), "bits_per_dim": bits}
    return {**fields, "measure": part.kind.value, "rows": n}
