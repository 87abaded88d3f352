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
    under = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
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
    return f'<p class="lk-problem" role="alert">{escape(text.removesuffix("."))}.</p>'


def hint(text: str) -> str:
    """What to do next, where nothing is yet."""
    return f'<p class="lk-hint">{escape(text)}</p>'


def pad(x: Tensor, space: Integers, target: str, hidden: Tensor | None = None) -> str:
    """A picture to paint on or, with the pixels `hidden` (H, W) bool, to rub out from. What is done to it goes to the
    field `target`: pixels, or which of them are hidden, as bytes in base64."""
    grey = len(space.shape) == 2 or space.shape[0] == 1
    channels, (height, width) = 1 if grey else 3, space.shape[-2:]
    data = {"target": target, "levels": space.levels, "channels": channels, "height": height, "width": width}
    data |= {"pixels": packed(x)} | ({} if hidden is None else {"rub": "", "hidden": packed(hidden)})
    attributes = " ".join(f'data-{name}="{escape(str(value))}"' for name, value in data.items())
    return f'<div class="lk-pad" {attributes}></div>'


def packed(x: Tensor) -> str:
    """Values of at most 256 levels as base64 of their bytes."""
    import torch

    return base64.b64encode(x.to(torch.uint8).contiguous().numpy().tobytes()).decode()


def unpacked(text: str, space: Integers) -> Tensor:
    """One value (1, *shape) of the space from what a pad wrote; `ValueError` for anything else."""
    return space.check(_bytes(text, space.dims).reshape(1, *space.shape), "the painted picture")


def unhidden(text: str, space: Integers) -> Tensor:
    """Which pixels are still seen, (H, W) bool, from what a pad to rub out wrote; all where it wrote nothing."""
    import torch

    height, width = space.shape[-2:]
    if not text:
        return torch.ones(height, width, dtype=torch.bool)
    return _bytes(text, height * width).reshape(height, width) == 0


def _bytes(text: str, count: int) -> Tensor:
    import torch

    if len(text) > 4 * (count + 2) // 3 + 4:
        raise ValueError(f"the painted picture is larger than {count} values, those of the model; choose one again")
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError("the painted picture cannot be read; choose one again") from error
    if len(data) != count:
        raise ValueError(f"the painted picture has {len(data)} values, the model's has {count}; choose one again")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


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
