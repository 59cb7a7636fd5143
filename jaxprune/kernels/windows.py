"""What a convolution reads, tap by tap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def by_taps(
    images: Array, window: Sequence[int], p: Any
) -> Iterator[tuple[tuple[int, ...], Array]]:
    """Each tap of a window, with what every place of the result reads there, [N, *places, C].

    Args:
      images: [N, *sizes, C].
      window: the sides of the kernel.
      p: the parameters of `conv_general_dilated`; images that it dilates are not for this.
    """
    edges = [(0, 0, 0), *((lo, hi, 0) for lo, hi in p["padding"]), (0, 0, 0)]
    padded = lax.pad(images, jnp.zeros((), images.dtype), edges)
    strides, apart = p["window_strides"], p["rhs_dilation"]
    ends = [
        n - (side - 1) * step
        for n, side, step in zip(padded.shape[1:-1], window, apart, strict=True)
    ]
    for tap in np.ndindex(*window):
        begins = [i * step for i, step in zip(tap, apart, strict=True)]
        read = tuple(
            slice(b, b + end, stride) for b, end, stride in zip(begins, ends, strides, strict=True)
        )
        yield tap, padded[(slice(None), *read)]


__all__ = ["by_taps"]
