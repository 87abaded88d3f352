"""Tables with mixed columns from CSV or Parquet.

A column whose cells are all numbers is real, one without numbers is categorical (in order of name), and one with both
is refused unless `categorical` names it. Cells that `missing` declares become unseen; any other empty cell or NaN is
an error that names the column and the row. A table of numbers without missing cells is `Reals`, any other a `Table`.
"""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from likely.data.arrays import file_facts
from likely.data.dataset import Found
from likely.extras import need
from likely.space import Column, Reals, Rows, Space, Table

SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")


class Raw(NamedTuple):
    """One column as a file holds it: strings (CSV), or numbers and strings with None for null (Parquet)."""

    name: str
    cells: list[Any]
    where: list[str]
    """Where each cell stands: "people.csv, line 3"."""


def is_table(path: Path) -> bool:
    """Whether a file's name is that of a table."""
    return path.name.lower().endswith(SUFFIXES)


def read_tables(
    files: dict[str, Path],
    *,
    label: str | None = None,
    categorical: tuple[str, ...] = (),
    missing: tuple[str, ...] = (),
) -> Found:
    """One table a split ({'train': path} alone: one pool), all with the same columns."""
    tables = {part: _read(path) for part, path in files.items()}
    names = [column.name for column in tables["train"]]
    for part, table in tables.items():
        if [column.name for column in table] != names:
            raise ValueError(f"{files[part]} has other columns than {files['train']}: it needs {', '.join(names)}")
    for option, wanted in (("label", (label,) if label else ()), ("categorical", categorical)):
        for name in wanted:
            if name not in names:
                raise ValueError(f"{option}: {files['train']} has no column {name!r}; it has {', '.join(names)}")
    rows = {part: len(table[0].cells) for part, table in tables.items()}
    for part, n in rows.items():
        if n == 0:
            raise ValueError(f"{files[part]} has columns but no rows")

    columns, cells, seen, y, classes = [], [], [], None, None
    for j, name in enumerate(names):
        same = [table[j] for table in tables.values()]
        raw = Raw(name, [c for part in same for c in part.cells], [w for part in same for w in part.where])
        column, codes = _parse(raw, name in categorical or name == label, missing)
        if name == label:
            if column.missing:
                raise ValueError(f"{raw.where[int(np.isnan(codes).argmax())]}: the label {name!r} is missing")
            y, classes = codes.astype(np.int64), column.categories
        else:
            columns.append(column)
            cells.append(codes)
            seen.append(~np.isnan(codes))
    if not columns:
        raise ValueError(f"{files['train']} has no column beside the label {label!r}")
    matrix = torch.from_numpy(np.stack(cells, 1)).to(torch.get_default_dtype())
    if all(column.categories is None and not column.missing for column in columns):
        space: Space = Reals((len(columns),))
        x: Any = matrix
    else:
        space, x = Table(tuple(columns)), Rows(matrix.nan_to_num(0.0), torch.from_numpy(np.stack(seen, 1)))
    ends = np.cumsum([0, *rows.values()])
    slices = {part: slice(int(a), int(b)) for part, a, b in zip(rows, ends[:-1], ends[1:], strict=True)}
    whole = [
        column.name
        for column, values in zip(columns, cells, strict=True)
        if column.categories is None and (values[~np.isnan(values)] % 1 == 0).all()
    ]
    facts = {
        "kind": "table",
        "files": [file_facts(path) for path in files.values()],
        "columns": [column.name for column in columns],
        "label": label,
        "missing": list(missing),
        # A density can be raised without limit where a real column only takes whole values.
        "real_columns_of_whole_numbers": whole,
    }
    xs = {part: space.take(x, s) for part, s in slices.items()}
    return Found(xs, None if y is None else {part: y[s] for part, s in slices.items()}, space, classes, facts)


def _parse(raw: Raw, categorical: bool, missing: tuple[str, ...]) -> tuple[Column, np.ndarray]:
    """The column, and its cells as numbers or codes, (n,) float64 with NaN where missing."""
    # Null and NaN of a Parquet file are what an empty cell is in a CSV file.
    texts = [c.strip() if isinstance(c, str) else "" if c is None or c != c else c for c in raw.cells]
    absent = [t in missing if isinstance(t, str) else False for t in texts]
    numbers = [math.nan if gone else _number(t) for t, gone in zip(texts, absent, strict=True)]
    for text, number, gone, where in zip(texts, numbers, absent, raw.where, strict=True):
        if not gone and (text == "" or (number is not None and math.isnan(number))):
            declare = f"declare it with missing=({text!r},) to allow that"
            raise ValueError(f"{where}: column {raw.name!r} is {text or 'empty'}; {declare}")
    if all(absent):
        raise ValueError(f"column {raw.name!r} has nothing but missing cells")
    words = sum(number is None for number in numbers)
    if not categorical and 0 < words < len(numbers) - sum(absent):
        at = next(i for i, number in enumerate(numbers) if number is None)
        raise ValueError(
            f"{raw.where[at]}: column {raw.name!r} holds numbers elsewhere, but here {texts[at]!r}; declare that with "
            f"missing=({texts[at]!r},), or read the whole column with categorical=({raw.name!r},)"
        )
    if not categorical and not words:
        values = np.array(numbers, np.float64)
        if np.isinf(values).any():
            raise ValueError(f"{raw.where[int(np.isinf(values).argmax())]}: column {raw.name!r} is infinite")
        return Column(raw.name, None, any(absent)), values
    names = [None if gone else str(t) for t, gone in zip(texts, absent, strict=True)]
    distinct = {name for name in names if name is not None}
    as_numbers = {name: _number(name) for name in distinct}
    by_value = all(number is not None for number in as_numbers.values())
    order = sorted(distinct, key=lambda name: (as_numbers[name] if by_value else 0, name))
    code = {name: float(k) for k, name in enumerate(order)}
    return (
        Column(raw.name, tuple(order), any(absent)),
        np.array([math.nan if name is None else code[name] for name in names]),
    )


def _number(cell: Any) -> float | None:
    if isinstance(cell, bool) or (isinstance(cell, str) and "_" in cell):  # float("1_0") is 10
        return None
    try:
        return float(cell)
    except ValueError:
        return None


def _read(path: Path) -> list[Raw]:
    return _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)


def _read_csv(path: Path) -> list[Raw]:
    gz = path.suffix.lower() == ".gz"
    separator = "\t" if path.name.lower().removesuffix(".gz").endswith(".tsv") else ","
    opener = gzip.open if gz else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=separator, strict=True)
            header = [name.strip() for name in next(reader, [])]
            if not header or "" in header or len(set(header)) != len(header):
                raise ValueError(f"its first line must name the columns, each once; it is {header}")
            rows, lines = [], []
            for row in reader:
                if row and len(row) != len(header):
                    raise ValueError(f"line {reader.line_num} has {len(row)} cells, the header {len(header)}")
                if row:
                    rows.append(row)
                    lines.append(f"{path}, line {reader.line_num} (row {len(rows)})")
    except (csv.Error, UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from error
    return [Raw(name, [row[j] for row in rows], lines) for j, name in enumerate(header)]


def _read_parquet(path: Path) -> list[Raw]:
    parquet = need("pyarrow.parquet", "data")
    pyarrow = need("pyarrow", "data")
    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, (FileNotFoundError, PermissionError)):
            raise
        raise ValueError(f"{path} cannot be read as Parquet: {error}") from error
    where = [f"{path}, row {i + 1}" for i in range(table.num_rows)]
    columns = []
    for field in table.schema:
        kind, types = field.type, pyarrow.types
        kind = kind.value_type if types.is_dictionary(kind) else kind
        accepted = (types.is_integer, types.is_floating, types.is_boolean, types.is_string, types.is_large_string)
        if not any(is_one(kind) for is_one in accepted):
            raise ValueError(f"{path}: column {field.name!r} holds {field.type}; accepts numbers, strings and booleans")
        columns.append(Raw(field.name, table.column(field.name).to_pylist(), where))
    return columns
