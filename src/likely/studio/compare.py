"""Compare: two models on the same picture, side by side; numbers of two kinds are never ranked."""

from __future__ import annotations

from typing import Any

import gradio as gr
import torch

from likely.logprob import Kind
from likely.studio import look, pieces
from likely.studio.ask import altered, answer, judge, pictures
from likely.studio.desk import QUEUE, Desk
from likely.studio.shelf import Loaded, Told, untold
from likely.tasks.detect.strangers import adapt

WORTH = {
    Kind.EXACT: "exact values",
    Kind.BOUND: "upper bounds of bits",
    Kind.ESTIMATE: "estimates",
    Kind.UNNORMALISED: "values up to a constant",
}
"""What readings are, in words."""


def compared(one: Loaded, other: Loaded, x: torch.Tensor, y: int | None, told: Told = untold) -> str:
    """What both say of a picture x (1, *shape) of the first one's space, which is brought to the other's by a rule."""
    pictures(one)
    pictures(other)
    brought, rule = adapt(x, one.space, other.space)
    halves = []
    for loaded, picture in ((one, x), (other, brought)):
        title = f'<h3 class="lk-which">{pieces.escape(loaded.name)} <small>{pieces.escape(loaded.family)}</small></h3>'
        halves.append(f"<div>{title}{answer(loaded, picture, y, told)}</div>")
    a, b = judge(one, x, y, told).log_prob, judge(other, brought, y, told).log_prob
    try:
        a.comparable(b)
        difference = float((b.bits_per_dim - a.bits_per_dim)[0])
        likelier = one if difference > 0 else other
        said = (
            f"{likelier.name} needs {abs(difference):.2f} bits per dimension less for this one. Both readings are "
            f"{WORTH[a.kind]}{'' if a.kind is Kind.EXACT else ', so the truth may be otherwise'}."
        )
    except ValueError:
        said = f"Their bits do not compare: {one.name} gives {WORTH[a.kind]}, {other.name} {WORTH[b.kind]}" + (
            "." if a.space == b.space else f", and they are about other things: {a.space} and {b.space}."
        )
    if rule != "as it is":
        said += f" For {other.name} the picture was changed: {rule}."
    return f'<p class="lk-note">{pieces.escape(said)}</p><div class="lk-two">{"".join(halves)}</div>'


def tab(desk: Desk) -> None:
    """Build the tab and say what its events do."""
    with gr.Row(equal_height=False):
        second = gr.Dropdown(desk.shelf.names(), label="The other model", elem_id="other")
        go = gr.Button("Compare", variant="primary", elem_id="compare-go", scale=0, min_width=140)
        stop = gr.Button("Stop", elem_id="compare-stop", scale=0, min_width=100)
    hint = pieces.hint("The picture of the tab Ask, as it stands there, and what two models say of it.")
    out = look.html(hint, elem_id="compare-out")

    def start(told: Any = None) -> Any:
        return gr.Dropdown(choices=desk.shelf.names())

    def both(loaded: Loaded, told: Told, name: str, pixels: str, *how: Any) -> str:
        turn, blur, invert, given = how
        if not name:
            raise ValueError("the other model is missing; choose one")
        if not pixels:
            raise ValueError("there is no picture yet; choose one in the tab Ask")
        return compared(loaded, desk.shelf.take(name), altered(loaded, pixels, turn, blur, invert), given, told)

    second.focus(start, None, [second], api_visibility="private")
    go.click(desk.asks(both), [desk.model, second, *desk.picture], [out], show_progress_on=[out], **QUEUE)
    stop.click(desk.stop, api_visibility="private")
