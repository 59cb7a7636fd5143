"""Loss and score of many masks at once: a whole population through one compiled program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.graph import ChannelGraph
from jaxprune.masks import Masks
from jaxprune.statistics.batches import Batches, count_of, first, inputs_of

Metric = Callable[[Any, Any], jax.Array]
"""`metric(outputs, batch)`: a mean over the samples of the batch."""


def chunk_size(population: int) -> int:
    """How many masks run side by side: a divisor of the population, so that one body is traced.

    On a CPU one after the other is the fastest (the cores are already busy with one), on an
    accelerator side by side.
    """
    most = 1 if jax.default_backend() == "cpu" else 16
    return max(d for d in range(1, most + 1) if population % d == 0)


def evaluate_masks(
    graph: ChannelGraph,
    fn: Callable[..., Any],
    variables: Any,
    population: Masks,
    batches: Batches,
    metrics: dict[str, Metric],
    *,
    on_batch: Callable[[], None] = lambda: None,
) -> dict[str, np.ndarray]:
    """The mean of each metric over the batches, float64 (P,), for every mask of a population.

    Args:
      graph: from `trace`.
      fn: `fn(variables, inputs)`, in evaluation mode.
      variables: the dense variables.
      population: per group (P, units).
      batches: batches of equal shape (each other shape compiles once more).
      metrics: by name.
      on_batch: called after each batch, for a progress bar.
    """
    first(batches)
    masked = graph.masked(fn)
    chunk = chunk_size(len(next(iter(population.values()))))

    @jax.jit
    def evaluate(variables: Any, population: Masks, batch: Any) -> dict[str, jax.Array]:
        def one(masks: Masks) -> dict[str, jax.Array]:
            outputs = masked(variables, masks, inputs_of(batch))
            return {name: metric(outputs, batch) for name, metric in metrics.items()}

        return jax.lax.map(one, population, batch_size=chunk)

    population = jax.tree.map(jnp.asarray, population)
    totals: dict[str, np.ndarray] = {}
    count = 0
    for batch in batches:
        images = count_of(inputs_of(batch))
        for name, value in evaluate(variables, population, batch).items():
            part = images * np.asarray(value, np.float64)
            totals[name] = totals[name] + part if name in totals else part
        count += images
        on_batch()
    return {name: total / count for name, total in totals.items()}
