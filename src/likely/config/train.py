"""How a model is trained: the same choices for every family."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from likely.config.base import Config

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class TrainConfig(Config):
    """The choices of a training run. A step is one update; for learners in closed form one pass over the data."""

    steps: Count = 1000
    """Number of updates (gradient learners), or the most passes over the data (closed form)."""

    batch: Count = 64
    """Rows of an update in all, whatever `accumulate` and the number of processes."""

    accumulate: Count = 1
    """Pieces in which a process takes its share of a batch, to save memory; the update is that of the whole batch."""

    lr: Positive = 1e-3
    """Highest learning rate."""

    schedule: Literal["cosine", "constant"] = "cosine"
    """What the learning rate does after its warm-up: fall to 0 along a half cosine, or stay."""

    warmup: Share = 0.05
    """Share of the steps during which the learning rate rises linearly from 0."""

    optimiser: Literal["adamw", "adamax"] = "adamw"
    """AdamW (fused where the device has it) or Adamax."""

    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay of the optimiser's running means of the gradient and of its square (or size)."""

    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    """Decoupled weight decay (for Adamax: added to the gradient) of parameters with two or more axes."""

    clip: Positive | None = 10.0
    """Largest norm of the gradient; longer ones are scaled down to it. None leaves them as they are."""

    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of a running average of the weights, which then validates and is the result. It starts lower,
    at (1 + t) / (10 + t) after t steps, so that the first weights are soon forgotten."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs networks under autocast; log-likelihoods stay in the precision of the parameters."""

    compile: bool = False
    """Compile the loss (pays off in long runs only; 60 to 110 s for the first step on a CPU)."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Fixes the order of the rows, the noise of the loss and dropout."""

    tol: Annotated[float, Field(ge=0)] = 1e-5
    """A learner in closed form stops when a pass gains less than this many nats a row."""

    pass_rows: Count = 4096
    """Rows that a learner in closed form sees at a time, and that its data-dependent start sees."""

    prepare_rows: Count = 4096
    """Rows that the data-dependent start of a gradient learner sees."""

    valid_every: Annotated[int, Field(ge=0)] | None = None
    """Steps between two scores on the validation split; 0 is never, None ten times a run."""

    valid_rows: Count = 1000
    """Most rows of the validation split that are scored: the first ones."""

    patience: Count | None = None
    """Stop after this many validations without a better score; the best weights are then the result."""

    log_every: Count = 50
    """Steps between two lines of metrics in the ledger."""

    save_every: Count | None = None
    """Steps between two checkpoints. There is always one at the start, at the end and at a signal."""

    save_seconds: Positive | None = 120.0
    """Seconds between two checkpoints; None leaves them to `save_every`."""

    keep: Annotated[int, Field(ge=2)] = 2
    """Checkpoints that are kept, the newest ones."""

    device: str = "auto"
    """Where to train: "cpu", "cuda", "cuda:1"; auto takes a GPU where there is one."""

    threads: Count | None = None
    """Threads of the processor; None is torch's own number. Small models run fastest on 1."""

    @model_validator(mode="after")
    def _pieces_fit(self) -> TrainConfig:
        if self.batch % self.accumulate:
            raise ValueError(f"batch is {self.batch}, which accumulate={self.accumulate} pieces cannot share equally")
        return self


def train_config(**fields: Any) -> TrainConfig:
    """The config with these fields; a `ValueError` of one sentence for a field that does not exist or does not fit."""
    for name in fields:
        if name not in TrainConfig.model_fields:
            near = difflib.get_close_matches(name, TrainConfig.model_fields, 1, 0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{name} is no field of training; accepts {', '.join(TrainConfig.model_fields)}{hint}")
    try:
        return TrainConfig(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "training"
        given = f" is {first['input']!r}" if first["loc"] else ""
        raise ValueError(f"{where}{given}: {first['msg'].removeprefix('Value error, ')}") from error
