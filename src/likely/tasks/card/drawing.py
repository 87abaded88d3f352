"""Curves and points as SVG, written by hand: the same numbers give the same bytes on every machine, and the colours are
those of the page, light or dark."""

from __future__ import annotations

import math
from typing import Any

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 860, 320, 58, 40, 34


def curves_svg(curves: dict[str, Any]) -> str:
    """Loss and validation against steps, in bits per dimension where there are some; empty where there is no curve."""
    train, valid = curves["train"], curves["valid"]
    lines, unit = {}, "bits per dimension"
    for name, each in (("train", train), ("valid", valid)):
        if "step" in each:
            lines[name] = [(x, y) for x, y in zip(each["step"], each["bits_per_dim"], strict=True) if y is not None]
    if not any(lines.values()):
        unit = "loss"
        if "step" in train:
            lines["train"] = list(zip(train["step"], train["loss"], strict=True))
        if "step" in valid:
            lines["valid"] = [(x, -y) for x, y in zip(valid["step"], valid["score"], strict=True)]
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return ""
    every = [y for points in lines.values() for _, y in points]
    shown = sorted(every)[: max(2, math.ceil(0.97 * len(every)))] if len(every) > 20 else every
    low, high = min(shown), max(shown)
    high = high if high > low else low + 1
    last = max(x for points in lines.values() for x, _ in points)
    at = lambda x, y: (  # noqa: E731
        LEFT + (WIDTH - LEFT - 12) * x / max(1, last),
        TOP + (HEIGHT - BOTTOM - TOP) * (1 - (min(max(y, low), high) - low) / (high - low)),
    )
    parts = [_axes(low, high, last, unit)]
    for name, points in lines.items():
        text = " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y in points)
        parts.append(f'<polyline class="{name}" points="{text}"/>')
        if name == "valid" or len(points) == 1:
            dot = "dotv" if name == "valid" else "dot"
            parts += ['<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="3"/>'.format(dot, *at(x, y)) for x, y in points]
    legend = {"train": "training", "valid": "validation"}
    for i, name in enumerate(lines):
        x = WIDTH - 14 - 80 * (len(lines) - 1 - i)
        parts.append(f'<text class="in-{name}" x="{x}" y="20" text-anchor="end">{legend[name]}</text>')
    return _figure("".join(parts), WIDTH, HEIGHT, f"training curves: {unit} against steps")


def scatter_svg(points: list[list[float]]) -> str:
    """Points in the plane; of those with more numbers the first two."""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    span = max(max(xs) - min(xs), max(ys) - min(ys)) or 1.0
    size = 420
    left, bottom = (max(xs) + min(xs) - span) / 2, (max(ys) + min(ys) - span) / 2
    dots = "".join(
        f'<circle class="dot" cx="{20 + (size - 40) * (x - left) / span:.1f}" '
        f'cy="{size - 20 - (size - 40) * (y - bottom) / span:.1f}" r="4"/>'
        for x, y, *_ in points
    )
    return _figure(dots, size, size, f"{len(points)} samples in the plane", ' style="max-width:460px"')


def _axes(low: float, high: float, last: float, unit: str) -> str:
    parts = []
    for share in (0.0, 0.5, 1.0):
        y = TOP + (HEIGHT - BOTTOM - TOP) * (1 - share)
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - 12}" y1="{y:.1f}" y2="{y:.1f}"/>')
        value = low + share * (high - low)
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
        x = LEFT + (WIDTH - LEFT - 12) * share
        anchor = "start" if share == 0 else "end" if share == 1 else "middle"
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 12}" text-anchor="{anchor}">{share * last:,.0f}</text>')
    parts.append(f'<text x="{LEFT}" y="20">{unit}</text>')
    return "".join(parts)


def _figure(inside: str, width: int, height: int, what: str, style: str = "") -> str:
    svg = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{what}">{inside}</svg>'
    return f"<figure{style}>{svg}</figure>"
