"""Make: draws and how they come about, and walks among a model's codes."""

from __future__ import annotations

import base64
import secrets
from typing import Any

import gradio as gr
import torch

from likely.logprob import BATCH
from likely.logprob import sample as draw
from likely.studio import look, pieces
from likely.studio.ask import pictures
from likely.studio.desk import QUEUE, Desk
from likely.studio.guard import LIMITS, affordable
from likely.studio.shelf import Loaded, Told, untold
from likely.tasks.film import animation, film, has_film, thinned
from likely.tasks.latents import Axes, Codes, has_codes
from likely.tasks.samples import digest
from likely.tasks.ways import Tempered, sites_of, with_settings
from likely.verbs import name_of

AXES = 6
FAR = 3
"""Deviations that a slider reaches."""
WALK = 9
FILMED = 8
ANY = "any"


def ways(loaded: Loaded) -> dict[str, Any]:
    """The settings for drawing that a model takes, with its own choices: sampler and evaluations, or temperature."""
    model, found = loaded.model, {}
    if not hasattr(model, "drawn") and sites_of(model) is not None:
        found = {"temperature": 1.0}
    if hasattr(model, "drawn"):
        settings = getattr(model.config, "sampler", model.config)
        found = {name: getattr(settings, name) for name in ("name", "evaluations") if hasattr(settings, name)}
        if hasattr(settings, "name"):
            found["samplers"] = list(type(settings).model_fields["name"].annotation.__args__)
    return found


def drawer(loaded: Loaded, sampler: str | None, evaluations: int | None, temperature: float | None = None) -> Any:
    """The model, or the model with other settings for drawing."""
    own = ways(loaded)
    asked = {"name": sampler, "evaluations": evaluations, "temperature": temperature}
    settings = {key: value for key, value in asked.items() if key in own and value is not None and value != own[key]}
    return with_settings(loaded.model, settings)


def labels(loaded: Loaded, n: int, label: str | None) -> torch.Tensor | None:
    """The classes to draw from: one, or by turns where the model needs one; None for a joint's own, or without any."""
    if loaded.model.condition is None:
        return None
    if label in (None, ANY):
        return torch.arange(n) % loaded.model.condition.levels if loaded.needs_y else None
    names = loaded.classes or tuple(map(str, range(loaded.model.condition.levels)))
    if label not in names:
        raise ValueError(f"class is {label!r}; accepts {', '.join(names)}")
    return torch.full((n,), names.index(label))


def seed_of(text: str) -> int:
    """The seed that was written, or a fresh one."""
    if not str(text or "").strip():
        return secrets.randbits(31)
    if not str(text).strip().isdecimal() or len(str(text).strip()) > 19:
        raise ValueError(f"seed is {str(text)[:30]!r}; accepts a whole number of at most 19 digits, or nothing")
    return int(str(text).strip())


def draws(
    loaded: Loaded,
    n: int,
    seed: int,
    label: str | None,
    sampler: str | None,
    evaluations: int | None,
    temperature: float | None = None,
    told: Told = untold,
) -> str:
    """Draws in order, none left out, as HTML."""
    pictures(loaded)
    affordable(n, _priced(loaded, evaluations), loaded.space.dims)
    model, y = drawer(loaded, sampler, evaluations, temperature), labels(loaded, n, label)
    if y is None and model.condition is not None and isinstance(model, Tempered):
        y = torch.arange(n) % model.condition.levels  # a joint's own classes are drawn at temperature 1 only
    x = draw(model, n, y, seed=seed, progress=lambda done: told(done / n, "drawing"))
    names = [""] * n if y is None else [_name(loaded, int(c)) for c in y]
    figures = [pieces.figure(x[i], loaded.space, f"draw {i}", names[i]) for i in range(n)]
    note = f"Seed {seed}: the first {n} draws, in order, whoever asks for them. SHA-256 {digest(x)[:16]}…"
    if isinstance(model, Tempered):
        note += f" At temperature {model.temperature:g}: sharpened or flattened, and so not draws from p(x)."
    return pieces.section("What it imagines", pieces.strip(figures), note)


def shown_film(
    loaded: Loaded, seed: int, label: str | None, sampler: str | None, evaluations: int | None, told: Told = untold
) -> str:
    """How draws come about, as an animation and its frames in a row."""
    pictures(loaded)
    if not has_film(loaded.model):
        raise TypeError(f"{name_of(loaded.model)} draws in one go: there is no way to film; Draw shows what it makes")
    steps = _priced(loaded, evaluations)
    affordable(BATCH, steps, loaded.space.dims)
    model, y = drawer(loaded, sampler, evaluations), labels(loaded, FILMED, label)
    frames = []
    for frame in film(model, FILMED, y, seed=seed):
        frames.append(frame)
        told(min(len(frames) / (steps + 1), 1.0), f"state {len(frames)}")
    scale = max(1, 72 // loaded.space.shape[-1])
    moving = base64.b64encode(animation(frames, loaded.space, scale=scale)).decode()
    picture = f'<img class="lk-film" src="data:image/webp;base64,{moving}" alt="film of {FILMED} draws">'
    few = thinned(frames, 8)
    still = [pieces.figure(frame[0], loaded.space, f"state {i}", "") for i, frame in enumerate(few)]
    note = (
        f"{len(frames)} states on the way to {FILMED} draws of seed {seed}; below, the first of them in eight stills."
    )
    return pieces.section("How they come about", picture + pieces.strip(still, "eight"), note)


def codes_of(loaded: Loaded) -> Codes:
    """The model's codes; `TypeError` says where there are none."""
    pictures(loaded)
    return Codes(loaded.model)


def axes_of(loaded: Loaded) -> Axes:
    """The directions in which the codes of the first training rows differ most, worked out once."""
    if loaded.axes is None:
        few = slice(0, 256)
        y = loaded.data.train.y[few] if loaded.needs_y else None
        loaded.axes = codes_of(loaded).axes(loaded.space.take(loaded.data.train.x, few), y, AXES)
    return loaded.axes


def walk(loaded: Loaded, first: int, last: int) -> str:
    """Pictures on the way from one test picture to another."""
    test = loaded.data.test
    a, b = (test.x[i % len(test)][None] for i in (first, last))
    y = test.y[[first % len(test), last % len(test)]] if loaded.needs_y else None
    way = codes_of(loaded).between(a, b, WALK, y)
    ends = [pieces.figure(a[0], loaded.space, "the first", "from"), pieces.figure(b[0], loaded.space, "the last", "to")]
    steps = [pieces.figure(x, loaded.space, f"step {i}") for i, x in enumerate(way)]
    note = "The two test pictures, and what codes on the way from one to the other stand for."
    return pieces.section("A walk between two pictures", pieces.strip([ends[0], *steps, ends[1]]), note)


def at(loaded: Loaded, places: list[float]) -> str:
    """The picture at a place along the directions in which codes differ most."""
    if not all(abs(value) <= FAR for value in places):
        raise ValueError(f"places are {places}; the studio accepts at most {FAR} deviations from the mean")
    axes = axes_of(loaded)
    z = axes.at(torch.tensor([places], dtype=torch.float64))
    y = torch.zeros(1, dtype=torch.int64) if loaded.needs_y else None
    x = codes_of(loaded).decode(z, y)
    share = float(axes.shares.sum())
    note = f"Codes along the {AXES} directions in which training pictures differ most ({share:.0%} of all variance)."
    return pieces.section(
        "At this place among the codes", pieces.strip([pieces.figure(x[0], loaded.space, "decoded")], "large"), note
    )


def _priced(loaded: Loaded, evaluations: int | None) -> int:
    return evaluations if evaluations and "evaluations" in ways(loaded) else 1


def _name(loaded: Loaded, c: int) -> str:
    return loaded.classes[c] if c < len(loaded.classes) else str(c)


# The tab ------------------------------------------------------------------------------------------------------------


def tab(desk: Desk) -> None:
    """Build the tab and say what its events do."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            n = gr.Slider(1, LIMITS.n, 16, step=1, label="How many")
            label = gr.Dropdown([ANY], value=ANY, label="Of the class", visible=False)
            seed = gr.Textbox("1", label="Seed (empty: a fresh one)", max_lines=1)
            sampler = gr.Dropdown([], label="Sampler", visible=False)
            evaluations = gr.Slider(1, 200, 20, step=1, label="Evaluations of the network", visible=False)
            heat = gr.Slider(
                0.1, 2, 1, step=0.05, label="Temperature (1: the model's own draws)", visible=False, elem_id="make-heat"
            )
            with gr.Row():
                go = gr.Button("Draw", variant="primary", elem_id="make-draw")
                filmed = gr.Button("Film", elem_id="make-film")
                stop = gr.Button("Stop", elem_id="make-stop")
            with gr.Column(visible=False) as walking:
                look.html('<p class="lk-note">Walk among its codes: choose two test pictures …</p>')
                with gr.Row():
                    first = gr.Number(0, label="From", precision=0, minimum=0)
                    last = gr.Number(1, label="To", precision=0, minimum=0)
                ahead = gr.Button("Walk", elem_id="make-walk")
                look.html('<p class="lk-note">… or move along the directions in which pictures differ most:</p>')
                sliders = [
                    gr.Slider(-FAR, FAR, 0, step=0.1, label=f"Direction {i + 1}, deviations") for i in range(AXES)
                ]
        with gr.Column(scale=7, min_width=300):
            out = look.html(pieces.hint("Draw, and see what the model imagines."), elem_id="make-out")
            place = look.html(elem_id="make-place")

    def start(loaded: Loaded, told: Told) -> Any:
        own, classes = ways(loaded), [ANY, *(loaded.classes or ())]
        if loaded.model.condition is not None and not loaded.classes:
            classes = [ANY, *map(str, range(loaded.model.condition.levels))]
        return (
            gr.Dropdown(choices=classes, value=ANY, visible=loaded.model.condition is not None and loaded.given_y),
            gr.Dropdown(choices=own.get("samplers", []), value=own.get("name"), visible="name" in own),
            gr.Slider(value=own["evaluations"], visible=True) if "evaluations" in own else gr.Slider(visible=False),
            gr.Slider(value=1, visible="temperature" in own),
            gr.Column(visible=loaded.pictures and has_codes(loaded.model)),
            pieces.hint("Draw, and see what the model imagines."),
            "",
        )

    def drawing(loaded: Loaded, told: Told, n: int, seed: str, *how: Any) -> str:
        return draws(loaded, int(n), seed_of(seed), *how, told=told)

    def filming(loaded: Loaded, told: Told, n: int, seed: str, *how: Any) -> str:
        return shown_film(loaded, seed_of(seed), *how, told=told)

    def walked(loaded: Loaded, told: Told, first: float | None, last: float | None) -> str:
        return walk(loaded, int(first or 0), int(last or 0))

    def moved(loaded: Loaded, told: Told, *places: float) -> str:
        return at(loaded, [float(value) for value in places])

    how: dict[str, Any] = {"show_progress_on": [out], **QUEUE}
    fresh = [label, sampler, evaluations, heat, walking, out, place]
    for chosen in (desk.model.change, desk.load):
        chosen(desk.asks(start, 7, 5), [desk.model], fresh, **how)
    go.click(desk.asks(drawing), [desk.model, n, seed, label, sampler, evaluations, heat], [out], **how)
    filmed.click(desk.asks(filming), [desk.model, n, seed, label, sampler, evaluations], [out], **how)
    ahead.click(desk.asks(walked), [desk.model, first, last], [out], **how)
    live = {"trigger_mode": "always_last", "show_progress": "hidden", **QUEUE}
    gr.on([s.input for s in sliders], desk.asks(moved), [desk.model, *sliders], [place], **live)
    stop.click(desk.stop, api_visibility="private")
