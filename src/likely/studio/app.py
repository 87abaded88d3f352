"""The page: one module a tab, around one choice of a model."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from likely.studio import ask, compare, complete, look, make, runs, train
from likely.studio.desk import Desk
from likely.studio.shelf import Shelf

TABS = (
    ("Ask", "ask", ask),
    ("Make", "make", make),
    ("Complete", "complete", complete),
    ("Compare", "compare", compare),
    ("Runs", "runs", runs),
    ("Train", "train", train),
)


def build(roots: list[Path]) -> gr.Blocks:
    """The page about the runs in these folders."""
    desk = Desk(Shelf(roots))
    names = desk.shelf.names()
    with gr.Blocks(title="likely studio", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        with gr.Row(elem_id="top"):
            with gr.Column(scale=6, min_width=280):
                look.html(look.TITLE)
            with gr.Column(scale=4, min_width=240):
                desk.model = gr.Dropdown(names, value=names[0] if names else None, label="Model", elem_id="model")
        desk.load = page.load
        with gr.Tabs():
            for name, place, module in TABS:
                with gr.Tab(name, id=place):
                    module.tab(desk)
    return page
