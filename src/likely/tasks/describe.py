"""What a model is before anything is trained: its verbs, its size, what a row costs. And what every family can do."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from likely import registry
from likely.logprob import BATCH, scoring
from likely.noise import Noise
from likely.space import Integers, Reals, Space, Table
from likely.verbs import (
    VERBS,
    Bounded,
    ClosedForm,
    Estimated,
    Exact,
    Trainable,
    Unnormalised,
    Weighted,
    has,
    takes_y,
    verbs,
)


def families() -> dict[str, dict[str, str]]:
    """Families against verbs, from the tiny instances of the registry: "yes", "some" (it depends on the choices)
    or "no"."""
    table = {}
    for family in registry.FAMILIES:
        instances = registry.tiny(family).values()
        able = [set(verbs(registry.build(i.config, i.space, i.condition))) for i in instances]
        table[family] = {
            verb: "yes" if all(verb in a for a in able) else "some" if any(verb in a for a in able) else "no"
            for verb in VERBS
        }
    return table


def markdown(table: dict[str, dict[str, str]]) -> str:
    """The table as Markdown, a verb a row; verbs that no family has yet are left out."""
    sign = {"yes": "✓", "some": "(✓)", "no": ""}
    shown = [verb for verb in VERBS if any(row[verb] != "no" for row in table.values())]
    lines = [f"| verb | {' | '.join(table)} |", "|---|" + ":-:|" * len(table)]
    lines += [f"| `{verb}` | {' | '.join(sign[row[verb]] for row in table.values())} |" for verb in shown]
    return "\n".join(lines)


READINGS: dict[Any, str] = {
    Exact: "log_prob",
    Weighted: "log_weight",
    Bounded: "elbo",
    Estimated: "log_prob_estimate",
    Unnormalised: "energy",
}
"""The verbs that score a row and their methods, in the order in which the door for scores asks for them."""
LARGE = 4_000_000
"""Parameters from which on one row is enough to count on: a batch through a big model takes minutes here."""


def describe(model: nn.Module, *, batch: int | None = None) -> dict[str, Any]:
    """Parameters, verbs, memory and cost of a model, as JSON values.

    Multiply-adds are counted (by PyTorch's flop counter: matrix products and convolutions) on one batch, by default of
    `BATCH` rows, or of one row where the model is `LARGE`; the memory of a training step is weights, gradients, two
    moments and what the backward pass keeps at that batch, in bytes.
    """
    large = sum(p.numel() for p in model.parameters()) >= LARGE
    batch = batch or (1 if large else BATCH)
    with torch.no_grad():  # a draw of noise as a first batch, so that data-dependent starts have something to see
        x, y = blank(model.space, batch), None if model.condition is None else blank(model.condition, batch)
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    weights = sum(p.numel() * p.element_size() for p in (*model.parameters(), *model.buffers()))
    record: dict[str, Any] = {
        "family": model.config.family,
        "config": model.config.model_dump(mode="json"),
        "space": str(model.space),
        "condition": None if model.condition is None else str(model.condition),
        "verbs": list(verbs(model)),
        "parameters": sum(p.numel() for p in model.parameters()),
        "parameters_by_part": {name: count for name, count in parts.items() if count},
        "weights_bytes": weights,
        "learns": "by gradient" if has(model, Trainable) else "by EM" if has(model, ClosedForm) else "not at all",
    }
    if has(model, Trainable):
        if hasattr(model, "prepare") and not large:  # it changes no count, and a big model's may take long
            model.prepare(x, y, noise=Noise(0, batch))
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            loss = sum(model.loss(x, y, player=player, noise=Noise(0, batch)) for player in model.players)
            loss.backward()
        model.zero_grad(set_to_none=True)
        record["train_step"] = {
            "batch": batch,
            "multiply_adds_per_row": counter.get_total_flops() // 2 // batch,
            "memory_bytes": 4 * weights + sum(kept.values()),
        }
    if (verb := next((verb for verb in READINGS if has(model, verb)), None)) is not None:
        noise = {} if verb in (Exact, Unnormalised) else {"noise": Noise(0, batch)}
        with scoring(model), FlopCounterMode(display=False) as counter:
            getattr(model, READINGS[verb])(*((x, y) if takes_y(model) else (x,)), **noise)
        record["score"] = {"multiply_adds_per_row": counter.get_total_flops() // 2 // batch}
    return record


def blank(space: Space, n: int) -> Any:
    """n rows of a space to try a model on: uniform integers, normal numbers, every cell of a table seen."""
    noise = Noise(0, n)
    if isinstance(space, Integers):
        return noise.integers(space.levels, space.shape)
    if isinstance(space, Reals):
        return noise.normal(space.shape)
    if isinstance(space, Table):
        levels = torch.tensor([len(column.categories or ()) for column in space.columns])
        codes = (noise.uniform(space.shape) * levels).floor()
        return space.check(torch.where(levels > 0, codes, noise.normal(space.shape)))
    raise TypeError(f"space is {space}; accepts Integers, Reals or Table")
