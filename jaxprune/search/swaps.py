"""Local search by exchanges of one kept and one dropped channel."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

# For how many moves, 1 to this, an exchanged channel stays as it is. On the groups of a trained
# VGG-16 8 was better than 12 or more, and a constant 4 ran into a cycle once in 109 searches.
MAX_TENURE = 8


def _exchange(gram: Array, mask: Array, free: Array) -> tuple[Array, Array, Array, Array]:
    """The best exchange among the free channels: back, out, its change, and the error before it.

    Bringing back i and dropping j changes `pᵀ G p` by
    `G_ii - 2 (G p)_i + G_jj + 2 (G p)_j - 2 G_ij`: all pairs cost O(C²).
    """
    own = jnp.diagonal(gram)
    dropped = (~mask).astype(gram.dtype)
    # Computed anew in every step: an updated product would drift in float32.
    product = jnp.matmul(gram, dropped, precision=jax.lax.Precision.HIGHEST)
    back = jnp.where(~mask & free, own - 2 * product, jnp.inf)
    out = jnp.where(mask & free, own + 2 * product, jnp.inf)
    change = back[:, None] + out[None, :] - 2 * gram
    # A minimum per row first: it vectorises, an argmin over all pairs does not.
    i = jnp.argmin(jnp.min(change, axis=1))
    j = jnp.argmin(change[i])
    return i, j, change[i, j], dropped @ product


@partial(jax.jit, static_argnames=("max_swaps",))
def swap_descent(gram: Array, mask: Array, max_swaps: int | None = None) -> Array:
    """Exchanges the best pair until no exchange lowers `pᵀ G p`.

    Args:
      gram: [C, C], symmetric.
      mask: boolean [C].
      max_swaps: a bound on the exchanges; 4 C when None (a descent needs far fewer).

    Returns:
      Boolean mask [C] with as many ones, whose error is not higher.
    """
    limit = 4 * mask.size if max_swaps is None else max_swaps

    def step(state):
        mask, _, steps = state
        i, j, change, error = _exchange(gram, mask, jnp.ones(mask.shape, bool))
        # Below rounding a gain is noise, and the descent could go round in circles.
        gains = change < -1e-6 * jnp.abs(error)
        return jnp.where(gains, mask.at[i].set(True).at[j].set(False), mask), ~gains, steps + 1

    start = mask, jnp.zeros((), bool), 0
    return jax.lax.while_loop(lambda s: ~s[1] & (s[2] < limit), step, start)[0]


@partial(jax.jit, static_argnames=("steps",))
def tabu_search(gram: Array, mask: Array, steps: int) -> Array:
    """Swap descent that goes on past a local optimum.

    Every step makes the best exchange, also where it raises the error; the two channels then stay
    as they are for a few steps, so that the search does not undo it (tabu search, Glover 1989). How
    many varies from step to step, against cycles (Taillard 1991), by a fixed sequence: no key is
    needed.

    Args:
      gram: [C, C], symmetric.
      mask: boolean [C].
      steps: exchanges to make.

    Returns:
      The best mask met, boolean [C] with as many ones; its error is not higher than `mask`'s.
    """
    kept = jnp.sum(mask)
    # In a small group some channels have to stay free on either side.
    longest = jnp.minimum(kept, mask.size - kept) // 2

    def step(now, state):
        mask, free_from, best, lowest = state
        i, j, change, error = _exchange(gram, mask, free_from <= now)
        best = jnp.where(error < lowest, mask, best)
        moved = mask.at[i].set(True).at[j].set(False)
        # Infinite where nothing can be exchanged: all channels kept.
        mask = jnp.where(jnp.isfinite(change), moved, mask)
        spread = (now.astype(jnp.uint32) * jnp.uint32(0x9E3779B9)) >> 16
        tenure = jnp.minimum(1 + (spread % MAX_TENURE).astype(free_from.dtype), longest)
        free_from = free_from.at[jnp.stack([i, j])].set(now + 1 + tenure)
        return mask, free_from, best, jnp.minimum(error, lowest)

    start = mask, jnp.zeros(mask.shape, kept.dtype), mask, jnp.asarray(jnp.inf, gram.dtype)
    return jax.lax.fori_loop(0, steps, step, start)[2]
