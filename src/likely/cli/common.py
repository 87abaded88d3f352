"""What the commands share: types of their flags, and steps that several take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

Words = Annotated[tuple[str, ...], arg(metavar="KEY=VALUE ...")]
Name = Annotated[str | None, arg(metavar="NAME")]
Count = Annotated[int | None, arg(metavar="N")]
Draws = Annotated[int | None, arg(metavar="N", aliases=("-k",))]
Class = Annotated[str | None, arg(metavar="CLASS", aliases=("-y",))]
Place = Annotated[Path | None, arg(metavar="PATH")]
Run = Annotated[Path, arg(metavar="RUN")]
Json = Annotated[bool, arg(help="Print one JSON object instead of text.")]
Out = Annotated[Path | None, arg(help="Write the figures to this JSON file as well.", metavar="PATH")]
Force = Annotated[bool, arg(help="Replace files that exist.")]
Split = Annotated[Literal["train", "valid", "test"], arg(help="Which part of the data.")]
Seed = Annotated[int, arg(help="Seed of everything random.")]


def new_run(out: Path | None, stem: str) -> Path:
    """A run folder that does not exist yet, or is empty: nothing is written over."""
    if out is not None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(f"out is {out}, which exists; accepts a new or empty folder (`likely resume` goes on)")
        return out
    number = 1
    while Path(f"runs/{stem}-{number}").exists():
        number += 1
    return Path(f"runs/{stem}-{number}")


def unwritten(force: bool, *paths: Path | None) -> None:
    """Before any work: nothing that was named as an output is there, unless it may be replaced."""
    named = [path for path in paths if path is not None]
    if len(set(named)) < len(named):
        raise ValueError(f"out is {named[0]}, where the page goes; accepts the name of another file, such as a .json")
    for path in named:
        if path.is_dir():
            raise ValueError(f"out is {path}, a folder; accepts the name of a file")
        if path.exists() and not path.is_file():
            raise ValueError(f"out is {path}, which is no file but a device or a pipe; accepts the name of a file")
        if path.exists() and not force:
            raise ValueError(f"out is {path}, which exists; choose another name, or --force to replace it")


def empty_folder(force: bool, folder: Path | None) -> None:
    """Before any work: a folder for outputs is new or empty, unless its files may be replaced."""
    if folder is not None and folder.exists() and not folder.is_dir():
        raise ValueError(f"out is {folder}, a file; accepts the name of a folder")
    if folder is not None and not force and folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"out is {folder}, which is not empty; choose another folder, or --force to replace its files")


def rows_of(own: Any, inputs: str | None, split: str, limit: int, real: bool = False) -> tuple[Any, list[str]]:
    """The first rows of inputs, or of the run's own data, and what to call them."""
    from likely.data.inputs import load_inputs

    if limit < 1:
        raise ValueError(f"limit is {limit}; accepts 1 or more")
    if inputs is None:
        x = getattr(own, split).x
        names = [f"{split} {i}" for i in range(own.space.len(x))]
    else:
        x, names = load_inputs(inputs, own.space, split=split, real=real)
    if not names:
        raise ValueError(f"inputs {inputs or own.name} has no rows in its split {split!r}; try another --split")
    return own.space.take(x, slice(0, limit)), names[:limit]


def class_of(run: Path, model: Any, y: str | None, n: int) -> Any:
    from likely.tasks.learn import classes_of

    return None if y is None else labels_of(model, classes_of(run), y, n)


def fresh(path: Path) -> Path:
    """A name that is free, for outputs that nobody named: a.png, a-2.png, a-3.png ..."""
    tries, number = path, 1
    while tries.exists():
        number += 1
        tries = path.with_stem(f"{path.stem}-{number}")
    return tries


def to_read(archive: Path) -> None:
    """Raises `ValueError` where no archive can be."""
    if archive.is_dir():
        raise ValueError(f"archive is {archive}, a folder; accepts an .lkz file")
    if not archive.exists():
        raise ValueError(f"archive is {archive}, and no file is there; accepts an .lkz file")


def archive_of(source: Path) -> Path:
    """The archive of a file or folder, where nobody named one: `photos.lkz`, also for `.` in photos."""
    whole = source.resolve()
    return Path(f"{(whole.stem if whole.is_file() else whole.name) or 'root'}.lkz")


OF_FILES = ("refused", "renamed")
"""What a record of compression says of single files."""


def is_run(path: Path) -> bool:
    """Whether it is a run folder, and no model alone, of which nothing is known but its weights."""
    return (path / "ledger.jsonl").is_file()


def noted(run: Path, figures: dict[str, Any]) -> None:
    """Write into the run's ledger what was compressed; where that cannot be done, the archive is there all the same."""
    from likely.terminal import say
    from likely.train import Ledger

    if not is_run(run):
        return
    try:
        Ledger(run).append("compress", figures=figures)
    except OSError as error:
        say(f"not in the run's ledger: {error}")


def archived(record: dict[str, Any], path: Path, text: str, json: bool) -> int:
    """Say what compression came to, and of which pictures something else than they are is in the file; the status."""
    from likely.terminal import give, say

    for name, why in record["refused"].items():
        say(f"left out: {why if name in why else f'{name}: {why}'}")
    for name, new in record["renamed"].items():
        say(f"renamed: {name!r} is {new!r} in the file")
    left = f"\n{len(record['refused'])} left out" if record["refused"] else ""
    give(record, f"{path}: {text}{left}", None, json)
    return 1 if record["refused"] else 0


def told(result: Any, name: str, json: bool) -> int:
    """Say what training came to; the exit status."""
    from likely.logprob import Kind
    from likely.terminal import give

    scores = [line for line in result.history if line["kind"] == "valid"]
    ended = {"steps": "all steps made", "converged": "converged", "patience": "no better any more"}
    record = {
        "run": str(result.run),
        "data": name,
        "step": result.step,
        "reason": result.reason,
        "seconds": round(result.seconds, 2),
        "valid": scores[-1] if scores else None,
    }
    lines = [f"{ended.get(result.reason, 'stopped')} after {result.step} steps, {result.seconds:.0f} s: {result.run}"]
    if scores and scores[-1].get("bits_per_dim") is not None:
        bits = f"{Kind(scores[-1]['measure']).of_bits} {scores[-1]['bits_per_dim']:.3f}"
        lines.append(f"validation {bits} bits/dim at step {scores[-1]['step']}")
    if result.signal is not None:
        lines.append(f"go on: likely resume {result.run}")
    give(record, "\n".join(lines), None, json)
    return 0 if result.signal is None else 128 + result.signal


def data_of(run: Path, other: str | None) -> Any:
    from likely.config.data import DataConfig
    from likely.data import load
    from likely.tasks.learn import recipe_of

    recipe = recipe_of(run)
    return load(DataConfig(source=other) if other else recipe.data)


def other_data(source: str) -> Any:
    from likely.config.data import DataConfig
    from likely.data import load

    return load(DataConfig(source=source))


def fits(model: Any, data: Any) -> None:
    if data.space != model.space:
        raise ValueError(f"data {data.name} lives in {data.space}; the model in {model.space}")
    if None not in (data.condition, model.condition) and data.condition != model.condition:
        raise ValueError(f"data {data.name} has labels {data.condition}; the model learned {model.condition}")


def first(split: Any, space: Any, limit: int | None) -> Any:
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; accepts 1 or more")
    part = slice(0, limit)
    return type(split)(space.take(split.x, part), None if split.y is None else split.y[part])


def labels_of(model: Any, names: tuple[str, ...], y: str | None, n: int) -> Any:
    """The condition of n draws from what was asked: a class by name or number, or every class in turn."""
    import torch

    from likely.verbs import Joint, JointBound, has

    if model.condition is None:
        if y is not None:
            raise ValueError(f"y is {y!r}, but this model has no classes")
        return None
    if y is None:
        free = has(model, Joint) or has(model, JointBound)
        return None if free else torch.arange(n) % model.condition.levels
    if y in names:
        return torch.full((n,), names.index(y))
    if not y.isdecimal() or int(y) >= model.condition.levels:
        raise ValueError(f"y is {y!r}; accepts {', '.join(names) or f'0 .. {model.condition.levels - 1}'}")
    return torch.full((n,), int(y))
