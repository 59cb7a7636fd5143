"""Whether the data keep up with the training step.

Images in memory lie on the device as uint8; a step gathers and augments its batch there. Encoded
images (JPEGs of 500x375 pixels, made up, held in memory so that no disk is measured) are decoded,
cropped and resized by threads ahead of the step. For both, images per second of

- the data alone: what feeds the step, with no step;
- the bare step: one compiled step again and again on one batch that lies on the device,
  augmentation included, nothing read back until the end;
- the loop: `fit` as every user's training runs it, from its second chunk of steps on, with its
  order of the data, the read-back of all metrics and a callback.

The three are timed in turn. A loop as fast as its bare step loses nothing to the input. On a CPU
the threads that decode, and the step, have the same cores: there the loop can at best spend the sum
of both, which is the last column.

2 cores of an AMD EPYC, JAX 0.10.2 (n = 5 rounds): the loop runs at 101 %, 98 % and 97 % of the
bare step's images per second (digits in memory, 32 × 32 images in memory, JPEGs decoded beside the
step): equal within their ranges.
"""

from __future__ import annotations

import functools
import io
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from benchmarks.common import NORMAL, Table, Times, Value, seconds_of_steps, summary
from jaxprune import models
from jaxprune.data.augment import augment
from jaxprune.data.batches import batch_indices
from jaxprune.data.split import Split
from jaxprune.data.streamed import Streamed
from jaxprune.train.losses import DistillConfig
from jaxprune.train.network import Network
from jaxprune.train.state import TrainConfig, initial_state, total_steps
from jaxprune.train.step import Data, program

LONGER = 8
"""How many times as many batches are read with no step: some are decoded before it begins."""


class Case(NamedTuple):
    """A training, and how many of its steps a timing takes."""

    name: str
    model: str
    side: int
    batch: int
    steps: int
    streamed: bool


CASES = (
    Case("in memory, VGG (small), 8x8", "vgg_small", 8, 64, 60, False),
    Case("in memory, ResNet-20, 32x32", "resnet20", 32, 64, 4, False),
    Case("JPEGs, ResNet-20, 64x64", "resnet20", 64, 32, 4, True),
)
SHORT = (Case("in memory, VGG (small), 8x8", "vgg_small", 8, 16, 6, False),)


def measure(*, short: bool) -> Table:
    """Images per second of data, step and loop."""
    rows: list[dict[str, Value | Times]] = []
    notes = []
    for case in SHORT if short else CASES:
        times = _times(case, rounds=2 if short else 5)
        rate = {name: case.steps * case.batch / t.median for name, t in times.items()}
        sequential = 1 / (1 / rate["data alone"] + 1 / rate["bare step"])
        row: dict[str, Value | Times] = {"training": case.name}
        row |= {f"{name}, images/s": _range(case, t) for name, t in times.items()}
        row["loop / step"] = rate["loop"] / rate["bare step"]
        row["data then step, images/s"] = sequential if case.streamed else None
        rows.append(row)
        notes.append(
            f"{case.name}: the loop runs at {rate['loop'] / rate['bare step']:.1%} of the bare "
            f"step; the data alone are {rate['data alone'] / rate['bare step']:.0f} times as fast. "
            f"Median (range) of {times['loop'].n} rounds of {case.steps} steps of {case.batch}."
        )
    if jax.default_backend() == "cpu":
        notes.append("On this CPU the threads that decode take the step's own cores.")
    return Table("Input pipeline beside the training step", rows, notes)


def _range(case: Case, times: Times) -> str:
    images = case.steps * case.batch
    return f"{images / times.median:.4g} ({images / times.high:.4g} to {images / times.low:.4g})"


def _times(case: Case, rounds: int) -> dict[str, Times]:
    """Seconds of `case.steps` steps, in turn."""
    module = models.build(case.model, num_classes=10, input_shape=(case.side, case.side, 3))
    network = models.network(module)
    variables = models.init(module, (case.side, case.side, 3), jax.random.key(0))
    config = TrainConfig(epochs=1000, batch_size=case.batch, crop_padding=1)
    split = _encoded(case.side) if case.streamed else _decoded(case.side)
    runs = {
        "data alone": _data(case, split, config),
        "bare step": _step(case, network, variables, split, config),
        "loop": functools.partial(seconds_of_steps, network, variables, split, config, case.steps),
    }
    for run in runs.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            taken[name].append(run())
    return {name: summary(values) for name, values in taken.items()}


def _decoded(side: int, count: int = 4096) -> Split:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, side, side, 3), np.uint8)
    labels = random.integers(0, 10, count).astype(np.int32)
    return Split(images, labels, np.arange(count).astype(str))


def _encoded(side: int, count: int = 256) -> Streamed:
    """Smooth noise: it is as large a JPEG as a photograph, about 50 kB."""
    random = np.random.default_rng(0)
    source = []
    for i in range(count):
        small = random.integers(0, 256, (94, 125, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC).save(file, "jpeg")
        source.append({"image": file.getvalue(), "label": i % 10})
    return Streamed(
        source, np.arange(count), "train", "image", "label", (side, side, 3), 10, workers=16
    )


Timed = Callable[[], float]


def _data(case: Case, split: Split | Streamed, config: TrainConfig) -> Timed:
    if isinstance(split, Streamed):

        def read() -> float:
            batches = split.batches(0, case.batch, 0, 1 + LONGER * case.steps)
            next(batches)  # the threads have begun
            began = time.perf_counter()
            for images, _ in batches:
                jnp.asarray(images)
            return (time.perf_counter() - began) / LONGER

        return read

    images = jnp.asarray(split.images)

    @jax.jit
    def view(key: jax.Array, indices: jax.Array) -> jax.Array:
        chosen = jnp.take(images, indices, axis=0)
        options = {"crop_padding": config.crop_padding, "flip": config.flip}
        return augment(key, chosen, **options, **NORMAL)

    def gather() -> float:
        began = time.perf_counter()
        out = None
        for step in range(case.steps):
            indices = batch_indices(0, step, len(split), case.batch)
            out = view(jax.random.key(step), indices)
        jax.block_until_ready(out)
        return time.perf_counter() - began

    return gather


def _step(
    case: Case, network: Network, variables: Any, split: Split | Streamed, config: TrainConfig
) -> Timed:
    total = total_steps(config, len(split))
    compiled = program(network, None, config, DistillConfig(), total, classes=10, **NORMAL)
    images, labels = next(_batches(split, case.batch))
    data = Data(jnp.asarray(images), jnp.asarray(labels), jax.random.key(0), None)
    indices = None if isinstance(split, Streamed) else jnp.arange(case.batch)
    copied = jax.tree.map(jnp.array, initial_state(variables, config))
    state = [jax.device_put(copied, jax.devices()[0])]

    def step() -> float:
        began = time.perf_counter()
        metrics = None
        for _ in range(case.steps):
            state[0], metrics = compiled.step(state[0], data, indices)
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - began

    return step


def _batches(split: Split | Streamed, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if isinstance(split, Streamed):
        return split.batches(0, size, 0, 1)
    return split.chunks(size)
