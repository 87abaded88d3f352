"""Ask: one picture (from the data, a file, or painted), and all that the model can say of it."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import gradio as gr
import torch

from likely.data.inputs import load_inputs
from likely.logprob import Kind, LogProb
from likely.studio import charts, look, pieces
from likely.studio.desk import QUEUE, Desk
from likely.studio.errors import sentence
from likely.studio.guard import LIMITS
from likely.studio.shelf import Loaded, Told, untold
from likely.tasks.alter import alter
from likely.tasks.decide import Decisions, decide
from likely.tasks.standing import Standings, place, standing

SUFFIXES = [".png", ".jpg", ".jpeg", ".webp", ".bmp"]
THUMBS = 16
BLUR = 3
NEAREST = 6
ONLY_PICTURES = (
    "this model is about {space}; the studio asks about pictures only, and `likely evaluate` and `likely detect` about "
    "these"
)


# What the buttons do: functions of a loaded model, each of them a call of a task ------------------------------------


def judge(loaded: Loaded, x: Any, y: int | None = None, told: Told = untold) -> Decisions | Standings:
    """The tasks' verdicts on rows x: with classes where the model has them."""
    known = loaded.known(told)
    if loaded.joint:
        return decide(loaded.model, x, known, classes=loaded.classes or None)
    given = torch.full((len(x),), y or 0) if loaded.needs_y else None
    return standing(loaded.model, x, known, given)


def answer(loaded: Loaded, x: torch.Tensor, y: int | None = None, told: Told = untold) -> str:
    """All that is to be said about one picture x (1, *shape), as HTML."""
    pictures(loaded)
    image = pieces.image(x[0], loaded.space, "what the model was asked about")
    if not loaded.scores:
        raise TypeError(f"{loaded.name} has no reading of log p(x); it can be asked to make pictures, in the tab Make")
    found = judge(loaded, x, y, told)
    kind = "bad" if found.novel[0] else ""
    parts = [pieces.verdict(found.verdict(0), kind, image), pieces.tiles(_tiles(loaded, found))]
    if isinstance(found, Decisions):
        note = "Probabilities of the classes, were it one of them: a classifier stays sure on nonsense."
        worth = "exact" if found.posterior.kind is Kind.EXACT else f"made of bounds, {found.posterior.kind}"
        shares = found.posterior.nats[0].exp().tolist()
        bars = charts.bars(list(found.classes), shares, int(found.posterior.label[0]), found.posterior.kind.value)
        parts.append(pieces.section(f"Which class? p(y | x), {worth}", bars, note))
    chart = charts.standing(loaded.histogram(told), {"this one": place(found.log_prob)})
    note = "Where p(x) puts this one among what the model learned from. Far out on either side is strange."
    parts.append(pieces.section("Have I seen its kind before?", chart, note))
    return "".join(parts) + nearest(loaded, x)


def nearest(loaded: Loaded, x: torch.Tensor) -> str:
    """The training pictures nearest to x."""
    index = loaded.neighbours()
    if index is None:
        return ""
    near = index.nearest(x, min(NEAREST, index.rows))
    train, figures = loaded.data.train, []
    for i, distance in zip(near.index[0].tolist(), near.distance[0].tolist(), strict=True):
        name = "" if train.y is None or not loaded.classes else f"{loaded.classes[int(train.y[i])]}, "
        figures.append(pieces.figure(train.x[i], loaded.space, f"training example {i}", f"{name}{distance:.2f} away"))
    note = "The nearest in pixels, and how far a pixel is off on the whole (root mean square, in grey levels)."
    return pieces.section("The nearest training examples", pieces.strip(figures, "six"), note)


def _tiles(loaded: Loaded, found: Decisions | Standings) -> list[str]:
    p, reading = float(found.p_value[0]), found.log_prob
    strange = bool(found.novel[0])
    each = [
        pieces.tile(
            f"{p:.3f}",
            "p-value",
            "Of pictures like the training data so many look at least as strange.",
            "bad" if strange else "good",
        ),
        _likely(reading, loaded),
    ]
    if isinstance(found, Decisions):
        sure = float(found.posterior.nats[0].max().exp())
        each.append(
            pieces.tile(
                charts.percent(sure),
                f"p(y | x) {found.posterior.kind}",
                "How sure of the class, given that it is one of them.",
            )
        )
    return each


def _likely(reading: LogProb, loaded: Loaded) -> str:
    value = place(reading)
    if reading.kind is Kind.UNNORMALISED:
        return pieces.tile(charts.short(value), "-log p(x) - c", "In nats, up to a constant that nobody knows.")
    worth = {Kind.EXACT: "Exact", Kind.BOUND: "A bound: at most so many", Kind.ESTIMATE: "An estimate"}[reading.kind]
    share = loaded.share_below(value)
    return pieces.tile(
        f"{charts.sign(reading.kind.of_bits)}{value:.2f}",
        "bits per pixel, -log2 p(x)",
        f"{worth}. {share:.0%} of the training pictures need fewer.",
    )


def pictures(loaded: Loaded) -> None:
    """Raise `ValueError` for a model of something else than pictures."""
    if not loaded.pictures:
        raise ValueError(ONLY_PICTURES.format(space=loaded.space))


def altered(loaded: Loaded, pixels: str, turn: float, blur: float, invert: bool) -> torch.Tensor:
    """What was painted or chosen, turned, blurred and made a negative."""
    if not 0 <= blur <= BLUR:
        raise ValueError(f"blur is {blur}; the studio accepts 0 .. {BLUR} pixels")
    return alter(pieces.unpacked(pixels, loaded.space), loaded.space, turn=turn, blur=blur, invert=invert)


def from_data(loaded: Loaded, index: int) -> torch.Tensor:
    """A test picture (*shape), counted around the end."""
    pictures(loaded)
    return loaded.data.test.x[index % len(loaded.data.test)]


def thumbs(loaded: Loaded, target: str) -> str:
    """The first test pictures as buttons."""
    pictures(loaded)
    test = loaded.data.test
    each = []
    for i in range(min(THUMBS, len(test))):
        name = f"test picture {i}" + (
            "" if test.y is None or not loaded.classes else f", {loaded.classes[int(test.y[i])]}"
        )
        each.append((f"{i}.{secrets.token_hex(2)}", name, pieces.image(test.x[i], loaded.space, "")))
    return pieces.buttons(target, each)


def uploaded(loaded: Loaded, files: list[str]) -> tuple[torch.Tensor, list[str], list[str]]:
    """Pictures brought to the model's size, their names, and what is wrong with those left out."""
    pictures(loaded)
    rows, names, wrong = [], [], []
    if len(files) > LIMITS.files:
        wrong.append(f"{len(files)} files; only the first {LIMITS.files} were read")
    for file in map(Path, files[: LIMITS.files]):
        try:
            x, _ = load_inputs(file, loaded.space)
            rows.append(x)
            names.append(file.name)
        except (ValueError, OSError) as error:
            wrong.append(sentence(error, {str(file): file.name}))
    return (torch.cat(rows) if rows else torch.empty(0, *loaded.space.shape)), names, wrong


def verdicts(loaded: Loaded, x: torch.Tensor, names: list[str], progress: Told = untold) -> str:
    """A verdict each for several pictures, as buttons that bring one to the pad."""
    found = judge(loaded, x, told=progress)
    told = [f"{name}: {found.verdict(i)}" for i, name in enumerate(names)]
    each = [
        (pieces.packed(row), said, pieces.figure(row, loaded.space, "", said))
        for row, said in zip(x, told, strict=True)
    ]
    return pieces.section(
        "Your pictures", pieces.buttons("ask-row", each, "lk-strip large"), "Choose one to see more of it."
    )


# The tab ------------------------------------------------------------------------------------------------------------


def tab(desk: Desk) -> None:
    """Build the tab and say what its events do."""
    pixels, index, row = (look.field(f"ask-{name}") for name in ("pixels", "index", "row"))
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            pad = look.html(elem_id="ask-pad")
            turn = gr.Slider(-180, 180, 0, step=5, label="Turn, degrees")
            blur = gr.Slider(0, BLUR, 0, step=0.1, label="Blur, pixels")
            invert = gr.Checkbox(label="Negative")
            given = gr.Dropdown([], label="Given the class", visible=False)
            with gr.Row():
                go = gr.Button("Ask", variant="primary", elem_id="ask-go")
                stop = gr.Button("Stop", elem_id="ask-stop")
            look.html('<p class="lk-note">Paint on it, or choose a picture it has never seen:</p>')
            choices = look.html(elem_id="ask-choices")
            files = gr.File(
                label="Or drop pictures of your own",
                file_count="multiple",
                file_types=SUFFIXES,
                height=150,
                elem_id="ask-files",
            )
        with gr.Column(scale=7, min_width=300):
            several = look.html(visible=False, elem_id="ask-several")
            out = look.html(pieces.hint("Choose a model above."), elem_id="ask-out")

    def ask(loaded: Loaded, told: Told, pixels: str, turn: float, blur: float, invert: bool, given: int | None) -> str:
        if not pixels:
            return pieces.hint("Choose a picture on the left, or paint one.")
        return answer(loaded, altered(loaded, pixels, turn, blur, invert), given, told)

    def start(loaded: Loaded, told: Told) -> Any:
        x = from_data(loaded, 0)
        classes = [(name, i) for i, name in enumerate(loaded.classes)]
        asked = gr.Dropdown(choices=classes, value=0 if loaded.needs_y else None, visible=loaded.needs_y)
        painted = pieces.pad(x, loaded.space, "ask-pixels")
        return (
            painted,
            pieces.packed(x),
            thumbs(loaded, "ask-index"),
            asked,
            gr.Markdown(visible=False),
            pieces.hint(""),
        )

    def choose(loaded: Loaded, told: Told, index: str) -> Any:
        x = from_data(loaded, number(index))
        return pieces.pad(x, loaded.space, "ask-pixels"), pieces.packed(x)

    def bring(loaded: Loaded, told: Told, row: str) -> Any:
        x = pieces.unpacked(row, loaded.space)[0]
        return pieces.pad(x, loaded.space, "ask-pixels"), row

    def drop(loaded: Loaded, told: Told, files: list[str] | None) -> Any:
        x, names, wrong = uploaded(loaded, files or [])
        said = "".join(map(pieces.problem, wrong))
        if not names:
            return gr.skip(), gr.skip(), gr.Markdown(said, visible=True)
        if len(names) > 1:
            said += verdicts(loaded, x, names, told)
        return pieces.pad(x[0], loaded.space, "ask-pixels"), pieces.packed(x[0]), gr.Markdown(said, visible=bool(said))

    desk.picture = (pixels, turn, blur, invert, given)
    asked = [desk.model, *desk.picture]
    last: dict[str, Any] = {"trigger_mode": "always_last", "show_progress_on": [out], **QUEUE}
    again = {"fn": desk.asks(ask), "inputs": asked, "outputs": [out]}
    for chosen in (desk.model.change, desk.load):
        new = chosen(desk.asks(start, 6, 5), [desk.model], [pad, pixels, choices, given, several, out], **last)
        new.success(**again, **last)
    index.input(desk.asks(choose, 2), [desk.model, index], [pad, pixels], **last).then(**again, **last)
    row.input(desk.asks(bring, 2), [desk.model, row], [pad, pixels], **last).then(**again, **last)
    files.upload(desk.asks(drop, 3, 2), [desk.model, files], [pad, pixels, several], **last).then(**again, **last)
    gr.on([pixels.input, turn.change, blur.change, invert.change, given.input, go.click], **again, **last)
    stop.click(desk.stop, api_visibility="private")


def number(text: str) -> int:
    """The number in front of what a thumb wrote; `ValueError` for anything else."""
    head = text.partition(".")[0]
    if not head.isdecimal() or len(head) > 9:
        raise ValueError(f"{text[:20]!r} is no number of a test picture")
    return int(head)
