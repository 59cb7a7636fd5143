"""ODIN: the softmax at a high temperature, of an image that was moved towards its class.

Liang et al. 2018, arXiv 1706.02690. With S the softmax of the logits over T and ŷ the class that
the network predicts, an image moves by

    x' = x + ε sign(∇_x log S_ŷ(x; T)),    and its score is    1 - max_k S_k(x'; T).

T = 50 and ε = 0.0008 of the pixels' range, the sign divided by each channel's standard deviation
where images are normalised by it, are what the first author of arXiv 1903.01263 used later. Which
way that code moves is not settled by what was read of it; the direction here is ODIN's own, and a
negative ε is the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp


def odin(
    forward: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    std: Sequence[float],
    *,
    temperature: float = 50.0,
    epsilon: float = 0.0008,
) -> jax.Array:
    """The scores [B] of normalised images [B, H, W, C]; to be called under `jax.jit`.

    Args:
      forward: images → logits [B, K]; each image by itself, so that their gradients are one.
      images: divided by `std` before.
      std: of each channel of images in [0, 1].
      temperature: T.
      epsilon: ε, in parts of the pixels' range.
    """

    def confidence(images: jax.Array) -> jax.Array:
        return jnp.max(jax.nn.log_softmax(forward(images) / temperature), axis=-1)

    towards = jnp.sign(jax.grad(lambda x: jnp.sum(confidence(x)))(images))
    step = epsilon / jnp.asarray(std, images.dtype)
    return -jnp.expm1(confidence(images + step * towards))
