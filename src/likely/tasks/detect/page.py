"""A comparison as a page that stands alone: what the strangers look like, how likely they are, who finds them."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path
from typing import Any

from likely.space import Space
from likely.tasks.detect.comparison import GROUP, Comparison
from likely.tasks.figures import bits_figure, complexity_figure
from likely.tasks.page import page, table, tile
from likely.tasks.pictures import is_picture, picture, png_uri, svg

MEANING = {
    "nll": "log p(x): the baseline",
    "typicality": "−|−log p(x) − H|",
    "complexity": "log₂ p(x) + bits of the best codec",
    "ratio": "log p(x) − log p of a model of mutated data",
    "gradient": "−log |∂ log p(x) / ∂ parameters|",
    "dose": "density of several statistics",
    "sure": "log-odds of the likeliest class",
    "energy": "−energy(x)",
}


def comparison_page(result: Comparison, space: Space, record: dict[str, Any]) -> str:
    """HTML of a comparison; `record` is what stands in the run's ledger of it."""
    methods = list(result.uses)
    baseline = (
        {name: each.by_method["nll"].auroc.value for name, each in result.sets.items()} if "nll" in methods else {}
    )
    worst = {m: min((each.by_method[m].auroc.value, name) for name, each in result.sets.items()) for m in methods}
    best = max(methods, key=lambda m: sorted(each.by_method[m].auroc.value for each in result.sets.values()))
    rho = result.diagnosis.rho
    tiles = []
    if baseline:
        lowest = min(baseline, key=lambda name: baseline[name])
        tiles.append(tile(f"{baseline[lowest]:.3f}", f"AUROC of log p(x) against {lowest}", "bad"))
    value, name = worst[best]
    tiles.append(tile(f"{value:.3f}", f"AUROC of {best} on its hardest set, {name}", "good" if value > 0.9 else "bad"))
    if rho is not None:
        told = "rank correlation of −log p with the codec's bits"
        tiles.append(tile(f"{rho.value:.2f}", told, "bad" if result.diagnosis.ill else "good"))
    parts = [
        "<h1>Is this like the training data?</h1>",
        f'<p class="lead">{result.inside.rows} test rows of {escape(record["data"])} against {len(result.sets)} sets '
        "of strangers. A high likelihood alone does not say that a row belongs: what is simpler than anything in the "
        "training data is often <em>more</em> likely.</p>",
        f'<div class="tiles">{"".join(tiles)}</div>',
        "<h2>1. The strangers</h2>",
        _strangers(result, space),
        *_likelihoods(result, space.dims),
        "<h2>3. Who finds them</h2>",
        "<p>AUROC, with its 95 % interval, and below it the share of strangers let in where 95 % of the inside is "
        "(FPR95). 0.5 is guessing; below it, strangers look more at home than the data.</p>",
        _auroc(result, methods),
        f'<p class="note">{"; ".join(f"{m}: {escape(MEANING[m])}" for m in methods)}. Scores are fitted to '
        f"{result.fitted} held-out rows of the run's own data; no stranger fits or tunes anything. "
        f"{_background(record)}</p>",
        *(f'<p class="note">{escape(why)}</p>' for why in result.refused.values()),
        "<h2>4. The doctor</h2>",
        f"<p>{escape(result.diagnosis.sentence[:1].upper() + result.diagnosis.sentence[1:])}.</p>",
        '<p class="note">No score finds strangers of every kind. What is as likely and as complex as the data, such as '
        "photographic negatives for many models, passes all of them; telling those apart takes labels or features. "
        "Every number here stands in the run's ledger.</p>",
    ]
    return page(f"likely: {record['data']} and strangers", "\n".join(parts))


def write_comparison(result: Comparison, space: Space, record: dict[str, Any], path: Path) -> None:
    """Write the page to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(comparison_page(result, space, record), encoding="utf-8")


def _strangers(result: Comparison, space: Space) -> str:
    rows = []
    for name, each in {"inside": result.inside, **result.sets}.items():
        bits = "" if each.bits is None else f"{each.bits[0]:.2f} <small>± {each.bits[1]:.2f}</small>"
        batches = "" if each.batches is None else f"{each.batches:.3f}"
        cells = [f"<b>{escape(name)}</b><br><small>{each.rows} rows, {escape(each.rule)}</small>", bits, batches]
        if is_picture(space):
            strip = "".join(f'<img alt="{escape(name)}" src="{png_uri(picture(x, space))}">' for x in each.x[:8])
            cells.insert(1, f'<div class="strip">{strip}</div>')
        rows.append(cells)
    head = ["set", *(["first rows"] if is_picture(space) else []), "bits/dim", f"typicality, batches of {GROUP}"]
    return table(head, rows) + (
        f'<p class="note">The last column is another question than all that follows: whether a whole batch of {GROUP} '
        "rows is from elsewhere (AUROC over disjoint batches).</p>"
    )


def _likelihoods(result: Comparison, dims: int) -> list[str]:
    if "log_p" not in result.inside.statistics or result.inside.bits is None:
        return []
    scale = 1 / (dims * math.log(2))
    bits = {n: -each.statistics["log_p"].numpy() * scale for n, each in result.sets.items()}
    inside = -result.inside.statistics["log_p"].numpy() * scale
    parts = [
        "<h2>2. How likely they are</h2>",
        "<p>Bits per dimension of the inside (blue) and of each set (orange). A set to the left of the blue is more "
        "likely than the data.</p>",
        f"<figure>{svg(bits_figure(inside, bits))}</figure>",
    ]
    if "code" in result.inside.statistics:
        both = {
            name: (each.statistics["code"].numpy() / dims, -each.statistics["log_p"].numpy() * scale)
            for name, each in {"inside": result.inside, **result.sets}.items()
        }
        parts += [
            "<p>The same bits beside those of the best everyday codec. Where the points lie along a line, the model "
            "says little that a codec does not; what stands off the cloud of the inside is strange.</p>",
            f"<figure>{svg(complexity_figure(both.pop('inside'), both))}</figure>",
        ]
    return parts


def _auroc(result: Comparison, methods: list[str]) -> str:
    rows = []
    for name, each in result.sets.items():
        cells = [f"<b>{escape(name)}</b>"]
        for method in methods:
            found = each.by_method[method]
            a, kind = found.auroc, "good" if found.auroc.low > 0.9 else "bad" if found.auroc.high < 0.6 else ""
            cells.append(
                f'<span class="{kind}">{a.value:.3f}</span><br><small>{a.low:.2f} to {a.high:.2f}<br>'
                f"{found.fpr95.value:.2f}</small>"
            )
        rows.append(cells)
    return table(["set", *map(escape, methods)], rows)


def _background(record: dict[str, Any]) -> str:
    known = record.get("background")
    if not known:
        return ""
    return (
        f"The background of the ratio mutates {known['rate']:.0%} of the cells, the best of "
        f"{', '.join(known['auroc_tried'])} on {escape(known['tuned_on'])}, which it tells apart with AUROC "
        f"{known['auroc_tuned']:.3f}."
    )
