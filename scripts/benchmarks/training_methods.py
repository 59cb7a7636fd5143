"""A training step of each method that trains, beside a plain one of the same network.

All are a run's own compiled step: augmentation, gradient, optimizer, metrics. A method's step has
besides what its wrappers of network and optimizer do. The steps take turns, so that what else the
machine does falls on all; the ratio is the median of the ratios to the plain step of each round.

ResNet-20, batches of 128, float32, 2 cores of an AMD EPYC, JAX 0.10.2, with seven times as much
other work on them as they can do, which is why the ratios spread:

| method | n | plain | step | ratio | from | to |
|---|---|---|---|---|---|---|
| Group Fisher | 11 | 1.76 s (1.39 to 2.2) | 1.9 s (1.18 to 2.55) | 1.04 | 0.74 | 1.32 |
| UCP | 13 | 2.03 s (1.78 to 2.74) | 2.22 s (1.97 to 2.77) | 1.09 | 0.94 | 1.39 |
| SPP | 11 | 1.76 s (1.39 to 2.2) | 1.8 s (1.23 to 2.11) | 0.97 | 0.77 | 1.21 |
| sDprun | 11 | 1.76 s (1.39 to 2.2) | 1.86 s (1.33 to 2.34) | 1.07 | 0.79 | 1.19 |

UCP's row is of a run of its own. Group Fisher before, n = 21, 2 cores of an Intel Xeon with AMX
that other work shared:

| network | precision | plain | Group Fisher | ratio | from | to |
|---|---|---|---|---|---|---|
| resnet20 | float32 | 803 ms (661 to 1150) | 794 ms (680 to 1060) | 1.00 | 0.81 | 1.43 |
| vgg16 | float32 | 1.63 s (1.46 to 1.83) | 1.77 s (1.51 to 2.00) | 1.08 | 0.87 | 1.34 |
| resnet20 | bfloat16 | 450 ms (411 to 472) | 442 ms (407 to 480) | 0.98 | 0.90 | 1.17 |
| vgg16 | bfloat16 | 960 ms (896 to 1010) | 955 ms (907 to 1070) | 0.99 | 0.92 | 1.19 |

VGG-16, batches of 32, float32, 2 cores of an AMD EPYC with eight times as much other work on them
as they can do, n = 7; beside the median of the ratios that of the least times:

| method | plain | step | ratio | from | to | least |
|---|---|---|---|---|---|---|
| Group Fisher | 3.48 s (2.84 to 6.25) | 3.74 s (3.00 to 6.25) | 1.04 | 0.85 | 1.12 | 1.06 |
| UCP | 3.48 s (2.84 to 6.25) | 3.91 s (2.77 to 4.95) | 0.85 | 0.70 | 1.19 | 0.97 |
| SPP | 3.48 s (2.84 to 6.25) | 3.96 s (3.02 to 5.58) | 0.91 | 0.70 | 1.36 | 1.06 |
| sDprun | 3.48 s (2.84 to 6.25) | 3.10 s (2.56 to 5.52) | 0.85 | 0.56 | 1.09 | 0.90 |

A ratio below 1 there is the other work. UCP, SPP and sDprun have not been measured in bfloat16.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxprune as jp
from benchmarks.common import NORMAL, Table, summary
from benchmarks.networks import SHAPE, shipped
from jaxprune import models
from jaxprune.methods import SPP, GroupFisher, SDprun
from jaxprune.methods.uniform import GATES, fresh_gates, gated
from jaxprune.train.losses import DistillConfig
from jaxprune.train.optimizer import OptimizerConfig
from jaxprune.train.state import TrainConfig, initial_state
from jaxprune.train.step import Data, program
from jaxprune.wrappers import MASKS, WEIGHTS, Wrapper, same

ASKED = 1.3
"""Plain steps; UCP's gated training 1.5."""
NETWORKS = ("resnet20", "vgg16")
CLASSES = 10


class Way(NamedTuple):
    """How a method trains: what it trains, and its wrappers."""

    variables: Any
    network: Wrapper = same
    optimizer: Wrapper = same


def ways_of(graph: jp.ChannelGraph, variables: Any) -> dict[str, Way]:
    """Every method that trains, by its name."""
    fisher = GroupFisher()
    masked = {**variables, "params": {WEIGHTS: variables["params"], MASKS: graph.full_masks()}}
    gates = fresh_gates(graph, variables["params"], jax.random.key(0))
    attended = {WEIGHTS: variables["params"], GATES: gates}
    spp = SPP()
    columns = spp.units(graph)
    chances = columns.ones(variables["params"])
    return {
        "plain": Way(variables),
        "Group Fisher": Way(
            masked, fisher.network(graph), fisher.optimizer(graph, jp.Budget("params/2"))
        ),
        "UCP": Way({**variables, "params": attended}, gated(graph)),
        "SPP": Way(
            {**variables, "params": {WEIGHTS: variables["params"], MASKS: chances}},
            spp.network(columns),
            spp.optimizer(columns, spp.asked(graph, jp.Budget("macs/1.5")), jax.random.key(0)),
        ),
        "sDprun": Way(variables, optimizer=SDprun(c=0.02).optimizer(graph, 1000)),
    }


def measure(*, short: bool) -> Table:
    """Seconds a step, and their ratios."""
    batch, n = (16, 2) if short else (128, 15)
    table = Table(f"A step of each method that trains beside a plain one, batches of {batch}")
    most = 0.0
    for precision in ("float32",) if short else ("float32", "bfloat16"):
        for name in ("vgg_small",) if short else NETWORKS:
            taken = in_turn(steps_of(name, batch, precision), n)
            plain = taken["plain"]
            for way, seconds in taken.items():
                ratios = [b / a for a, b in zip(plain, seconds, strict=True)]
                most = max(most, statistics.median(ratios))
                table.rows.append(
                    {
                        "network": name, "precision": precision, "method": way,
                        "step": summary(seconds), "ratio": statistics.median(ratios),
                        "from": min(ratios), "to": max(ratios),
                    }
                )  # fmt: skip
    table.notes.append(f"At most {most:.2f} plain steps (asked: {ASKED}, of UCP 1.5).")
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
    rng = np.random.default_rng(0)
    config = TrainConfig(
        batch_size=batch,
        precision=precision,
        optimizer=OptimizerConfig(learning_rate=0.004, schedule="constant"),
    )
    pixels = rng.integers(0, 256, (batch, *SHAPE), np.uint8)
    data = Data(pixels, rng.integers(0, CLASSES, batch), jax.random.key(1), None)

    def step(way: Way) -> Callable[[], None]:
        compiled = program(
            way.network(network), None, config, DistillConfig(), 1000, **NORMAL, classes=CLASSES,
            wrapper=way.optimizer,
        )  # fmt: skip
        state = initial_state(way.variables, config, way.optimizer)
        # Copied: every step overwrites its input's buffers.
        state = jax.tree.map(np.asarray, state)

        def advance() -> None:
            nonlocal state
            state, _ = jax.block_until_ready(compiled.step(state, data, None))

        return advance

    return {method: step(way) for method, way in ways_of(graph, variables).items()}
