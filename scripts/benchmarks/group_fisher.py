"""A training step of Group Fisher pruning beside a plain one of the same network.

Both are a run's own compiled step: augmentation, gradient, optimizer, metrics. Group Fisher's has
besides a mask per sample at every place that reads channels, the gradients of these masks, their
scores and the one unit that may fall. The steps take turns, so that what else the machine does
falls on both; the ratio is the median of the ratios of neighbours.

Batches of 128, n = 21, 2 cores of an Intel Xeon with AMX that other work shared, JAX 0.10.2:

| network | precision | plain | Group Fisher | ratio | from | to |
|---|---|---|---|---|---|---|
| resnet20 | float32 | 803 ms (661 to 1150) | 794 ms (680 to 1060) | 1.00 | 0.81 | 1.43 |
| vgg16 | float32 | 1.63 s (1.46 to 1.83) | 1.77 s (1.51 to 2.00) | 1.08 | 0.87 | 1.34 |
| resnet20 | bfloat16 | 450 ms (411 to 472) | 442 ms (407 to 480) | 0.98 | 0.90 | 1.17 |
| vgg16 | bfloat16 | 960 ms (896 to 1010) | 955 ms (907 to 1070) | 0.99 | 0.92 | 1.19 |
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import jaxprune as jp
from benchmarks.common import NORMAL, Table, summary
from benchmarks.networks import SHAPE, shipped
from jaxprune import models
from jaxprune.methods import GroupFisher
from jaxprune.train.losses import DistillConfig
from jaxprune.train.optimizer import OptimizerConfig
from jaxprune.train.state import TrainConfig, initial_state
from jaxprune.train.step import Data, program
from jaxprune.wrappers import MASKS, WEIGHTS, Wrapper, same

ASKED = 1.3
NETWORKS = ("resnet20", "vgg16")
CLASSES = 10


def measure(*, short: bool) -> Table:
    """Seconds a step, and their ratio."""
    batch, n = (16, 2) if short else (128, 21)
    table = Table(f"A step of Group Fisher beside a plain one, batches of {batch} images")
    for precision in ("float32",) if short else ("float32", "bfloat16"):
        for name in ("vgg_small",) if short else NETWORKS:
            taken = in_turn(steps_of(name, batch, precision), n)
            ratios = [b / a for a, b in zip(*taken.values(), strict=True)]
            table.rows.append(
                {
                    "network": name, "precision": precision,
                    **{way: summary(seconds) for way, seconds in taken.items()},
                    "ratio": statistics.median(ratios),
                    "from": min(ratios), "to": max(ratios),
                }
            )  # fmt: skip
    most = max(row["ratio"] for row in table.rows if isinstance(row["ratio"], float))
    table.notes.append(f"At most {most:.2f} plain steps (asked: {ASKED}).")
    return table


def in_turn(steps: dict[str, Callable[[], None]], n: int) -> dict[str, list[float]]:
    """Seconds of each of `n` rounds, after two that compile and fill the caches."""
    taken: dict[str, list[float]] = {way: [] for way in steps}
    for round_ in range(-2, n):
        for way, step in steps.items():
            began = time.perf_counter()
            step()
            if round_ >= 0:
                taken[way].append(time.perf_counter() - began)
    return taken


def steps_of(name: str, batch: int, precision: Any) -> dict[str, Callable[[], None]]:
    """By name, a function that does one step and goes on from it at the next call."""
    module, fn, variables, images = shipped(name, 1)
    network, graph = models.network(module), jp.trace(fn, variables, images)
    rng, fisher = np.random.default_rng(0), GroupFisher()
    config = TrainConfig(
        batch_size=batch,
        precision=precision,
        optimizer=OptimizerConfig(learning_rate=fisher.learning_rate, schedule="constant"),
    )
    pixels = rng.integers(0, 256, (batch, *SHAPE), np.uint8)
    data = Data(pixels, rng.integers(0, CLASSES, batch), jax.random.key(1), None)

    def step(network: Any, variables: Any, wrapper: Wrapper) -> Callable[[], None]:
        compiled = program(
            network, None, config, DistillConfig(), 1000, **NORMAL, classes=CLASSES, wrapper=wrapper
        )
        state = jax.tree.map(np.asarray, initial_state(variables, config, wrapper))

        def advance() -> None:
            nonlocal state
            state, _ = jax.block_until_ready(compiled.step(state, data, None))

        return advance

    masked = {**variables, "params": {WEIGHTS: variables["params"], MASKS: graph.full_masks()}}
    falling = fisher.optimizer(graph, jp.Budget("params/2"))
    return {
        "plain": step(network, variables, same),
        "Group Fisher": step(fisher.network(graph)(network), masked, falling),
    }
