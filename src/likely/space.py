"""What x is.

A `Space` belongs to a model and says what its data are: integers, real vectors, a table with mixed columns.
Values are tensors (or named tuples of tensors) with a leading batch axis, and everyone handles them through the
methods of their space: `check`, `len`, `take`, `concat`, `pad`, `dims`. A label is a scalar integer,
`Integers((), classes)`, so a condition is a space as well.

Eight-bit data stay `uint8` until a batch reaches a model: `check` never widens what it is given.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import field
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass
from torch import Tensor

_STRICT = ConfigDict(extra="forbid")
Size = Annotated[int, Field(ge=1)]


class Space(ABC):
    """The set that x lives in. Abstract; see `Integers`, `Reals` and `Table`."""

    shape: tuple[int, ...]

    @property
    def dims(self) -> int:
        """Number of scalar dimensions of one x: what bits per dimension are divided by."""
        return math.prod(self.shape)

    @abstractmethod
    def check(self, x: Any, name: str = "x") -> Any:
        """Return x as a value of this space, or say what is wrong with it.

        Accepts tensors, NumPy arrays and nested lists with a leading batch axis. Raises `TypeError` for the wrong
        kind of number and `ValueError` for a wrong shape or range; both name the argument.
        """

    def len(self, x: Any) -> int:
        """Number of rows of a checked value."""
        return x.shape[0]

    def take(self, x: Any, index: Any) -> Any:
        """Rows `index` (a slice, or a tensor of positions) of a checked value."""
        return x[index]

    def concat(self, values: list[Any]) -> Any:
        """Checked values one after the other."""
        return torch.cat(values)

    def to(self, x: Any, device: torch.device | str) -> Any:
        """A checked value on another device."""
        return x.to(device)

    def pad(self, x: Any, n: int) -> Any:
        """A checked, non-empty value with its first row repeated until there are n rows."""
        have = self.len(x)
        return x if have == n else self.take(x, torch.arange(n).where(torch.arange(n) < have, 0))


@dataclass(frozen=True, config=_STRICT)
class Integers(Space):
    """Integers 0 .. levels-1 in an array: images (C, H, W), bits, tokens (T,), and labels ().

    `Integers((1, 8, 8), 17)` are the 8x8 digits, `Integers((3, 32, 32), 256)` eight-bit colour images,
    `Integers((), 10)` ten classes.
    """

    shape: tuple[Size, ...]
    levels: Annotated[int, Field(ge=2, le=2**31)]
    kind: Literal["integers"] = "integers"

    def check(self, x: Any, name: str = "x") -> Tensor:
        x = _tensor(x, name)
        if x.dtype.is_floating_point or x.dtype.is_complex:
            raise TypeError(f"{name} holds {_dtype(x)}; {self} needs integers 0 .. {self.levels - 1} (raw, not scaled)")
        x = x.to(torch.uint8) if x.dtype == torch.bool else x
        _check_shape(x, self.shape, name)
        if x.numel():
            low, high = int(x.min()), int(x.max())
            if low < 0 or high >= self.levels:
                raise ValueError(f"{name} holds values {low} .. {high}; {self} accepts 0 .. {self.levels - 1}")
        return x

    def centred(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """x on [-1, 1], 0 -> -1 and levels-1 -> 1: what networks like to see."""
        return x.to(dtype) * (2 / (self.levels - 1)) - 1

    def __str__(self) -> str:
        return f"Integers({self.shape}, {self.levels})"


@dataclass(frozen=True, config=_STRICT)
class Reals(Space):
    """Finite real arrays of one shape; `log_prob` is then a density, in nats, of the raw values."""

    shape: tuple[Size, ...]
    kind: Literal["reals"] = "reals"

    def check(self, x: Any, name: str = "x") -> Tensor:
        x = _tensor(x, name)
        if x.dtype.is_complex or x.dtype == torch.bool:
            raise TypeError(f"{name} holds {_dtype(x)}; {self} accepts real numbers")
        x = x if x.dtype.is_floating_point else x.to(torch.get_default_dtype())
        _check_shape(x, self.shape, name)
        bad = ~torch.isfinite(x).reshape(x.shape[0], -1).all(1) if x.numel() else x.new_zeros(0, dtype=torch.bool)
        if bad.any():
            raise ValueError(
                f"{name} has NaN or infinity in row {int(bad.nonzero()[0])}; {self} accepts finite numbers"
            )
        return x

    def __str__(self) -> str:
        return f"Reals({self.shape})"


@dataclass(frozen=True, config=_STRICT)
class Column:
    """One column of a `Table`: a real number, or one of named categories."""

    name: str
    categories: tuple[str, ...] | None = None
    """The categories in code order; None for a real column."""
    missing: bool = False
    """Whether cells of this column may be missing; an undeclared missing cell is an error."""


class Rows(NamedTuple):
    """Rows of a `Table`: cell values (codes for categories, anything where not seen) and which cells were seen."""

    cells: Tensor  # (B, columns) floating point
    seen: Tensor  # (B, columns) bool


@dataclass(frozen=True, config=_STRICT)
class Table(Space):
    """Rows with mixed columns. Values are `Rows(cells, seen)`; a bare array with NaN for missing is taken as well.

    `log_prob` of a row is that of its seen cells: a density over the real columns, a probability over the others.
    """

    columns: tuple[Column, ...]
    kind: Literal["table"] = "table"
    shape: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = [c.name for c in self.columns]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"columns must be non-empty with distinct names, got {names}")
        for column in self.columns:
            labels = column.categories
            if labels is not None and (not labels or len(set(labels)) != len(labels)):
                raise ValueError(f"columns: {column.name!r} needs distinct categories, got {labels}")
        object.__setattr__(self, "shape", (len(self.columns),))

    def check(self, x: Any, name: str = "x") -> Rows:
        if not isinstance(x, Rows):
            cells = _tensor(x, name)
            cells = cells if cells.dtype.is_floating_point else cells.to(torch.get_default_dtype())
            x = Rows(cells.masked_fill(cells.isnan(), 0.0), ~cells.isnan())
        cells, seen = x
        if not cells.dtype.is_floating_point or seen.dtype != torch.bool:
            raise TypeError(f"{name} holds {_dtype(cells)} cells and a {_dtype(seen)} mask; accepts floats and bool")
        _check_shape(cells, self.shape, name)
        _check_shape(seen, self.shape, f"{name}.seen")
        if seen.shape != cells.shape:
            raise ValueError(f"{name}.seen has shape {tuple(seen.shape)}, the cells have {tuple(cells.shape)}")
        for j, column in enumerate(self.columns):
            here, where = cells[:, j], f"{name}, column {column.name!r}"
            if not column.missing and not seen[:, j].all():
                row = int((~seen[:, j]).nonzero()[0])
                raise ValueError(f"{where} is missing in row {row}; declare it with missing=True to allow that")
            here = here[seen[:, j]]
            if not torch.isfinite(here).all():
                raise ValueError(f"{where} holds NaN or infinity in a cell marked as seen")
            if column.categories is not None:
                top = len(column.categories) - 1
                if ((here != here.round()) | (here < 0) | (here > top)).any():
                    raise ValueError(f"{where} must hold codes 0 .. {top}")
        return Rows(cells, seen)

    def len(self, x: Rows) -> int:
        return x.cells.shape[0]

    def take(self, x: Rows, index: Any) -> Rows:
        return Rows(x.cells[index], x.seen[index])

    def concat(self, values: list[Rows]) -> Rows:
        return Rows(torch.cat([v.cells for v in values]), torch.cat([v.seen for v in values]))

    def to(self, x: Rows, device: torch.device | str) -> Rows:
        return Rows(x.cells.to(device), x.seen.to(device))

    def __str__(self) -> str:
        return f"Table({', '.join(c.name for c in self.columns)})"


AnySpace = Annotated[Integers | Reals | Table, Field(discriminator="kind")]
_ANY: TypeAdapter[Integers | Reals | Table] = TypeAdapter(AnySpace)


def to_json(space: Space) -> dict[str, Any]:
    """A space as plain JSON values, as it stands in a checkpoint's header."""
    record = _ANY.dump_python(space, mode="json")  # ty: ignore[invalid-argument-type]
    if record["kind"] == "table":
        record.pop("shape", None)
    return record


def from_json(record: dict[str, Any]) -> Integers | Reals | Table:
    """The space that `to_json` wrote; raises `pydantic.ValidationError` (a `ValueError`) for anything else."""
    return _ANY.validate_python(record)


def _tensor(x: Any, name: str) -> Tensor:
    if isinstance(x, Tensor):
        return x
    try:
        return torch.as_tensor(np.asarray(x))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} is {type(x).__name__}; accepts a tensor, an array or nested lists of numbers"
        ) from error


def _check_shape(x: Tensor, shape: tuple[int, ...], name: str) -> None:
    if x.ndim == 0 or tuple(x.shape[1:]) != shape:
        want = ", ".join(["n", *map(str, shape)])
        raise ValueError(f"{name} has shape {tuple(x.shape)}; accepts ({want}), n rows of {shape or 'a scalar'}")


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
