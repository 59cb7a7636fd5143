"""Moving bfloat16 values as 16-bit integers.

XLA converts bfloat16 to float32 and back around whatever it computes on a CPU, a copy included.
Integers it leaves as they are.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array, lax


def bits(values: Array) -> Array:
    """The bits of bfloat16 values; others as they are."""
    return lax.bitcast_convert_type(values, jnp.uint16) if values.dtype == jnp.bfloat16 else values


def floats(moved: Array, dtype: Any = jnp.bfloat16) -> Array:
    """The values of type `dtype` that `bits` took apart."""
    return lax.bitcast_convert_type(moved, dtype) if dtype == jnp.bfloat16 else moved


__all__ = ["bits", "floats"]
