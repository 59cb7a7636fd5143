"""Augmentation and normalisation on the device: images come resident as uint8."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Channels = tuple[float, ...] | np.ndarray | jax.Array
"""One number a channel."""


@partial(jax.jit, static_argnames="dtype")
def normalize(
    images: jax.Array, *, mean: Channels, std: Channels, dtype: Any = jnp.float32
) -> jax.Array:
    """`(images / 255 - mean) / std`.

    Args:
      images: uint8 `[B, H, W, C]`.
      mean: of each channel of images scaled to [0, 1].
      std: likewise.
      dtype: of the result.
    """
    spread = jnp.asarray(std, jnp.float32)
    shift = jnp.asarray(mean, jnp.float32) / spread
    return (images.astype(jnp.float32) / (255 * spread) - shift).astype(dtype)


@partial(jax.jit, static_argnames=("crop_padding", "flip", "dtype"))
def augment(
    key: jax.Array,
    images: jax.Array,
    *,
    crop_padding: int,
    flip: bool,
    mean: Channels,
    std: Channels,
    dtype: Any = jnp.float32,
) -> jax.Array:
    """Each image cropped at random from its reflected surroundings and perhaps mirrored.

    Args:
      key: the same key gives the same view, e.g. to a teacher and its student.
      images: uint8 `[B, H, W, C]`.
      crop_padding: pixels of reflection on each side; 0: no cropping.
      flip: whether half of the images are mirrored left to right.
      mean: of each channel of images scaled to [0, 1].
      std: likewise.
      dtype: of the result.

    Returns:
      `[B, H, W, C]`, normalised.

    Raises:
      ValueError: a padding as large as the image, which has no reflection.
    """
    batch, height, width, _ = images.shape
    if not 0 <= crop_padding < min(height, width):
        raise ValueError(
            f"crop_padding is {crop_padding}; images of {height}x{width} pixels allow 0 to "
            f"{min(height, width) - 1}"
        )
    crop_key, flip_key = jax.random.split(key)
    if crop_padding:
        around = (crop_padding, crop_padding)
        padded = jnp.pad(images, ((0, 0), around, around, (0, 0)), mode="reflect")
        corners = jax.random.randint(crop_key, (batch, 2), 0, 2 * crop_padding + 1)

        def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
            return lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

        images = jax.vmap(crop)(padded, corners)
    if flip:
        mirrored = jax.random.bernoulli(flip_key, shape=(batch, 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    return normalize(images, mean=mean, std=std, dtype=dtype)
