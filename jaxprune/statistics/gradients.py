"""Gradients of the loss with respect to masks, sample by sample: Taylor and Fisher statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.batches import count_of, first, inputs_of
from jaxprune.kernels import accelerate
from jaxprune.problem import Problem


class MaskGradients(NamedTuple):
    """Moments over the samples of `dL_n/dm`, per group float64 (units,).

    `dL_n/dm_c` is the sum over positions of activation times its gradient, summed over all places
    where channel c is read before anything is squared (Liu et al. 2021, arXiv 2108.00708).
    """

    mean: dict[str, np.ndarray]
    absolute: dict[str, np.ndarray]
    square: dict[str, np.ndarray]


def mask_gradients(problem: Problem, *, masks: Mapping[str, Any] | None = None) -> MaskGradients:
    """One backward pass a batch, through masks of shape (batch, units).

    Args:
      problem: the network, its calibration batches and its loss.
      masks: the masks at which the gradient is taken; all ones by default.

    Raises:
      ValueError: no batches, or gradients that are not finite.
    """
    first(problem.batches)
    point = problem.graph.full_masks() if masks is None else dict(masks)
    masked = problem.graph.masked(problem.fn)

    @jax.jit
    @accelerate
    def moments(variables: Any, batch: Any) -> dict[str, Any]:
        inputs = inputs_of(batch)
        images = count_of(inputs)
        per_sample = {n: jnp.broadcast_to(m, (images, *jnp.shape(m))) for n, m in point.items()}

        def total(per_sample: Any) -> jax.Array:
            return images * problem.loss(masked(variables, per_sample, inputs), batch)

        gradients = jax.grad(total)(per_sample)
        functions = {"mean": lambda g: g, "absolute": jnp.abs, "square": jnp.square}
        return {
            name: {group: f(g).sum(0) for group, g in gradients.items()}
            for name, f in functions.items()
        }

    total: Any = None
    count = 0
    for batch in problem.batches:
        part = jax.tree.map(lambda a: np.asarray(a, np.float64), moments(problem.variables, batch))
        total = part if total is None else jax.tree.map(np.add, total, part)
        count += count_of(inputs_of(batch))
    result = jax.tree.map(lambda a: a / count, total)
    for group, square in result["square"].items():
        if not np.isfinite(square).all():
            raise ValueError(f"the loss has no finite gradient with respect to the mask of {group}")
    return MaskGradients(**result)
