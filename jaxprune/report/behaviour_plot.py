"""What pruning changes, as bars: each class, corrupted images, and how sure the network is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from jaxprune.report import style

_COLOURS = {"unpruned": style.SOFT, "pruned": style.ACCENT}


def changes(path: str | os.PathLike[str], found: Mapping[str, Mapping[str, Any]]) -> None:
    """A row of three panels a run, drawn as a PNG at `path`.

    On the left by how many points the accuracy of each class changes, in the middle the accuracy on
    images as they are and under each corruption (the mean over its strengths), on the right the
    calibration error, before and after pruning.

    Args:
      path: the PNG.
      found: label of a run → its `behaviour.json`.
    """
    falls = {
        label: 100 * (of["unpruned"]["accuracy"] - of["pruned"]["accuracy"])
        for label, of in found.items()
    }
    worst = max(falls, key=lambda label: falls[label])
    title = f"What pruning changes: {-falls[worst]:+.1f} points in all".replace("-", "−")
    title += f" in the run that loses most, {worst}" if len(found) > 1 else ""
    subtitle = "test images; corruptions: the mean of five strengths"
    with style.figure(path, (10.5, 2.9 * len(found) + 0.9), title, subtitle) as drawing:
        grid = drawing.subplots(
            len(found), 3, squeeze=False, gridspec_kw={"width_ratios": (1.1, 1.5, 0.7)}
        )
        for row, (label, of) in zip(grid, found.items(), strict=True):
            _classes(row[0], of)
            _corruptions(row[1], of)
            _calibration(row[2], of)
            if len(found) > 1:
                row[0].set_ylabel(label)
        handles, names = grid[0][1].get_legend_handles_labels()
        drawing.legend(handles, names, loc="outside lower right", ncols=2, frameon=False)


def _classes(axes: Axes, of: Mapping[str, Any]) -> None:
    pairs = zip(of["unpruned"]["classes"], of["pruned"]["classes"], strict=True)
    points = np.array([0.0 if a is None else 100 * (b - a) for a, b in pairs])
    places = np.arange(len(points))
    colours = [style.WARM if p < 0 else style.ACCENT for p in points]
    axes.bar(places, points, color=colours, width=0.7)
    worst = int(points.argmin())
    if points[worst] < 0:
        text = f"{worst}: {points[worst]:+.1f}".replace("-", "−")
        at = (worst, points[worst])
        axes.annotate(
            text, at, (0, -3), textcoords="offset points", ha="center", va="top", fontsize=8.5
        )
    axes.axhline(0, color=style.SOFT, linewidth=0.8)
    axes.margins(y=0.18)
    if len(points) <= 20:
        axes.set_xticks(places)
    _name(axes, "change of each class, points")


def _corruptions(axes: Axes, of: Mapping[str, Any]) -> None:
    kinds = list(of["pruned"]["corruptions"])
    bars = {
        network: [of[network]["accuracy"]]
        + [float(np.mean(of[network]["corruptions"][kind])) for kind in kinds]
        for network in _COLOURS
    }
    _pairs(axes, ["none", *kinds], bars)
    axes.yaxis.set_major_formatter(style.percent)
    axes.tick_params(axis="x", labelrotation=30)
    _name(axes, "accuracy under corruptions")


def _calibration(axes: Axes, of: Mapping[str, Any]) -> None:
    figures = {"as it is": "calibration_error", "tempered": "calibration_error_tempered"}
    bars = {network: [of[network][f] for f in figures.values()] for network in _COLOURS}
    _pairs(axes, list(figures), bars)
    axes.yaxis.set_major_formatter(style.percent)
    _name(axes, "calibration error")


def _pairs(axes: Axes, names: Sequence[str], bars: Mapping[str, Sequence[float]]) -> None:
    """Two bars a name, beside each other."""
    places = np.arange(len(names))
    for i, (network, values) in enumerate(bars.items()):
        axes.bar(places + 0.38 * (i - 0.5), values, 0.36, color=_COLOURS[network], label=network)
    axes.set_xticks(places, names)


def _name(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9.5, loc="left", pad=4)
    axes.tick_params(labelsize=8, length=2.5)
    axes.grid(axis="y")
