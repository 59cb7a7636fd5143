"""What the plots have in common: colours, fonts, small multiples, labels that do not collide.

Figures are made without pyplot, on the Agg canvas: no display is needed, and the backend and the
settings of the user's own notebook stay as they are.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from jaxprune.files import replace

INK = "#22303c"
SOFT = "#7b8794"
FAINT = "#d9dee3"
ACCENT = "#0b7a75"
WARM = "#d1603d"
GOLD = "#c9971c"

_COLOURS = ("#d1603d", "#0b7a75", "#3b6fb6", "#8e4a9e", "#6b7f1e", "#b0306a", "#4d4d4d")
_MARKERS = "osD^vPXp<>h"
SERIES = [(_COLOURS[i % 7], _MARKERS[i % 11]) for i in range(7 * 11)]
"""Colours with markers, no pair twice: series are told apart in grey, too."""

_SETTINGS: dict[Any, Any] = {
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "lines.solid_capstyle": "round",
    "savefig.dpi": 160,
    "figure.facecolor": "white",
}


@contextmanager
def figure(
    path: str | os.PathLike[str], size: tuple[float, float], title: str, subtitle: str = ""
) -> Iterator[Figure]:
    """A figure of `size` inches with a headline, saved as a PNG at `path` when the block ends."""
    with mpl.rc_context(_SETTINGS):
        # Inches to fractions of the height: the headline keeps its size on a figure of any height.
        height = size[1]
        left = 0.12 / size[0]
        below = ConstrainedLayoutEngine(
            rect=(0.005, 0.01, 0.99, 0.99 - 0.65 / height), w_pad=0.06, h_pad=0.06
        )
        drawing = Figure(figsize=size, layout=below)
        FigureCanvasAgg(drawing)
        drawing.text(left, 1 - 0.12 / height, title, fontsize=13, weight="bold", va="top")
        drawing.text(left, 1 - 0.37 / height, subtitle, fontsize=9.5, color=SOFT, va="top")
        yield drawing
        image = io.BytesIO()
        drawing.savefig(image, format="png")
    replace(path, image.getvalue())


def multiples(
    drawing: Figure,
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]],
    decorate: Callable[[Axes, str], None],
    columns: int,
) -> list[Axes]:
    """One small panel per line, the other lines faint behind it, all on the same axes.

    Args:
      drawing: the figure.
      lines: x and y of each line by its panel's title, in reading order.
      decorate: draws what a panel has beside its line.
      columns: panels in a row.

    Returns:
      the panels, in the order of `lines`.
    """
    rows = -(-len(lines) // columns)
    grid = drawing.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (title, (x, y)) in zip(grid, lines.items(), strict=False):
        for other in lines.values():
            axes.plot(*other, color=FAINT, linewidth=0.8, zorder=1)
        axes.plot(x, y, color=ACCENT, linewidth=2, zorder=3)
        axes.set_title(title, fontsize=9, loc="left", pad=3)
        axes.tick_params(labelsize=8, length=2.5)
        decorate(axes, title)
    for index, axes in enumerate(grid):
        if index >= len(lines):
            axes.set_visible(False)
        elif index + columns >= len(lines):  # the lowest panel of its column bears the ticks
            axes.tick_params(labelbottom=True)
    return list(grid[: len(lines)])


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Each group's name without collection, leaf and axis where that stays unique: `conv1_1`."""
    parts = {n: n.partition("[")[0].split("/") for n in names}
    short = {n: "/".join(p[1:-1]) or n for n, p in parts.items()}
    taken = list(short.values())
    return {n: s if taken.count(s) == 1 else n for n, s in short.items()}


def spread(positions: Sequence[float] | np.ndarray, gap: float) -> np.ndarray:
    """Positions moved as little as it takes for neighbours to lie at least `gap` apart.

    Labels that would touch are pooled and centred on the mean of where they belong.
    """
    order = np.argsort(positions, kind="stable")
    pools: list[tuple[float, int]] = []  # (mean wanted centre, labels)
    for index in order:
        centre, size = float(positions[index]), 1
        while pools and centre - pools[-1][0] < gap * (size + pools[-1][1]) / 2:
            above, others = pools.pop()
            centre = (centre * size + above * others) / (size + others)
            size += others
        pools.append((centre, size))
    moved = [c + gap * (i - (n - 1) / 2) for c, n in pools for i in range(n)]
    result = np.empty(len(moved))
    result[order] = moved
    return result


def percent(value: float, _: Any = None) -> str:
    """A fraction as a tick: `25%`, `99.5%`."""
    return f"{100 * value:.4g}%"
