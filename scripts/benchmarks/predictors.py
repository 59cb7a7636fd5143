"""What predicts the speed-up of a pruned network: parameters, MACs, activation memory, or a table.

Networks of random widths, half of them with one kept fraction for all groups and half with one
drawn for each, are sliced, compiled and timed in turn with the dense one, at the batch size for
which latency counts. Each predictor is its own reduction: the dense network's parameters over the
pruned one's, and so on. The latency table of `jaxprune.latency` was measured before, and has seen
none of these networks. R² is the square of the correlation with the measured speed-up: what the
best straight line through the points explains. Beside it stands the mean error of the predictor
itself, read as the speed-up, of which R² knows nothing.

32 ResNet-20s, 0.86 to 2.26 times as fast at batch 64 on 2 cores of an AMD EPYC, JAX 0.10.2: R²
0.75 for parameters, 0.95 for MACs, 0.97 for the memory of activations, 0.93 for the table. Read as
the speed-up itself, MACs are 84 % off in the mean, the table 16 % and the activations 10 %. The
digits run with `latency/1.5` at multiples of 8 channels was predicted at 1.48 times the dense
network's speed and reached 1.28 (1.95 ms and 1.52 ms, median of 20 rounds), and said so.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

import jaxprune as jp
from benchmarks.common import Table
from benchmarks.networks import shipped
from jaxprune import latency
from jaxprune.report import style

PREDICTORS = {
    "params": "parameters",
    "macs": "MACs",
    "activations": "activation memory",
    "latency": "latency table",
}
_ROUND_TO = 8


def measure(*, short: bool) -> Table:
    """Times random networks and holds every predictor against them."""
    name, batch, count = ("vgg_small", 4, 4) if short else ("resnet20", 64, 32)
    _, fn, variables, images = shipped(name, batch)
    graph = jp.trace(fn, variables, images[:1])
    began = time.perf_counter()
    kept = (0.2, 1.0) if short else latency.KEPT
    table_of = latency.measure(graph, fn, variables, images, round_to=_ROUND_TO, kept=kept)
    seconds = time.perf_counter() - began
    widths = _random_widths(graph, count)
    calls = [
        latency.network_of(graph, fn, variables, (images,), each) for each in (graph.sizes, *widths)
    ]
    dense, *pruned = latency.time_in_turn(calls)
    speed_ups = dense / np.array(pruned)

    whole = {**graph.costs(graph.sizes), "latency": table_of(graph.sizes)}
    costs = {**graph.costs(widths), "latency": table_of(widths)}
    reductions = {q: np.asarray(whole[q] / costs[q]) for q in PREDICTORS}
    table = Table(
        f"Predictors of the speed-up over {count} pruned networks ({name}, batch {batch})"
    )
    for quantity, words in PREDICTORS.items():
        r = np.corrcoef(reductions[quantity], speed_ups)[0, 1]
        error = np.mean(np.abs(reductions[quantity] / speed_ups - 1))
        table.rows.append({"predictor": words, "R²": float(r**2), "mean error": f"{error:.0%}"})
    table.notes = [
        f"Speed-ups measured: {speed_ups.min():.2f} to {speed_ups.max():.2f}; widths are multiples "
        f"of {_ROUND_TO}.",
        f"The table took {seconds:.0f} s to measure, {len(table_of.layers)} layers.",
    ]
    table.data = {
        "speed_up": speed_ups.tolist(),
        **{q: values.tolist() for q, values in reductions.items()},
    }
    return table


def _random_widths(graph: jp.ChannelGraph, count: int) -> np.ndarray:
    """Widths (count, G): one fraction for all groups, and one for each, by turns."""
    rng = np.random.default_rng(0)
    fractions = np.where(
        np.arange(count)[:, None] % 2,
        rng.uniform(0.1, 1, size=(count, len(graph.sizes))),
        rng.uniform(0.1, 1, size=(count, 1)),
    )
    rounded = np.maximum(np.rint(fractions * graph.sizes / _ROUND_TO), 1) * _ROUND_TO
    return np.minimum(rounded, graph.sizes).astype(int)


def plot(table: Table, folder: Path) -> None:
    """Each predictor against the measured speed-up, a point a network."""
    measured = np.array(table.data["speed_up"])
    top = 1.08 * max(measured.max(), max(table.data["latency"]))
    subtitle = "one point a pruned network; on the dashed line the predictor is right"
    path = folder / "predictors.png"
    with style.figure(path, (10.5, 3.4), "What predicts the speed-up", subtitle) as drawing:
        panels = drawing.subplots(1, len(PREDICTORS), sharey=True)
        for axes, (quantity, words), row in zip(
            panels, PREDICTORS.items(), table.rows, strict=True
        ):
            axes.plot([1, top], [1, top], color=style.SOFT, linewidth=0.8, linestyle=(0, (4, 3)))
            colour = style.WARM if quantity == "latency" else style.ACCENT
            axes.plot(table.data[quantity], measured, "o", color=colour, markersize=4.5)
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_title(f"{words}, R² {row['R²']:.2f}", fontsize=9, loc="left", pad=3)
            axes.set_xlabel("times fewer" if quantity != "latency" else "times less, predicted")
            axes.set_xticks([1, 2, 5, 10, 20], ["1×", "2×", "5×", "10×", "20×"])
            axes.set_yticks([1, 1.5, 2, 3, 4, 6, 8], ["1×", "1.5×", "2×", "3×", "4×", "6×", "8×"])
            axes.minorticks_off()
            axes.set_xlim(0.9, 1.1 * max(top, *table.data[quantity]))
            axes.set_ylim(0.9, top)
            axes.grid(visible=True)
        panels[0].set_ylabel("measured speed-up")
