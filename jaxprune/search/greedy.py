"""Greedy masks on the layer error: elimination as in ThiNet, and ranking."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


@jax.jit
def greedy_elimination(gram: Array, keep: int | Array) -> Array:
    """Drops, one after another, the channel whose removal raises `pᵀ G p` least.

    The greedy selection of ThiNet (arXiv 1707.06342), on the second-order layer error. With `G p`
    at hand a removal costs `2 (G p)_j + G_jj`, so a step is O(C).

    Args:
      gram: [C, C], symmetric.
      keep: number of channels to keep; data, so that another number compiles nothing.

    Returns:
      Boolean mask [C] with `keep` ones.
    """
    own = jnp.diagonal(gram)

    def drop(_, state):
        mask, product = state
        channel = jnp.argmin(jnp.where(mask, 2 * product + own, jnp.inf))
        return mask.at[channel].set(False), product + gram[:, channel]

    start = jnp.ones(own.shape, bool), jnp.zeros_like(own)
    return jax.lax.fori_loop(0, own.size - keep, drop, start)[0]


@jax.jit
def diagonal_ranking(gram: Array, keep: int | Array) -> Array:
    """Keeps the channels with the largest error of their own, `G_cc`; boolean mask [C]."""
    return top_k(jnp.diagonal(gram), keep)


def top_k(scores: Array, keep: int | Array) -> Array:
    """Boolean mask of the `keep` largest scores along the last axis; ties go to the first.

    `keep` may be traced, unlike `jax.lax.top_k`'s.
    """
    order = jnp.argsort(-scores, axis=-1, stable=True)
    return jnp.argsort(order, axis=-1) < keep
