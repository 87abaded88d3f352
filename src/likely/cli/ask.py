"""Questions about data: how likely, which class, anything like it, and where the bits are paid."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from likely.cli.common import (
    Count,
    Draws,
    Force,
    Json,
    Name,
    Out,
    Place,
    Run,
    Seed,
    Split,
    data_of,
    first,
    fits,
    fresh,
    other_data,
    unwritten,
)


def evaluate(
    run: Positional[Run],
    data: Name = None,
    split: Split = "test",
    k: Draws = None,
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

    unwritten(force, out)
    loaded = data_of(run, data)
    model = load_model(run) if view is None else viewed(load_model(run), view)
    fits(model, loaded)
    rows = first(getattr(loaded, split), model.space, limit)
    with Stage("scoring", len(rows)) as stage:
        result = score(model, rows, k, seed=seed, progress=stage.advance)
    record = {"data": loaded.name, "split": split, "seed": seed, "view": view} | result.to_json()
    Ledger(run).append("evaluate", figures=record)
    give(record, f"{loaded.name}, {split}: {result}", out, json)


def decide(
    run: Positional[Run],
    inputs: Positional[Annotated[str | None, arg(metavar="INPUTS")]] = None,
    split: Split = "test",
    novelty: float = 0.05,
    unsure: float = 0.0,
    k: Draws = None,
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
    unwritten(force, out, page)
    own = data_of(run, None)
    model = load_model(run)
    require(model, (Joint, JointBound), "decide")
    held = first(own.valid, model.space, calibrate)
    if limit < 1:
        raise ValueError(f"limit is {limit}; accepts 1 or more")
    if page is not None and (inputs is not None or limit < 2):
        raise ValueError("page shows what decisions are worth; it takes two or more rows of the run's own data")
    y = None
    if inputs is None:
        rows = first(getattr(own, split), model.space, limit)
        x, y, names = rows.x, rows.y, [f"{split} {i}" for i in range(len(rows))]
    else:
        x, names = load_inputs(inputs, own.space, split=split)
        x, names = model.space.take(x, slice(0, limit)), names[:limit]  # ty: ignore[too-many-positional-arguments]
    n, known, asked = len(names), None, x
    if risk is not None:  # the second half of the held-out rows is decided upon as well, to see how often it is wrong
        half = len(held) // 2
        known = type(held)(model.space.take(held.x, slice(half, None)), held.y[half:])  # ty: ignore[too-many-positional-arguments]
        held, asked = first(held, model.space, half), model.space.concat([x, known.x])
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

    unwritten(force, out, page)
    loaded = data_of(run, data)
    model = load_model(run)
    fits(model, loaded)
    rows = first(getattr(loaded, split), model.space, limit)
    found = look(model, rows.x, None if model.condition is None else rows.y, points=points, seed=seed)
    page = page or fresh(run / "profile.html")
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
    k: Draws = None,
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
    unwritten(force, out, page)
    if page is not None and not against:
        raise ValueError("page shows a comparison; it goes with --against")
    if inputs is not None and data is not None:
        raise ValueError(f"inputs is {inputs} and data is {data}; accepts one of them")
    if against and (inputs or data):
        raise ValueError("against measures scores on the run's own data; leave inputs and data out")
    own = data_of(run, None)
    model = load_model(run)
    held = first(own.valid, model.space, calibrate).x
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
                other = other_data(name)
                strangers[other.name] = (first(getattr(other, split), other.space, limit or 500).x, other.space)
        inside = first(getattr(own, split), model.space, limit or 500).x
        with Stage("scoring", 1) as stage:
            result = measure(model, inside, held, strangers, methods, **options, progress=stage.of)
        page = page or fresh(run / "detect.html")
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
        other = other_data(data)
        rows = first(getattr(other, split), other.space, limit).x
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
