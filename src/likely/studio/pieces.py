"""Pieces of the page, as HTML: every text that comes from elsewhere is escaped here."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from typing import Any

from torch import Tensor

from likely.space import Integers
from likely.tasks.pictures import picture, png_uri


def image(x: Tensor, space: Integers, alt: str, kind: str = "") -> str:
    """One value as a picture, each of its pixels a square."""
    return f'<img class="px {kind}" src="{png_uri(picture(x, space))}" alt="{escape(alt)}">'


def figure(x: Tensor, space: Integers, alt: str, caption: str = "", kind: str = "") -> str:
    """A picture with a caption."""
    under = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure class="lk-figure {kind}">{image(x, space, alt)}{under}</figure>'


def tile(value: str, name: str, meaning: str, kind: str = "") -> str:
    """A number, what it is called, and a sentence on what it means; kind is "good", "bad" or nothing."""
    return (
        f'<div class="lk-tile {kind}"><span>{escape(name)}</span><b>{escape(value)}</b><p>{escape(meaning)}</p></div>'
    )


def tiles(each: Iterable[str]) -> str:
    """Tiles side by side."""
    return f'<div class="lk-tiles">{"".join(each)}</div>'


def strip(figures: Iterable[str], kind: str = "") -> str:
    """Pictures side by side."""
    return f'<div class="lk-strip {kind}">{"".join(figures)}</div>'


def section(title: str, body: str, note: str = "") -> str:
    """A part of an answer; `note` says what is to be seen."""
    under = f'<p class="lk-note">{escape(note)}</p>' if note else ""
    return f'<section class="lk-part"><h3>{escape(title)}</h3>{under}{body}</section>'


def verdict(text: str, kind: str = "", beside: str = "") -> str:
    """The answer in one sentence; kind is "good", "bad" or nothing."""
    first, _, rest = text.partition(" (")
    small = f"<small>({escape(rest)}</small>" if rest else ""
    head = f'<p class="lk-verdict {kind}" role="status">{escape(first[:1].upper() + first[1:])} {small}</p>'
    return f'<div class="lk-head">{beside}<div>{head}</div></div>' if beside else head


def problem(text: str) -> str:
    """What went wrong, where the answer would be."""
    return f'<p class="lk-problem" role="alert">{escape(text[:1].upper() + text[1:])}.</p>'.replace("..<", ".<")


def hint(text: str) -> str:
    """What to do next, where nothing is yet."""
    return f'<p class="lk-hint">{escape(text)}</p>'


def pad(x: Tensor, space: Integers, target: str, mode: str = "paint") -> str:
    """A picture to paint on (or, with mode "rub", to rub out from), which writes to the hidden field `target`."""
    grey = len(space.shape) == 2 or space.shape[0] == 1
    channels, (height, width) = 1 if grey else 3, space.shape[-2:]
    return (
        f'<div class="lk-pad" data-target="{target}" data-mode="{mode}" data-levels="{space.levels}" '
        f'data-channels="{channels}" data-height="{height}" data-width="{width}" data-pixels="{packed(x)}"></div>'
    )


def packed(x: Tensor) -> str:
    """Values of at most 256 levels as base64 of their bytes."""
    import torch

    return base64.b64encode(x.to(torch.uint8).contiguous().numpy().tobytes()).decode()


def unpacked(text: str, space: Integers) -> Tensor:
    """One value (1, *shape) of the space from what a pad wrote; `ValueError` for anything else."""
    import torch

    if len(text) > 4 * (space.dims + 2) // 3 + 4:
        raise ValueError(f"the painted picture is larger than the model's {space}")
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError("the painted picture cannot be read; choose one again") from error
    if len(data) != space.dims:
        raise ValueError(f"the painted picture has {len(data)} values, the model's has {space.dims}; choose one again")
    x = torch.frombuffer(bytearray(data), dtype=torch.uint8).reshape(1, *space.shape)
    return space.check(x, "the painted picture")


def buttons(target: str, labelled: Iterable[tuple[str, str, str]], kind: str = "lk-thumbs") -> str:
    """Buttons that write a value to the hidden field `target`: (value, label, inner HTML) each."""
    each = (
        f'<button type="button" data-set="{target}" data-value="{escape(value)}" aria-label="{escape(label)}" '
        f'title="{escape(label)}">{inner}</button>'
        for value, label, inner in labelled
    )
    return f'<div class="{kind}">{"".join(each)}</div>'


def facts(pairs: dict[str, Any]) -> str:
    """Names and values, one below the other."""
    rows = "".join(f"<dt>{escape(str(key))}</dt><dd>{escape(str(value))}</dd>" for key, value in pairs.items())
    return f'<dl class="lk-facts">{rows}</dl>'
