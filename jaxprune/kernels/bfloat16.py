"""Convolutions of bfloat16 operands as matrix products with float32 sums.

A processor with AMX or AVX-512-BF16 multiplies bfloat16 at two to four times the rate of float32,
but XLA's own convolutions on the CPU know nothing of that: they compute in float32. Its products
do, where the left operand's contracted axis is the last one and the result is float32. What the
forms below cost beside products is copies. So they move as integers (`bits`).

Axes as in `forms`; images and kernels are bfloat16, results float32.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxprune.kernels.bits import bits, floats
from jaxprune.kernels.forms import Padding


def taps(images: Array, kernel: Array, padding: Padding, size: Sequence[int],
         strides: Sequence[int]) -> Array:  # fmt: skip
    """The convolution [N, *size, O] as one product a tap, over the places where it reads pixels.

    What a tap reads in the padding is not computed: 5 products in 9 of a 2 × 2 map's 3 × 3 kernel.
    """
    total = jnp.zeros((len(images), *size, kernel.shape[-1]), jnp.float32)
    for tap in itertools.product(*map(range, kernel.shape[:2])):
        axes = zip(tap, padding, images.shape[1:3], size, strides, strict=True)
        places = [_places(*axis) for axis in axes]
        if min(last - first for first, last in places) < 0:
            continue
        read = [
            slice(step * first + i - before, step * last + i - before + 1, step)
            for (first, last), i, (before, _), step in zip(
                places, tap, padding, strides, strict=True
            )
        ]
        products = _product(floats(bits(images)[:, read[0], read[1]]), floats(bits(kernel)[tap]))
        around = [(first, n - 1 - last, 0) for (first, last), n in zip(places, size, strict=True)]
        total += lax.pad(products, jnp.float32(0), [(0, 0, 0), *around, (0, 0, 0)])
    return total


def windows(images: Array, kernel: Array, padding: Padding, outputs: int) -> Array:
    """The convolution with a 3 × 3 kernel as products of windows that are as wide as they are far
    apart, so that no pixel is copied.

    A window spans the `outputs` + 2 columns that so many outputs read; every `outputs`-th of them
    begins a phase, each one copy of the images. The kernel's rows are outputs of the product, three
    for each, and added with shifts.
    """
    count, height, width, channels = images.shape
    written = kernel.shape[-1]
    rows, columns = (n + sum(p) - 2 for n, p in zip((height, width), padding, strict=True))
    span = outputs + 2
    each = -(-columns // span)
    # [window columns, C, kernel rows, outputs, O]
    wide = jnp.stack([_shifted(kernel, s, span) for s in range(outputs)], axis=3)
    wide = wide.transpose(1, 2, 0, 3, 4).reshape(span * channels, 3 * outputs * written)
    phases = []
    for first in range(0, span, outputs):
        left = padding[1][0] - first
        edges = padding[0], (left, each * span - width - left)
        patches = _padded(images, edges).reshape(-1, span * channels)
        products = _product(patches, wide).reshape(count, rows + 2, each, 3, -1)
        total = sum(products[:, i : i + rows, :, i] for i in range(3))
        phases.append(bits(jnp.asarray(total, images.dtype)))
    result = jnp.stack(phases, axis=3).reshape(count, rows, each * span, written)
    return floats(result[:, :, :columns])


def unfolded(images: Array, kernel: Array, padding: Padding, size: Sequence[int],
             strides: Sequence[int]) -> Array:  # fmt: skip
    """The convolution [N, *size, O] as one product of unfolded patches."""
    patches = jnp.concatenate(
        list(_shifts(images, kernel.shape[:2], padding, size, strides)), axis=-1
    )
    products = _product(
        floats(patches).reshape(-1, patches.shape[-1]), kernel.reshape(-1, kernel.shape[-1])
    )
    return products.reshape(len(images), *size, -1)


def kernel_gradient(images: Array, gradient: Array, padding: Padding, size: Sequence[int]) -> Array:
    """The gradient [*size, C, O] with respect to the kernel, one product a column of taps.

    Rows of taps are shifts of the transposed gradient, stacked, columns are shifts of the images:
    all other ways copy more, or have more to pack for the product.
    """
    height, width, channels = images.shape[1:]
    _, rows, columns, outputs = gradient.shape
    (above, _), (left, _) = padding
    # Reshaped there, too: else XLA lets the branch give what it got in another layout.
    transposed = _in_memory(lambda g: g.transpose(3, 0, 1, 2).reshape(outputs, -1), gradient)
    places = bits(transposed).reshape(outputs, len(images), -1)
    stacked = []
    for i in range(size[0]):
        before, after = columns * (i - above), columns * (height - rows - i + above)
        edges = [(0, 0, 0), (0, 0, 0), (before, after, 0)]
        stacked.append(lax.pad(places, jnp.uint16(0), edges))
    stacked = floats(jnp.concatenate(stacked)).reshape(size[0] * outputs, -1)
    kernel = []
    for j in range(size[1]):
        read = _padded(images, ((0, 0), (left - j, columns - width - left + j)))
        kernel.append(_product(stacked, read.reshape(-1, channels)))
    return (
        jnp.stack(kernel, axis=1).reshape(size[0], outputs, size[1], channels).transpose(0, 2, 3, 1)
    )


def strided_kernel_gradient(images: Array, gradient: Array, padding: Padding, size: Sequence[int],
                    strides: Sequence[int], unfold: bool) -> Array:  # fmt: skip
    """The gradient [*size, C, O] with respect to the kernel: a product a tap, or one of all."""
    channels, outputs = images.shape[-1], gradient.shape[-1]
    # Transposed with all its axes: XLA would take two alone into the product, and that to float32.
    transposed = gradient.transpose(3, 0, 1, 2).reshape(outputs, -1)
    shifts = list(_shifts(images, size, padding, gradient.shape[1:3], strides))
    if unfold:
        shifts = [jnp.concatenate(shifts, axis=-1)]
    read = [floats(shift).reshape(-1, shift.shape[-1]) for shift in shifts]
    kernel = jnp.concatenate([_product(transposed, patches) for patches in read], axis=-1)
    return kernel.reshape(outputs, *size, channels).transpose(1, 2, 3, 0)


def spread(images: Array, steps: Sequence[int]) -> Array:
    """Pixels `steps` apart, with zeros between: what the gradient of a strided one reads."""
    config = [(0, 0, 0), *((0, 0, step - 1) for step in steps), (0, 0, 0)]
    return floats(lax.pad(bits(images), jnp.uint16(0), config))


def _in_memory(fn: Callable[[Array], Array], values: Array) -> Array:
    """`fn(values)`, computed by itself and once.

    XLA would compute a transposition anew, entry by entry, within each copy that reads it; it drops
    an optimization barrier before it comes to that, but a branch stays.
    """
    like = jax.eval_shape(fn, values)
    always = lax.optimization_barrier(jnp.bool_(True))
    return lax.cond(always, fn, lambda _: jnp.zeros(like.shape, like.dtype), values)


def _places(tap: int, padding: tuple[int, int], read: int, written: int, step: int):
    """The first and the last place along an axis where a tap reads a pixel."""
    offset = padding[0] - tap
    return max(0, -(-offset // step)), min(written - 1, (read - 1 + offset) // step)


def _shifts(
    images: Array,
    window: Sequence[int],
    padding: Padding,
    size: Sequence[int],
    strides: Sequence[int],
) -> Iterator[Array]:
    """What each tap reads at every place, [N, *size, C] in bits."""
    for tap in itertools.product(*map(range, window)):
        edges = [
            (before - i, step * (n - 1) + 1 - read - before + i)
            for i, (before, _), n, read, step in zip(
                tap, padding, size, images.shape[1:3], strides, strict=True
            )
        ]
        yield bits(_padded(images, edges))[:, :: strides[0], :: strides[1]]


def _shifted(kernel: Array, column: int, span: int) -> Array:
    """The kernel within a window, for its output number `column`: [3, span, C, O]."""
    return jnp.pad(kernel, ((0, 0), (column, span - 3 - column), (0, 0), (0, 0)))


def _padded(images: Array, edges: Sequence[tuple[int, int]]) -> Array:
    """With zeros before and after rows and columns; less than none cuts some away."""
    config = [(0, 0, 0), *((before, after, 0) for before, after in edges), (0, 0, 0)]
    return floats(lax.pad(bits(images), jnp.uint16(0), config))


def _product(left: Array, right: Array) -> Array:
    numbers = (((left.ndim - 1,), (0,)), ((), ()))
    return lax.dot_general(left, right, numbers, preferred_element_type=jnp.float32)


__all__ = [
    "kernel_gradient", "spread", "strided_kernel_gradient", "taps", "unfolded", "windows",
]  # fmt: skip
