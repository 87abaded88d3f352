"""A recipe: everything that a training run was asked for, from a TOML file, the command line, or both."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from likely.config.base import Config
from likely.config.data import DataConfig
from likely.config.train import TrainConfig

_MAX_BYTES = 1_000_000


class Recipe(Config):
    """What to train, on what, and how."""

    family: str
    """The family, for instance `vae`; `likely families` lists them."""

    preset: str = "default"
    """The named config of the family to start from."""

    conditional: bool = False
    """Learn p(x given y) instead of p(x); a joint always learns p(x, y)."""

    model: dict[str, Any] = Field(default_factory=dict)
    """Fields of the family's config that differ from the preset, or from the run's to start from."""

    start: str | None = None
    """A run whose weights to start from: of the same family, or of a part (for consistency, a diffusion run)."""

    data: DataConfig = DataConfig()
    """The data."""

    train: TrainConfig = TrainConfig()
    """The training."""


def read(path: Path) -> dict[str, Any]:
    """The tables of a TOML recipe; raises `ValueError` naming the file where it is not one."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"{path} is larger than a recipe can be ({_MAX_BYTES} bytes)")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a TOML recipe: {error}") from error


def override(record: dict[str, Any], assignments: Iterable[str], model_fields: Iterable[str]) -> dict[str, Any]:
    """A recipe's tables with `key=value` assignments put in.

    A key is `train.lr`, `model.latent`, `data.limit`, or only the last part where just one table knows it. Values
    are TOML; what is no TOML value is text. Raises `ValueError` for a key that no table knows, proposing the
    nearest, or that several know.
    """
    fields = {
        "train": set(TrainConfig.model_fields),
        "model": set(model_fields),
        "data": set(DataConfig.model_fields),
    }
    record = {key: dict(value) if isinstance(value, dict) else value for key, value in record.items()}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise ValueError(f"{assignment!r} is no assignment; accepts key=value, for instance lr=3e-4")
        table, _, name = key.partition(".")
        if table in fields and name:
            homes = [table]
        else:
            name = key
            homes = [home for home, names in fields.items() if table in names]
        if len(homes) > 1:
            raise ValueError(f"{key} is a field of {' and '.join(homes)}; write {homes[0]}.{key} or {homes[1]}.{key}")
        if not homes or name.partition(".")[0] not in fields[homes[0]]:
            known = sorted(fields[homes[0]]) if homes else sorted(set().union(*fields.values()))
            near = difflib.get_close_matches(name, known, 1, 0.5)
            hint = f"; did you mean {near[0]!r}?" if near else f"; accepts {', '.join(known)}"
            raise ValueError(f"{key} is no field of {homes[0] if homes else 'train, model or data'}{hint}")
        place: Any = record.setdefault(homes[0], {})
        *path, last = name.split(".")
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ValueError(f"{key}: {part} is {place!r} already; it takes no fields of its own")
        place[last] = _value(text)
    return record


def settings_of(assignments: Iterable[str]) -> dict[str, Any]:
    """A table of `key=value` assignments, values as in `override`. Raises `ValueError` for what is no assignment."""
    pairs = [assignment.partition("=") for assignment in assignments]
    for key, equals, text in pairs:
        if not equals or not key:
            raise ValueError(f"{key + equals + text!r} is no assignment; accepts key=value, for instance guidance=3")
    return {key: _value(text) for key, _, text in pairs}


def parse(record: dict[str, Any]) -> Recipe:
    """A checked recipe; raises `ValueError` that names the field, what came and what is accepted."""
    try:
        return Recipe.model_validate(record)
    except ValidationError as error:
        raise ValueError(sentence(error)) from error


def sentence(error: ValidationError) -> str:
    """A validation error on one line: the field, what came, what is accepted."""
    parts = []
    for issue in error.errors():
        where = ".".join(str(place) for place in issue["loc"]) or error.title
        came = "" if issue["type"] == "missing" else f" is {issue['input']!r}"
        message = issue["msg"].removeprefix("Value error, ")
        told = message.startswith(f"{where} is ") or not issue["loc"]  # a rule over several fields names them itself
        parts.append(message if told else f"{where}{came}: {message}")
    return "; ".join(parts)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
