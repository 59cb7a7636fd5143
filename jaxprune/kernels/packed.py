"""The small form of a kernel with blocks: one magnitude a shared block, signs as bits, no zeros.

    numbers, signs = pack(kernel, blocks)
    kernel = unpack(numbers, signs, kernel.shape, blocks)

`numbers` are the entries of kept blocks that are not shared, in the kernel's order, and then the
magnitude of each kept shared block, in the blocks' order. `signs` has a bit for each entry of
these, set where it is negative.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxprune.kernels.blocks import Blocks


def pack(kernel: np.ndarray, blocks: Blocks) -> tuple[np.ndarray, np.ndarray]:
    """The numbers, of the kernel's dtype, and the signs, uint8, of a projected kernel."""
    single, shared, block = _places(kernel.shape, blocks)
    count = np.bincount(block, minlength=blocks.kept.size)
    sums = np.bincount(block, np.abs(kernel[shared].astype(np.float64)), minlength=blocks.kept.size)
    magnitudes = (sums / np.maximum(count, 1))[count > 0].astype(kernel.dtype)
    return np.concatenate([kernel[single], magnitudes]), np.packbits(kernel[shared] < 0)


def unpack(
    numbers: np.ndarray, signs: np.ndarray, shape: Sequence[int], blocks: Blocks
) -> np.ndarray:
    """The kernel that was packed."""
    single, shared, block = _places(shape, blocks)
    kernel = np.zeros(shape, numbers.dtype)
    alone = int(single.sum())
    kernel[single] = numbers[:alone]
    number = np.cumsum(np.bincount(block, minlength=blocks.kept.size) > 0) - 1
    magnitudes = numbers[alone:][number[block]]
    negative = np.unpackbits(signs, count=len(block)).astype(bool)
    kernel[shared] = np.where(negative, -magnitudes, magnitudes)
    return kernel


def packed_shapes(shape: Sequence[int], blocks: Blocks) -> tuple[tuple[int], tuple[int]]:
    """The shapes of the numbers and of the signs."""
    entries = blocks.entries(shape)
    shared = np.zeros_like(blocks.kept) if blocks.shared is None else blocks.kept & blocks.shared
    return (blocks.numbers(shape),), (-(-int(entries[shared].sum()) // 8),)


def _places(shape: Sequence[int], blocks: Blocks) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where single entries and those of shared blocks are, bool, and the block of the latter."""
    number = blocks.spread(np.arange(blocks.kept.size).reshape(blocks.kept.shape), shape)
    number = np.broadcast_to(number, shape)
    shared = np.zeros(blocks.kept.size, bool)
    if blocks.shared is not None:
        shared = (blocks.kept & blocks.shared).ravel()
    single = blocks.kept.ravel() & ~shared
    return single[number], shared[number], number[shared[number]]


__all__ = ["pack", "packed_shapes", "unpack"]
