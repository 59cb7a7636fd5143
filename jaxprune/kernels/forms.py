"""Convolutions written as matrix products, which XLA runs at the machine's rate on a CPU.

Axes: `N` images, `H, W` rows and columns, `C` channels read, `O` channels written, `T` tiles.
Images are [N, H, W, C], kernels [3, 3, C, O], `padding` ((above, below), (left, right)), and the
stride 1 where none is given.

Winograd's minimal filtering computes a tile of 4 × 4 outputs from 6 × 6 inputs with 36 products per
pair of channels instead of 144: `Y = Aᵀ [(G w Gᵀ) ∘ (Bᵀ x B)] A` (F(4×4, 3×3) of Lavin and Gray
2016, arXiv 1509.09308). Summed over the channels, each of the 36 places is one matrix product. Both
transforms are linear and written as one product with a Kronecker square.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

Padding = tuple[tuple[int, int], tuple[int, int]]

_TILE = 4
_WINDOW = _TILE + 2
# The matrices of Lavin and Gray, section 4.1.2 and 4.2.
_B = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_G = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
_A = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])


def winograd(images: Array, kernel: Array, padding: Padding) -> Array:
    """The convolution [N, H', W', O]."""
    count, *_, outputs = *images.shape, kernel.shape[-1]
    size = output_size(images.shape, padding)
    tiles = _tiles(size)
    inputs = _transformed_inputs(images, padding, tiles)
    kernels = _square(_G, kernel) @ kernel.reshape(9, -1)
    products = lax.dot_general(
        inputs,
        kernels.reshape(_WINDOW**2, *kernel.shape[2:]),
        (((2,), (1,)), ((0,), (0,))),
    )
    results = _square(_A, images) @ products.reshape(_WINDOW**2, -1)
    results = results.reshape(_TILE, _TILE, count, *tiles, outputs).transpose(2, 3, 0, 4, 1, 5)
    results = results.reshape(count, _TILE * tiles[0], _TILE * tiles[1], outputs)
    return results[:, : size[0], : size[1]]


def winograd_kernel_gradient(images: Array, gradient: Array, padding: Padding) -> Array:
    """The gradient [3, 3, C, O] with respect to the kernel, by the same products.

    The algorithm is bilinear, so its transpose is `Gᵀ [(Bᵀ x B)ᵀ (A y' Aᵀ)] G`, summed over tiles.

    Args:
      images: what the convolution read, [N, H, W, C].
      gradient: with respect to its result, [N, H', W', O].
      padding: of the convolution.
    """
    count, *size, outputs = gradient.shape
    tiles = _tiles(size)
    inputs = _transformed_inputs(images, padding, tiles)
    below, right = (_TILE * t - n for t, n in zip(tiles, size, strict=True))
    padded = jnp.pad(gradient, ((0, 0), (0, below), (0, right), (0, 0)))
    padded = padded.reshape(count, tiles[0], _TILE, tiles[1], _TILE, outputs)
    pieces = padded.transpose(2, 4, 0, 1, 3, 5).reshape(_TILE**2, -1)
    pieces = (_square(_A, images).T @ pieces).reshape(_WINDOW**2, -1, outputs)
    products = lax.dot_general(inputs, pieces, (((1,), (1,)), ((0,), (0,))))
    kernel = _square(_G, images).T @ products.reshape(_WINDOW**2, -1)
    return kernel.reshape(3, 3, images.shape[-1], outputs)


def unfolded(images: Array, kernel: Array, padding: Padding) -> Array:
    """The convolution as one product of unfolded patches [N · H' · W', 9 C] (im2col)."""
    size = output_size(images.shape, padding)
    patches = _patches(images, padding, size, (3, 3), (1, 1))
    products = patches.reshape(-1, patches.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
    return products.reshape(len(images), *size, -1)


def strided_kernel_gradient(
    images: Array,
    gradient: Array,
    padding: Padding,
    window: Sequence[int],
    strides: Sequence[int],
) -> Array:
    """The gradient [*window, C, O] of a convolution with strides, as one product of patches."""
    patches = _patches(images, padding, gradient.shape[1:3], window, strides)
    gradient = gradient.reshape(-1, gradient.shape[-1])
    kernel = patches.reshape(len(gradient), -1).T @ gradient
    return kernel.reshape(window[0], window[1], images.shape[-1], gradient.shape[-1])


def unfolded_kernel_gradient(images: Array, gradient: Array, padding: Padding) -> Array:
    """The gradient [3, 3, C, O] with respect to the kernel, as one product.

    Unfolding the images along columns and the gradient along rows pairs all nine taps, with a third
    of the memory that unfolding the images along both takes.
    """
    count, rows, columns, outputs = gradient.shape
    padded = _padded(images, padding)
    taps = [padded[:, :, j : j + columns] for j in range(3)]
    images_unfolded = jnp.concatenate(taps, axis=-1).reshape(count * (rows + 2) * columns, -1)
    shifted = [jnp.pad(gradient, ((0, 0), (i, 2 - i), (0, 0), (0, 0))) for i in range(3)]
    gradient_unfolded = jnp.concatenate(shifted, axis=-1).reshape(len(images_unfolded), -1)
    kernel = images_unfolded.T @ gradient_unfolded
    return kernel.reshape(3, -1, 3, outputs).transpose(2, 0, 1, 3)


def output_size(shape: tuple[int, ...], padding: Padding) -> tuple[int, int]:
    """Rows and columns of the result."""
    rows, columns = (n + sum(p) - 2 for n, p in zip(shape[1:3], padding, strict=True))
    return rows, columns


def tile_count(size: Sequence[int]) -> int:
    """Tiles of one image whose result has `size`."""
    return math.prod(_tiles(size))


def _tiles(size: Sequence[int]) -> tuple[int, int]:
    rows, columns = (-(-n // _TILE) for n in size)
    return rows, columns


def _padded(images: Array, padding: Padding) -> Array:
    edges = [(0, 0), *padding, (0, 0)]
    return lax.pad(images, jnp.zeros((), images.dtype), [(lo, hi, 0) for lo, hi in edges])


def _patches(
    images: Array,
    padding: Padding,
    size: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
) -> Array:
    """What each place of the result reads, [N, H', W', taps · C]."""
    padded = _padded(images, padding)
    down, right = strides
    rows, columns = (size[0] - 1) * down + 1, (size[1] - 1) * right + 1
    taps = [
        padded[:, i : i + rows : down, j : j + columns : right]
        for i in range(window[0])
        for j in range(window[1])
    ]
    return jnp.concatenate(taps, axis=-1)


def _square(matrix: np.ndarray, like: Array) -> Array:
    """The Kronecker square: the transform of rows and columns in one matrix."""
    return jnp.asarray(np.kron(matrix, matrix), like.dtype)


def _transformed_inputs(images: Array, padding: Padding, tiles: tuple[int, int]) -> Array:
    """`Bᵀ x B` of all tiles, [36, T, C]."""
    (above, _), (left, _) = padding
    below = _TILE * tiles[0] + 2 - images.shape[1] - above
    right = _TILE * tiles[1] + 2 - images.shape[2] - left
    padded = _padded(images, ((above, below), (left, right)))
    # Entry (i, j) of every tile is a slice of stride 4.
    rows, columns = (_TILE * (t - 1) + 1 for t in tiles)
    entries = [
        padded[:, i : i + rows : _TILE, j : j + columns : _TILE]
        for i in range(_WINDOW)
        for j in range(_WINDOW)
    ]
    stacked = jnp.stack(entries).reshape(_WINDOW**2, -1)
    return (_square(_B, images) @ stacked).reshape(_WINDOW**2, -1, images.shape[-1])


__all__ = [
    "output_size", "strided_kernel_gradient", "tile_count", "unfolded",
    "unfolded_kernel_gradient", "winograd", "winograd_kernel_gradient",
]  # fmt: skip
