"""Convolutions written as matrix products, which XLA runs at the machine's rate on a CPU.

Axes: `N` images, `H, W` rows and columns, `C` channels read, `O` channels written, `T` tiles.
Images are [N, H, W, C], kernels [3, 3, C, O], `padding` ((above, below), (left, right)), and the
stride 1 where none is given.

Winograd's minimal filtering computes a tile of 4 × 4 outputs from 6 × 6 inputs with 36 products per
pair of channels instead of 144: `Y = Aᵀ [(G w Gᵀ) ∘ (Bᵀ x B)] A` (F(4×4, 3×3) of Lavin and Gray
2016, arXiv 1509.09308). Summed over the channels, each of the 36 places is one matrix product, or G
of them for a convolution of G groups, which costs no copy: the transforms move what they read and
write anyway. They are sums along rows and then along columns. Where the transformed kernel is small
the images go through all of it by lots that the caches hold.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

Padding = tuple[tuple[int, int], tuple[int, int]]

_TILE = 4
_WINDOW = _TILE + 2
_LOT_BYTES = 5 << 18
"""Of transformed images at a time: about what a core's own cache holds."""
_KERNEL_BYTES = 5 << 20
"""Of a transformed kernel that is read for each lot: what stays in the cache that cores share."""
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


def winograd(images: Array, kernel: Array, padding: Padding, groups: int = 1) -> Array:
    """The convolution [N, H', W', O] with a kernel [3, 3, C / G, O]."""
    size = output_size(images.shape, padding)
    kernels = _square(_G, kernel) @ kernel.reshape(9, -1)
    kernels = kernels.reshape(_WINDOW**2, kernel.shape[2], groups, -1).transpose(0, 2, 1, 3)

    def convolved(images: Array) -> Array:
        inputs = _transformed_inputs(images, padding, _tiles(size), groups)
        products = lax.dot_general(inputs, kernels, (((3,), (2,)), ((0, 1), (0, 1))))
        return _transformed_products(products, len(images), size)

    step = _together(images, size, kernels)
    if step == len(images):
        return convolved(images)
    parts = lax.map(convolved, images.reshape(-1, step, *images.shape[1:]))
    return parts.reshape(-1, *parts.shape[2:])


def winograd_kernel_gradient(
    images: Array, gradient: Array, padding: Padding, groups: int = 1
) -> Array:
    """The gradient [3, 3, C / G, O] with respect to the kernel, by the same products.

    The algorithm is bilinear, so its transpose is `Gᵀ [(Bᵀ x B)ᵀ (A y' Aᵀ)] G`, summed over tiles.

    Args:
      images: what the convolution read, [N, H, W, C].
      gradient: with respect to its result, [N, H', W', O].
      padding: of the convolution.
      groups: of the convolution.
    """
    channels, outputs, tiles = images.shape[-1], gradient.shape[-1], _tiles(gradient.shape[1:3])
    like = jax.ShapeDtypeStruct(
        (_WINDOW**2, groups, channels // groups, outputs // groups), images.dtype
    )

    def products(images: Array, gradient: Array) -> Array:
        inputs = _transformed_inputs(images, padding, tiles, groups)
        pieces = _transformed_gradient(gradient, tiles, groups)
        return lax.dot_general(inputs, pieces, (((2,), (2,)), ((0, 1), (0, 1))))

    step = _together(images, gradient.shape[1:3], like)
    if step == len(images):
        total = products(images, gradient)
    else:
        parts = [v.reshape(-1, step, *v.shape[1:]) for v in (images, gradient)]
        total = jnp.zeros(like.shape, like.dtype)
        total, _ = lax.scan(lambda sums, part: (sums + products(*part), None), total, parts)
    total = total.transpose(0, 2, 1, 3).reshape(_WINDOW**2, -1)
    return (_square(_G, images).T @ total).reshape(3, 3, channels // groups, outputs)


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


def _together(images: Array, size: Sequence[int], kernels: Any) -> int:
    """How many images are transformed at a time: as many as the caches hold, where kernels that
    are read anew for each lot stay there, too; else all."""
    count, *_, channels = images.shape
    bytes_each = _WINDOW**2 * tile_count(size) * channels * images.dtype.itemsize
    if kernels.size * images.dtype.itemsize > _KERNEL_BYTES:
        return count
    most = max(1, _LOT_BYTES // bytes_each)
    step = max(n for n in range(1, min(count, most) + 1) if count % n == 0)
    return step if 2 * step > most else count


def _combined(matrix: np.ndarray, values: Sequence[Array], axis: int) -> Array:
    """Sums of the values, one for each row of factors, stacked."""
    sums = []
    for row in matrix:
        terms = [
            value * factor for factor, value in zip(row.tolist(), values, strict=True) if factor
        ]
        sums.append(functools.reduce(jnp.add, terms))
    return jnp.stack(sums, axis)


def _transformed_inputs(
    images: Array, padding: Padding, tiles: tuple[int, int], groups: int
) -> Array:
    """`Bᵀ x B` of all tiles, [36, G, T, C / G]: first along columns, then along rows."""
    (above, _), (left, _) = padding
    below = _TILE * tiles[0] + 2 - images.shape[1] - above
    right = _TILE * tiles[1] + 2 - images.shape[2] - left
    padded = _padded(images, ((above, below), (left, right)))
    # Entry i of every tile is a slice of stride 4.
    rows, columns = (_TILE * (t - 1) + 1 for t in tiles)
    read = [padded[:, i : i + rows : _TILE] for i in range(_WINDOW)]
    halfway = lax.optimization_barrier(_combined(_B, read, 0))  # [6, N, tile rows, W + 2, C]
    read = [halfway[:, :, :, j : j + columns : _TILE] for j in range(_WINDOW)]
    return _grouped(_combined(_B, read, 1), groups)


def _transformed_gradient(gradient: Array, tiles: tuple[int, int], groups: int) -> Array:
    """`A y' Aᵀ` of all tiles, [36, G, T, O / G]."""
    count, *size, outputs = gradient.shape
    below, right = (_TILE * t - n for t, n in zip(tiles, size, strict=True))
    padded = _padded(gradient, ((0, below), (0, right)))
    padded = padded.reshape(count, tiles[0], _TILE, tiles[1], _TILE, outputs)
    halfway = _combined(_A.T, [padded[:, :, i] for i in range(_TILE)], 0)
    halfway = lax.optimization_barrier(halfway)  # [6, N, tile rows, tile columns, 4, O]
    return _grouped(_combined(_A.T, [halfway[..., j, :] for j in range(_TILE)], 1), groups)


def _grouped(values: Array, groups: int) -> Array:
    """[6, 6, N, tile rows, tile columns, C] as [36, G, T, C / G]."""
    values = values.reshape(_WINDOW**2, -1, groups, values.shape[-1] // groups)
    return values.transpose(0, 2, 1, 3)


def _transformed_products(products: Array, count: int, size: Sequence[int]) -> Array:
    """`Aᵀ m A` of products [36, G, T, O / G], [N, H', W', O]."""
    groups, outputs = products.shape[1], products.shape[-1]
    rows, columns = _tiles(size)
    products = products.reshape(_WINDOW, _WINDOW, groups, count, rows, columns, outputs)
    halfway = lax.optimization_barrier(_combined(_A, list(products), 4))
    # Now [6, G, N, tile rows, 4, tile columns, O / G].
    results = _combined(_A, list(halfway), 5).transpose(1, 2, 3, 4, 5, 0, 6)
    results = results.reshape(count, _TILE * rows, _TILE * columns, groups * outputs)
    return results[:, : size[0], : size[1]]


__all__ = [
    "output_size", "strided_kernel_gradient", "tile_count", "unfolded",
    "unfolded_kernel_gradient", "winograd", "winograd_kernel_gradient",
]  # fmt: skip
