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
    pixels = images.astype(jnp.float32)
    axes = (1,) * (images.ndim - 1) + spread.shape
    return (pixels / (255 * spread).reshape(axes) - shift.reshape(axes)).astype(dtype)


@partial(jax.jit, static_argnames=("crop_padding", "flip", "dtype", "size", "cutout"))
def augment(
    key: jax.Array,
    images: jax.Array,
    *,
    crop_padding: int,
    flip: bool,
    mean: Channels,
    std: Channels,
    dtype: Any = jnp.float32,
    size: int | None = None,
    cutout: int = 0,
    mirrored: jax.Array | None = None,
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
      size: height and width of the crops, where they are not the image's.
      cutout: side of a square of zeros whose middle is anywhere in the crop; 0: none (DeVries and
        Taylor 2017, arXiv 1708.04552).
      mirrored: bool `[B]`, which of the images are mirrored, where `flip` does not draw it.

    Returns:
      `[B, H, W, C]`, normalised.

    Raises:
      ValueError: a padding as large as the image, which has no reflection; crops that are larger.
    """
    batch, height, width, _ = images.shape
    if not 0 <= crop_padding < min(height, width):
        raise ValueError(
            f"crop_padding is {crop_padding}; images of {height}x{width} pixels allow 0 to "
            f"{min(height, width) - 1}"
        )
    rows, columns = (height, width) if size is None else (size, size)
    spare = height + 2 * crop_padding - rows, width + 2 * crop_padding - columns
    if min(spare) < 0:
        raise ValueError(f"crops of {size} pixels do not fit into images of {height}x{width}")
    crop_key, flip_key = jax.random.split(key)
    if max(spare):
        around = (crop_padding, crop_padding)
        padded = jnp.pad(images, ((0, 0), around, around, (0, 0)), mode="reflect")
        most = jnp.array(spare)[None] + 1
        corners = jax.random.randint(crop_key, (batch, 2), 0, most)

        def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
            return lax.dynamic_slice(
                image, (corner[0], corner[1], 0), (rows, columns, image.shape[-1])
            )

        images = jax.vmap(crop)(padded, corners)
    if flip and mirrored is None:
        mirrored = jax.random.bernoulli(flip_key, shape=(batch,))
    if mirrored is not None:
        images = jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    normalized = normalize(images, mean=mean, std=std, dtype=dtype)
    if cutout:
        hole = _holes(jax.random.fold_in(crop_key, 1), batch, (rows, columns), cutout)
        normalized = jnp.where(hole[..., None], jnp.zeros((), dtype), normalized)
    return normalized


def _holes(key: jax.Array, batch: int, shape: tuple[int, int], side: int) -> jax.Array:
    """Where a square of `side` pixels about a random place of each image lies, `[B, H, W]`."""
    within = []
    for axis, length in enumerate(shape):
        first = jax.random.randint(jax.random.fold_in(key, axis), (batch, 1), 0, length) - side // 2
        places = jnp.arange(length)
        within.append((first <= places) & (places < first + side))
    rows, columns = within
    return rows[:, :, None] & columns[:, None, :]
