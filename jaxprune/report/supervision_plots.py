"""The plots of supervisors: ROC, precision against recall, risk against coverage, their scores.

Lines have a colour each for a supervisor; a row is a network.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxprune.report import style

Pathlike = str | os.PathLike[str]


def curves(
    path: Pathlike,
    title: str,
    found: Mapping[str, Mapping[str, Any]],
    levels: Mapping[str, float],
) -> None:
    """Three curves a network, a line for each supervisor.

    Args:
      path: the PNG.
      title: the case.
      found: network → supervisor → its `Sweep`.
      levels: network → its error on the inliers alone, a dashed line.
    """
    subtitle = "outliers are positives; dashed: the error on the inliers alone"
    with style.figure(path, (10, 3.1 * len(found) + 1.0), f"Supervisors: {title}", subtitle) as fig:
        grid = fig.subplots(len(found), 3, squeeze=False)
        for row, (network, by) in zip(grid, found.items(), strict=True):
            for (name, sweep), (colour, _) in zip(by.items(), style.SERIES, strict=False):
                look = {"color": colour, "linewidth": 1.5, "label": name}
                row[0].plot(sweep.fpr, sweep.tpr, **look)
                row[1].plot(sweep.tpr, sweep.precision, **look)
                row[2].plot(sweep.coverage, sweep.risk, **look)
            row[0].plot([0, 1], [0, 1], color=style.FAINT, linewidth=1, zorder=1)
            row[2].axhline(levels[network], color=style.SOFT, linewidth=0.9, linestyle=(0, (4, 3)))
            _name(row[0], f"{network}: ROC", "inliers rejected", "outliers rejected")
            _name(row[1], "precision and recall", "outliers rejected", "precision")
            _name(row[2], "risk and coverage", "coverage", "risk of the whole set")
            row[1].set_ylim(0, 1.02)
            row[2].set_ylim(0, None)
        _legend(fig, grid[0][0])


def histograms(
    path: Pathlike, title: str, found: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]
) -> None:
    """The scores of inliers and outliers: a row a network, a column a supervisor, 30 bins.

    Args:
      path: the PNG.
      title: the case.
      found: network → supervisor → scores of inliers [N] and of outliers [M]. Scores beyond the
        0.5 % and 99.5 % of both are drawn in the outermost bins.
    """
    columns = len(next(iter(found.values())))
    subtitle = "anomaly scores; filled: inliers, line: outliers"
    size = (1.9 * columns + 0.4, 1.9 * len(found) + 0.9)
    with style.figure(path, size, f"Scores: {title}", subtitle) as fig:
        grid = fig.subplots(len(found), columns, squeeze=False)
        for row, (network, by) in zip(grid, found.items(), strict=True):
            for axes, (name, (inliers, outliers)) in zip(row, by.items(), strict=True):
                low, high = np.quantile(np.concatenate([inliers, outliers]), [0.005, 0.995])
                bins = np.linspace(low, max(high, low + 1e-9), 31)
                shown = [np.clip(part, bins[0], bins[-1]) for part in (inliers, outliers)]
                axes.hist(shown[0], bins, color=style.ACCENT, alpha=0.45)
                axes.hist(shown[1], bins, color=style.WARM, histtype="step", linewidth=1.3)
                axes.set_title(name, fontsize=9, loc="left", pad=3)
                axes.tick_params(labelsize=7, length=2)
                axes.locator_params(axis="x", nbins=3)
                axes.set_yticks([])
            row[0].set_ylabel(network)


def strengths(
    path: Pathlike,
    title: str,
    at: Sequence[int],
    auroc: Mapping[str, Mapping[str, Sequence[float]]],
) -> None:
    """AUROC against the strength of a corruption: a panel a network, a line a supervisor."""
    subtitle = "outliers: the corrupted test images; 0.5 is chance"
    with style.figure(path, (8, 3.6), f"Supervisors: {title} at five strengths", subtitle) as fig:
        panels = fig.subplots(1, len(auroc), sharey=True, squeeze=False)[0]
        for axes, (network, by) in zip(panels, auroc.items(), strict=True):
            for (name, values), (colour, marker) in zip(by.items(), style.SERIES, strict=False):
                axes.plot(at, values, color=colour, marker=marker, markersize=4, label=name)
            axes.axhline(0.5, color=style.FAINT, linewidth=1, zorder=1)
            axes.set(title=network, xlabel="strength", xticks=list(at))
        panels[0].set_ylabel("AUROC")
        _legend(fig, panels[0])


def _name(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=9.5, loc="left", pad=4)
    axes.set(xlabel=x, ylabel=y, xlim=(-0.01, 1.01))
    axes.grid()


def _legend(fig: Figure, axes: Axes) -> None:
    lines, names = axes.get_legend_handles_labels()
    fig.legend(lines, names, loc="outside lower center", ncols=len(names), frameon=False)
