"""`likely data get`: bring a data set from its public home on the Hugging Face hub into the user's cache.

What is written is one .npz of plain arrays and a JSON note with its SHA-256 and where it came from. Both get a
temporary name first and are renamed when complete, so a stopped download leaves nothing that looks like a data set.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from likely.data.images import PARTS, Mode, Progress, stack
from likely.data.named import KNOWN, cache_file, is_name, nearest
from likely.extras import need

LABELS = ("label", "labels", "fine_label", "target", "y", "class")


def get(
    name: str,
    *,
    home: str | Path | None = None,
    cache: Path | None = None,
    size: tuple[int, int] | None = None,
    mode: Mode | None = None,
    label: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Bring a named set, or `hf:owner/name`, into the cache; returns the .npz that `load(name)` then finds.

    home: instead of the set's home on the hub, another repository `owner/name`, or a folder: one that
    `datasets` saved (`save_to_disk`) or one of Parquet files. size and mode convert the images while they are read.
    Raises `ValueError` for an unknown name or a set without images or numbers, `ImportError` without the `data` extra.
    """
    known = KNOWN.get(name)
    if known is None and not name.startswith("hf:"):
        if is_name(name):
            raise ValueError(f"{name!r} needs no getting: it is built in")
        raise ValueError(f"no data set is called {name!r}; {nearest(name)}")
    home = home or (known.home if known else name.removeprefix("hf:"))
    if home is None:
        raise ValueError(f"{name!r} has no known home on the hub; give home=, a repository or a folder")
    if known is not None and (size or mode):
        raise ValueError(f"size and mode would make another data set of {name!r}; they are for hf:owner/name")
    path = cache_file(name, cache)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {}
    conversions: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory(prefix=".get-", dir=path.parent) as scratch:
        parts, left_out = _fetch(str(home), scratch)
        for part, rows in parts.items():
            x, y, classes, done = _convert(rows, f"{name}, {part}", label, size, mode, progress)
            arrays[f"x_{part}"], conversions[part] = x, done
            if y is not None:
                arrays[f"y_{part}"] = y
            if classes is not None:
                arrays["classes"] = np.array(classes)
        licence = known.licence if known else parts["train"].info.license or None
    note = {"name": name, "origin": str(home), "licence": licence, "conversions": conversions, "left_out": left_out}
    return _write(path, arrays, note)


def _fetch(home: str, scratch: str) -> tuple[dict[str, Any], list[str]]:
    """split name -> datasets.Dataset, and the names of splits that have no place here."""
    datasets = need("datasets", "data")
    folder = Path(home)
    if folder.is_dir() and any((folder / f).exists() for f in ("dataset_dict.json", "state.json")):
        found = datasets.load_from_disk(str(folder))
    else:
        found = datasets.load_dataset(home, cache_dir=scratch)
    if not hasattr(found, "keys"):
        found = {"train": found}
    strange = [part for part in found if part not in PARTS]
    parts = {PARTS[part]: rows for part, rows in found.items() if part in PARTS}
    if "train" not in parts:
        raise ValueError(f"{home} has the splits {', '.join(found)}; accepts train, validation and test")
    return parts, strange


def _convert(
    rows: Any, where: str, label: str | None, size: tuple[int, int] | None, mode: Mode | None, progress: Progress | None
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...] | None, dict[str, int]]:
    """x, y, names of the classes and conversions of one split: images if there is a column of them, else numbers."""
    datasets = need("datasets", "data")
    features = rows.features
    label = label or next((c for c in features if c in LABELS), None)
    if label is not None and label not in features:
        raise ValueError(f"{where} has no column {label!r}; it has {', '.join(features)}")
    y = classes = None
    if label is not None:
        y = np.asarray(rows[label])
        if y.ndim != 1 or y.dtype.kind not in "iubU":
            raise ValueError(
                f"{where}: column {label!r} holds {features[label]}; labels are integers or names, none null"
            )
        classes = tuple(features[label].names) if isinstance(features[label], datasets.ClassLabel) else None
    pictures = [c for c, feature in features.items() if isinstance(feature, datasets.Image)]
    if pictures:
        raw = rows.select_columns(pictures[:1]).cast_column(pictures[0], datasets.Image(decode=False))
        pairs = ((f"{where}, image {i}", _bytes(row[pictures[0]])) for i, row in enumerate(raw))
        x, done = stack(pairs, len(rows), size=size, mode=mode, progress=progress)
        return x.numpy(), y, classes, done
    numbers = [c for c, f in features.items() if c != label and getattr(f, "dtype", "").startswith(("int", "float"))]
    rest = [c for c in features if c not in numbers and c != label]
    if not numbers or rest:
        raise ValueError(f"{where} has no images, and columns that are no numbers: {', '.join(rest or features)}")
    return np.stack([np.asarray(rows[c], np.float64) for c in numbers], 1), y, classes, {}


def _bytes(cell: dict[str, Any]) -> bytes:
    return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()


def _write(path: Path, arrays: dict[str, np.ndarray], note: dict[str, Any]) -> Path:
    """The arrays, then the note with their hash, each under a temporary name, synced and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    note_path = path.with_suffix(".json")
    temporary = [path.with_name(f".{p.name}.{os.getpid()}") for p in (path, note_path)]
    try:
        with temporary[0].open("wb") as file:
            np.savez_compressed(file, **arrays)  # ty: ignore[invalid-argument-type]
            file.flush()
            os.fsync(file.fileno())
        with temporary[0].open("rb") as file:
            note = {**note, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
        with temporary[1].open("w", encoding="utf-8") as file:
            json.dump(note, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        note_path.unlink(missing_ok=True)  # an old note must not vouch for new arrays
        temporary[0].rename(path)
        temporary[1].rename(note_path)
    finally:
        for leftover in temporary:
            leftover.unlink(missing_ok=True)
    return path
