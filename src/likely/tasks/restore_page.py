"""Denoised and completed pictures: sheets of pictures side by side, and a page for each task."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from likely.space import Integers, Space, Table
from likely.tasks.denoise import Denoised, rounded
from likely.tasks.impute import Imputed
from likely.tasks.page import page, tile
from likely.tasks.pictures import is_picture, picture, png_uri, save_values, suffixes

HIDDEN = (221, 107, 32)
"""The colour of what is not seen."""
_GAP, _PAPER = 8, "#e3e0d8"
_STYLE = """<style>.sheet { display:grid; gap:6px 10px; align-items:center; margin:1.2em 0 }
.sheet span { color:var(--soft); font-size:.8rem; line-height:1.25 } .sheet b { font-weight:600; color:var(--ink) }
main { max-width:1000px }</style>"""


def shown(x: Tensor, space: Integers) -> Image.Image:
    """A row of real values, (C, H, W) or (H, W) in raw units, as a picture; what is outside the levels is clipped."""
    return picture(rounded(x, space), space).convert("RGB")


def hidden(x: Tensor, seen: Tensor, space: Integers) -> Image.Image:
    """A row with what is not seen painted over."""
    pixels = np.array(shown(x, space))
    gone = ~(seen.all(0) if seen.ndim == 3 else seen).numpy()
    pixels[gone] = HIDDEN
    return Image.fromarray(pixels)


def signed(x: Tensor, most: float) -> Image.Image:
    """Errors, (C, H, W) or (H, W), averaged over channels: white is none, blue too dark and orange too bright by
    `most` or more."""
    t = ((x.mean(0) if x.ndim == 3 else x).double() / most).clamp(-1, 1)[..., None].numpy()
    ends = np.where(t < 0, np.array([43, 108, 176]), np.array(HIDDEN))
    return Image.fromarray((255 + np.abs(t) * (ends - 255.0)).round().astype(np.uint8))


def sheet(rows: list[list[Image.Image]]) -> Image.Image:
    """Pictures of one size in rows, on paper, about a thousand pixels wide."""
    columns = max(map(len, rows))
    scale = max(1, 1000 // (columns * rows[0][0].width))
    width, height = (side * scale for side in rows[0][0].size)
    size = (columns * (width + _GAP) + _GAP, len(rows) * (height + _GAP) + _GAP)
    whole = Image.new("RGB", size, _PAPER)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            large = image.resize((width, height), Image.Resampling.NEAREST)
            whole.paste(large, (_GAP + j * (width + _GAP), _GAP + i * (height + _GAP)))
    return whole


def denoise_pictures(result: Denoised, noisy: Tensor, clean: Tensor | None, limit: int = 16) -> list[list[Image.Image]]:
    """Of each row: clean where it is known, noisy, denoised, and the error of that."""
    space, rows = result.space, []
    for i in range(min(limit, len(result))):
        row = [] if clean is None else [shown(clean[i], space)]
        row += [shown(noisy[i], space), shown(result.mean[i], space)]
        most = max(float(result.expected_error[i]) * 3, 1e-9)
        row += [] if clean is None else [signed(result.mean[i] - clean[i], most)]
        rows.append(row)
    return rows


def denoise_page(result: Denoised, noisy: Tensor, clean: Tensor | None, names: list[str], title: str) -> str:
    """HTML of a denoising task: figures, then rows of pictures."""
    tiles = [
        tile(f"{float(result.sd.mean()):.3g}", f"noise: standard deviation, {_given(result)}, in grey levels"),
        tile(f"{float(result.expected_error.mean()):.3g}", "error that the model expects of its answers"),
    ]
    if result.error is not None and result.error_before is not None:
        error, before = (float(each.mean()) for each in (result.error, result.error_before))
        tiles.append(
            tile(f"{error:.3g}", f"error that they make, {before:.3g} before", "good" if error < before else "bad")
        )
    if result.psnr is not None:
        before, after = (float(part.mean()) for part in result.psnr)
        tiles.append(tile(f"{after:.1f} dB", f"peak signal-to-noise ratio, {before:.1f} dB before"))
    pictures = denoise_pictures(result, noisy, clean)
    heads = ["noisy", "denoised"] if clean is None else ["clean", "noisy", "denoised", "error"]
    notes = []
    for i, row in enumerate(result.to_json()[: len(pictures)]):
        note = f"<b>{escape(names[i])}</b><br>sd {row['sd']:.3g}; error expected {row['expected_error']:.3g}"
        notes.append(note + (f", made {row['error']:.3g}" if "error" in row else ""))
    told = (
        ""
        if clean is None
        else "<p class='note'>Error: blue too dark, orange too bright, full colour at three times the error that the "
        "model expects of the row.</p>"
    )
    return page(
        title,
        f"""{_STYLE}<h1>What was there before the noise</h1>
<p class="lead">{escape(title)}: the mean of what could have been there, given the noisy picture.</p>
<div class="tiles">{"".join(tiles)}</div>
{_table(heads, pictures, notes)}{told}""",
    )


def impute_pictures(result: Imputed, x: Tensor, limit: int = 12) -> list[list[Image.Image]]:
    """Of each row: itself, what is seen of it, its completions, and their mean and spread where there are several."""
    space, n, rows = result.space, result.n, []
    for i in range(min(limit, len(result.seen))):
        row = [shown(x[i], space), hidden(x[i], result.seen[i], space)]
        row += [shown(draw, space) for draw in result.draws[i * n : min((i + 1) * n, i * n + 8)]]
        if n > 1:
            row += [shown(result.mean[i], space), shown(2 * result.spread[i], space)]
        rows.append(row)
    return rows


def impute_page(result: Imputed, x: Tensor, names: list[str], title: str) -> str:
    """HTML of completions: figures, then rows of pictures."""
    pictures = impute_pictures(result, x)
    many = result.n > 1
    heads = ["original", "seen", *["drawn"] * min(result.n, 8), *(["mean", "spread"] if many else [])]
    share = float(1 - result.seen.double().mean())
    worth = "draws from the model's own conditional" if result.kind == "=" else "draws nearly from it"
    tiles = [
        tile(f"{share:.0%}", "of the cells are hidden"),
        tile(f"{result.kind.value}", f"{worth}: {result.how}"),
        tile(f"{result.n}", f"draws for each of {len(result.seen)} rows"),
    ]
    told = "<p class='note'>Spread: twice the standard deviation of the draws, white is much.</p>" if many else ""
    return page(
        title,
        f"""{_STYLE}<h1>What could be there</h1>
<p class="lead">{escape(title)}: orange is hidden; each draw is one way in which the model sees it go on.</p>
<div class="tiles">{"".join(tiles)}</div>
{_table(heads, pictures, [f"<b>{escape(name)}</b>" for name in names[: len(pictures)]])}{told}""",
    )


def write_page(path: Path, html: str, pictures: list[list[Image.Image]]) -> None:
    """Write a page to a file, or, where it is called .png, the page's pictures alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".png":
        sheet(pictures).save(path, "PNG")
    else:
        path.write_text(html, encoding="utf-8")


def save_rows(x: Any, names: list[str], space: Space, folder: Path) -> list[Path]:
    """Write each row as a picture, named as it was, or all of them as one .npz or .csv; the files' paths."""
    if not is_picture(space):
        path = folder / f"rows{suffixes(space)[-1] if isinstance(space, Table) else '.npz'}"
        save_values(x, space, path)
        return [path]
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i, name in enumerate(names):
        stem = Path(name.replace("/", "-").replace(" ", "-")).stem
        path = folder / f"{stem}.png"
        path = folder / f"{stem}-{i}.png" if path in paths else path
        picture(x[i], space).save(path, "PNG")
        paths.append(path)
    return paths


def _table(heads: list[str], pictures: list[list[Image.Image]], notes: list[str]) -> str:
    """Rows of pictures under their heads, a note at the end of each."""
    cells: list[Any] = [f"<span>{head}</span>" for head in [*heads, ""]]
    for row, note in zip(pictures, notes, strict=True):
        cells += [f'<img alt="{head}" src="{png_uri(image)}">' for head, image in zip(heads, row, strict=True)]
        cells.append(f"<span>{note}</span>")
    columns = f"repeat({len(heads)}, minmax(36px, 130px)) minmax(110px, 1fr)"
    return f'<div class="wide"><div class="sheet" style="grid-template-columns:{columns}">{"".join(cells)}</div></div>'


def _given(result: Denoised) -> str:
    return "estimated" if result.estimated else "given"
