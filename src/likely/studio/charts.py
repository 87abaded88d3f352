"""Charts as inline SVG: no colours of their own, so that light and dark come from the page's style."""

from __future__ import annotations

import math
from html import escape

from likely.tasks.standing import Histogram

WIDTH, HEIGHT = 640, 200


def bars(names: list[str], shares: list[float], likeliest: int, kind: str) -> str:
    """Probabilities of classes, a bar each; the likeliest is drawn in the accent's colour."""
    rows = []
    for i, (name, share) in enumerate(zip(names, shares, strict=True)):
        mark = " top" if i == likeliest else ""
        rows.append(
            f'<div class="lk-bar{mark}"><span>{escape(name)}</span>'
            f'<i style="--share:{100 * share:.2f}%"></i><b>{percent(share)}</b></div>'
        )
    label = f"p of y given x {kind}: likeliest {names[likeliest]}, {percent(shares[likeliest])}"
    return f'<div class="lk-bars" role="img" aria-label="{escape(label)}">{"".join(rows)}</div>'


def percent(share: float) -> str:
    """A probability for people: never 100 % or 0 %, which no density says."""
    if share >= 0.9995:
        return "> 99.9 %"
    return "< 0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"


def sign(kind: str) -> str:
    """What stands before a number that is not exact."""
    return {"=": "", "<=": "≤ ", ">=": "≥ ", "~": "≈ "}.get(kind, f"{kind} ")


def standing(histogram: Histogram, marks: dict[str, float]) -> str:
    """A histogram of known rows with a line where each of `marks` lies; what lies outside is drawn at the edge, with an
    arrow."""
    edges, shares = histogram.edges, histogram.shares
    low, high = float(edges[0]), float(edges[-1])
    finite = [value for value in marks.values() if math.isfinite(value)]
    span = high - low
    low, high = min([low, *finite], default=low), max([high, *finite], default=high)
    low, high = max(low, edges[0] - span), min(high, edges[-1] + 3 * span)
    pad = 0.03 * (high - low)
    low, high = low - pad, high + pad
    x = lambda value: WIDTH * (value - low) / (high - low)  # noqa: E731
    top = max(float(share.max()) for share in shares.values()) or 1.0
    base, tall = HEIGHT - 26, HEIGHT - 60
    parts = []
    for name, share in shares.items():
        points = [(x(edges[0]), 0.0)]
        for i, value in enumerate(share):
            points += [(x(edges[i]), float(value)), (x(edges[i + 1]), float(value))]
        points.append((x(edges[-1]), 0.0))
        path = " ".join(f"{px:.1f},{base - tall * value / top:.1f}" for px, value in points)
        parts.append(f'<polygon class="{"soft" if name == "training" else "line"}" points="{path}"/>')
    parts += _axis(low, high, x, base)
    for i, (name, value) in enumerate(marks.items()):
        at = min(max(value if math.isfinite(value) else math.copysign(math.inf, value), low), high)
        px = min(max(x(at), 4), WIDTH - 4)
        arrow = " →" if value > high else " ←" if value < low else ""
        side = "end" if px > WIDTH * 0.6 else "start"
        dx, dy = (-7 if side == "end" else 7), 16 + 18 * i
        parts.append(
            f'<line class="mark m{i}" x1="{px:.1f}" x2="{px:.1f}" y1="6" y2="{base}"/>'
            f'<text class="mark m{i}" x="{px + dx:.1f}" y="{dy}" text-anchor="{side}">{escape(name)} '
            f"{short(value)}{arrow}</text>"
        )
    keys = "".join(
        f'<span class="key {"soft" if name == "training" else "line"}">{escape(name)}</span>' for name in shares
    )
    label = f"histogram of {histogram.unit}; " + "; ".join(f"{name} at {short(value)}" for name, value in marks.items())
    return (
        f'<div class="lk-chart"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f'{"".join(parts)}</svg><p class="keys">{keys}<span>{escape(histogram.unit)}</span></p></div>'
    )


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers within low .. high, about so many."""
    step = 10 ** math.floor(math.log10((high - low) / wanted))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= wanted)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def short(value: float) -> str:
    """A number in few characters."""
    if not math.isfinite(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _axis(low: float, high: float, x: object, base: int) -> list[str]:
    assert callable(x)
    marks = (
        f'<text x="{x(value):.1f}" y="{base + 18}" text-anchor="middle">{short(value)}</text>'
        for value in ticks(low, high, 6)
    )
    return [f'<line class="axis" x1="0" x2="{WIDTH}" y1="{base}" y2="{base}"/>', *marks]
