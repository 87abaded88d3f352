"""A running average of the weights.

"Acceleration of stochastic approximation by averaging" (Polyak and Juditsky, 1992), with exponential forgetting.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """An exponential moving average of a model's parameters; buffers are copied, not averaged.

    So are the parameters of modules with `averaged = False`: a learned noise schedule is only right as it is.
    All parameters move in one call, and the updates are counted here: nothing waits for a GPU.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates, self.model = decay, 0, model
        self.module = copy.deepcopy(model)
        copied = {id(p) for part in model.modules() if not getattr(part, "averaged", True) for p in part.parameters()}
        pairs = list(zip(self.module.parameters(), model.parameters(), strict=True))
        self.copied = [pair for pair in pairs if id(pair[1]) in copied]
        self.moved = [pair for pair in pairs if id(pair[1]) not in copied]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model's weights after an update."""
        buffers = zip(self.module.buffers(), self.model.buffers(), strict=True)
        for mine, theirs in (*buffers, *self.copied, *(self.moved if self.updates == 0 else ())):
            mine.copy_(theirs)
        if self.updates and self.moved:
            decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
            mine, theirs = map(list, zip(*self.moved, strict=True))
            get_ema_multi_avg_fn(decay)(mine, theirs, self.updates)
        self.updates += 1

    def ready(self) -> nn.Module:
        """A copy of the model with the averaged weights, ready to be asked (the average itself stays as it is)."""
        model: Any = copy.deepcopy(self.module)
        if hasattr(model, "after_step"):
            model.after_step()
        return model

    def state(self) -> dict[str, Tensor]:
        """Everything that resumes."""
        weights = {f"module.{name}": t for name, t in self.module.state_dict().items()}
        return {"n_averaged": torch.tensor(self.updates)} | weights

    def restore(self, state: dict[str, Tensor]) -> None:
        """Put back what `state` gave."""
        weights = {name.removeprefix("module."): t for name, t in state.items() if name != "n_averaged"}
        self.module.load_state_dict(weights)
        self.updates = int(state["n_averaged"])
