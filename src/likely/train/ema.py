"""A running average of the weights.

"Acceleration of stochastic approximation by averaging" (Polyak and Juditsky, 1992), with exponential forgetting.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Average:
    """An exponential moving average of a model's parameters; buffers are copied, not averaged.

    So are the parameters of modules with `averaged = False`: a learned noise schedule is only right as it is.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.averaged = AveragedModel(model, use_buffers=False)

    def update(self, model: nn.Module) -> None:
        """Take in the weights after an update."""
        t = int(self.averaged.n_averaged)
        self.averaged.multi_avg_fn = get_ema_multi_avg_fn(min(self.decay, (1 + t) / (10 + t)))
        self.averaged.update_parameters(model)
        for ours, theirs in zip(self.averaged.module.modules(), model.modules(), strict=True):
            if not getattr(theirs, "averaged", True):
                for mine, value in zip(ours.parameters(), theirs.parameters(), strict=True):
                    mine.data.copy_(value.data)

    def ready(self) -> nn.Module:
        """A copy of the model with the averaged weights, ready to be asked (the average itself stays as it is)."""
        model: Any = copy.deepcopy(self.averaged.module)
        if hasattr(model, "after_step"):
            model.after_step()
        return model

    def state(self) -> dict[str, Tensor]:
        """Everything that resumes."""
        return self.averaged.state_dict()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Put back what `state` gave."""
        self.averaged.load_state_dict(state)
