"""How training and the measurement of masks speed up over devices.

The same work is split over 1, 2, 4, ... devices: the images of a batch in the training loop, and
the masks of a population. Compilation is not in the figures. Devices that a CPU only pretends to
have (`XLA_FLAGS=--xla_force_host_platform_device_count=8`) share its cores, so that there the
figures show what splitting costs and not what it gains.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from benchmarks.common import Table, Times, Value, seconds_of_steps, summary
from jaxprune import models
from jaxprune.budget import Budget
from jaxprune.data.split import Split
from jaxprune.mesh import MeshConfig, make
from jaxprune.problem import Problem
from jaxprune.statistics import evaluate_masks
from jaxprune.train.state import TrainConfig

SIDE, MODEL = 32, "resnet20"


def measure(*, short: bool) -> Table:
    """Images per second of the training, and masks per second of a batch, by devices."""
    table = Table("Work over devices")
    count = jax.device_count()
    if count < 2:
        table.notes.append(
            "Not measured: there is one device. With XLA_FLAGS="
            "--xla_force_host_platform_device_count=8 a CPU pretends to have eight."
        )
        return table
    cpu = jax.default_backend() == "cpu"
    batch, population = (32, 8) if cpu or short else (1024, 64)
    steps, rounds = (3, 2) if short else (4, 3) if cpu else (50, 5)
    for devices in (2**i for i in range(count.bit_length())):
        if devices <= count:
            row: dict[str, Value | Times] = {"devices": devices}
            row["images/s"] = batch * steps / _training(devices, batch, steps, rounds).median
            row["images x masks/s"] = (
                batch * population / _masks(devices, batch, population, rounds)
            )
            table.rows.append(row)
    table.notes.append(
        f"{MODEL}, {SIDE}x{SIDE}: batches of {batch} in training, {population} masks of a batch of "
        f"{batch}. Medians of {rounds} rounds."
    )
    if cpu:
        table.notes.append(
            "The devices are threads of one CPU: what is shown is the cost of splitting."
        )
    return table


def _training(devices: int, batch: int, steps: int, rounds: int) -> Times:
    """Seconds of the loop's steps from its second chunk on."""
    network, variables = _network()
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (4 * batch, SIDE, SIDE, 3), np.uint8)
    split = Split(images, np.arange(4 * batch, dtype=np.int32) % 10, np.arange(4 * batch))
    config = TrainConfig(epochs=1000, batch_size=batch)
    mesh = make(MeshConfig(data=devices))
    taken = [
        seconds_of_steps(network, variables, split, config, steps, mesh) for _ in range(1 + rounds)
    ]
    return summary(taken[1:])


def _masks(devices: int, batch: int, population: int, rounds: int) -> float:
    """Median seconds of a batch under all masks; the first batch compiles."""
    network, variables = _network()

    def forward(variables: Any, images: jax.Array) -> jax.Array:
        return network.eval(variables, images, None).logits

    graph = jp.trace(forward, variables, jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32))
    random = np.random.default_rng(0)
    drawn = {
        name: jnp.asarray(random.integers(0, 2, (population, group.size)), jnp.float32)
        for name, group in graph.groups.items()
    }
    images = random.normal(size=(batch, SIDE, SIDE, 3)).astype(np.float32)
    batches = _Timed([(images, np.arange(batch) % 10)] * (2 + rounds))
    mesh = make(MeshConfig(population=devices))
    evaluate_masks(Problem(graph, forward, variables, batches, Budget(), mesh=mesh), drawn)
    return float(np.median(np.diff(batches.asked)[1:]))


class _Timed(list[Any]):
    """Batches that note when each of them was asked for."""

    def __init__(self, batches: list[Any]):
        super().__init__(batches)
        self.asked: list[float] = []

    def __iter__(self) -> Iterator[Any]:
        self.asked.clear()
        for batch in super().__iter__():
            self.asked.append(time.perf_counter())
            yield batch


def _network() -> tuple[Any, Any]:
    module = models.build(MODEL, num_classes=10, input_shape=(SIDE, SIDE, 3))
    return models.network(module), models.init(module, (SIDE, SIDE, 3), jax.random.key(0))
