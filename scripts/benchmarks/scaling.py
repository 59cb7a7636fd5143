"""How cost grows: each thing timed over a range of sizes, with the exponent of a fitted power.

The search of one group over channels, population and generations (plain, without polish and
bounds); tracing over the equations of ResNets of growing depth; the Gram statistics over images;
the memory of a population's evaluation over its masks. An exponent of 1 is linear; one near 0 says
that something fixed dominates at these sizes.

2 cores of an AMD EPYC, JAX 0.10.2: search time 0.86 over 32 to 512 channels, 0.83 over populations
of 32 to 512, 0.89 over 50 to 800 generations; tracing 1.12 over 246 to 1,371 equations; statistics
1.00 over images; memory 0.02 over 4 to 256 masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from matplotlib.ticker import LogLocator

import jaxprune as jp
from benchmarks import population as populations
from benchmarks.common import Table, exponent, together
from benchmarks.networks import SHAPE, shipped
from benchmarks.problems import gram
from jaxprune.report import style
from jaxprune.search import SearchConfig, search_groups
from jaxprune.statistics import grams


def measure(*, short: bool) -> Table:
    """One row a curve."""
    table = Table("How cost grows")
    n = 2 if short else 5
    some = slice(2) if short else slice(None)

    def add(what: str, over: str, sizes: Sequence[int], costs: list[float], unit: str) -> None:
        slope, _ = exponent(sizes, costs)
        table.rows.append(
            {
                "what": what, "over": over, "from": sizes[0], "to": sizes[-1],
                f"{unit} at the first": costs[0], f"{unit} at the last": costs[-1],
                "exponent": slope,
            }
        )  # fmt: skip
        table.data[f"{what} over {over}"] = {"x": list(sizes), "y": costs, "unit": unit}

    def timed(runs: Sequence[Callable[[], Any]]) -> list[float]:
        times = together({str(i): run for i, run in enumerate(runs)}, n=n)
        return [t.median for t in times.values()]

    channels = [32, 64, 128, 256, 512][some]
    add("search", "channels", channels, timed([searched(channels=c) for c in channels]), "s")
    sizes = [32, 64, 128, 256, 512][some]
    add("search", "population", sizes, timed([searched(population=p) for p in sizes]), "s")
    counts = [50, 100, 200, 400, 800][some]
    add("search", "generations", counts, timed([searched(generations=g) for g in counts]), "s")

    networks = [shipped(name, 1)[1:] for name in ["resnet20", "resnet56", "resnet110"][some]]
    equations = [len(jax.make_jaxpr(fn)(*args).jaxpr.eqns) for fn, *args in networks]
    traced = timed([lambda fn=fn, args=args: jp.trace(fn, *args).names for fn, *args in networks])
    add("trace", "equations", equations, traced, "s")

    fn, variables, image = networks[0]
    graph = jp.trace(fn, variables, image)
    batch = jnp.ones((16, *SHAPE))
    images = [16, 32, 64, 128, 256][some]

    def statistics(count: int) -> Callable[[], Any]:
        batches = [batch] * (count // len(batch))
        return lambda: grams(jp.Problem(graph, fn, variables, batches, jp.Budget()))

    add("statistics", "images", images, timed([statistics(count) for count in images]), "s")

    def score(outputs: jax.Array, batch: Any) -> jax.Array:
        return jnp.mean(outputs)

    masks = [4, 16, 64, 256][some]
    memory = [
        populations.in_megabytes(graph, fn, variables, (batch, None), score, m) for m in masks
    ]
    add("evaluation", "masks", masks, memory, "MB")
    return table


def searched(
    channels: int = 256, population: int = 128, generations: int = 300
) -> Callable[[], Any]:
    """A search of one group."""
    matrix = gram(channels)
    config = SearchConfig(population=population, generations=generations, polish=False, bound=False)
    return lambda: search_groups({"g": matrix}, {"g": channels // 2}, jax.random.key(0), config)


def plot(table: Table, folder: Path) -> None:
    """A panel each, on logarithmic axes, with the fitted power."""
    subtitle = "points are measured, lines are fitted powers; both axes are logarithmic"
    with style.figure(folder / "scaling.png", (10.5, 5.2), table.title, subtitle) as drawing:
        panels = drawing.subplots(2, 3).ravel()
        for axes, curve, row in zip(panels, table.data.values(), table.rows, strict=True):
            slope, level = exponent(curve["x"], curve["y"])
            fitted = [level * x**slope for x in curve["x"]]
            axes.plot(curve["x"], fitted, color=style.SOFT, linewidth=0.8, linestyle=(0, (4, 3)))
            axes.plot(curve["x"], curve["y"], "o", color=style.ACCENT, markersize=4.5)
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.minorticks_off()
            axes.set_xticks(curve["x"], [str(x) for x in curve["x"]])
            axes.set_ylim(0.5 * min(curve["y"]), 2 * max(curve["y"]))
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
            axes.set_title(f"{row['what']}, exponent {slope:.2f}", fontsize=9, loc="left", pad=3)
            axes.set_xlabel(str(row["over"]))
            axes.set_ylabel({"s": "seconds", "MB": "memory, MB"}[curve["unit"]])
            axes.grid(visible=True)
