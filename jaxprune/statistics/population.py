"""Loss and score of many masks at once: a whole population through one compiled program."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxprune.batches import count_of, first, inputs_of
from jaxprune.graph import ChannelGraph
from jaxprune.kernels import accelerate
from jaxprune.masks import Masks
from jaxprune.mesh import DATA, POPULATION, place, require_shares
from jaxprune.problem import Metric, Problem


def chunk_size(population: int) -> int:
    """How many masks run side by side: a divisor of the population, so that one body is traced.

    On a CPU one after the other is the fastest (the cores are already busy with one), on an
    accelerator side by side.
    """
    most = 1 if jax.default_backend() == "cpu" else 16
    return max(d for d in range(1, most + 1) if population % d == 0)


def evaluate_masks(
    problem: Problem, population: Masks, metrics: Mapping[str, Metric] | None = None
) -> dict[str, np.ndarray]:
    """The mean `loss` and `score` over the batches, float64 (P,), for every mask of a population.

    Args:
      problem: the network, and the batches of `problem.validation`, of equal shape (each other
        shape compiles once more). Its mesh splits the masks over its axis `population` and the
        samples of each batch over `data`.
      population: per group (P, units).
      metrics: others in place of these two, by name; one may give an array [...] for a mean over
        the samples of a batch, and is (P, ...) here.

    Raises:
      ValueError: no batches, or one that the mesh cannot split evenly.
    """
    first(problem.validation)
    mesh, variables = problem.mesh, problem.variables
    population = jax.tree.map(jnp.asarray, population)
    size = len(next(iter(population.values())))
    if mesh is not None:
        population = place(_filled(population, mesh.shape[POPULATION]), mesh, POPULATION)
        variables = place(variables, mesh)
    metrics = metrics or {"loss": problem.loss, "score": problem.score}
    evaluate = _evaluator(problem.graph, problem.fn, tuple(metrics.items()), mesh)
    totals: dict[str, np.ndarray] = {}
    count = 0
    for batch in problem.validation:
        images = count_of(inputs_of(batch))
        require_shares("batches", images, mesh)
        batch = place(batch, mesh, DATA)
        for name, value in evaluate(variables, population, batch).items():
            part = images * np.asarray(value, np.float64)
            totals[name] = totals[name] + part if name in totals else part
        count += images
    return {name: total[:size] / count for name, total in totals.items()}


@functools.lru_cache(maxsize=4)
def _evaluator(
    graph: ChannelGraph,
    fn: Callable[..., Any],
    metrics: tuple[tuple[str, Metric], ...],
    mesh: Mesh | None,
) -> Callable[..., dict[str, jax.Array]]:
    """Cached, so that a search that comes back with another population compiles nothing."""
    masked = graph.masked(fn)

    def evaluate(variables: Any, population: Masks, batch: Any) -> dict[str, jax.Array]:
        def one(masks: Masks) -> dict[str, jax.Array]:
            outputs = masked(variables, masks, inputs_of(batch))
            return {name: metric(outputs, batch) for name, metric in metrics}

        chunk = chunk_size(len(next(iter(population.values()))))
        return jax.lax.map(one, population, batch_size=chunk)

    return jax.jit(accelerate(evaluate if mesh is None else _spread(evaluate, mesh)))


def _spread(evaluate: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Every device goes through its own masks with its own images: a mean of their means is exact.

    `jit` alone would not split the loop over the masks.
    """

    def own(variables: Any, population: Masks, batch: Any) -> dict[str, jax.Array]:
        return jax.lax.pmean(evaluate(variables, population, batch), DATA)

    return jax.shard_map(
        own,
        mesh=mesh,
        in_specs=(P(), P(POPULATION), P(DATA)),
        out_specs=P(POPULATION),
        check_vma=False,  # the masked pass binds primitives as they were traced, without a mesh
    )


def _filled(population: Masks, parts: int) -> Masks:
    """The population with its last masks repeated, so that the parts are equal."""
    return jax.tree.map(
        lambda masks: jnp.pad(masks, ((0, -len(masks) % parts), (0, 0)), mode="edge"), population
    )
