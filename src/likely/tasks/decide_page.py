"""Decisions whose truth is known as a page that stands alone: reliability, risk and coverage, sure and wrong."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from likely.space import Space
from likely.tasks.decide import Decisions
from likely.tasks.examination import Examination
from likely.tasks.figures import reliability_figure, risk_figure
from likely.tasks.page import page, table, tile
from likely.tasks.pictures import is_picture, picture, png_uri, svg


def decisions_page(
    found: Examination, decisions: Decisions, x: Any, y: Any, names: list[str], space: Space, title: str
) -> str:
    """HTML of decisions on rows x with classes y; `names` says what to call the rows."""
    c, kept = found.calibration, found.accuracy_answered
    tiles = [
        tile(f"{found.accuracy:.1%}", f"of {found.rows} rows right, if all are answered"),
        tile(f"{found.answered:.1%}", "of the rows answered"),
        tile("none" if kept is None else f"{kept:.1%}", "of the answers right"),
        tile(f"{c.root:.3f}", "calibration error, debiased"),
    ]
    trust = [
        [escape(name), f"{curve.aurc:.4f}", f"{figure.value:.4f} <small>{figure.low:.4f} to {figure.high:.4f}</small>"]
        + [f"{curve.risk_at(share):.1%}" for share in (0.5, 0.8, 1.0)]
        for (name, curve), figure in zip(found.curves.items(), found.augrc.values(), strict=True)
    ]
    return page(
        title,
        f"""<h1>Which answers to believe</h1>
<p class="lead">{found.rows} rows of {escape(title)} whose classes are known.</p>
<div class="tiles">{"".join(tiles)}</div>
<h2>1. Is it as right as it is sure?</h2>
<p>Rows in bins of equal number by max p(y | x), with 95 % intervals of the share that is right. On the dotted line
the model means what it says. The mean distance from it is {c.error:.3f}, which is above 0 even for a perfect model on
finitely many rows; the root of the mean square, debiased, is {c.root:.3f}.</p>
<figure>{svg(reliability_figure(c.bins))}</figure>
<h2>2. Does it keep back the right ones?</h2>
<p>Answer the most trusted rows first and stop anywhere: the share of the answers that is wrong. AUGRC is the chance
that a row is answered and wrong, averaged over where one stops.</p>
<figure>{svg(risk_figure(found.curves))}</figure>
{table(["trust", "AURC", "AUGRC", "wrong in half", "in 80 %", "in all"], trust)}
<h2>3. Sure and wrong</h2>
{_gallery(found, decisions, x, y, names, space)}""",
    )


def write_decisions(path: Path, *arguments: Any) -> None:
    """Write the page to a file; arguments as for `decisions_page`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(decisions_page(*arguments), encoding="utf-8")


def _gallery(found: Examination, decisions: Decisions, x: Any, y: Any, names: list[str], space: Space) -> str:
    if not len(found.sure_but_wrong):
        return "<p>None: every most likely class is right.</p>"
    tiles = []
    for i in found.sure_but_wrong.tolist():
        truth = decisions.classes[int(y[i])]
        shown = ""
        if is_picture(space):
            shown = f'<img alt="{escape(truth)}" src="{png_uri(picture(x[i], space, max(1, 96 // space.shape[-1])))}">'
        kind = "good" if decisions.label[i] < 0 else "bad"
        tiles.append(
            f'<div class="tile">{shown}<span>{escape(names[i])}, in truth {escape(truth)}</span>'
            f'<div class="{kind}">{escape(decisions.verdict(i))}</div></div>'
        )
    told = "<p>The wrong ones, the surest first; those in blue were kept back.</p>"
    return f'{told}<div class="gallery">{"".join(tiles)}</div>'
