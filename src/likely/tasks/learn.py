"""From a recipe to a trained model, and back from a run folder to its recipe."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from torch import nn

from likely.config.recipe import Recipe, parse
from likely.data import Data, load
from likely.registry import build, config_class, configure
from likely.train import FitResult, Ledger, fit, load_model
from likely.train.checkpoint import WEIGHTS, Checkpoints, header, pack


class Stopped(Exception):
    """Training was ended by a signal, whose number is the argument; what was reached is in the run folder."""


def model_of(recipe: Recipe, data: Data) -> nn.Module:
    """The untrained model of a recipe; raises `ValueError` where labels are needed and the data have none."""
    conditional = recipe.conditional or config_class(recipe.family).learns_labels
    if conditional and data.condition is None:
        raise ValueError(f"data {data.name} has no labels; p(x given y) and p(x, y) are learned from labels")
    config = configure(recipe.family, recipe.preset, **recipe.model)
    return build(config, data.space, data.condition if conditional else None, seed=recipe.train.seed)


def learn(recipe: Recipe, run: Path, *, progress: Any = None) -> tuple[FitResult, Data]:
    """Train what a recipe asks for, with everything recorded in the folder `run`; progress as for `fit`."""
    recipe, data = resolved(recipe), load(recipe.data)
    asked = {"recipe": recipe.model_dump(mode="json"), "classes": data.classes}
    fields = recipe.train.model_dump(exclude_unset=True)
    return fit(
        model_of(recipe, data), data, run=run, start=recipe.start, asked=asked, progress=progress, **fields
    ), data


def resolved(recipe: Recipe) -> Recipe:
    """A recipe that says all of its model: where it starts from a run, the config is that run's, with the recipe's own
    fields put in. Raises `ValueError` where the run is of a family that does not start this one."""
    if recipe.start is None:
        return recipe
    family, other = config_class(recipe.family), load_model(recipe.start)
    config = other.config.model_dump(mode="json")
    if config["family"] == recipe.family:
        if recipe.preset != "default":
            raise ValueError(f"preset is {recipe.preset!r} beside start, whose config it would replace; accepts one")
        fields = config | recipe.model
        fields.pop("family")
    elif config["family"] in family.starts:
        field = family.starts[config["family"]]
        own = recipe.model.get(field, {})
        fields = recipe.model | {field: own if isinstance(own, str) else config | own}
    else:
        kinds = ", ".join([recipe.family, *family.starts])
        raise ValueError(f"start is {recipe.start}, a run of {config['family']}; {recipe.family} accepts {kinds}")
    conditional = recipe.conditional or (other.condition is not None and not family.learns_labels)
    return recipe.model_copy(update={"model": fields, "conditional": conditional})


def learn_on(run: Path, *, steps: int | None = None, progress: Any = None) -> tuple[FitResult, Data]:
    """Go on with a run from its last good checkpoint, to a new total of steps if one is given."""
    recipe = recipe_of(run)
    data = load(recipe.data)
    return fit(model_of(recipe, data), data, run=run, resume=True, steps=steps, progress=progress), data


def keep(model: Any, run: Path, recipe: Recipe, classes: tuple[str, ...] | None, made_of: dict[str, Any]) -> None:
    """A run folder for a model that was put together instead of trained; `made_of` says from what.

    Raises `ValueError` for a model that its config does not build again: its weights could not be loaded.
    """
    again = build(model.config, model.space, model.condition).state_dict()
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if shapes != {name: tensor.shape for name, tensor in again.items()}:
        raise ValueError("the parts have networks of different sizes; a run folder accepts parts of one config")
    config = model.config.model_dump(mode="json")
    config.pop("family")
    recipe = recipe.model_copy(update={"preset": "default", "model": config, "start": None})
    Checkpoints(run).folder.mkdir(parents=True)
    Checkpoints(run).write(0, {WEIGHTS: pack(model.state_dict(), header(model))}, keep=1)
    asked = {"recipe": recipe.model_dump(mode="json"), "classes": classes}
    Ledger(run).append("start", asked=asked, made_of=made_of)


def recipe_of(run: Path) -> Recipe:
    """What a run was asked for. Raises `ValueError`, proposing the nearest folder, where there is no such run."""
    if not run.is_dir():
        beside = [str(path) for path in run.parent.glob("*") if path.is_dir()] if run.parent.is_dir() else []
        near = difflib.get_close_matches(str(run), beside, 1, 0.6)
        hint = f"; did you mean {near[0]}?" if near else "; accepts a folder made by `likely train` or `likely tour`"
        raise ValueError(f"run is {run}, where no folder is{hint}")
    asked = _asked(run)
    if "recipe" not in asked:
        raise ValueError(f"run {run} was made from Python without a recipe; give its data and model there")
    return parse(asked["recipe"])


def classes_of(run: Path) -> tuple[str, ...]:
    """The names of the classes that a run learned, or none."""
    return tuple(_asked(run).get("classes") or ())


def _asked(run: Path) -> dict[str, Any]:
    start = Ledger(run).last("start")
    if start is None:
        raise ValueError(f"{run / 'ledger.jsonl'} does not begin with a start")
    return start["asked"]
