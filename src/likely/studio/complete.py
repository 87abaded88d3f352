"""Complete: rub out a part and let the model fill it in, take noise away, and see what a picture costs in bytes."""

from __future__ import annotations

import io
from typing import Any

import gradio as gr
import torch

from likely.noise import Noise
from likely.studio import charts, look, pieces
from likely.studio.ask import from_data, number, pictures, thumbs
from likely.studio.desk import QUEUE, Desk
from likely.studio.guard import affordable
from likely.studio.shelf import Loaded, Told, untold
from likely.tasks.bits import bits_map
from likely.tasks.denoise import denoise, real_rows, rounded
from likely.tasks.impute import impute
from likely.tasks.masks import SIDES, hide
from likely.tasks.pictures import picture
from likely.verbs import Ordered, has

FILLED = 4


def filled(
    loaded: Loaded, x: torch.Tensor, seen: torch.Tensor, evaluations: int, seed: int, told: Told = untold
) -> str:
    """Completions of a picture (1, *shape) of which the pixels `seen` (H, W) are there."""
    pictures(loaded)
    if bool(seen.all()):
        raise ValueError("nothing is rubbed out yet; paint over what the model shall fill in, or choose a side")
    affordable(FILLED, evaluations, loaded.space.dims)
    y = torch.zeros(1, dtype=torch.int64) if loaded.needs_y else None
    tell = lambda done: told(done / FILLED, "filling in")  # noqa: E731
    found = impute(loaded.model, x, seen, FILLED, y=y, evaluations=evaluations, seed=seed, progress=tell)
    figures = [pieces.figure(x[0], loaded.space, "the picture as it was", "as it was")]
    figures += [
        pieces.figure(each, loaded.space, f"completion {i + 1}", str(i + 1)) for i, each in enumerate(found.draws)
    ]
    worth = "exact draws" if found.kind == "=" else "approximate draws"
    note = f"{FILLED} {worth} from p(what is missing | what is there): {found.how}. What is there stays as it is."
    return pieces.section("Filled in", pieces.strip(figures, "large"), note)


def cleared(loaded: Loaded, x: torch.Tensor, sd: float, known: bool, seed: int, told: Told = untold) -> str:
    """A picture with noise of `sd` raw units, and without it again; `known` says whether the model is told sd."""
    pictures(loaded)
    clean = real_rows(x, loaded.space, "x")
    noisy = clean + sd * Noise(seed, 1).normal(clean.shape[1:], dtype=torch.float64)
    y = torch.zeros(1, dtype=torch.int64) if loaded.needs_y else None
    told(0.2, "taking noise away")
    found = denoise(loaded.model, noisy, sd if known else None, y, clean=clean, seed=seed)
    shown = ((x, "as it was"), (rounded(noisy, loaded.space), "with noise"), (found.x, "denoised"))
    figures = [pieces.figure(each[0], loaded.space, name, name) for each, name in shown]
    before, after = float(found.error_before[0]), float(found.error[0])
    each = [
        pieces.tile(f"{before:.2f}", "error before", "How far a pixel was off, root mean square, in grey levels."),
        pieces.tile(f"{after:.2f}", "error after", "The same after denoising.", "good" if after < before else "bad"),
        pieces.tile(
            f"{float(found.sd[0]):.2f}",
            "noise, standard deviation",
            "As it was told." if known else f"The model's own estimate; it was {sd:g}.",
        ),
    ]
    return pieces.section("Denoised", pieces.strip(figures, "large") + pieces.tiles(each), "The posterior mean.")


def compressed(loaded: Loaded, x: torch.Tensor, told: Told = untold) -> str:
    """The bytes of a picture under the model beside those of PNG, and where they are paid."""
    pictures(loaded)
    codec = loaded.codec()
    y = torch.zeros(1, dtype=torch.int64) if loaded.needs_y else None
    told(0.1, "coding, and decoding again to be sure")
    report = codec.report(x, y)
    buffer = io.BytesIO()
    picture(x[0], loaded.space).save(buffer, "PNG", optimize=True)
    raw = loaded.space.dims
    each = [
        pieces.tile(
            f"{report.coded / 8:,.0f} bytes",
            "this model",
            f"And {report.header / 8:,.0f} more of header, once for any number of pictures. Decoded again: the same.",
        ),
        pieces.tile(
            f"{charts.sign(report.kind)}{report.nll / 8:,.1f}", "bytes, says -log2 p(x)", "What theory asks for."
        ),
        pieces.tile(
            f"{len(buffer.getvalue()):,} bytes", "PNG", "The same picture as the usual file, headers included."
        ),
        pieces.tile(f"{raw:,} bytes", "raw", "One byte a value."),
    ]
    body = pieces.tiles(each)
    if has(loaded.model, Ordered):
        body += where_bits(loaded, x, y)
    return pieces.section("Compressed", body, "Lossless: what comes back is the very picture.")


def where_bits(loaded: Loaded, x: torch.Tensor, y: torch.Tensor | None) -> str:
    """The bits that each pixel costs, as a picture beside the picture."""
    bits = bits_map(loaded.model, x, y)[0]
    most = float(bits.max()) or 1.0
    shades = type(loaded.space)((1, *bits.shape), 256)
    shown = (255 * bits / most).round().to(torch.uint8)[None]
    figures = [
        pieces.figure(x[0], loaded.space, "the picture", "the picture"),
        pieces.figure(shown, shades, "bits of each pixel", f"its bits: white is {charts.short(most)}"),
    ]
    return pieces.section("Where its bits are", pieces.strip(figures, "large"), "Bright where the model was surprised.")


# The tab ------------------------------------------------------------------------------------------------------------


def tab(desk: Desk) -> None:
    """Build the tab and say what its events do."""
    pixels, mask, index, side = (look.field(f"fill-{name}") for name in ("pixels", "mask", "index", "side"))
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            pad = look.html(elem_id="fill-pad")
            look.html('<p class="lk-note">Rub out with pointer or keys, or hide</p>')
            look.html(pieces.buttons("fill-side", [(name, f"hide {name}", name) for name in SIDES], "lk-chips"))
            with gr.Row():
                fill = gr.Button("Fill in", variant="primary", elem_id="fill-go")
                stop = gr.Button("Stop", elem_id="fill-stop")
            evaluations = gr.Slider(8, 240, 80, step=4, label="Evaluations of a denoiser for each completion")
            sd = gr.Slider(0.1, 8, 2, step=0.1, label="Noise to add, standard deviation in grey levels")
            known = gr.Checkbox(label="Tell the model how much noise it is")
            with gr.Row():
                clear = gr.Button("Denoise", elem_id="fill-denoise")
                small = gr.Button("Compress", elem_id="fill-compress")
            choices = look.html()
        with gr.Column(scale=7, min_width=300):
            out = look.html(elem_id="fill-out")

    def place(loaded: Loaded, x: torch.Tensor, seen: torch.Tensor) -> Any:
        return pieces.pad(x, loaded.space, "fill-mask", ~seen), pieces.packed(x), pieces.packed(~seen)

    def start(loaded: Loaded, told: Told) -> Any:
        x, (height, width) = from_data(loaded, 0), loaded.space.shape[-2:]
        hint = pieces.hint("Rub out a part, then let the model fill it in.")
        top = loaded.space.levels - 1
        return (
            *place(loaded, x, torch.ones(height, width, dtype=torch.bool)),
            thumbs(loaded, "fill-index"),
            hint,
            gr.Slider(maximum=round(top / 2, 1), value=round(top / 8, 1)),
        )

    def choose(loaded: Loaded, told: Told, index: str, mask: str) -> Any:
        return *place(loaded, from_data(loaded, number(index)), pieces.unhidden(mask, loaded.space)), gr.skip()

    def covered(loaded: Loaded, told: Told, side: str, pixels: str) -> Any:
        seen = hide(loaded.space, side, 1)[0]
        x = pieces.unpacked(pixels, loaded.space)[0]
        return *place(loaded, x, seen[0] if seen.ndim == 3 else seen), gr.skip()

    def filling(loaded: Loaded, told: Told, pixels: str, mask: str, evaluations: int) -> str:
        x, seen = pieces.unpacked(pixels, loaded.space), pieces.unhidden(mask, loaded.space)
        return filled(loaded, x, seen, int(evaluations), 0, told)

    def clearing(loaded: Loaded, told: Told, pixels: str, sd: float, known: bool) -> str:
        return cleared(loaded, pieces.unpacked(pixels, loaded.space), float(sd), bool(known), 0, told)

    def coding(loaded: Loaded, told: Told, pixels: str) -> str:
        return compressed(loaded, pieces.unpacked(pixels, loaded.space), told)

    how: dict[str, Any] = {"show_progress_on": [out], **QUEUE}
    for chosen in (desk.model.change, desk.load):
        chosen(desk.asks(start, 6, 4), [desk.model], [pad, pixels, mask, choices, out, sd], **how)
    index.input(desk.asks(choose, 4, 3), [desk.model, index, mask], [pad, pixels, mask, out], **how)
    side.input(desk.asks(covered, 4, 3), [desk.model, side, pixels], [pad, pixels, mask, out], **how)
    fill.click(desk.asks(filling), [desk.model, pixels, mask, evaluations], [out], **how)
    clear.click(desk.asks(clearing), [desk.model, pixels, sd, known], [out], **how)
    small.click(desk.asks(coding), [desk.model, pixels], [out], **how)
    stop.click(desk.stop, api_visibility="private")
