"""A run as a card sees it: the newest good weights, their hash, and the data if they are to be had."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from likely.data import Data, load
from likely.data.splits import sha256_of
from likely.tasks.learn import recipe_of
from likely.train import Ledger
from likely.train.checkpoint import WEIGHTS, Checkpoints, rebuild, unpack


@dataclass(frozen=True)
class Weights:
    """The weights of a run's newest good checkpoint, as bytes; `sha256` is what names them."""

    step: int
    data: bytes
    path: Path

    @property
    def sha256(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.data).hexdigest()

    def model(self) -> nn.Module:
        """The model, in evaluation mode."""
        record, tensors = unpack(self.data, self.path)
        return rebuild(record, tensors, self.path)


def weights_of(run: Path) -> Weights:
    """The newest good weights of a run; a `ValueError` says what is wrong with the folder."""
    if not run.is_dir():
        raise ValueError(f"run is {run}, where no folder is; accepts a folder made by `likely train` or `likely tour`")
    step, files = Checkpoints(run).newest()
    where = Checkpoints(run).path(step) / WEIGHTS
    if WEIGHTS not in files:
        raise ValueError(f"{where} is missing")
    return Weights(step, files[WEIGHTS], where)


def data_of(run: Path) -> tuple[Data | None, str]:
    """The data that a run was trained on, or None and why they are not to be had."""
    try:
        data = load(recipe_of(run).data)
    except (ValueError, TypeError, OSError) as error:
        return None, f"the data of the run could not be loaded: {error}"
    return checked(run, data)


def checked(run: Path, data: Data) -> tuple[Data | None, str]:
    """The data, if the ledger says that their training split is the one that was learned from."""
    if not isinstance(data, Data):
        raise TypeError(f"data is {type(data).__name__}; accepts what likely.load or likely.from_arrays made")
    told = Ledger(run).lines()[0].get("data") or {}
    known = told.get("sha256") or {part: told[part] for part in ("train",) if part in told}
    for part, sha256 in known.items():
        split = getattr(data, part)
        if (data.record.get("sha256", {}).get(part) or sha256_of(split.x, split.y)) != sha256:
            return None, f"the data are no more what the run was trained on: their split {part!r} has another SHA-256"
    return data, ""


Tell = Callable[[str, int, int], None]
"""Progress: what is being measured, how much of it is done, and of how much."""
