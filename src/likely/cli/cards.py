"""What a run is, whether its card proves it, and runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from likely.cli.common import Count, Force, Json, Name, Place, Run, Seed, unwritten

What = Annotated[
    tuple[
        Literal["size", "likelihood", "conformance", "decide", "detect", "compress", "impute", "denoise", "samples"],
        ...,
    ],
    arg(metavar="WHAT ..."),
]


def card(
    run: Positional[Run],
    rows: int = 200,
    only: What = (),
    skip: What = (),
    licence: Name = None,
    again: bool = False,
    seed: Seed = 0,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write a run's card: how big, cherry-picked or not, how long, and what it is good for beyond synthesis.

    RUN/card.html to look at, RUN/card.md for the model hub, RUN/card.json for machines; `likely verify` checks them.
    What the ledger already knows of these weights is not measured again.

    Args:
        run: The run folder.
        rows: Test rows to measure on, the first ones.
        only: Measure these alone: size, likelihood, conformance, decide, detect, compress, impute, denoise, samples.
        skip: Leave these out.
        licence: What you allow others to do with the weights, a name as the model hub has them, such as mit.
        again: Measure anew what the ledger knows already.
    """
    from likely.conformance import check
    from likely.tasks.card import card as make
    from likely.tasks.card import write_card
    from likely.tasks.card.story import headline, lead
    from likely.terminal import Stage, give

    unwritten(force, run / "card.json", run / "card.html", run / "card.md")
    with Stage("measuring", 1) as stage:
        found = make(
            run,
            rows=rows,
            seed=seed,
            only=only,
            skip=skip,
            licence=licence,
            again=again,
            check=check,
            progress=stage.part,
        )
    paths = [str(path) for path in write_card(run, found)]
    lines = [lead(found), *(f"{cell.text} {meaning}" for cell, meaning in headline(found))]
    lines += [f"known failure: {each['text']}" for each in found["failures"]]
    lines += [f"the card: {paths[1]}", f"check it: likely verify {run}"]
    give({**found, "files": paths}, "\n".join(lines), None, json)


def verify(run: Positional[Run], samples: Count = None, json: Json = False) -> int:
    """Check a run's card: the ledger's chain, the weights, every figure, every byte, and the samples drawn again.

    The exit status is 1 where anything is not as the run says, with a sentence that says where.

    Args:
        run: The run folder, with a card that `likely card` made.
        samples: How many samples to draw again; all where that takes no longer than half a minute, else 4.
    """
    from likely.tasks.card import verify as check
    from likely.terminal import Stage, give

    with Stage("checking", 1) as stage:
        report = check(run, samples=samples, progress=lambda name: stage.part(name, 0, 1))
    give(report.to_json(), str(report), None, json)
    return 0 if report.passed else 1


def compare(
    runs: Positional[Annotated[tuple[Path, ...], arg(metavar="RUN RUN ...")]],
    out: Place = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Runs side by side: size, time, readings, samples. Only readings of one kind on the same rows rank each other.

    Args:
        runs: Two or more run folders with cards.
        out: A page with the samples, .html.
    """
    from likely.tasks.card import compare as look
    from likely.tasks.card import comparison_page
    from likely.terminal import comparison_of_runs, give

    unwritten(force, out)
    found = look(runs)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(comparison_page(found), encoding="utf-8")
    plain = {**found, "runs": [{key: value for key, value in row.items() if key != "shown"} for row in found["runs"]]}
    if json:
        give(plain, "", None, True)
    else:
        comparison_of_runs(found)
        give(plain, f"the page: {out}" if out else "", None, False)
