"""The plots of a run: sensitivity, convergence of the search, kept channels, the trade-off.

Every function takes plain dicts, numbers and NumPy arrays and the path of a PNG. Groups are drawn
in the order in which they come, from the input of the network to its output.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from jaxprune.report import style


def claims(data: str | None, model: str | None) -> dict[str, float]:
    """How many times fewer parameters and MACs the paper claims for a network and a data set.

    Hu et al. 2018 (arXiv 1805.11394, abstract): 8 and 3 for VGGNet on CIFAR-10 and on SVHN.
    """
    stated = data in ("cifar10", "svhn_cropped") and model in ("vgg16", "vgg19")
    return {"params": 8.0, "macs": 3.0} if stated else {}


def sensitivity(
    path: str | os.PathLike[str],
    kept: Sequence[float] | np.ndarray,
    accuracy: Mapping[str, Sequence[float] | np.ndarray],
    baseline: float,
    chosen: Mapping[str, float] | None = None,
) -> None:
    """Held-out accuracy against the kept fraction of one group, the others whole: a panel each.

    Args:
      path: the PNG.
      kept: kept fractions, [R], in (0, 1].
      accuracy: accuracies in [0, 1] at those fractions, [R], by group name.
      baseline: the accuracy of the unpruned network, the line that the curves come from.
      chosen: the fraction that the budget gave each group, marked on its curve.
    """
    kept = np.asarray(kept, float)
    order = np.argsort(kept)
    # The whole network is a point of every curve.
    x = np.append(kept[order], 1.0)
    names = style.short_names(list(accuracy))
    lines = {
        names[group]: (x, np.append(np.asarray(values, float)[order], baseline))
        for group, values in accuracy.items()
    }
    marks = {names[group]: fraction for group, fraction in (chosen or {}).items()}

    def decorate(axes: Axes, title: str) -> None:
        axes.axhline(baseline, color=style.SOFT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=2)
        if title in marks:
            fraction = marks[title]
            height = float(np.interp(fraction, *lines[title]))
            axes.vlines(fraction, 0, height, color=style.WARM, linewidth=1, zorder=2)
            axes.plot(fraction, height, "o", color=style.WARM, markersize=5, zorder=4)
            axes.set_title(f"{fraction:.0%}", fontsize=8.5, loc="right", pad=3, color=style.WARM)

    subtitle = f"each group pruned alone, no fine-tuning; dashed: unpruned, {baseline:.1%}"
    if marks:
        subtitle += "; dot: what the budget keeps"
    columns, size = _grid(list(lines))
    with style.figure(path, size, "Sensitivity of the groups", subtitle) as drawing:
        panels = style.multiples(drawing, lines, decorate, columns)
        panels[0].set(xlim=(0, 1.03), ylim=(0, 1.03), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        panels[0].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}"))
        panels[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}"))
        drawing.supxlabel("channels kept, %", fontsize=9.5)
        drawing.supylabel("held-out accuracy, %", fontsize=9.5)


def convergence(
    path: str | os.PathLike[str],
    history: Mapping[str, Sequence[float] | np.ndarray],
    subtitle: str = "best layer error of each generation, relative to the first",
) -> None:
    """The best error of the population over the generations, as a fraction of where it began.

    Args:
      path: the PNG.
      history: best layer error, [generations], by group name; NaN where a search had stopped.
      subtitle: what the curves are, in words.
    """
    names = style.short_names(list(history))
    lines, ends = {}, {}
    for group, values in history.items():
        values = np.asarray(values, float)
        values = values[np.isfinite(values)]
        if values.size == 0:
            continue
        # A group that loses nothing starts at zero: it has nowhere to fall.
        relative = values / values[0] if values[0] > 0 else np.ones_like(values)
        lines[names[group]] = (np.arange(1, len(values) + 1), relative)
        ends[names[group]] = relative[-1]

    def decorate(axes: Axes, title: str) -> None:
        axes.grid(axis="y")
        axes.plot(
            len(lines[title][0]), ends[title], "o", color=style.ACCENT, markersize=4, zorder=4
        )
        fall = f"−{1 - ends[title]:.0%}" if ends[title] < 1 else "±0%"
        axes.set_title(fall, fontsize=8.5, loc="right", pad=3)

    columns, size = _grid(list(lines))
    with style.figure(path, size, "Convergence of the search", subtitle) as drawing:
        panels = style.multiples(drawing, lines, decorate, columns)
        longest = max(len(x) for x, _ in lines.values())
        panels[0].set(xscale="log", xlim=(0.9, longest * 1.15), ylim=(0, 1.04))
        panels[0].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        panels[0].xaxis.set_minor_formatter(NullFormatter())
        panels[0].yaxis.set_major_formatter(FuncFormatter(style.percent))
        drawing.supxlabel("generation", fontsize=9.5)
        drawing.supylabel("relative error", fontsize=9.5)


def kept_channels(
    path: str | os.PathLike[str], kept: Mapping[str, int], total: Mapping[str, int]
) -> None:
    """The kept channels of every group as a bar within the channels that it had.

    Args:
      path: the PNG.
      kept: channels left, by group name.
      total: channels before, by the same names.
    """
    names = style.short_names(list(kept))
    left = np.array([kept[g] for g in kept])
    whole = np.array([total[g] for g in kept])
    rows = np.arange(len(left))
    subtitle = f"{left.sum():,} of {whole.sum():,} channels in {len(left)} groups"
    size = (7.6, 1.45 + 0.26 * len(left))
    with style.figure(path, size, "Kept channels", subtitle) as drawing:
        axes = drawing.subplots()
        axes.barh(rows, whole, height=0.72, color=style.FAINT)
        axes.barh(rows, left, height=0.72, color=style.ACCENT)
        for row, (some, all_) in enumerate(zip(left, whole, strict=True)):
            axes.text(
                all_ + 0.012 * whole.max(),
                row,
                f"$\\bf{{{some}}}$ / {all_}   {some / all_:.0%}",
                va="center_baseline",
                fontsize=8.5,
            )
        axes.set_yticks(rows, [names[g] for g in kept], fontsize=8.5)
        axes.set(xlim=(0, 1.24 * whole.max()), ylim=(len(left) - 0.4, -0.6))
        axes.set_xticks([tick for tick in axes.get_xticks() if tick <= whole.max()])
        axes.spines["bottom"].set_bounds(0, whole.max())
        axes.set_xlabel("channels", loc="left")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)


def tradeoff(
    path: str | os.PathLike[str],
    points: Sequence[Mapping[str, Any]],
    reference: Mapping[str, float],
    claims: Mapping[str, float],
) -> None:
    """Test accuracy against how many times fewer parameters and MACs, a panel each.

    The accuracy axis is logarithmic in the error, so that 98 and 99 % lie as far apart as 80 and
    90 %, and a network that was cut and not yet fine-tuned still fits.

    Args:
      path: the PNG.
      points: networks, each with `label`, `accuracy` in [0, 1], `params`, `macs`; `kind` may say
        `"reference"` (grey: not pruned) or `"result"` (large: what the run is for), and `method`
        what chose the channels: each method has a colour and a marker, told by a legend.
      reference: `params` and `macs` of the unpruned network: both axes start there.
      claims: reductions that a paper reports, drawn as a line in their panel; see `claims`.
    """
    quantities = {"params": "fewer parameters", "macs": "fewer MACs"}
    # An error of zero has no logarithm; half of the least error shown, or 0.1 %, stands for it.
    errors = np.array([1 - p["accuracy"] for p in points])
    positive = errors[errors > 0]
    floor = min(1e-3, positive.min() / 2) if positive.size else 1e-3
    errors = np.maximum(errors, floor)
    low, high = errors.min() / 1.5, min(1.0, errors.max() * 1.35)
    whole = [p["accuracy"] for p in points if p.get("kind") == "reference"]
    subtitle = "test accuracy against the size of the network, unpruned = 1×"
    methods = dict.fromkeys(p["method"] for p in points if "method" in p)
    looks = dict(zip(methods, itertools.cycle(style.SERIES), strict=False))
    with style.figure(path, (10.4, 4.7), "Accuracy and cost", subtitle) as drawing:
        panels = drawing.subplots(1, 2, sharey=True)
        for axes, (quantity, words) in zip(panels, quantities.items(), strict=True):
            ratios = np.array([reference[quantity] / p[quantity] for p in points])
            right = max(ratios.max(), claims.get(quantity, 1.0))
            axes.set(xscale="log", yscale="log", ylim=(high, low), xlim=(0.88, right**1.9 * 1.1))
            axes.grid(axis="y")
            if whole:
                axes.axhline(
                    max(1 - whole[0], floor), color=style.SOFT, linewidth=0.9, linestyle=(0, (4, 3))
                )
            if quantity in claims:
                _claim(axes, claims[quantity])
            _points(axes, points, ratios, errors, looks)
            axes.set_xlabel(f"times {words}")
            ticks = [t for t in (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64) if t <= right * 1.6]
            axes.xaxis.set_major_locator(FixedLocator(ticks[:: 1 + len(ticks) // 8]))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
        rungs = (1, 2, 5) if high > 10 * low else (1, 1.5, 2, 3, 5, 7)
        ladder = [m * 10.0**e for e in range(-5, 1) for m in rungs]
        panels[0].yaxis.set_major_locator(FixedLocator([e for e in ladder if low <= e <= high]))
        panels[0].yaxis.set_minor_locator(NullLocator())
        panels[0].yaxis.set_major_formatter(FuncFormatter(lambda e, _: style.percent(1 - e)))
        panels[0].set_ylabel("test accuracy (log scale of the error)")
        if looks:
            drawing.legend(
                handles=[
                    Line2D([], [], color=colour, marker=marker, linestyle="none", label=method)
                    for method, (colour, marker) in looks.items()
                ],
                loc="outside lower center",
                ncols=min(6, len(looks)),
                frameon=False,
                fontsize=9,
            )


def _claim(axes: Axes, factor: float) -> None:
    """The line of a published reduction."""
    axes.axvline(factor, color=style.GOLD, linewidth=1.2)
    axes.text(
        factor,
        1.01,
        f"paper: {factor:g}× fewer at no loss",
        transform=axes.get_xaxis_transform(),
        color=style.GOLD,
        fontsize=8.5,
        ha="center",
        va="bottom",
    )


def _points(
    axes: Axes,
    points: Sequence[Mapping[str, Any]],
    ratios: np.ndarray,
    errors: np.ndarray,
    looks: Mapping[str, tuple[str, str]],
) -> None:
    """The networks of one panel, each labelled to its right; labels of one column keep apart."""
    colours = {"reference": style.SOFT, "result": style.WARM}
    # In units of the axis: 5 % of its height is a line of text.
    top, bottom = np.log(axes.get_ylim()[::-1])
    heights = np.log(errors)
    placed = np.empty_like(heights)
    columns = np.round(np.log(ratios) / 0.5)
    for column in np.unique(columns):
        members = np.flatnonzero(columns == column)
        placed[members] = style.spread(heights[members], 0.05 * (bottom - top))
    for point, ratio, error, height in zip(points, ratios, errors, placed, strict=True):
        kind = point.get("kind", "")
        plain = (colours.get(kind, style.ACCENT), "o")
        colour, marker = looks.get(point.get("method", ""), plain)
        size = 9 if kind == "result" else 6.5
        axes.plot(ratio, error, marker, color=colour, markersize=size, zorder=5)
        axes.annotate(
            f"{point['label']}  {point['accuracy']:.2%}",
            (ratio, np.exp(height)),
            (9, 0),
            textcoords="offset points",
            fontsize=8.5,
            va="center_baseline",
            color=colour,
            weight="bold" if kind == "result" else "normal",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},
        )


def _grid(titles: Sequence[str]) -> tuple[int, tuple[float, float]]:
    """Panels in a row of small multiples, and the inches of the figure.

    A panel is as wide as its title and the figure on its right need. There are at most 5 in a row
    (7 where there are many), no more than 14 inches hold, and as few as the rows then allow.
    """
    width = max(1.75, 0.85 + 0.075 * max(map(len, titles)))
    most = max(1, min(5 if len(titles) <= 20 else 7, int(14 // width)))
    rows = -(-len(titles) // most)
    columns = -(-len(titles) // rows)
    return columns, (max(7.0, 1.2 + width * columns), 1.35 + 1.35 * max(rows, 1.6))
