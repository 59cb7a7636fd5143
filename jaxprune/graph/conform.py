"""Brings a sliced value from one physical layout to another that an equation needs."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.graph.labels import Keep, Labels, layout, sliced_shape


def conform(
    value: jax.Array, have: Labels, want: Labels, shape: tuple[int, ...], keep: Keep
) -> jax.Array:
    """Expands free axes that are to be tracked or dense, widens and unfolds joint tuples.

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
        others = {a: i for a, i in have.tracked.items() if a != axes}
        wider = next((w for w in want.joint if set(axes) < set(w)), None)
        if wider is not None:
            value = _widen(value, have, want, axes, wider, shape, keep)
            have = Labels({**others, wider: want.tracked[wider]}, have.free - set(wider))
        elif axes not in want.tracked:
            value = _unfold(value, have, want, axes, shape, keep)
            have = Labels(others, have.free)
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


def _widen(
    value: jax.Array,
    have: Labels,
    want: Labels,
    axes: tuple[int, ...],
    wider: tuple[int, ...],
    shape: tuple[int, ...],
    keep: Keep,
) -> jax.Array:
    """Repeats the kept channels of a joint tuple along the free axes that `wider` has besides."""
    places = layout(have, len(shape))
    gone = [places.index((a,)) for a in wider if a not in axes]
    now = places.index(axes) - sum(place < places.index(axes) for place in gone)
    at = sum(place[0] < wider[0] for place in places)  # where its first axis is
    value = jnp.moveaxis(jnp.squeeze(value, tuple(gone)), now, at)
    mask = keep(have.tracked[axes])
    front, back = value.shape[:at], value.shape[at + 1 :]
    each = [mask.any(tuple(o for o in range(mask.ndim) if o != i)) for i in range(mask.ndim)]
    sizes = {a: int(kept.sum()) for a, kept in zip(axes, each, strict=True)}
    if math.prod(sizes.values()) == mask.sum():  # the same channels in each head
        alone = [sizes.get(a, 1) for a in wider]
        repeated = [sizes.get(a, shape[a]) for a in wider]
        value = value.reshape(*front, *alone, *back)
        value = jnp.broadcast_to(value, (*front, *repeated, *back))
        return value.reshape(*front, math.prod(repeated), *back)
    full = [shape[a] for a in wider]
    rank = np.cumsum(mask).reshape([shape[a] if a in axes else 1 for a in wider]) - 1
    taken = np.broadcast_to(rank, full)[keep(want.tracked[wider])]
    return jnp.take(value, taken, axis=at)
