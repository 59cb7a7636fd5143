"""A convolution whose kernel keeps some columns: a smaller convolution, or a product of patches.

A column is one tap of one input channel over all filters (Wang et al. 2017, arXiv 1709.06994): what
is not kept is never read. Where all columns of a channel are kept or none (the sampler of He et al.
2017, arXiv 1707.06168) the channels that are read are gathered, and a convolution of as many is the
whole. Else, of the unfolded patches [N · H' · W', taps · C] only the kept columns are made, and one
product with as many rows of the kernel is the convolution.

The gradient of that product with respect to the kernel is a product of the same patches. That with
respect to the images stays the convolution that it is: of patches it would be a sum of scattered
ones, which costs more than Winograd's form of the whole.

Axes: `N` images, `C` channels read, `O` filters, `K` kept columns.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxprune.kernels.windows import by_taps

_DENSEST = 0.25
"""The part of the columns up to which this is quicker on a CPU; see `benchmarks/columns.py`."""

_MOST_CHANNELS = 0.75
"""The part of the channels up to which they are gathered."""


def contraction(eqn: Any, values: Sequence[Any], kept: np.ndarray) -> Array | None:
    """What an equation gives whose second operand is a kernel of kept columns, already projected.

    None where it is no plain convolution, `kept` has no columns, or so many of them are kept that
    the dense kernel is as quick. Patches are for a CPU, in float32 or float64.
    """
    images, kernel = values
    p = eqn.params
    if eqn.primitive.name != "conv_general_dilated":
        return None
    if (p["feature_group_count"], p["batch_group_count"]) != (1, 1):
        return None
    filters, _, *window = p["dimension_numbers"].rhs_spec
    columns = tuple(1 if a == filters else n for a, n in enumerate(kernel.shape))
    if kept.shape != columns or not kept.any():
        return None
    channels = kept.any(tuple(window), keepdims=True)
    if (channels == kept).all() and channels.mean() <= _MOST_CHANNELS:
        return _of_channels(images, kernel, np.flatnonzero(channels), p)
    if jax.default_backend() != "cpu" or max(p["lhs_dilation"]) > 1:
        return None
    if images.dtype != kernel.dtype or kernel.dtype not in (jnp.float32, jnp.float64):
        return None
    if kept.mean() > _DENSEST:
        return None
    return _convolution(images, kernel, kept, p)


def _of_channels(images: Array, kernel: Array, at: np.ndarray, p: Any) -> Array:
    """The convolution of the channels `at`."""
    take = functools.partial(jnp.take, unique_indices=True, indices_are_sorted=True)
    _, reads, *_ = p["dimension_numbers"].rhs_spec
    images = take(images, at, axis=p["dimension_numbers"].lhs_spec[1])
    return lax.conv_general_dilated_p.bind(images, take(kernel, at, axis=reads), **p)


def _convolution(images: Array, kernel: Array, kept: np.ndarray, p: Any) -> Array:
    numbers = p["dimension_numbers"]
    filters, reads, *window = numbers.rhs_spec
    order = (*window, reads)
    taps = np.transpose(kept.squeeze(filters), [a - (a > filters) for a in order])  # [*window, C]
    at = np.flatnonzero(taps)

    @jax.custom_jvp
    def run(images: Array, kernel: Array) -> Array:
        return product(_patches(images, taps, p), kernel)

    @run.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        (images, kernel), (moved, turned) = primals, tangents
        patches = _patches(images, taps, p)
        along = lax.conv_general_dilated_p.bind(moved, kernel, **p)
        return product(patches, kernel), along + product(patches, turned)

    def product(patches: Array, kernel: Array) -> Array:
        rows = kernel.transpose(*order, filters).reshape(-1, kernel.shape[filters])
        rows = jnp.take(rows, at, 0, unique_indices=True, indices_are_sorted=True)
        found = lax.dot_general(
            patches, rows, (((patches.ndim - 1,), (0,)), ((), ())),
            precision=p["precision"], preferred_element_type=p["preferred_element_type"],
        )  # fmt: skip
        n, out, *places = numbers.out_spec
        return found.transpose([(n, *places, out).index(axis) for axis in range(found.ndim)])

    return run(images, kernel)


def _patches(images: Array, taps: np.ndarray, p: Any) -> Array:
    """What each place of the result reads of the kept columns, [N, *places, K]."""
    numbers = p["dimension_numbers"]
    images = images.transpose(numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1])
    found = []
    for tap, part in by_taps(images, taps.shape[:-1], p):
        channels = np.flatnonzero(taps[tap])
        if not channels.size:
            continue
        if channels.size < part.shape[-1]:
            part = jnp.take(part, channels, -1, unique_indices=True, indices_are_sorted=True)
        found.append(part)
    return jnp.concatenate(found, -1)


__all__ = ["contraction"]
