"""Max pooling over windows side by side as elementwise operations, and its gradient.

XLA finds the largest entry of each window by a loop over the whole array that takes as long on a
CPU as a convolution, and scatters the gradient. Windows that do not overlap need neither.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from jaxprune.kernels.bits import bits, floats


def side_by_side(params: Any) -> bool:
    """Whether the windows of an equation are as wide as they are far apart, without padding."""
    dilations = (*params.get("base_dilation", ()), *params.get("window_dilation", ()))
    return (
        params["window_dimensions"] == params["window_strides"]
        and {*itertools.chain(*params["padding"])} <= {0}
        and {*dilations} <= {1}
    )


def max_pool(images: Array, window: Sequence[int]) -> Array:
    """The largest entry of each window; a rest of an axis that fills none is left out."""
    first, *rest = _entries(images, window)
    for entry in rest:
        first = jnp.maximum(first, entry)
    return first


def max_pool_gradient(gradient: Array, images: Array, window: Sequence[int]) -> Array:
    """The gradient with respect to the images: the first of the largest entries has it whole."""
    best, *rest = _entries(images, window)
    where = jnp.zeros(best.shape, jnp.uint16)
    for number, entry in enumerate(rest, start=1):
        where = jnp.where(entry > best, jnp.uint16(number), where)
        best = jnp.maximum(best, entry)
    # [rows, window rows, columns, window columns, ...]: each axis of the images as two.
    apart = [n for pair in zip(best.shape, window, strict=True) for n in pair]
    within = range(1, 2 * len(window), 2)
    place = jnp.zeros((), jnp.uint16)
    for axis, wide in zip(within, window, strict=True):
        place = place * wide + lax.broadcasted_iota(jnp.uint16, apart, axis)
    here = jnp.expand_dims(where, within) == place
    values = jnp.expand_dims(bits(gradient), within)
    spread = jnp.where(here, values, jnp.zeros((), values.dtype))
    spread = spread.reshape([n * wide for n, wide in zip(best.shape, window, strict=True)])
    rest_of = [(0, n - m) for n, m in zip(images.shape, spread.shape, strict=True)]
    return floats(jnp.pad(spread, rest_of), images.dtype)


def _entries(images: Array, window: Sequence[int]) -> list[Array]:
    """The array of the first entries of all windows, that of the second ones, ..."""
    ends = [n // wide * wide for n, wide in zip(images.shape, window, strict=True)]
    return [
        floats(lax.slice(bits(images), place, ends, window), images.dtype)
        for place in itertools.product(*map(range, window))
    ]


__all__ = ["max_pool", "max_pool_gradient", "side_by_side"]
