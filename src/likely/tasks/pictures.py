"""Pictures of data and of figures, for people who would rather look than read."""

from __future__ import annotations

import base64
import csv
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from likely.space import Integers, Reals, Space, Table

INK, PAPER, BLUE, ORANGE, GREY = "#1d2733", "#ffffff", "#2b6cb0", "#dd6b20", "#8a94a0"


def is_picture(space: Space) -> bool:
    """Whether values of a space can be shown as pictures: grids of integers, with 1, 3 or no channels."""
    return isinstance(space, Integers) and (
        len(space.shape) == 2 or (len(space.shape) == 3 and space.shape[0] in (1, 3))
    )


def picture(x: Tensor, space: Integers, scale: int = 1) -> Image.Image:
    """One value, (C, H, W) or (H, W), as a picture, each pixel `scale` screen pixels wide."""
    pixels = (x.double() * (255 / (space.levels - 1))).round().to(torch.uint8)
    pixels = pixels.permute(1, 2, 0).squeeze(2) if pixels.ndim == 3 else pixels
    image = Image.fromarray(pixels.cpu().numpy())
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def grid(x: Tensor, space: Integers, columns: int | None = None, scale: int | None = None) -> Image.Image:
    """Many values in order, left to right and top to bottom; about 8 columns and 600 pixels unless told."""
    columns = columns or max(1, min(8, len(x)) if len(x) <= 64 else math.ceil(math.sqrt(len(x))))
    height, width = space.shape[-2:]
    scale = scale or max(1, 600 // (columns * width))
    gap = max(2, scale // 2)
    rows = math.ceil(len(x) / columns)
    size = (columns * (width * scale + gap) + gap, rows * (height * scale + gap) + gap)
    sheet = Image.new(
        "L" if len(space.shape) == 2 or space.shape[0] == 1 else "RGB", size, "white" if scale > 1 else "black"
    )
    for i, value in enumerate(x):
        at = (gap + i % columns * (width * scale + gap), gap + i // columns * (height * scale + gap))
        sheet.paste(picture(value, space, scale), at)
    return sheet


def png_uri(image: Image.Image) -> str:
    """A picture as a data URI, for pages that stand alone."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def save_values(x: Any, space: Space, path: Path) -> None:
    """Write values as a picture (.png), an array (.npz, member x) or rows (.csv), by the suffix of `path`.

    Raises `ValueError` where the suffix does not suit the space.
    """
    suffix = path.suffix.lower()
    buffer = io.BytesIO()
    if suffix == ".png" and is_picture(space):
        grid(x, space).save(buffer, "PNG")
    elif suffix == ".png" and isinstance(space, Reals) and space.shape == (2,):
        figure = scatter(x)
        figure.savefig(buffer, format="png", dpi=120)
    elif suffix == ".npz" and not isinstance(space, Table):
        kind = np.uint8 if isinstance(space, Integers) and space.levels <= 256 else None
        np.savez_compressed(buffer, x=x.numpy() if kind is None else x.numpy().astype(kind))
    elif suffix == ".csv":
        text = io.StringIO()
        csv.writer(text).writerows(_rows(x, space))
        buffer.write(text.getvalue().encode())
    else:
        raise ValueError(f"out is {path}; accepts {', '.join(suffixes(space))} for values of {space}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())


def suffixes(space: Space) -> tuple[str, ...]:
    """The file endings that `save_values` takes for a space, the best one first."""
    drawn = (".png",) if is_picture(space) or (isinstance(space, Reals) and space.shape == (2,)) else ()
    return (*drawn, ".csv") if isinstance(space, Table) else (*drawn, ".npz", ".csv")


def _rows(x: Any, space: Space) -> list[list[Any]]:
    if not isinstance(space, Table):
        return x.reshape(len(x), -1).tolist()
    table: list[list[Any]] = [[column.name for column in space.columns]]
    for cells, seen in zip(x.cells.tolist(), x.seen.tolist(), strict=True):
        row: list[Any] = []
        for column, cell, there in zip(space.columns, cells, seen, strict=True):
            row.append("" if not there else cell if column.categories is None else column.categories[int(cell)])
        table.append(row)
    return table


def blank_figure(width: float, height: float) -> Any:
    """A figure of our own, drawn off screen and without pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def plain_axes(axes: Any, xlabel: str = "", ylabel: str = "") -> Any:
    """Axes without a box, in our ink."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)
    axes.set_xlabel(xlabel, color=INK)
    axes.set_ylabel(ylabel, color=INK)
    return axes


def scatter(x: Tensor) -> Any:
    """A figure of points in the plane."""
    figure = blank_figure(5, 5)
    axes = plain_axes(figure.add_subplot())
    axes.scatter(x[:, 0], x[:, 1], s=6, color=BLUE, alpha=0.6, linewidths=0)
    axes.set_aspect("equal")
    return figure


def densities(rows: dict[str, dict[str, Any]], half_width: dict[str, float], cells: int = 100) -> Any:
    """Densities in the plane side by side: for each row, titles with functions from points (n, 2) to nats (n,).

    Within a row all share the scale of the first.
    """
    wide = max(map(len, rows.values()))
    figure = blank_figure(2.1 * wide, 2.25 * len(rows))
    grid = figure.subplots(len(rows), wide, squeeze=False)
    for i, (line, (name, columns)) in enumerate(zip(grid, rows.items(), strict=True)):
        side = half_width[name]
        axis = (torch.arange(cells, dtype=torch.float64) + 0.5) * (2 * side / cells) - side
        points, top = torch.cartesian_prod(axis, axis), None
        for axes, (title, log_p) in zip(line, columns.items(), strict=True):
            p = log_p(points).exp().reshape(cells, cells).T
            top = float(p.quantile(0.999)) if top is None else top
            axes.imshow(p, origin="lower", extent=(-side, side, -side, side), cmap="viridis", vmin=0, vmax=top)
            axes.set_title(title if i == 0 else "", color=INK, fontsize=10)
            axes.set_xticks([])
            axes.set_yticks([])
        line[0].set_ylabel(name, color=INK)
    return figure


def bars_figure(bars: dict[str, float | None], ours: str, label: str) -> Any:
    """Lengths side by side, the one called `ours` in colour; one that is None is not installed."""
    figure = blank_figure(7.4, 0.5 + 0.36 * len(bars))
    axes = plain_axes(figure.add_subplot(), label)
    names = list(bars)
    colours = [BLUE if name == ours else GREY for name in names]
    axes.barh(range(len(bars)), [value or 0 for value in bars.values()], 0.66, color=colours)
    for place, (name, value) in enumerate(bars.items()):
        told, weight = (
            ("not installed", "normal") if value is None else (f"{value:.2f}", "bold" if name == ours else "normal")
        )
        axes.annotate(
            told,
            (value or 0, place),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            weight=weight,
            color=INK,
        )
    axes.set_yticks(range(len(bars)), names)
    axes.invert_yaxis()
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.12)
    return figure


def turned_figure(r: dict[str, Any]) -> Any:
    """The tour's third point from its figures: bits of p(x) upright and turned, and who is right in what is kept."""
    figure = blank_figure(10.4, 3.4)
    left, right = figure.subplots(1, 2)
    plain_axes(left, "bits per dimension of p(x)", "digits")
    bins = np.linspace(min(r["bits_upright"]), max(r["bits_turned"]), 41)
    for name, colour in (("upright", BLUE), ("turned", ORANGE)):
        label = "upright" if name == "upright" else "turned by 90°"
        left.hist(r[f"bits_{name}"], bins, color=colour, alpha=0.65, label=label)
    plain_axes(right, "share of the pool kept, the most trusted first", "right among the kept")
    lines = (("px", "trust p(x)", BLUE), ("py", "trust max p(y | x)", ORANGE), ("softmax", "trust a softmax", GREY))
    for key, label, colour in lines:
        right.plot(r["shares"], r["curves"][key], color=colour, label=label, linewidth=2)
        right.plot([0.5], [r[f"kept_half_{key}"]], "o", color=colour)
        at = (0.5, r[f"kept_half_{key}"])
        right.annotate(
            f"{at[1]:.0%}", at, (4, -13 if key == "py" else 5), textcoords="offset points", color=colour, fontsize=9
        )
    right.set_ylim(0, 1.08)
    for axes, corner in ((left, "upper right"), (right, "lower left")):
        axes.legend(frameon=False, fontsize=9, loc=corner)
    return figure


def svg(figure: Any) -> str:
    """A figure as inline SVG without its XML prologue; the same figure gives the same text."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "likely", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
