"""The fitness of masks: what a layer's output loses when channels are dropped."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def layer_error(masks: Array, gram: Array) -> Array:
    """Error of the consumer's output under each mask, `pᵀ G p` with `p = 1 - m`.

    With `G[c, d] = Σ_o W[o, c]ᵀ H[c, d] W[o, d]` and `H = E[x xᵀ]` this is exactly the mean squared
    error of the output before its activation (Hu et al. 2018, arXiv 1805.11394, with the layer-wise
    Hessian of L-OBS; the constant factor is dropped). One matrix product for all masks.

    Args:
      masks: 0/1 or boolean, [..., C]; 1 keeps a channel.
      gram: [C, C], symmetric.

    Returns:
      Errors [...] in the Gram matrix's units.
    """
    dropped = 1 - masks.astype(gram.dtype)
    return jnp.sum(jnp.matmul(dropped, gram, precision=jax.lax.Precision.HIGHEST) * dropped, -1)


def block_diagonal(gram: Array) -> Array:
    """`gram` without the interactions between channels.

    It is what a Hessian that is block-diagonal over input channels gives: the error becomes the sum
    of the dropped channels' own errors. The second step of the two-step approximation may be this
    (reconstructed).
    """
    return jnp.diag(jnp.diagonal(gram))
