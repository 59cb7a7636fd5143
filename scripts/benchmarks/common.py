"""What every benchmark shares: tables, interleaved timing, the machine in words."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxprune.data import Split, Streamed
from jaxprune.train.loop import fit
from jaxprune.train.network import Network
from jaxprune.train.state import TrainConfig

NORMAL: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
"""Of made-up images."""

Value = str | int | float | None


class Times(NamedTuple):
    """Seconds of one thing, over `n` runs."""

    n: int
    median: float
    low: float
    high: float

    def __str__(self) -> str:
        scale, unit = next((s, u) for s, u in ((1, "s"), (1e3, "ms"), (1e6, "µs")) if self._fits(s))
        a, b, c = (f"{scale * t:.3g}" for t in (self.median, self.low, self.high))
        return f"{a} {unit} ({b} to {c}, n={self.n})"

    def _fits(self, scale: float) -> bool:
        return scale * self.median >= 1 or scale == 1e6


@dataclass
class Table:
    """One table of the benchmark: rows by column name, with what a reader has to know about it."""

    title: str
    rows: list[dict[str, Value | Times]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    """What plots need beside the rows; goes into the JSON file."""

    def columns(self) -> list[str]:
        """The columns in the order in which the rows bring them."""
        return list(dict.fromkeys(name for row in self.rows for name in row))


def together(
    runs: Mapping[str, Callable[[], Any]], n: int = 7, seconds: float = 20.0
) -> dict[str, Times]:
    """Times things in turn, so that whatever else the machine does falls on all of them alike.

    Each is called once before, to compile and to warm up; then up to `n` rounds, but only one where
    a round already takes longer than `seconds`.
    """
    for run in runs.values():
        jax.block_until_ready(run())
    taken: dict[str, list[float]] = {name: [] for name in runs}
    began = time.perf_counter()
    for i in range(n):
        if i and time.perf_counter() - began > seconds:
            break
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            taken[name].append(time.perf_counter() - start)
    return {name: summary(values) for name, values in taken.items()}


def summary(values: list[float]) -> Times:
    """Median and range."""
    return Times(len(values), statistics.median(values), min(values), max(values))


def seconds_of_steps(
    network: Network,
    variables: Any,
    split: Split | Streamed,
    config: TrainConfig,
    steps: int,
    mesh: Mesh | None = None,
) -> float:
    """Seconds of so many steps of `fit`.

    They are those from its second chunk on: the first is one step, and what comes before it and its
    compilation are not timed.
    """
    ends: list[float] = []
    fit(
        network,
        variables,
        split,
        config,
        seed=0,
        mesh=mesh,
        on_chunk=lambda state, chunk: ends.append(time.perf_counter()),
        until=1 + steps,
        **NORMAL,
    )
    return ends[-1] - ends[0]


def exponent(x: Any, y: Any) -> tuple[float, float]:
    """`a` and `b` of `y = b xᵃ`, fitted to the logarithms."""
    slope, level = np.polyfit(np.log(np.asarray(x, float)), np.log(np.asarray(y, float)), 1)
    return float(slope), float(np.exp(level))


def machine() -> str:
    """Hardware and versions, as a line."""
    device = jax.devices()[0]
    name = _processor() if device.platform == "cpu" else device.device_kind
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    beside = f"{cores} CPU cores"
    python = platform.python_version()
    return f"{name}, {beside}, JAX {jax.__version__} on {device.platform}, Python {python}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(x.partition(":")[2].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()
