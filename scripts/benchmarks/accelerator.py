"""The training step and population evaluation on a GPU or TPU, beside its matrix-product rate.

For float32, TF32 (float32 arrays, products in 19 bits; NVIDIA cards alone) and bfloat16:

- the product: operations per second of two square matrices;
- the training step of the dense VGG-16 as a run takes it (`train.step.program`: gather, augment,
  forward, gradients, update), and the distillation step of its sliced student at `params/8,macs/3`
  with the dense network as its teacher. A forward pass has 2 operations per MAC, and the gradients
  twice as many, so a step does 6 per MAC and image, and the teacher 2;
- a population of masks through the whole network, in masked images per second, beside the dense
  network's best over batch sizes.

The search of the whole network is the table `vgg_search`. Where there is no accelerator nothing is
measured; the short form runs anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from benchmarks.common import NORMAL, Table, together
from benchmarks.networks import SHAPE, shipped
from jaxprune import models
from jaxprune.budget import allocate
from jaxprune.masks import keep_top
from jaxprune.statistics import evaluate_masks
from jaxprune.train.losses import DistillConfig
from jaxprune.train.network import Network
from jaxprune.train.state import TrainConfig, initial_state
from jaxprune.train.step import Data, program

STEP, POPULATION = 0.4, 0.8
"""Asked: of the product's rate in the dense step; of the dense network's best in a population."""


class Precision(NamedTuple):
    """Of arrays (`TrainConfig.precision`), and of float32 products."""

    arrays: str
    products: str


PRECISIONS = {
    "float32": Precision("float32", "highest"),
    "TF32": Precision("float32", "tensorfloat32"),
    "bfloat16": Precision("bfloat16", "default"),
}


def measure(*, short: bool) -> Table:
    """One row a precision."""
    table = Table(f"VGG-16 on the accelerator, {jax.devices()[0].device_kind}")
    if jax.default_backend() == "cpu" and not short:
        table.notes.append("Not measured: there is no accelerator.")
        return table
    name, batch, side = ("vgg_small", 8, 64) if short else ("vgg16", 1024, 8192)
    batches, masks = ((4, 8), 4) if short else ((64, 256, 1024, 4096), 64)
    for label, precision in PRECISIONS.items():
        with jax.default_matmul_precision(precision.products):
            peak = product_rate(side, jnp.dtype(precision.arrays))
            row: dict[str, Any] = {"precision": label, "product, TFLOP/s": peak / 1e12}
            for step, rate in step_rates(name, batch, precision).items():
                row |= {f"{step}, TFLOP/s": rate / 1e12, f"{step}, of the product": rate / peak}
            row |= population_rates(name, batches, masks, jnp.dtype(precision.arrays))
        table.rows.append(row)
    steps, shares = (
        [row[column] for row in table.rows]
        for column in ("dense step, of the product", "population, of the dense best")
    )
    table.notes += [
        f"{name}, batch {batch}: the dense training step at {shown(steps)} of the product's rate, "
        f"precision by precision (asked: {STEP}).",
        f"{masks} masks at {shown(shares)} of the dense network's best images per second over "
        f"batches of {', '.join(map(str, batches))} (asked: {POPULATION}).",
    ]
    return table


def shown(values: list[Any]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def product_rate(side: int, dtype: Any) -> float:
    """Operations per second of the product of two square matrices."""
    a = jax.random.normal(jax.random.key(0), (side, side), dtype)
    product = jax.jit(jnp.matmul)
    return 2 * side**3 / together({"product": lambda: product(a, a)}, n=9)["product"].median


def step_rates(name: str, batch: int, precision: Precision) -> dict[str, float]:
    """Operations per second of the dense training step and of the student's distillation step."""
    module, fn, variables, images = shipped(name, 1)
    network = models.network(module)
    graph = jp.trace(fn, variables, images)
    budget = jp.Budget("params/8,macs/3")
    widths = allocate(None, graph, budget, "proportional").widths
    rng = np.random.default_rng(0)
    scores = {name: rng.normal(size=group.size) for name, group in graph.groups.items()}
    pruned = graph.slice(variables, keep_top(scores, widths))
    student = Network(pruned.wrap(network.train), pruned.wrap(network.eval))
    macs, fewer = graph.cost().macs, graph.cost(widths).macs
    teacher = (network, variables)
    steps = {
        "dense step": (step_of(network, variables, None, batch, precision), 6 * macs),
        "distillation step": (
            step_of(student, pruned.variables, teacher, batch, precision),
            6 * fewer + 2 * macs,
        ),
    }
    times = together({step: run for step, (run, _) in steps.items()}, n=9)
    return {step: batch * work / times[step].median for step, (_, work) in steps.items()}


def step_of(
    network: Network,
    variables: Any,
    teacher: tuple[Network, Any] | None,
    batch: int,
    precision: Precision,
) -> Callable[[], Any]:
    """One training step after another, each call one of them."""
    config = TrainConfig(epochs=1000, batch_size=batch, precision=precision.arrays)  # pyright: ignore
    teaching, weights = teacher or (None, None)
    compiled = program(
        network, teaching, config, DistillConfig(), total=1000, classes=10, **NORMAL
    )  # fmt: skip
    images = jnp.zeros((batch, *SHAPE), jnp.uint8)
    labels = jnp.arange(batch) % 10
    guided = jax.tree.map(lambda leaf: leaf.astype(precision.arrays), weights)
    data = Data(images, labels, jax.random.key(0), guided)
    state = [jax.tree.map(jnp.array, initial_state(variables, config))]

    def step() -> Any:
        state[0], metrics = compiled.step(state[0], data, jnp.arange(batch))
        return metrics

    return step


def population_rates(
    name: str, batches: tuple[int, ...], masks: int, dtype: Any
) -> dict[str, float]:
    """Masked and dense images per second, each at its best batch size."""
    _, fn, variables, _ = shipped(name, 1)
    variables = jax.tree.map(lambda leaf: leaf.astype(dtype), variables)
    graph = jp.trace(fn, variables, jnp.zeros((1, *SHAPE), dtype))
    rng = np.random.default_rng(0)
    population = {
        name: jnp.asarray(rng.random((masks, group.size)) < 0.5, jnp.float32)
        for name, group in graph.groups.items()
    }
    dense = jax.jit(jp.accelerate(fn))
    rates: dict[str, list[float]] = {"dense": [], "population": []}
    for batch in batches:
        images, labels = jnp.ones((batch, *SHAPE), dtype), jnp.zeros(batch, int)
        calls = {
            "dense": lambda images=images: dense(variables, images),
            "population": lambda pair=(images, labels): evaluate_masks(
                jp.Problem(graph, fn, variables, [pair], jp.Budget()), population
            ),
        }
        times = together(calls, n=5)
        rates["dense"].append(batch / times["dense"].median)
        rates["population"].append(batch * masks / times["population"].median)
    best, masked = max(rates["dense"]), max(rates["population"])
    return {
        "dense, images/s": best,
        "population, masked images/s": masked,
        "population, of the dense best": masked / best,
    }
