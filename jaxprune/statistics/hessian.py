"""Layer-wise Hessians of consumers, and refitted kernels put back where they came from.

`H = E[x xᵀ]` over the taps of all channels that a consumer reads of a group (L-OBS, Dong et al.
2017, arXiv 1705.07565, without its factor 2). Only reconstruction needs it whole: for selection the
Gram matrix is enough (`gram.py`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune.batches import first, inputs_of
from jaxprune.graph import ChannelGraph, Consumer, paths
from jaxprune.kernels import accelerate
from jaxprune.problem import Problem
from jaxprune.statistics.gram import layers_of, places_of, value_or_zeros


class LayerHessian(NamedTuple):
    """One consumer of a group.

    Attributes:
      consumer: which equation it is.
      hessian: float32 (U·T, U·T), the taps of a unit side by side.
      kernel: float32 (O, U·T).
      energy: the mean square norm of its output.
    """

    consumer: Consumer
    hessian: jax.Array
    kernel: jax.Array
    energy: float


def hessians(
    problem: Problem,
    *,
    groups: Sequence[str] | None = None,
    positions: int | None = 16,
) -> dict[str, list[LayerHessian]]:
    """Per group the Hessian of each of its consumers; the arguments are those of `grams`."""
    first(problem.batches)
    names = problem.graph.names
    groups = names if groups is None else tuple(groups)
    wanted = {name: name in groups for name in names}
    accumulate, consumers = _accumulator(problem.graph, problem.fn, positions)
    total: Any = None
    count = 0
    for i, batch in enumerate(problem.batches):
        key = jax.random.fold_in(problem.key, i)
        part = accumulate(problem.variables, inputs_of(batch), key, wanted)
        part = {name: part[name] for name in groups if name in part}
        total = part if total is None else jax.tree.map(jnp.add, total, part)
        count += 1
    return {
        group: [
            LayerHessian(consumers[name], h / count, w / count, float(energy) / count)
            for name, (h, w, energy) in layers.items()
        ]
        for group, layers in total.items()
    }


@functools.lru_cache(maxsize=4)
def _accumulator(
    graph: ChannelGraph, fn: Callable[..., Any], positions: int | None
) -> tuple[Callable[..., Any], dict[str, Consumer]]:
    """The compiled pass over one batch, and the consumers, known after its first call.

    Cached, so that a network that is pruned in many rounds compiles once; few, to be freed.
    """
    consumers: dict[str, Consumer] = {}

    @jax.jit
    @accelerate
    def accumulate(variables: Any, inputs: Any, key: jax.Array, wanted: dict[str, Any]) -> Any:
        found = layers_of(graph, fn, variables, inputs, key, positions=positions, seen=consumers)
        parts: dict[str, dict[str, Any]] = {}
        for group, layers in found.items():
            for layer in layers:
                x = layer.inputs.reshape(len(layer.inputs), -1)
                hessian = value_or_zeros(
                    wanted[group], functools.partial(_second_moment, x), (x.shape[1], x.shape[1])
                )
                kernel = layer.kernel.reshape(x.shape[1], -1).T
                parts.setdefault(group, {})[layer.name] = (hessian, kernel, layer.energy)
        return parts

    return accumulate, consumers


def _second_moment(x: jax.Array) -> jax.Array:
    return jnp.matmul(x.T, x, precision=lax.Precision.HIGHEST) / len(x)


def with_kernel(
    graph: ChannelGraph,
    variables: Any,
    group: str,
    layer: LayerHessian,
    kept: np.ndarray,
    kernel: Any,
) -> Any:
    """The variables with a consumer's kernel replaced over the kept units of a group.

    Args:
      graph: from `trace`.
      variables: the dense variables.
      group: the group that was refitted.
      layer: its consumer.
      kept: the kept units, in order.
      kernel: (O, kept·T), as `refit` gives it.

    Raises:
      ValueError: the consumer's kernel is computed from variables, not one itself.
    """
    consumer = layer.consumer
    leaves = dict(paths.leaves(variables))
    if consumer.name not in leaves or leaves[consumer.name].shape != consumer.kernel_shape:
        raise ValueError(
            f"the kernel that reads group {group} is not a variable itself ({consumer.name}), so "
            "it cannot be refitted; search without reconstruction"
        )
    size = graph.groups[group].size
    start = int(graph.sizes[: graph.names.index(group)].sum())
    order = _channels_first(consumer)
    dense = np.transpose(np.asarray(leaves[consumer.name], np.float32), order).copy()
    channels = math.prod(dense.shape[: len(consumer.axes)])
    outputs = len(kernel)
    flat = dense.reshape(channels, -1, outputs)
    places, whole = places_of(consumer, start, size)
    if not whole:
        raise ValueError(
            f"{consumer.name} reads a part of group {group}; search without reconstruction"
        )
    taps = flat.shape[1]
    new = np.asarray(kernel).T.reshape(len(kept), places.shape[1], taps, outputs)
    flat[places[kept]] = new
    replaced = np.transpose(flat.reshape(dense.shape), np.argsort(order))
    fresh = jnp.asarray(replaced, leaves[consumer.name].dtype)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: fresh if paths.name(path) == consumer.name else leaf, variables
    )


def _channels_first(consumer: Consumer) -> tuple[int, ...]:
    """The permutation that brings a kernel to (channels, taps, outputs)."""
    numbers = consumer.params["dimension_numbers"]
    if consumer.primitive == "conv_general_dilated":
        outputs, channels, *window = numbers.rhs_spec
        return (channels, *window, outputs)
    contract, _ = numbers
    mine, other = contract[consumer.operand], contract[1 - consumer.operand]
    paired: Mapping[int, int] = dict(zip(mine, other, strict=True))
    taps = [a for a in mine if a not in consumer.axes]
    first_axes = [paired[a] for a in (*consumer.axes, *taps)]
    rest = [a for a in range(len(consumer.kernel_shape)) if a not in first_axes]
    return (*first_axes, *rest)
