"""The command line: one sub-command a question, each a typed function whose signature is its flags.

torch is imported inside the functions, after the arguments were parsed. A user's mistake ends with one sentence and
exit status 2, training that met a NaN with 1; Ctrl-C ends with 130 and SIGTERM with 143, after what was reached has
been saved.
"""

from __future__ import annotations

import difflib
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

Words = Annotated[tuple[str, ...], arg(metavar="KEY=VALUE ...")]
Name = Annotated[str | None, arg(metavar="NAME")]
Count = Annotated[int | None, arg(metavar="N")]
Place = Annotated[Path | None, arg(metavar="PATH")]
Run = Annotated[Path, arg(metavar="RUN")]
Json = Annotated[bool, arg(help="Print one JSON object instead of text.")]
Out = Annotated[Path | None, arg(help="Write the figures to this JSON file as well.", metavar="PATH")]
Force = Annotated[bool, arg(help="Replace files that exist.")]
Split = Annotated[Literal["train", "valid", "test"], arg(help="Which part of the data.")]
Seed = Annotated[int, arg(help="Seed of everything random.")]


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

    run = _new(out, "tour")
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
    result, loaded = learn(recipe, _new(out, f"{recipe.family}-{Path(recipe.data.source).name}"))
    return _told(result, loaded.name, json)


def resume(run: Positional[Run], steps: Count = None, json: Json = False) -> int:
    """Go on with a run that was stopped or killed; the result is that of a run never stopped.

    Args:
        run: The run folder.
        steps: A new total number of steps, to train longer than first asked.
    """
    from likely.tasks.learn import learn_on

    result, loaded = learn_on(run, steps=steps)
    return _told(result, loaded.name, json)


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
    rows = _first(_data(high, None).valid, model.space, 256)
    width = fit_width(model, rows.x, noise=Noise(seed, len(rows)))
    run = _new(out, "split")
    keep(model, run, recipe, classes_of(high) or None, {"high": str(high), "low": str(low), "at": at, "width": width})
    record = {"run": str(run), "at": at, "width": width}
    give(record, f"{run}: {high.name} generates, {low.name} denoises from log-SNR {at:g} on", None, json)


def evaluate(
    run: Positional[Run],
    data: Name = None,
    split: Split = "test",
    k: Count = None,
    view: Name = None,
    limit: Count = None,
    seed: Seed = 0,
    out: Out = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """How likely are data under a model: log p or bits per dimension, with kind, error, and accuracy if it classifies.

    Args:
        run: The run folder.
        data: Other data than the run's own.
        k: Draws a row, for bounds and estimates: more of them make importance-weighted bounds tighter. By default 1,
            or what the model prefers where it tells classes apart by bounds.
        view: Another reading that the model has, such as flow or truncated of a diffusion model.
        limit: Use the first rows only.
    """
    from likely.tasks.evaluate import evaluate as score
    from likely.terminal import Stage, give
    from likely.train import Ledger, load_model
    from likely.verbs import view as viewed

    _unwritten(force, out)
    loaded = _data(run, data)
    model = load_model(run) if view is None else viewed(load_model(run), view)
    _fits(model, loaded)
    rows = _first(getattr(loaded, split), model.space, limit)
    with Stage("scoring", len(rows)) as stage:
        result = score(model, rows, k, seed=seed, progress=stage.advance)
    record = {"data": loaded.name, "split": split, "seed": seed, "view": view} | result.to_json()
    Ledger(run).append("evaluate", figures=record)
    give(record, f"{loaded.name}, {split}: {result}", out, json)


def sample(
    run: Positional[Run],
    n: Annotated[int, arg(aliases=("-n",))] = 64,
    y: Annotated[str | None, arg(metavar="CLASS", aliases=("-y",))] = None,
    how: Positional[Words] = (),
    seed: Count = None,
    out: Place = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Draw from a model.

    Args:
        run: The run folder.
        how: For models whose draws can be made in several ways (diffusion): name=heun evaluations=50 guidance=3.
        n: How many.
        y: The class to draw from, by name or number; without it a joint draws the class as well, and a conditional
            model takes every class in turn.
        seed: Seed of the draws; without it a fresh one is taken, and reported.
        out: .png, .npz or .csv file; a new RUN/samples-SEED by default.
    """
    import secrets

    from likely.config.recipe import settings_of
    from likely.logprob import sample as draw
    from likely.tasks.learn import classes_of, recipe_of
    from likely.tasks.pictures import save_values, suffixes
    from likely.tasks.samples import digest
    from likely.terminal import Stage, give
    from likely.train import Ledger, load_model
    from likely.verbs import name_of

    _unwritten(force, out)
    recipe_of(run)
    model = load_model(run)
    settings = settings_of(how)
    if settings and not hasattr(model, "drawn"):
        raise ValueError(f"how is {' '.join(how)}, but {name_of(model)} draws in one way only; leave it out")
    model = model.drawn(**settings) if settings else model
    labels = _labels(model, classes_of(run), y, n)
    chosen = secrets.randbits(62) if seed is None else seed
    path = out or _fresh(run / f"samples-{chosen}{suffixes(model.space)[0]}")
    if path.suffix.lower() not in suffixes(model.space):
        raise ValueError(f"out is {path}; accepts {', '.join(suffixes(model.space))} for values of {model.space}")
    with Stage("sampling", n) as stage:
        draws = draw(model, n, labels, seed=chosen, progress=stage.advance)
    save_values(draws, model.space, path)
    record = {"n": n, "seed": chosen, "y": None if labels is None else labels.tolist(), "sha256": digest(draws)}
    record |= {"how": settings, "out": str(path)}
    Ledger(run).append("sample", figures=record)
    give(record, f"{n} draws of seed {chosen}: {path}", None, json)


def decide(
    run: Positional[Run],
    inputs: Positional[Annotated[str | None, arg(metavar="INPUTS")]] = None,
    split: Split = "test",
    novelty: float = 0.05,
    unsure: float = 0.0,
    k: Count = None,
    limit: int = 16,
    calibrate: int = 1000,
    eliminate: Annotated[float | None, arg(metavar="ERRORS")] = None,
    risk: Annotated[float | None, arg(metavar="SHARE")] = None,
    out: Out = None,
    page: Place = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Which class, how sure, and is this anything like the training data?

    On the run's own data, whose classes are known, it also says what the decisions are worth: risk and coverage, AUGRC,
    calibration, and which answers were sure and wrong (use a larger --limit for that).

    Args:
        run: The run folder of a joint model.
        inputs: A picture, a folder of pictures, or data as for `train --data`; the run's own data by default.
        novelty: At most this share of inputs that are like the training data is called novel.
        unsure: At most this share of them is left without a class for want of a clear one.
        k: Draws a row, for bounds; what the model prefers by default.
        limit: Decide on the first rows only.
        calibrate: How many of the run's held-out (validation) rows to calibrate on.
        eliminate: For posteriors made of bounds: a class gets no more draws once it is worse than the best by so many
            standard errors (2 by default; 0: never).
        risk: Answer so few that at most this share of the answers is wrong, with 95 % confidence, for inputs like the
            run's data. Half of the held-out rows, whose classes are known, find out how sure that has to be.
        page: Where a page with pictures goes (the run's own data only); next to --out by default.
    """
    from likely.data.inputs import load_inputs
    from likely.tasks.decide import decide as judge
    from likely.tasks.decide_page import write_decisions
    from likely.tasks.examination import examine, limit_risk
    from likely.terminal import Stage, give
    from likely.train import Ledger, load_model
    from likely.verbs import Joint, JointBound, require

    page = page or (out.with_suffix(".html") if out and inputs is None and limit > 1 else None)
    _unwritten(force, out, page)
    own = _data(run, None)
    model = load_model(run)
    require(model, (Joint, JointBound), "decide")
    held = _first(own.valid, model.space, calibrate)
    if limit < 1:
        raise ValueError(f"limit is {limit}; accepts 1 or more")
    if page is not None and (inputs is not None or limit < 2):
        raise ValueError("page shows what decisions are worth; it takes two or more rows of the run's own data")
    y = None
    if inputs is None:
        rows = _first(getattr(own, split), model.space, limit)
        x, y, names = rows.x, rows.y, [f"{split} {i}" for i in range(len(rows))]
    else:
        x, names = load_inputs(inputs, own.space, split=split)
        x, names = model.space.take(x, slice(0, limit)), names[:limit]  # ty: ignore[too-many-positional-arguments]
    n, known, asked = len(names), None, x
    if risk is not None:  # the second half of the held-out rows is decided upon as well, to see how often it is wrong
        half = len(held) // 2
        known = type(held)(model.space.take(held.x, slice(half, None)), held.y[half:])  # ty: ignore[too-many-positional-arguments]
        held, asked = _first(held, model.space, half), model.space.concat([x, known.x])
    with Stage("deciding", len(held)) as stage:
        options: dict[str, Any] = {} if eliminate is None else {"eliminate": eliminate}
        options |= {"novelty": novelty, "unsure": unsure, "k": k, "classes": own.classes}
        result = judge(model, asked, held.x, **options, progress=stage.advance)
    posterior = result.posterior
    record: dict[str, Any] = {"novelty": novelty, "unsure": unsure, "held_out": len(held), "k": posterior.k}
    lines = []
    if posterior.drawn is not None:
        record["draws_spared"] = posterior.saved
        lines.append(f"{posterior.k} draws a class, {posterior.saved:.0%} of them spared: hopeless classes drop out")
    if known is not None:
        result, threshold = limit_risk(result.take(slice(0, n)), result.take(slice(n, None)), known.y, risk)
        record["risk"] = {"risk": risk, "rows": len(known), "log_odds": threshold if abs(threshold) < 1e300 else None}
        if threshold == float("inf"):
            lines.append(f"no answers: {len(known)} held-out rows do not show that any would be wrong so rarely")
    decisions = [{"input": name} | row for name, row in zip(names, result.to_json(), strict=True)]
    record |= {"decisions": decisions}
    lines = [f"{name}: {result.verdict(i)}" for i, name in enumerate(names)] + lines
    if y is not None and n > 1:
        found = examine(result, y)
        record["examination"] = found.to_json()
        lines.append(str(found))
        if page is not None:
            write_decisions(page, found, result, x, y, names, model.space, own.name)
            record["page"] = str(page)
            lines.append(f"the page: {page}")
    Ledger(run).append("decide", figures=record)
    give(record, "\n".join(lines), out, json)


def profile(
    run: Positional[Run],
    data: Name = None,
    split: Split = "test",
    limit: int = 256,
    points: int = 33,
    seed: Seed = 0,
    out: Out = None,
    page: Place = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Where a diffusion model pays its bits along the log-SNR: where it generates, and where it only denoises.

    Args:
        run: The run folder.
        data: Other data than the run's own.
        limit: Use the first rows only.
        points: Log-SNRs to look at.
        page: Where the page with the curves goes; a new RUN/profile.html by default.
    """
    from likely.tasks.profile import profile as look
    from likely.tasks.profile import write_profile
    from likely.terminal import give
    from likely.train import Ledger, load_model

    _unwritten(force, out, page)
    loaded = _data(run, data)
    model = load_model(run)
    _fits(model, loaded)
    rows = _first(getattr(loaded, split), model.space, limit)
    found = look(model, rows.x, None if model.condition is None else rows.y, points=points, seed=seed)
    page = page or _fresh(run / "profile.html")
    write_profile(page, found, f"{run.name} on {loaded.name}")
    record = {"data": loaded.name, "split": split, "rows": len(rows), "seed": seed, "page": str(page)} | found.to_json()
    Ledger(run).append("profile", figures=record)
    give(record, f"{found}; the page: {page}", out, json)


Methods = Annotated[
    tuple[Literal["nll", "typicality", "complexity", "ratio", "gradient", "dose", "sure", "energy"], ...],
    arg(help="Scores, one or more: dose by default, with --against all that the model can give."),
]


def detect(
    run: Positional[Run],
    inputs: Positional[Annotated[str | None, arg(metavar="INPUTS")]] = None,
    data: Name = None,
    against: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = (),
    method: Methods = (),
    split: Split = "test",
    fdr: float = 0.05,
    k: Count = None,
    limit: Count = None,
    calibrate: int = 1000,
    background_steps: Count = None,
    seed: Seed = 0,
    out: Out = None,
    page: Place = None,
    force: Force = False,
    json: Json = False,
) -> int:
    """Is this like the training data? Judge inputs, or measure how well strangers are found with --against.

    Scores: nll is log p, the baseline that fails; typicality, complexity, ratio, gradient, dose; sure and energy where
    the model has them. ratio needs a second model, which is trained at the first call and kept in RUN/background.

    Args:
        run: The run folder.
        inputs: A picture, a folder of pictures, or data of the model's kind; the run's own data by default.
        data: Another data set to judge instead; images are brought to the model's size, colours and levels.
        against: Data sets to measure every score against, next to sets made from the run's own data (constant, noise,
            blurred, negatives, turned); `made` alone stands for only those.
        fdr: Of all inputs called outside at most this share is inside, in expectation.
        k: Draws a row, for bounds and estimates; what the model prefers by default, else 1.
        limit: Rows of each set, the first ones: 64 by default, 500 with --against.
        calibrate: How many of the run's held-out (validation) rows to fit and calibrate on.
        background_steps: Steps to train the second model of `ratio`; as many as the run by default.
        page: With --against: where the page with the pictures goes; next to --out or a new RUN/detect.html by default.
    """
    from likely.data.inputs import load_inputs
    from likely.tasks.detect import METHODS
    from likely.tasks.detect import compare as measure
    from likely.tasks.detect import detect as judge
    from likely.tasks.detect.background import cached, train_background, worth
    from likely.tasks.detect.page import write_comparison
    from likely.tasks.detect.strangers import adapt
    from likely.tasks.learn import Stopped
    from likely.terminal import Stage, comparison_table, give, say
    from likely.train import Ledger, load_model

    page = page or (out.with_suffix(".html") if out and against else None)
    _unwritten(force, out, page)
    if page is not None and not against:
        raise ValueError("page shows a comparison; it goes with --against")
    if inputs is not None and data is not None:
        raise ValueError(f"inputs is {inputs} and data is {data}; accepts one of them")
    if against and (inputs or data):
        raise ValueError("against measures scores on the run's own data; leave inputs and data out")
    own = _data(run, None)
    model = load_model(run)
    held = _first(own.valid, model.space, calibrate).x
    methods = method or (tuple(METHODS) if against else ("dose",))
    try:
        second = train_background(run, steps=background_steps, say=say) if "ratio" in method else cached(run)
    except Stopped as stopped:
        say("stopped; the same command goes on")
        return 128 + stopped.args[0]
    background, record = second or (None, None)
    options: dict[str, Any] = {"k": k, "seed": seed, "background": background}
    shown = {"data": own.name, "split": split, "seed": seed, "k": k, "held_out": model.space.len(held)}
    shown |= {"background": record} if record else {}

    if against:
        strangers = {}
        for name in against:
            if name != "made":
                other = _other(name)
                strangers[other.name] = (_first(getattr(other, split), other.space, limit or 500).x, other.space)
        inside = _first(getattr(own, split), model.space, limit or 500).x
        with Stage("scoring", 1) as stage:
            result = measure(model, inside, held, strangers, methods, **options, progress=stage.of)
        page = page or _fresh(run / "detect.html")
        shown |= result.to_json() | {"page": str(page)}
        write_comparison(result, model.space, shown, page)
        Ledger(run).append("detect", figures=shown)
        if json:
            give(shown, "", out, True)
        else:
            comparison_table(shown)
            told = [worth(record)] if record and "ratio" in result.uses else []
            give(shown, "\n".join([*told, result.diagnosis.sentence, f"the page: {page}"]), out, False)
        return 0

    limit = limit or 64
    if data is not None:
        other = _other(data)
        rows = _first(getattr(other, split), other.space, limit).x
        x, rule = adapt(rows, other.space, model.space, other.name)
        names = [f"{other.name} {split} {i}" for i in range(model.space.len(x))]
        shown["rule"] = rule
    elif inputs is not None:
        x, names = load_inputs(inputs, own.space, split=split)
    else:
        x, names = getattr(own, split).x, [f"{split} {i}" for i in range(len(getattr(own, split)))]
    x, names = model.space.take(x, slice(0, limit)), names[:limit]  # ty: ignore[too-many-positional-arguments]
    results = []
    for each in methods:
        with Stage(each, 1) as stage:
            results.append(judge(model, x, held, each, fdr=fdr, **options, progress=stage.of))
    shown |= {"inputs": names, "methods": {r.method: r.to_json() for r in results}}
    Ledger(run).append("detect", figures=shown)
    lines = [f"{name}: {result.verdict(i)}" for i, name in enumerate(names) for result in results]
    for result in results:
        count = int(result.outside.sum())
        lines.append(f"{result.method}: {count} of {len(result)} called outside, of them at most {fdr:.0%} wrongly")
        lines += [f"{result.method} does without: {note}" for note in result.notes]
    lines += [worth(record)] if record and "ratio" in methods else []
    found = [r.diagnosis.sentence for r in results if r.diagnosis is not None]
    give(shown, "\n".join([*lines, *found[:1]]), out, json)
    return 0


def compress(
    run: Positional[Run],
    inputs: Positional[Annotated[str | None, arg(metavar="INPUTS")]] = None,
    out: Annotated[Path | None, arg(metavar="PATH", aliases=("-o",))] = None,
    split: Split = "test",
    limit: Count = None,
    force: Force = False,
    json: Json = False,
) -> int:
    """Make it smaller: pictures or data to one .lkz file of real bytes, decoded again before it counts.

    A picture that is broken or does not fit the model is named and left out, the others are coded; the exit status is
    then 1.

    Args:
        run: The run folder of a model that can code: autoregressive, mixture of categoricals, integer flow, VAE.
        inputs: A picture, a folder of pictures, or data as for `train --data`; the run's own data by default.
        out: The file; a new INPUTS.lkz by default.
        limit: Compress the first rows only.
    """
    from likely.coding import Codec
    from likely.tasks.compress import compress as write
    from likely.tasks.compress import gather, sentence
    from likely.tasks.learn import classes_of
    from likely.terminal import Stage, give, say
    from likely.train import Ledger, load_model

    _unwritten(force, out)
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; accepts 1 or more")
    codec = Codec(load_model(run))
    found = gather(inputs or _data(run, None), codec.model, split=split, limit=limit, classes=classes_of(run))
    for name, why in found.refused.items():
        say(f"left out: {why if name in why else f'{name}: {why}'}")
    path = out or _fresh(Path(f"{Path(inputs).name if inputs else run.name}.lkz"))
    with Stage("compressing", len(found.x)) as stage:
        record = write(codec, found, path, stage.advance)
    Ledger(run).append("compress", figures={key: record[key] for key in record if key not in ("notes", "refused")})
    left = f"\n{len(found.refused)} pictures left out" if found.refused else ""
    give(record, f"{path}: {sentence(record)}{left}", None, json)
    return 1 if found.refused else 0


Archive = Annotated[Path, arg(metavar="ARCHIVE.lkz")]


def decompress(
    archive: Positional[Archive],
    out: Annotated[Path | None, arg(metavar="FOLDER", aliases=("-o",))] = None,
    run: Place = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """The exact pixels back from a .lkz file, or a clear refusal.

    Args:
        archive: The file.
        out: The folder for what is in it: pictures under their names, other data as x.npz. By default a new one named
            after the file.
        run: The run folder whose model wrote the file; by default it is looked for in runs/.
    """
    from likely.coding import Codec
    from likely.tasks.compress import decompress as restore
    from likely.tasks.compress import describe as look
    from likely.tasks.compress import model_for
    from likely.terminal import Stage, give

    folder = out or _fresh(archive.with_suffix(""))
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out is {folder}, a file; accepts a folder")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise ValueError(f"out is {folder}, which is not empty; choose another folder, or --force to write into it")
    blob = archive.read_bytes()
    record = look(blob)
    found, model = model_for(blob, run)
    with Stage("decompressing", record["rows"]) as stage:
        rows, paths = restore(Codec(model), blob, folder, stage.advance)
    told = {"rows": len(rows.x), "out": str(folder), "files": len(paths), "run": str(found)}
    told |= {"sha256": record["header"]["content"]["sha256"]}
    give(told, f"{len(rows.x)} rows, exactly as they were, in {folder} (model of {found})", None, json)


def info(archive: Positional[Archive], json: Json = False) -> None:
    """What is inside a .lkz file: rows, bits per dimension, model, numbers, and whether its checksums are right.

    Args:
        archive: The file.
    """
    from likely.tasks.compress import describe as look
    from likely.tasks.compress import sentence
    from likely.terminal import give

    record = look(archive.read_bytes())
    give(record, sentence(record), None, json)


def denoise(
    run: Positional[Run],
    inputs: Positional[Annotated[str | None, arg(metavar="INPUTS")]] = None,
    sd: Annotated[float | None, arg(metavar="S")] = None,
    add_sd: Annotated[float | None, arg(metavar="S")] = None,
    y: Annotated[str | None, arg(metavar="CLASS")] = None,
    split: Split = "test",
    limit: int = 16,
    seed: Seed = 0,
    out: Annotated[Path | None, arg(aliases=("-o",), metavar="FOLDER")] = None,
    page: Place = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """What was there before the noise? Pictures in, pictures out; or a demonstration on the run's own data.

    Args:
        run: The run folder of a model that denoises, such as diffusion.
        inputs: Noisy rows: a picture, a folder of pictures, or data of the model's shape, also real-valued.
        sd: Standard deviation of the noise in grey levels (raw units); estimated for each row by default.
        add_sd: Add noise of this standard deviation first, to inputs or by default to the run's own data, and compare.
        y: The class that the rows are known to have, by name or number.
        limit: The first rows only.
        out: Folder for the denoised rows; a new RUN/denoised by default for inputs without --add-sd.
        page: A page with pictures, or the pictures alone as .png; RUN/denoise.html by default with --add-sd.
    """
    import torch

    from likely.noise import Noise
    from likely.tasks.denoise import denoise as clear
    from likely.tasks.denoise import real_rows
    from likely.tasks.pictures import is_picture
    from likely.tasks.restore_page import denoise_page, denoise_pictures, save_rows, write_page
    from likely.terminal import Stage, give
    from likely.train import Ledger, load_model
    from likely.verbs import Denoiser, require

    _unwritten(force, page)
    _empty(force, out)
    if add_sd is not None and not 0 < add_sd < float("inf"):
        raise ValueError(f"add_sd is {add_sd}; accepts the noise's standard deviation in raw units, above 0")
    if inputs is None and add_sd is None:
        raise ValueError("inputs is missing; give noisy pictures, or --add-sd S for a demonstration on the run's data")
    own, model = _data(run, None), load_model(run)
    require(model, Denoiser, "denoise")
    x, names = _rows(own, inputs, split, limit, real=True)
    clean = None if add_sd is None else real_rows(x, model.space, "inputs")
    if clean is not None:
        x = clean + add_sd * Noise(seed, len(clean)).normal(clean.shape[1:], dtype=torch.float64)
    with Stage("denoising", len(x)) as stage:
        result = clear(model, x, sd, _class(run, model, y, len(x)), clean=clean, seed=seed, progress=stage.advance)
    record: dict[str, Any] = {"inputs": inputs, "split": split, "seed": seed, "add_sd": add_sd, "sd": sd}
    record["rows"] = [{"input": name} | row for name, row in zip(names, result.to_json(), strict=True)]
    lines = [str(result)]
    if out is not None or add_sd is None:
        out = out or _fresh(run / "denoised")
        record["out"] = [str(path) for path in save_rows(result.x, names, model.space, out)]
        lines.append(f"denoised: {out}")
    if is_picture(model.space) and (page is not None or add_sd is not None):
        page = page or _fresh(run / "denoise.html")
        noisy = torch.as_tensor(x)
        html = denoise_page(result, noisy, clean, names, f"{own.name if inputs is None else inputs}")
        write_page(page, html, denoise_pictures(result, noisy, clean))
        record["page"] = str(page)
        lines.append(f"the page: {page}")
    Ledger(run).append("denoise", figures=record)
    give(record, "\n".join(lines), None, json)


def impute(
    run: Positional[Run],
    inputs: Positional[Annotated[str | None, arg(metavar="INPUTS")]] = None,
    hide: Annotated[str | None, arg(metavar="WHAT")] = None,
    mask: Annotated[Path | None, arg(metavar="PNG")] = None,
    n: Annotated[int, arg(aliases=("-n",))] = 4,
    y: Annotated[str | None, arg(metavar="CLASS")] = None,
    evaluations: int = 120,
    split: Split = "test",
    limit: int = 8,
    seed: Seed = 0,
    out: Annotated[Path | None, arg(aliases=("-o",), metavar="FOLDER")] = None,
    page: Place = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """What is missing here? Complete rows of which a part is hidden, several times.

    Exact (=) with models that have their conditionals (mixtures), approximate (~) with those that denoise (diffusion).

    Args:
        run: The run folder.
        inputs: A picture, a folder of pictures, or data of the model's kind; the run's own data by default.
        hide: left, right, top, bottom, center, random:SHARE, or columns of a table, such as age,height.
        mask: A picture instead: white where cells are to be filled in.
        n: Completions of each row.
        y: The class that the rows are known to have, by name or number.
        evaluations: How often a denoiser is asked for each completion.
        limit: The first rows only.
        out: Folder for the completed rows; nothing is written by default but the page.
        page: A page with pictures, or the pictures alone as .png; a new RUN/impute.html by default.
    """
    from likely.space import Table
    from likely.tasks.impute import impute as complete
    from likely.tasks.masks import hide as hidden
    from likely.tasks.masks import read_mask
    from likely.tasks.pictures import is_picture
    from likely.tasks.restore_page import impute_page, impute_pictures, save_rows, write_page
    from likely.terminal import Stage, give
    from likely.train import Ledger, load_model
    from likely.verbs import Denoiser, Marginal, Ordered, require

    _unwritten(force, page)
    _empty(force, out)
    if hide is not None and mask is not None:
        raise ValueError("mask was given and hide too; accepts one of them")
    own, model = _data(run, None), load_model(run)
    require(model, (Marginal, Denoiser, Ordered), "impute")
    x, names = _rows(own, inputs, split, limit)
    if hide is None and mask is None and not isinstance(model.space, Table):
        raise ValueError("hide is missing; give --hide left, random:0.5 and the like, or --mask PNG")
    seen = None if hide is None else hidden(model.space, hide, len(names), seed)
    seen = seen if mask is None else read_mask(mask, model.space)
    with Stage("completing", n * len(names)) as stage:
        result = complete(
            model,
            x,
            seen,
            n,
            y=_class(run, model, y, len(names)),
            evaluations=evaluations,
            seed=seed,
            progress=stage.advance,
        )
    record: dict[str, Any] = {"inputs": inputs, "split": split, "seed": seed, "hide": hide, "n": n, "rows": names}
    record |= {"mask": None if mask is None else str(mask), "kind": result.kind.value, "how": result.how}
    record |= {"hidden": float(1 - result.seen.double().mean()), "evaluations": result.evaluations}
    lines = [str(result)]
    if out is not None:
        each = [f"{Path(name).stem}-{j + 1}" for name in names for j in range(n)]
        record["out"] = [str(path) for path in save_rows(result.draws, each, model.space, out)]
        lines.append(f"completed: {out}")
    if is_picture(model.space):
        page = page or _fresh(run / "impute.html")
        html = impute_page(result, x, names, f"{own.name if inputs is None else inputs}")
        write_page(page, html, impute_pictures(result, x))
        record["page"] = str(page)
        lines.append(f"the page: {page}")
    Ledger(run).append("impute", figures=record)
    give(record, "\n".join(lines), None, json)


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
    _unwritten(force, out)
    loaded = load(name)
    path = out or _fresh(Path(f"{loaded.name}.png"))
    drawn = path.suffix.lower() in suffixes(loaded.space)
    if drawn:
        save_values(loaded.space.take(loaded.train.x, slice(0, 64)), loaded.space, path)
    record = loaded.record | {"picture": str(path) if drawn else None}
    give(record, f"{loaded!r}{f'; the first rows: {path}' if drawn else ''}", None, json)


COMMANDS = {
    "tour": tour,
    "train": train,
    "resume": resume,
    "split": split,
    "evaluate": evaluate,
    "sample": sample,
    "decide": decide,
    "detect": detect,
    "profile": profile,
    "compress": compress,
    "decompress": decompress,
    "info": info,
    "denoise": denoise,
    "impute": impute,
    "families": families,
    "describe": describe,
    "check": check,
    "data": data,
}


def main(arguments: list[str] | None = None) -> None:
    """Parse the arguments, run the command, turn mistakes into one sentence."""
    warnings.showwarning = lambda message, *_, **__: sys.stderr.write(f"likely: {message}\n")
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        _known(arguments)
        status = tyro.extras.subcommand_cli_from_dict(  # ty: ignore[no-matching-overload]
            COMMANDS,
            prog="likely",
            description="Train a deep generative model on your own data, then ask: how likely is this? which class, "
            "how sure, have I seen its kind before? make more.",
            args=arguments,
            config=(FlagCreatePairsOff,),
        )
    except (ValueError, TypeError, OSError, ImportError) as error:
        sys.stderr.write(f"likely: {_sentence(error)}\n")
        status = 2
    except FloatingPointError as error:  # training met a NaN: no mistake on the command line, no result either
        sys.stderr.write(f"likely: {error}; the last good checkpoint is kept\n")
        status = 1
    except KeyboardInterrupt:
        status = 130
    sys.exit(status or 0)


def _known(arguments: list[str]) -> None:
    """Refuses a command that there is not, with the nearest that there is."""
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        near = difflib.get_close_matches(arguments[0], COMMANDS, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"accepts {', '.join(COMMANDS)}"
        raise ValueError(f"command is {arguments[0]!r}; {hint}")


def _sentence(error: Exception) -> str:
    from pydantic import ValidationError

    from likely.config.recipe import sentence

    return sentence(error) if isinstance(error, ValidationError) else str(error)


def _new(out: Path | None, stem: str) -> Path:
    """A run folder that does not exist yet, or is empty: nothing is written over."""
    if out is not None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(f"out is {out}, which exists; accepts a new or empty folder (`likely resume` goes on)")
        return out
    number = 1
    while Path(f"runs/{stem}-{number}").exists():
        number += 1
    return Path(f"runs/{stem}-{number}")


def _unwritten(force: bool, *paths: Path | None) -> None:
    """Before any work: nothing that was named as an output is there, unless it may be replaced."""
    named = [path for path in paths if path is not None]
    if len(set(named)) < len(named):
        raise ValueError(f"out is {named[0]}, where the page goes; accepts the name of another file, such as a .json")
    for path in named:
        if path.is_dir():
            raise ValueError(f"out is {path}, a folder; accepts the name of a file")
        if path.exists() and not force:
            raise ValueError(f"out is {path}, which exists; choose another name, or --force to replace it")


def _empty(force: bool, folder: Path | None) -> None:
    """Before any work: a folder for outputs is new or empty, unless its files may be replaced."""
    if folder is not None and folder.exists() and not folder.is_dir():
        raise ValueError(f"out is {folder}, a file; accepts the name of a folder")
    if folder is not None and not force and folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"out is {folder}, which is not empty; choose another folder, or --force to replace its files")


def _rows(own: Any, inputs: str | None, split: str, limit: int, real: bool = False) -> tuple[Any, list[str]]:
    """The first rows of inputs, or of the run's own data, and what to call them."""
    from likely.data.inputs import load_inputs

    if limit < 1:
        raise ValueError(f"limit is {limit}; accepts 1 or more")
    if inputs is None:
        x = getattr(own, split).x
        names = [f"{split} {i}" for i in range(own.space.len(x))]
    else:
        x, names = load_inputs(inputs, own.space, split=split, real=real)
    return own.space.take(x, slice(0, limit)), names[:limit]


def _class(run: Path, model: Any, y: str | None, n: int) -> Any:
    from likely.tasks.learn import classes_of

    return None if y is None else _labels(model, classes_of(run), y, n)


def _fresh(path: Path) -> Path:
    """A name that is free, for outputs that nobody named: a.png, a-2.png, a-3.png ..."""
    tries, number = path, 1
    while tries.exists():
        number += 1
        tries = path.with_stem(f"{path.stem}-{number}")
    return tries


def _told(result: Any, name: str, json: bool) -> int:
    """Say what training came to; the exit status."""
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
        lines.append(f"validation {scores[-1]['bits_per_dim']:.3f} bits/dim at step {scores[-1]['step']}")
    if result.signal is not None:
        lines.append(f"go on: likely resume {result.run}")
    give(record, "\n".join(lines), None, json)
    return 0 if result.signal is None else 128 + result.signal


def _data(run: Path, other: str | None) -> Any:
    from likely.config.data import DataConfig
    from likely.data import load
    from likely.tasks.learn import recipe_of

    recipe = recipe_of(run)
    return load(DataConfig(source=other) if other else recipe.data)


def _other(source: str) -> Any:
    from likely.config.data import DataConfig
    from likely.data import load

    return load(DataConfig(source=source))


def _fits(model: Any, data: Any) -> None:
    if data.space != model.space:
        raise ValueError(f"data {data.name} lives in {data.space}; the model in {model.space}")
    if None not in (data.condition, model.condition) and data.condition != model.condition:
        raise ValueError(f"data {data.name} has labels {data.condition}; the model learned {model.condition}")


def _first(split: Any, space: Any, limit: int | None) -> Any:
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; accepts 1 or more")
    part = slice(0, limit)
    return type(split)(space.take(split.x, part), None if split.y is None else split.y[part])


def _labels(model: Any, names: tuple[str, ...], y: str | None, n: int) -> Any:
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
