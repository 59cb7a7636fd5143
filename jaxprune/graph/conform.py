"""Brings a sliced value from one physical layout to another that an equation needs."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxprune.graph.labels import Keep, Labels, layout, sliced_shape


def conform(
    value: jax.Array, have: Labels, want: Labels, shape: tuple[int, ...], keep: Keep
) -> jax.Array:
    """Expands free axes that are to be tracked or dense, and unfolds joint tuples.

    Args:
      value: a value laid out as `have` says.
      have: the labels that it was made with.
      want: the labels that an equation needs it with.
      shape: its dense shape.
      keep: which channels are kept.
    """
    if have is want or (have.tracked.keys() == want.tracked.keys() and have.free == want.free):
        return value
    for axes in have.joint:
        if axes not in want.tracked:
            value = _unfold(value, have, want, axes, shape, keep)
            have = Labels({a: i for a, i in have.tracked.items() if a != axes}, have.free)
    for axes in want.joint:
        if axes not in have.tracked:  # free along all of the tuple: fold it into one free axis
            value = _fold(value, have, axes, len(shape))
            have = Labels({**have.tracked, axes: want.tracked[axes]}, have.free - set(axes))
    return jnp.broadcast_to(value, sliced_shape(want, shape, keep))


def _unfold(
    value: jax.Array,
    have: Labels,
    want: Labels,
    axes: tuple[int, ...],
    shape: tuple[int, ...],
    keep: Keep,
) -> jax.Array:
    places = layout(have, len(shape))
    at = places.index(axes)
    sizes = [
        int(keep(want.tracked[(a,)]).sum()) if (a,) in want.tracked else shape[a] for a in axes
    ]
    value = value.reshape((*value.shape[:at], *sizes, *value.shape[at + 1 :]))
    order = [a for place in places for a in place]
    others = [a for place in places if place != axes for a in place[:1]]
    wanted = sorted([*others, *axes])
    current = [a for a in order if a in wanted]
    return value.transpose([current.index(a) for a in wanted])


def _fold(value: jax.Array, have: Labels, axes: tuple[int, ...], ndim: int) -> jax.Array:
    places = layout(have, ndim)
    gone = [places.index((a,)) for a in axes[1:]]
    return jnp.squeeze(value, tuple(gone))
