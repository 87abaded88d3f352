"""`Data`: training, validation and test rows with the space they live in and a record of where they came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from likely.data import splits
from likely.space import Integers, Reals, Rows, Space, to_json

NAMES = ("train", "valid", "test")


@dataclass(frozen=True)
class Split:
    """Rows x of a space (bytes stay `uint8`) and their labels y: (n,) int64, or None."""

    x: Any
    y: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x.cells if isinstance(self.x, Rows) else self.x)

    def __repr__(self) -> str:
        return f"Split({len(self)} rows{'' if self.y is None else ', labelled'})"


@dataclass(frozen=True)
class Data:
    """A data set: three disjoint splits, `space` of x, `condition` = `Integers((), K)` of y or None, names of the
    classes, and `record`: JSON values that say where the rows came from, how they were split, and their hashes."""

    name: str
    space: Space
    train: Split
    valid: Split
    test: Split
    condition: Integers | None = None
    classes: tuple[str, ...] | None = None
    record: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        labels = "" if self.condition is None else f", {self.condition.levels} classes"
        return f"Data({self.name}: {self.space}{labels}; {len(self.train)}/{len(self.valid)}/{len(self.test)} rows)"


@dataclass(frozen=True)
class Found:
    """What a reader found. x and y have a key for each split that the source brings ('train' alone: one pool)."""

    x: dict[str, Any]
    y: dict[str, Any] | None = None
    space: Space | None = None
    classes: tuple[str, ...] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    """What goes into the record: kind, files, licence, conversions."""
    rule: Literal["content", "index", "order"] | None = None
    counts: tuple[int, int] | None = None
    """Rows of valid and of test, where the set prescribes them."""


def from_arrays(
    x: Any,
    y: Any = None,
    *,
    space: Space | None = None,
    classes: tuple[str, ...] | None = None,
    name: str = "arrays",
    levels: int | None = None,
    split: Literal["content", "index", "order"] | None = None,
    valid: float = 0.1,
    test: float = 0.1,
    labelled: int | None = None,
    seed: int = 0,
) -> Data:
    """Data from arrays in memory: x with a leading batch axis (images are (n, C, H, W)), y (n,) labels or None.

    Without `space`, floats are `Reals` and integers `Integers`, with `levels` values (by default 256 for bytes, 2 when
    none exceeds 1; for wider integers the largest value plus one). `labelled` training rows, drawn by `seed`, keep
    their label where it is given; the others get -1. Raises `TypeError` or `ValueError` naming x or y.
    """
    found = Found({"train": x}, None if y is None else {"train": y}, space, classes, {"kind": "arrays"})
    return assemble(found, name=name, levels=levels, split=split, valid=valid, test=test, labelled=labelled, seed=seed)


def assemble(
    found: Found,
    *,
    name: str,
    levels: int | None = None,
    split: Literal["content", "index", "order"] | None = None,
    valid: float | None = None,
    test: float | None = None,
    limit: int | None = None,
    labelled: int | None = None,
    seed: int = 0,
) -> Data:
    """Check what a reader found, carve the splits it lacks off train, and write the record."""
    if (valid or 0) + (test or 0) >= 1 or min(valid or 0, test or 0) < 0:
        raise ValueError(f"valid={valid} and test={test} must be shares of the rows that leave some to train on")
    where = {part: f"{name}: x" if len(found.x) == 1 else f"{name}: x of {part}" for part in found.x}
    xs = {part: _numbers(x, where[part]) for part, x in found.x.items()}
    space = found.space or infer_space(list(xs.values()), levels, f"{name}: x")
    xs = {part: space.check(x, where[part]) for part, x in xs.items()}
    ys, classes = _labels(found, {part: space.len(x) for part, x in xs.items()}, name)

    rule = split or found.rule or ("content" if isinstance(space, Integers) and len(space.shape) == 3 else "index")
    parts, carved = _carve(found, space, xs, ys, rule, valid, test, name)
    if limit is not None:
        parts = {
            k: Split(space.take(s.x, slice(limit)), None if s.y is None else s.y[:limit]) for k, s in parts.items()
        }
    told = {}
    if labelled is not None:
        y, told = _kept_labels(parts["train"].y, labelled, seed, name)
        parts["train"] = Split(parts["train"].x, y)
    keys = {part: splits.content_keys(s.x) for part, s in parts.items()}
    record = {
        "name": name,
        **found.facts,
        "space": to_json(space),
        "classes": None if classes is None else list(classes),
        "split": carved if limit is None else {**carved, "limit": limit},
        "rows": {part: len(s) for part, s in parts.items()},
        "sha256": {part: splits.sha256_of(s.x, s.y) for part, s in parts.items()},
        "duplicates": splits.duplicates(keys),
        **told,
    }
    condition = None if classes is None else Integers((), len(classes))
    return Data(name, space, **parts, condition=condition, classes=classes, record=record)


def infer_space(xs: list[Any], levels: int | None, name: str) -> Space:
    """The space of tensors (n, *shape): `Reals` of floats, `Integers` of integers; see `from_arrays` for levels."""
    shape = tuple(xs[0].shape[1:])
    if 0 in shape:
        raise ValueError(f"{name} has rows of shape {shape}, which hold nothing")
    if xs[0].dtype.is_floating_point:
        if levels is not None:
            raise ValueError(f"levels={levels} is for integers; {name} holds {str(xs[0].dtype).removeprefix('torch.')}")
        return Reals(shape)
    if levels is None:
        top = max((int(x.max()) for x in xs if x.numel()), default=0)
        levels = 2 if top <= 1 else 256 if xs[0].dtype == torch.uint8 else top + 1
    return Integers(shape, levels)


def _numbers(x: Any, name: str) -> Any:
    """A tensor of uint8, int64 or the default floating type; rows of a table as they are."""
    if isinstance(x, Rows):
        return x
    if not isinstance(x, Tensor):
        array = np.asarray(x)
        if array.dtype.kind not in "buif":
            raise TypeError(f"{name} holds {array.dtype}; accepts integers, floats or bool")
        x = torch.from_numpy(array if array.dtype in (np.uint8, np.bool_) else _wide(array))
    if x.ndim == 0 or x.shape[0] == 0:
        raise ValueError(f"{name} is empty: shape {tuple(x.shape)}; accepts (n, ...) with n >= 1")
    if x.dtype.is_floating_point:
        return x.to(torch.get_default_dtype())
    return x.to(torch.uint8 if x.dtype in (torch.uint8, torch.bool) else torch.int64)


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.int64 if array.dtype.kind in "ui" else np.float64)


def _labels(found: Found, rows: dict[str, int], name: str) -> tuple[dict[str, Tensor] | None, tuple[str, ...] | None]:
    """Labels as (n,) int64 and the names of their classes; (None, None) when there are none to tell apart."""
    if found.y is None:
        return None, None
    lacking = sorted(set(found.x) - set(found.y))
    if lacking:
        raise ValueError(f"{name}: y has no labels for {', '.join(lacking)}, but for {', '.join(sorted(found.y))}")
    ys = {part: y if isinstance(y, Tensor) else np.asarray(y) for part, y in found.y.items()}
    classes = found.classes
    if any(isinstance(y, np.ndarray) and y.dtype.kind in "US" for y in ys.values()):
        classes = tuple(str(c) for c in np.unique(np.concatenate([y.astype(str) for y in ys.values()])))
        ys = {part: np.searchsorted(classes, y.astype(str)) for part, y in ys.items()}
    tensors = {}
    for part, y in ys.items():
        y = y if isinstance(y, Tensor) else torch.as_tensor(_wide(y) if y.dtype.kind in "ui" else y)
        if y.dtype.is_floating_point or y.dtype.is_complex:
            raise TypeError(
                f"{name}: y holds {str(y.dtype).removeprefix('torch.')}; accepts integers 0 .. K - 1 or names"
            )
        if tuple(y.shape) != (rows[part],):
            raise ValueError(
                f"{name}: y has shape {tuple(y.shape)}; accepts ({rows[part]},), a label for each row of x"
            )
        tensors[part] = y.to(torch.int64)
    low = min(int(y.min()) for y in tensors.values() if len(y))
    high = max(int(y.max()) for y in tensors.values() if len(y))
    classes = classes or tuple(str(k) for k in range(high + 1))
    if low < 0 or high >= len(classes):
        raise ValueError(f"{name}: y holds labels {low} .. {high}; accepts 0 .. {len(classes) - 1}")
    return (tensors, classes) if len(classes) > 1 else (None, None)


def _kept_labels(y: Tensor | None, keep: int, seed: int, name: str) -> tuple[Tensor, dict[str, Any]]:
    """y with -1 in all rows but `keep`, and the record of that: the first of every class in a drawn order, then the
    second of every class, and so on."""
    if y is None:
        raise ValueError(f"labelled={keep} is not possible: {name} has no labels")
    if not 1 <= keep <= len(y):
        raise ValueError(f"labelled={keep} is not possible: {name} has {len(y)} training rows; accepts 1 .. {len(y)}")
    order = splits.drawn_order(len(y), f"rows that keep their label, seed {seed}")
    drawn = y[order]
    turn = torch.zeros(len(y), dtype=torch.int64)  # how many rows of the same class come before
    for label in drawn.unique():
        turn[drawn == label] = torch.arange(int((drawn == label).sum()))
    kept = order[turn.argsort(stable=True)[:keep]]
    record = {"labelled": {"rows": keep, "seed": seed, "sha256": splits.sha256_of(kept.sort().values, None)}}
    return torch.full_like(y, -1).index_put((kept,), y[kept]), record


def _carve(
    found: Found,
    space: Space,
    xs: dict[str, Any],
    ys: dict[str, Tensor] | None,
    rule: str,
    valid: float | None,
    test: float | None,
    name: str,
) -> tuple[dict[str, Split], dict[str, Any]]:
    """The three splits: those that were found, and the missing ones carved off train."""
    if "train" not in xs:
        raise ValueError(f"{name} has the splits {', '.join(xs)}; accepts train alone or with valid and test")
    for option, share in (("valid", valid), ("test", test)):
        if option in xs and share is not None:
            raise ValueError(f"{option}={share} is not possible: {name} brings its own {option} split")
    n = space.len(xs["train"])
    if found.counts is not None and valid is None and test is None:
        counts = {"valid": found.counts[0], "test": found.counts[1]}
    else:
        shares = {"valid": 0.1 if valid is None else valid, "test": 0.1 if test is None else test}
        counts = {part: 0 if part in xs else round(share * n) for part, share in shares.items()}
    if rule == "order":
        index = splits.in_order(n, counts["valid"], counts["test"])
    else:
        keys = splits.content_keys(xs["train"]) if rule == "content" else splits.index_keys(n)
        index = splits.carve(keys, counts["valid"], counts["test"])
    if not len(index["train"]):
        raise ValueError(f"{name}: splitting {n} rows with {counts} leaves none to train on")

    parts = {}
    for part in NAMES:
        of, rows = (part, slice(None)) if part in xs and part != "train" else ("train", index[part])
        parts[part] = Split(space.take(xs[of], rows), None if ys is None else ys[of][rows])
    carved = [part for part in ("valid", "test") if part not in xs and counts[part]]
    told = {"found": list(xs), "carved": carved}
    return parts, {**told, "rule": rule, "meaning": splits.RULES[rule]} if carved else told
