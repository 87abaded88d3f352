"""Before anything is decoded: is this the model that wrote the file, and does it answer here as it did there?"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from likely.coding.errors import CorruptHeader, ModelMismatch, NumericsMismatch
from likely.coding.header import Head, numerics_of
from likely.verbs import name_of


def frozen(model: nn.Module) -> Any:
    """A copy on the CPU that only answers: in float64, unless the model's numbers are integers anyway."""
    dtype = None if numerics_of(model) == "int" else torch.float64
    return copy.deepcopy(model).to("cpu", dtype).eval().requires_grad_(False)


def check_model(header: Head, model: Any, have: str) -> None:
    """Raises `ModelMismatch` unless a file was written with this model, of hash `have`."""
    if header.model.sha256 != have:
        what = f": it was written by a model of family {header.model.family} over {header.space}"
        raise ModelMismatch(header.model.sha256, have, f"{what}, this one is a {name_of(model)} over {model.space}")
    if header.space != model.space:
        raise CorruptHeader(f"its space is {header.space}, its model's {model.space}")
    if header.numerics.profile != numerics_of(model):
        raise CorruptHeader(f"its numeric profile is {header.numerics.profile}, its model's {numerics_of(model)}")


def check_numerics(header: Head, found: str) -> None:
    """Raises `NumericsMismatch` unless the writer's fingerprint is the one that was `found` here."""
    if found != header.numerics.fingerprint:
        raise NumericsMismatch(
            f"this machine works out other tables ({found}) than the one that wrote the file "
            f"({header.numerics.fingerprint}, profile {header.numerics.profile}); decode it on a machine like that"
        )
