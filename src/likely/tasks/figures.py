"""Figures of what detections and decisions are worth: likelihoods, reliability, risk and coverage."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from likely.tasks.pictures import BLUE, GREY, INK, ORANGE, blank_figure, plain_axes

COLOURS = (ORANGE, "#2f855a", "#805ad5", "#b7791f", "#c53030", "#319795", "#d53f8c", "#4a5568")
"""Colours of the sets from outside, in turn."""


def bits_figure(inside: Any, sets: dict[str, Any], unit: str = "bits per dimension of p(x)") -> Any:
    """Histograms of the inside (n,) against each set, a panel each, all on one axis."""
    columns = min(4, max(1, len(sets)))
    rows = max(1, math.ceil(len(sets) / columns))
    figure = blank_figure(2.6 * columns, 1.9 * rows + 0.3)
    every = np.concatenate([inside, *sets.values()])
    every = every[np.isfinite(every)]
    low, high = float(every.min()), float(every.max())
    bins = np.linspace(low, high if high > low else low + 1, 49)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).flat
    for i, axes in enumerate(panels):
        if i >= len(sets):
            axes.set_visible(False)
            continue
        name = list(sets)[i]
        plain_axes(axes, unit if i // columns == rows - 1 and i % columns == 0 else "")
        for values, colour, alpha in ((inside, BLUE, 0.75), (sets[name], ORANGE, 0.6)):
            values = values[np.isfinite(values)]
            axes.hist(values, bins, weights=np.full(len(values), 1 / max(1, len(values))), color=colour, alpha=alpha)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_title(name, fontsize=10, color=ORANGE, loc="left")
    return figure


def complexity_figure(inside: tuple[Any, Any], sets: dict[str, tuple[Any, Any]]) -> Any:
    """Bits per dimension of the model against those of the best codec, (codec, model) for each set."""
    figure = blank_figure(7.4, 4.4)
    axes = plain_axes(figure.add_subplot(), "best codec, bits per dimension", "model, bits per dimension")
    for (name, (codec, model)), colour in zip({"inside": inside, **sets}.items(), (BLUE, *COLOURS * 4), strict=False):
        size = 12 if name == "inside" else 7
        axes.scatter(codec[:400], model[:400], s=size, color=colour, alpha=0.5, linewidths=0, label=name)
    low, high = axes.get_xlim()
    axes.plot([low, high], [low, high], color=GREY, linewidth=1, linestyle=":", zorder=0)
    axes.set_xlim(low, high)
    legend = axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5), markerscale=1.6)
    for handle in legend.legend_handles:
        handle.set_alpha(1)
    return figure


def reliability_figure(bins: Any) -> Any:
    """The reliability diagram of `likely.tasks.selective.Bin`s, with the intervals of the shares."""
    figure = blank_figure(4.6, 4.2)
    axes = plain_axes(figure.add_subplot(), "how sure: max p(y | x)", "how often right")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    x, y = [b.confidence for b in bins], [b.accuracy for b in bins]
    spread = [[b.accuracy - b.low for b in bins], [b.high - b.accuracy for b in bins]]
    axes.errorbar(x, y, np.maximum(spread, 0), color=BLUE, fmt="o-", markersize=5, linewidth=1.5, elinewidth=1.2)
    axes.set_xlim(min(0.98, *x, 0.9) - 0.03, 1.015)
    axes.set_ylim(min(b.low for b in bins) - 0.03, 1.02)
    axes.annotate(
        "surer than right", (0.97, 0.05), xycoords="axes fraction", ha="right", color=INK, fontsize=9, alpha=0.6
    )
    axes.annotate(
        "righter than sure", (0.03, 0.95), xycoords="axes fraction", va="top", color=INK, fontsize=9, alpha=0.6
    )
    return figure


def risk_figure(curves: dict[str, Any]) -> Any:
    """Selective risk against coverage, a `likely.tasks.selective.RiskCoverage` for each thing one could trust."""
    figure = blank_figure(5.6, 4.2)
    axes = plain_axes(
        figure.add_subplot(), "share of the rows answered, the most trusted first", "wrong among the answers"
    )
    for (name, curve), colour in zip(curves.items(), (BLUE, ORANGE, GREY, *COLOURS), strict=False):
        axes.plot(curve.coverage, curve.risk, color=colour, linewidth=2, label=f"trust {name}: AUGRC {curve.augrc:.4f}")
    axes.set_xlim(0, 1.01)
    top = max(float(curve.risk[len(curve.risk) // 20 :].max()) for curve in curves.values())  # not the first few rows
    axes.set_ylim(0, 1.3 * top if top else 1)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    return figure


def profile_figure(found: Any) -> Any:
    """The curves of a `likely.tasks.profile.Profile`: the bound's integrand and sum, and the denoiser's error."""
    figure = blank_figure(10.4, 3.5)
    left, right = figure.subplots(1, 2)
    plain_axes(left, "log-SNR", "bits/dim for one unit of log-SNR")
    plain_axes(right, "log-SNR", "mean absolute error of what is denoised")
    left.plot(found.log_snr, found.kl, color=BLUE, linewidth=2)
    left.axhline(0.5 / math.log(2), color=GREY, linestyle=":", linewidth=1)
    left.axvline(found.divide, color=ORANGE, linestyle="--", linewidth=1)
    at = {"xytext": (-5, 4), "textcoords": "offset points", "ha": "right"}
    left.annotate("half of the bits", (found.divide, 0.9 * float(found.kl.max())), color=ORANGE, fontsize=9, **at)
    right.plot(found.log_snr, found.error, color=BLUE, linewidth=2)
    right.set_yscale("log")
    return figure
