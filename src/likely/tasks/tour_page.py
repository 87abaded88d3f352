"""The tour as one page that stands alone: pictures and numbers, all of them from the run's ledger."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import torch

from likely.space import Integers
from likely.tasks.page import page
from likely.tasks.pictures import bars_figure, picture, png_uri, svg, turned_figure

OURS = "this model"


def tour_page(record: dict[str, Any], space: Integers) -> str:
    """HTML of a tour from its ledger record; no script, no request to anywhere."""
    r = record
    half, percent = r["test_rows"], "{:.0%}".format
    file = r["file"]
    codecs = "".join(f"<tr><td>{escape(n)}, one file</td><td>{length(b)}</td></tr>" for n, b in r["codecs"].items())
    bars = bars_figure({OURS: file["bits_per_dim"], **r["codecs"]}, OURS, "bits per dimension in a real file")
    bits = f"{escape(r['kind'])} {r['bits_per_dim']:.3f} ± {r['bits_per_dim_stderr']:.3f}"
    sure = r["sure"]
    samples = "".join(
        f'<div><img alt="sample for {label}" src="{_uri(pixels, space)}">{label}</div>'
        for pixels, label in zip(r["samples"]["pixels"], r["samples"]["labels"], strict=True)
    )
    gallery = "".join(
        f'<div class="tile"><img alt="digit {shown["truth"]}{" turned" if shown["turned"] else ""}" '
        f'src="{_uri(shown["pixels"], space)}"><span>a {shown["truth"]}{", turned" if shown["turned"] else ""}</span>'
        f'<div class="{"bad" if shown["verdict"] == "novel" else "good"}">{escape(shown["sentence"])}</div></div>'
        for shown in r["gallery"]
    )
    body = f"""<h1>A model you can ask things</h1>
<p class="lead">A classifier knows p(y | x) and stays certain on nonsense. A joint model, p(x, y) = p(y | x) p(x), also
knows p(x): it can tell when it has seen nothing of the kind. Here both learned 1,000 handwritten digits, in
{r["train_seconds"]:.0f} seconds.</p>
<div class="tiles"><div class="tile"><b>{bits}</b><span>bits per dimension of the test digits</span></div>
<div class="tile"><b>{r["accuracy"]:.1%}</b>
<span>accuracy of the joint (softmax: {r["softmax_accuracy"]:.1%})</span></div>
<div class="tile"><b>{r["auroc_rot90_px"]:.3f}</b><span>AUROC of p(x), upright against turned</span></div>
<div class="tile"><b>{r["auroc_rot90_py"]:.3f}</b><span>AUROC of p(y | x) for the same</span></div></div>

<h2>1. What it imagines</h2>
<p>The first 64 samples of a seed that follows from the weights, in order, each under the class asked for.
Nobody could have picked them.</p>
<div class="digits">{samples}</div>
<p class="note">seed {r["samples"]["seed"]}, SHA-256 of the values <code>{r["samples"]["sha256"]}</code></p>

<h2>2. How likely the test digits are, and how small that makes them</h2>
<p>Bits per dimension are what an ideal code made from the model would spend. The reading is marked
<b>{escape(r["kind"])}</b>: {"exact, not a bound" if r["kind"] == "=" else "a bound"}. The code is a real one: one file
of {file["bytes"]:,} bytes holds all {half} test digits, was read again and gave every pixel and every label back.</p>
<figure>{svg(bars)}</figure>
<table><tr><th>what</th><th>bits per dimension</th></tr>
<tr><td>what p(x) says</td><td>{bits}</td></tr>
<tr><td><b>this model's file</b>, labels and all</td><td><b>{file["bits_per_dim"]:.3f}</b></td></tr>
{codecs}</table><p class="note">Mean and standard error over {half} test digits. The file holds the labels too, at
{file["labels_bits_per_dim"]:.3f}, and {file["container_bytes"]} bytes of header, index and checksums; to read it takes
the model. The other files hold pixels only: one mosaic of all digits, for xz their bytes. Each was decoded and
compared. <code>likely decompress {escape(file["path"])} --run {escape(r["run"])}</code></p>

<h2>3. The same digits, turned</h2>
<p>Turned by 90 degrees a digit means nothing any more. The joint's own p(y | x) is still
{percent(sure["joint_turned"])} sure on average (upright: {percent(sure["joint_upright"])}), the softmax classifier
{percent(sure["softmax_turned"])} (upright: {percent(sure["softmax_upright"])}). But p(x) falls:</p>
<figure>{svg(turned_figure(r))}</figure>
<p>Pool the {half} upright digits with the {half} turned ones and keep the half that you trust more. A turned digit
never counts as right.</p>
<div class="tiles"><div class="tile"><b class="good">{r["kept_half_px"]:.1%}</b><span>right, kept by p(x)</span></div>
<div class="tile"><b class="bad">{r["kept_half_py"]:.1%}</b><span>right, kept by max p(y | x)</span></div>
<div class="tile"><b class="bad">{r["kept_half_softmax"]:.1%}</b><span>right, kept by the softmax</span></div></div>

<h2>4. Single verdicts</h2>
<p>A class is given only where p(x) says that the picture could have come from where the training data came from: a
p-value against the 350 held-out digits, which calls at most one in twenty like them novel.</p>
<div class="gallery">{gallery}</div>

<p class="note">Every number on this page is read from the ledger of the run, <code>{escape(r["run"])}</code>;
{r["parameters"]:,} parameters; {r["seconds"]:.0f} seconds in all.</p>"""
    return page("likely: the tour", body)


def length(bits: float | None) -> str:
    """Bits per dimension of a codec, which may be missing here."""
    return "not installed" if bits is None else f"{bits:.2f}"


def _uri(pixels: Any, space: Integers) -> str:
    return png_uri(picture(torch.tensor(pixels), space, 8))


def write_page(record: dict[str, Any], space: Integers, path: Path) -> None:
    """Write the page to a file."""
    path.write_text(tour_page(record, space), encoding="utf-8")
