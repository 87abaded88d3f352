"""Training, and what can be trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from likely.cli.common import (
    Count,
    Force,
    Json,
    Name,
    Place,
    Run,
    Seed,
    Words,
    data_of,
    first,
    fresh,
    new_run,
    told,
    unwritten,
)


def tour(out: Place = None, seed: Seed = 0, json: Json = False) -> int:
    """See in two minutes what a joint model knows that a classifier does not, on handwritten digits.

    Args:
        out: Run folder; runs/tour-N by default.
    """
    from likely.space import Integers
    from likely.tasks.learn import Stopped
    from likely.tasks.tour import tour as run_tour
    from likely.tasks.tour_page import write_page
    from likely.terminal import give, say, tour_story

    run = new_run(out, "tour")
    try:
        record = run_tour(run, seed=seed, say=say)
    except Stopped as stopped:
        say(f"stopped; `likely resume {run}` goes on with the training")
        return 128 + stopped.args[0]
    page = run / "tour.html"
    write_page(record, Integers((1, 8, 8), 17), page)
    if json:
        figures = {key: value for key, value in record.items() if key not in ("samples", "gallery", "curves", "shares")}
        figures = {key: value for key, value in figures.items() if not isinstance(value, list)}
        give(figures | {"page": str(page)}, "", None, True)
    else:
        tour_story(record, page)
    return 0


def train(
    what: Positional[Annotated[str, arg(metavar="FAMILY|RECIPE")]],
    overrides: Positional[Words] = (),
    data: Name = None,
    preset: Name = None,
    steps: Count = None,
    seed: Count = None,
    conditional: bool = False,
    start: Place = None,
    out: Place = None,
    json: Json = False,
) -> int:
    """Train a family on data: `likely train vae --data digits`, or `likely train recipe.toml lr=3e-4`.

    Args:
        what: A family (see `likely families`), or a recipe, a .toml file.
        overrides: key=value for any field of the training, model or data: lr=3e-4 model.latent=32 data.limit=1000.
        data: A data set's name (see `likely data list`), an .npz, CSV, Parquet or idx file, or a folder of images.
        preset: A named config of the family.
        steps: Training steps (for EM: passes over the data).
        seed: Seed of everything random.
        conditional: Learn p(x given y) instead of p(x); `joint` learns p(x, y) anyway.
        start: A run to start from, with its config and weights: of the same family, to go on with other data, or of a
            part; `likely train consistency --start runs/diffusion-digits-1` makes a diffusion model draw in one step.
        out: Run folder; runs/FAMILY-DATA-N by default.
    """
    from likely.config import recipe as recipes
    from likely.registry import config_class, configure
    from likely.tasks.learn import learn

    record = recipes.read(Path(what)) if what.endswith(".toml") else {"family": what}
    if "family" not in record:
        raise ValueError(f'{what} names no family; a recipe needs a line such as family = "vae"')
    record |= {"preset": preset} if preset else {}
    record |= {"conditional": True} if conditional else {}
    record |= {"start": str(start)} if start else {}
    record = recipes.override(record, overrides, set(config_class(record["family"]).model_fields) - {"family"})
    for table, key, value in (("data", "source", data), ("train", "steps", steps), ("train", "seed", seed)):
        if value is not None:
            record[table] = record.get(table, {}) | {key: value}
    recipe = recipes.parse(record)
    configure(recipe.family, recipe.preset, **recipe.model)  # before the data are read: a typo costs no waiting
    result, loaded = learn(recipe, new_run(out, f"{recipe.family}-{Path(recipe.data.source).name}"))
    return told(result, loaded.name, json)


def resume(run: Positional[Run], steps: Count = None, json: Json = False) -> int:
    """Go on with a run that was stopped or killed; the result is that of a run never stopped.

    Args:
        run: The run folder.
        steps: A new total number of steps, to train longer than first asked.
    """
    from likely.tasks.learn import learn_on

    result, loaded = learn_on(run, steps=steps)
    return told(result, loaded.name, json)


def split(
    high: Positional[Annotated[Path, arg(metavar="HIGH")]],
    low: Positional[Annotated[Path, arg(metavar="LOW")]],
    at: float = 2.2,
    out: Place = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Put a diffusion's generator and another one's denoiser together (DAED): both runs may be of different data.

    Args:
        high: The run that generates, down to the log-SNR `at`.
        low: The run whose network reads the picture off there.
        at: Where they meet; 2.2 is a first step with variance .1, 6.9 one of .001.
        out: The new run folder; runs/split-N by default.
    """
    from likely.families.diffusion.daed import fit_width
    from likely.families.diffusion.daed import split as put_together
    from likely.families.diffusion.model import Process
    from likely.noise import Noise
    from likely.tasks.learn import classes_of, keep, recipe_of
    from likely.terminal import give
    from likely.train import load_model
    from likely.verbs import name_of

    recipe, models = recipe_of(high), []
    for name, run in (("high", high), ("low", low)):
        recipe_of(run)
        models.append(load_model(run))
        if not isinstance(models[-1], Process):
            raise ValueError(f"{name} is {run}, a run of {name_of(models[-1])}; accepts a run of diffusion")
    model = put_together(*models, at=at)
    rows = first(data_of(high, None).valid, model.space, 256)
    width = fit_width(model, rows.x, noise=Noise(seed, len(rows)))
    run = new_run(out, "split")
    keep(model, run, recipe, classes_of(high) or None, {"high": str(high), "low": str(low), "at": at, "width": width})
    record = {"run": str(run), "at": at, "width": width}
    give(record, f"{run}: {high.name} generates, {low.name} denoises from log-SNR {at:g} on", None, json)


def families(json: Json = False) -> None:
    """What every family can do: the table of families against verbs, computed from the registry."""
    from likely.tasks.describe import families as table
    from likely.terminal import families_table, give

    record = table()
    if json:
        give(record, "", None, True)
    else:
        families_table(record)


def describe(
    family: Positional[Annotated[str, arg(metavar="FAMILY")]],
    overrides: Positional[Words] = (),
    preset: str = "default",
    data: str = "digits",
    conditional: bool = False,
    json: Json = False,
) -> None:
    """What a model would be, before it is trained: parameters, verbs, memory, cost; and the fields it can be told.

    Args:
        family: The family.
        overrides: key=value for fields of the model or the data.
        preset: A named config of the family.
        data: The data that it would learn.
        conditional: As for `train`.
    """
    from likely.config import recipe as recipes
    from likely.data import load
    from likely.registry import config_class, presets
    from likely.tasks.describe import describe as tell
    from likely.tasks.learn import model_of
    from likely.terminal import description, give

    record: dict[str, Any] = {"family": family, "preset": preset, "conditional": conditional}
    record = recipes.override(record, overrides, set(config_class(family).model_fields) - {"family"})
    recipe = recipes.parse(record | {"data": record.get("data", {}) | {"source": data}})
    answer = tell(model_of(recipe, load(recipe.data)))
    told = {
        name: str(field.description).replace("\n", " ") for name, field in config_class(family).model_fields.items()
    }
    answer |= {"presets": list(presets(family)), "fields": told}
    if json:
        give(answer, "", None, True)
    else:
        description(answer)


def check(what: Positional[Annotated[str, arg(metavar="FAMILY|RUN|all")]] = "all", json: Json = False) -> int:
    """Run the conformance suite: on one family, on `all`, or on the model of a run folder.

    Args:
        what: A family, `all`, or a run folder.
    """
    from likely import registry
    from likely.conformance import check as examine
    from likely.terminal import give, report, say
    from likely.train import load_model

    if what not in registry.FAMILIES and what != "all" and Path(what).is_dir():
        models = {what: lambda: load_model(Path(what))}
    else:
        names = list(registry.FAMILIES) if what == "all" else [what]
        models = {
            f"{family}/{name}": lambda tiny=tiny: registry.build(tiny.config, tiny.space, tiny.condition)
            for family in names
            for name, tiny in registry.tiny(registry.entry(family) and family).items()
        }
    results = {}
    for name, make in models.items():
        say(f"checking {name}")
        results[name] = examine(make())
    passed = all(result.passed for result in results.values())
    if json:
        give({"passed": passed, "models": {n: r.to_json() for n, r in results.items()}}, "", None, True)
    else:
        report(results)
    return 0 if passed else 1


def data(
    action: Positional[Literal["list", "get", "show"]] = "list",
    name: Positional[Name] = None,
    out: Place = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Data sets: `list` what is known and here, `get NAME` from its public home, `show NAME` as a picture and a record.

    Args:
        action: What to do.
        name: A data set's name or a path.
        out: For show: where the picture goes; a new NAME.png by default, where the data can be drawn.
    """
    from likely.data import get, list_sets, load
    from likely.tasks.pictures import save_values, suffixes
    from likely.terminal import datasets, give, say

    if action == "list":
        sets = list_sets()
        if json:
            give(sets, "", None, True)
        else:
            datasets(sets)
        return
    if name is None:
        raise ValueError(f"name is missing; `likely data {action} NAME`")
    if action == "get":
        say(f"bringing {name}")
        path = get(name)
        give({"name": name, "path": str(path)}, f"{name} is in {path}", None, json)
        return
    unwritten(force, out)
    loaded = load(name)
    path = out or fresh(Path(f"{loaded.name}.png"))
    drawn = path.suffix.lower() in suffixes(loaded.space)
    if drawn:
        save_values(loaded.space.take(loaded.train.x, slice(0, 64)), loaded.space, path)
    record = loaded.record | {"picture": str(path) if drawn else None}
    give(record, f"{loaded!r}{f'; the first rows: {path}' if drawn else ''}", None, json)
