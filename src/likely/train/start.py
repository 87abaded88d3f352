"""A start from trained weights: those of a model of the same family, or of one that a part of this model is made of.

What may differ between the two is what their config class calls `free`: how a model learns or draws. All else says what
weights mean, and has to agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from likely.config.base import FamilyConfig
from likely.space import Integers
from likely.train.checkpoint import fingerprint, load_model, load_weights
from likely.verbs import Lossy, has, name_of


def start_from(model: nn.Module, start: str | Path | nn.Module) -> dict[str, Any]:
    """Put trained weights into a model, from another model or from whatever `load_model` takes; what the ledger says.

    Raises `TypeError` for a model that the registry did not build, `ValueError` where the two do not fit each other;
    the model is then as it was. Codecs of pictures of any size may have learned from others of another size.
    """
    if not isinstance(getattr(model, "config", None), FamilyConfig):
        raise TypeError(f"model is {name_of(model)}; start needs a model that likely.build made")
    other = start if isinstance(start, nn.Module) else load_model(start)
    said = f"start, {name_of(other)}," if isinstance(start, nn.Module) else f"start {start}"
    part: Any = model
    mine, theirs = part.config, getattr(other, "config", None)
    kinds = [mine.family, *mine.starts]
    if not isinstance(theirs, FamilyConfig) or theirs.family not in kinds:
        raise ValueError(f"start is {name_of(other)}; {mine.family} accepts the weights of {', '.join(kinds)}")
    if theirs.family != mine.family:
        field = mine.starts[theirs.family]
        part, mine = getattr(model, field), getattr(mine, field)
    for what in ("space", "condition"):
        if getattr(other, what) != getattr(model, what) and not (what == "space" and _any_size(model, other)):
            raise ValueError(f"{said} has the {what} {getattr(other, what)}, the model has {getattr(model, what)}")
    if gaps := list(differences(mine, theirs)):
        raise ValueError(f"{said} has {'; '.join(gaps)}: its weights mean something else there")
    load_weights(part, other.state_dict(), said)
    return {
        "from": None if isinstance(start, nn.Module) else str(start),
        "family": theirs.family,
        "weights": fingerprint(other),
    }


def _any_size(model: Any, other: Any) -> bool:
    """Whether both are about pictures that differ in height and width alone, and weights mean the same for all."""
    serves = has(model, Lossy) or hasattr(model, "at")
    mine, theirs = model.space, other.space
    pictures = isinstance(mine, Integers) and isinstance(theirs, Integers) and len(mine.shape) == len(theirs.shape) == 3
    return serves and pictures and (mine.shape[0], mine.levels) == (theirs.shape[0], theirs.levels)


def differences(mine: FamilyConfig, theirs: FamilyConfig, prefix: str = "") -> Iterator[str]:
    """Where two configs differ in fields that are not free, "field = theirs, not mine" each."""
    if type(mine) is not type(theirs):
        yield f"{prefix}family = {theirs.family!r}, not {mine.family!r}"
        return
    for name in type(mine).model_fields:
        a, b = getattr(mine, name), getattr(theirs, name)
        if isinstance(a, FamilyConfig) and isinstance(b, FamilyConfig):
            yield from differences(a, b, f"{prefix}{name}.")
        elif a != b and name not in mine.free:
            yield f"{prefix}{name} = {b!r}, not {a!r}"
