"""`load`: the one door to data."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from likely.config.data import DataConfig
from likely.data import arrays, images, named, tables
from likely.data.dataset import Data, Found, assemble
from likely.data.images import Progress

# Which options mean something for which kind of source; those about splits and `limit` always do.
_OPTIONS = {
    "folder of images": ("size", "mode", "max_pixels"),
    "table": ("label", "categorical", "missing"),
    "npz": ("levels",),
    "idx": (),
    "generated": ("rows", "seed"),
    "named": (),
}
_ALWAYS = ("source", "split", "valid", "test", "limit", "labelled")


def load(source: str | Path | DataConfig = "digits", *, progress: Progress | None = None, **fields: Any) -> Data:
    """Load a data set: a name (`digits`, `moons`, `fashion-mnist`, `hf:owner/name` ...), a path (.npz, .csv, .tsv,
    .parquet, idx, a folder of images or of tables train.csv, test.csv), or a `DataConfig`.

    `fields` are those of `DataConfig`: label, missing, size, mode, split, valid, test, limit and so on; an option that
    means nothing for the source is an error. `progress(done, total)` is called while images are read. Raises
    `ValueError` or `TypeError` naming the file, column, row or option.

    >>> load("digits")
    Data(digits: Integers((1, 8, 8), 17), 10 classes; 1000/350/447 rows)
    """
    if isinstance(source, DataConfig):
        if fields:
            raise TypeError(f"load takes a DataConfig or fields, not both; got {', '.join(fields)} as well")
        config = source
    else:
        for name in fields:
            if name not in DataConfig.model_fields:
                near = difflib.get_close_matches(name, DataConfig.model_fields, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"accepts {', '.join(DataConfig.model_fields)}"
                raise TypeError(f"load has no option {name!r}; {hint}")
        config = DataConfig(source=str(source), **fields)
    kind, name, found = _find(config, progress)
    found.facts["options"] = config.model_dump(mode="json", exclude_defaults=True, exclude={"source"})
    found.facts["kind"] = kind if kind != "named" else found.facts.get("kind", kind)
    return assemble(
        found,
        name=name,
        levels=config.levels,
        split=config.split,
        valid=config.valid,
        test=config.test,
        limit=config.limit,
        labelled=config.labelled,
        seed=config.seed or 0,
    )


def _find(config: DataConfig, progress: Progress | None) -> tuple[str, str, Found]:
    """The kind of the source, a name for the data, and what a reader found there."""
    source, path = config.source, Path(config.source).expanduser()
    if named.is_name(source):
        kind = "generated" if source in named.toys.TOYS else "named"
        _only(config, kind)
        return kind, source, named.read_name(source, rows=config.rows, seed=config.seed, progress=progress)
    if not path.exists():
        hint = named.nearest(source) if "/" not in source and "." not in source else "no file or folder is there"
        raise ValueError(f"source={source!r} is neither a data set nor a path; {hint}")
    if path.is_dir():
        parts = _tables_in(path)
        kind = "table" if parts else "folder of images"
        _only(config, kind)
        if parts:
            return kind, path.name, _table(config, parts)
        found = images.read_folder(
            path, mode=config.mode, size=config.size, max_pixels=config.max_pixels, progress=progress
        )
        return kind, path.name, found
    if tables.is_table(path):
        _only(config, "table")
        return "table", path.name, _table(config, {"train": path})
    if path.suffix == ".npz":
        _only(config, "npz")
        return "npz", path.name, arrays.read_npz(path, levels=config.levels)
    if arrays.is_idx(path):
        _only(config, "idx")
        return "idx", path.name, arrays.read_idx(path)
    kinds = ".npz, .csv, .tsv (also .gz), .parquet, idx files, folders of images"
    raise ValueError(f"source={source!r} is of no known kind; accepts {kinds}")


def _only(config: DataConfig, kind: str) -> None:
    """Refuse options that would silently do nothing."""
    for name in sorted(config.model_fields_set):
        default = DataConfig.model_fields[name].default
        used = (*_OPTIONS[kind], *_ALWAYS, *(("seed",) if config.labelled else ()))
        if name not in used and getattr(config, name) != default:
            accepts = ", ".join((*_OPTIONS[kind], *_ALWAYS[1:]))
            raise ValueError(
                f"{name}={getattr(config, name)!r} means nothing for {config.source!r} ({kind}); accepts {accepts}"
            )


def _table(config: DataConfig, files: dict[str, Path]) -> Found:
    return tables.read_tables(files, label=config.label, categorical=config.categorical, missing=config.missing)


def _tables_in(folder: Path) -> dict[str, Path]:
    """The tables train, valid and test of a folder that holds nothing else."""
    files = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    parts = {
        images.PARTS.get(path.name.split(".")[0]): path for path in files if path.is_file() and tables.is_table(path)
    }
    return {part: path for part, path in parts.items() if part} if len(parts) == len(files) and "train" in parts else {}
