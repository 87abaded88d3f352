"""What the studio looks like: the colours of our pages, the system's fonts, light and dark; nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

HERE = Path(__file__).parent
FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONO = ("ui-monospace", "Menlo", "Consolas", "monospace")
INK, SOFT, PAPER, CARD, LINE, ACCENT = "#1d2733", "#5b6672", "#fbfaf7", "#ffffff", "#e3e0d8", "#2b6cb0"
DARK = {
    "ink": "#e8eaed",
    "soft": "#a3adb8",
    "paper": "#14181d",
    "card": "#1d232a",
    "line": "#313a44",
    "accent": "#7db3ee",
}


def theme() -> gr.themes.Base:
    """The theme: flat, roomy, one accent."""
    colours = {
        "body_background_fill": (PAPER, DARK["paper"]),
        "background_fill_primary": (CARD, DARK["card"]),
        "background_fill_secondary": (PAPER, DARK["paper"]),
        "body_text_color": (INK, DARK["ink"]),
        "body_text_color_subdued": (SOFT, DARK["soft"]),
        "block_background_fill": (CARD, DARK["card"]),
        "block_border_color": (LINE, DARK["line"]),
        "block_label_background_fill": (CARD, DARK["card"]),
        "block_label_text_color": (SOFT, DARK["soft"]),
        "block_title_text_color": (SOFT, DARK["soft"]),
        "border_color_primary": (LINE, DARK["line"]),
        "border_color_accent": (ACCENT, DARK["accent"]),
        "color_accent_soft": ("#e6eef7", "#26323f"),
        "link_text_color": (ACCENT, DARK["accent"]),
        "input_background_fill": (CARD, DARK["card"]),
        "input_border_color": (LINE, DARK["line"]),
        "input_border_color_focus": (ACCENT, DARK["accent"]),
        "slider_color": (ACCENT, DARK["accent"]),
        "checkbox_background_color_selected": (ACCENT, DARK["accent"]),
        "checkbox_border_color_selected": (ACCENT, DARK["accent"]),
        "button_primary_background_fill": (ACCENT, DARK["accent"]),
        "button_primary_background_fill_hover": ("#24598f", "#a0c8f4"),
        "button_primary_text_color": ("#ffffff", DARK["paper"]),
        "button_secondary_background_fill": (CARD, DARK["card"]),
        "button_secondary_background_fill_hover": ("#f3f1ea", "#262d36"),
        "button_secondary_border_color": (LINE, DARK["line"]),
        "button_secondary_text_color": (INK, DARK["ink"]),
        "table_even_background_fill": (CARD, DARK["card"]),
        "table_odd_background_fill": (PAPER, DARK["paper"]),
        "loader_color": (ACCENT, DARK["accent"]),
    }
    values = {name: light for name, (light, _) in colours.items()}
    values |= {f"{name}_dark": dark for name, (_, dark) in colours.items()}
    base = gr.themes.Base(font=FONT, font_mono=MONO, radius_size="md", spacing_size="md", text_size="md")
    flat = {"block_shadow": "none", "block_label_shadow": "none", "button_primary_shadow": "none"}
    return base.set(**values, **flat, color_accent=ACCENT, block_border_width="1px", input_border_width="1px")


def css() -> str:
    """Our own style, on top of the theme."""
    return (HERE / "studio.css").read_text(encoding="utf-8")


def head() -> str:
    """The script of the pads, in the page itself."""
    return f"<script>{(HERE / 'studio.js').read_text(encoding='utf-8')}</script>"


TITLE = """<div class="lk-title"><h1>likely <i>studio</i></h1>
<p>Ask generative models how likely, which class, how sure; and whether they have seen its kind before.</p></div>"""


def html(value: str = "", **options: Any) -> gr.Markdown:
    """A place for HTML of our own making (`pieces`).

    `gr.HTML` would do, but runs its templates through eval, which the page's policy forbids.
    """
    return gr.Markdown(value.replace("\n", " "), sanitize_html=False, latex_delimiters=[], container=False, **options)


def field(name: str) -> gr.Textbox:
    """A field that only the page's script writes to, out of sight."""
    return gr.Textbox(elem_id=name, elem_classes="lk-off", show_label=False, container=False, lines=1)
