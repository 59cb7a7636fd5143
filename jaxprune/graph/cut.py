"""Takes the kept positions of arrays, wherever they lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

from jaxprune.graph.labels import Keep, Labels

Positions = Mapping[int, np.ndarray]
"""Per axis the positions that stay."""


def take(value: Any, positions: np.ndarray, axis: int) -> Any:
    """The kept positions along an axis; the value itself where all are kept."""
    if len(positions) == value.shape[axis]:
        return value
    if isinstance(value, np.ndarray):  # also of types that only the host knows (float0)
        return value.take(positions, axis)
    return jnp.take(value, positions, axis=axis, indices_are_sorted=True, unique_indices=True)


def take_kept(value: Any, labels: Labels, keep: Keep) -> Any:
    """The kept channels of a whole array that has no joint tuples."""
    for axes, ids in labels.tracked.items():
        value = take(value, np.flatnonzero(keep(ids)), axes[0])
    return value


def cut(leaf: Any, positions: Positions) -> Any:
    """An array at its kept positions, on the same devices.

    Every cut has another shape, and compiling them all takes longer than a trip over the host. Only
    what the host cannot see is cut by a compiled function: tracers, arrays of several processes.
    """
    if not positions:
        return leaf
    if not on_host(leaf):
        return jax.jit(lambda x: _take_all(x, positions))(leaf)
    value = np.asarray(leaf)
    for axis, kept in positions.items():
        value = value.take(kept, axis)
    return put(value, leaf) if isinstance(leaf, jax.Array) else value


def copied(leaf: Any) -> jax.Array:
    """A copy of an array as a JAX array, on the same devices."""
    return put(np.array(leaf), leaf) if on_host(leaf) else jnp.array(leaf, copy=True)


def _take_all(value: Any, positions: Positions) -> Any:
    for axis, kept in positions.items():
        value = take(value, kept, axis)
    return value


def on_host(leaf: Any) -> bool:
    """Whether the host can see all of an array. Typed keys are no numbers to it."""
    if isinstance(leaf, Tracer):
        return False
    if isinstance(leaf, jax.Array):
        return leaf.is_fully_addressable and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return True


def put(value: np.ndarray, like: Any) -> jax.Array:
    """A host's array as a JAX array, on the devices of another one of about its shape."""
    if not (isinstance(like, jax.Array) and like.committed):
        return jax.device_put(value)
    sharding = fitting(like.sharding, value.shape)
    return jax.device_put(value, like.sharding if sharding is None else sharding)


def fitting(sharding: Any, shape: tuple[int, ...]) -> Any:
    """A sharding, less that of the axes which its devices do not divide; None if it is no such."""
    try:
        sharding.shard_shape(shape)
    except ValueError:
        if not isinstance(sharding, NamedSharding) or len(sharding.spec) > len(shape):
            return None
        spec = list(sharding.spec)
        for axis, names in enumerate(spec):
            alone = NamedSharding(sharding.mesh, PartitionSpec(*(None,) * axis, names))
            try:
                alone.shard_shape(shape)
            except ValueError:
                spec[axis] = None
        return NamedSharding(sharding.mesh, PartitionSpec(*spec))
    return sharding
