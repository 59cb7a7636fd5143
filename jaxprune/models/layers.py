"""The layers that every shipped model is made of, with one set of conventions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict


class Sized(nn.Module, kw_only=True):
    """A model whose layers may be narrower, or wider, than they usually are.

    Attributes:
      widths: channels of layers by path, where they are not the usual ones.
      dtype: what it computes in; None follows the parameters and the input.
    """

    widths: Mapping[str, int] = dataclasses.field(default_factory=dict)
    dtype: Any = None

    def __post_init__(self) -> None:
        self.widths = FrozenDict(self.widths)  # Frozen, so that the module can be hashed.
        super().__post_init__()


def conv(
    features: int,
    size: int,
    *,
    stride: int = 1,
    padding: int | None = None,
    groups: int = 1,
    bias: bool = False,
    dtype: Any,
    name: str,
) -> nn.Conv:
    """A `size`×`size` convolution, padded alike on both sides as torchvision's are.

    Flax's "SAME" pads a strided convolution on the far side only, and weights trained elsewhere
    would see a shifted image. `padding` is half the size where it is not given.
    """
    padding = size // 2 if padding is None else padding
    return nn.Conv(
        features,
        (size, size),
        strides=(stride, stride),
        padding=((padding, padding),) * 2,
        feature_group_count=groups,
        use_bias=bias,
        dtype=dtype,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal"),
        name=name,
    )


def batch_norm(train: bool, *, dtype: Any, name: str) -> nn.BatchNorm:
    """BatchNorm with PyTorch's constants; its statistics are taken in float32 at least."""
    return nn.BatchNorm(
        use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name
    )


def add(shortcut: jax.Array, branch: jax.Array, block: str | None) -> jax.Array:
    """The sum at the end of a residual block, both `[B, H, W, C]`.

    Raises:
      ValueError: unequal widths, which would broadcast where one of them is 1.
    """
    if shortcut.shape != branch.shape:
        raise ValueError(
            f"block {block!r}: the shortcut gives {shortcut.shape[-1]} channels and the residual "
            f"branch {branch.shape[-1]}; set their widths alike"
        )
    return shortcut + branch


def classifier(x: jax.Array, num_classes: int, *, dtype: Any) -> jax.Array:
    """The last linear layer: features `[B, F]` to logits `[B, K]`, in float32 at least."""
    logits = nn.Dense(num_classes, dtype=dtype, name="classifier")(x)
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def attention_map(x: jax.Array) -> jax.Array:
    """The spatial attention map of a stage's output `[B, H, W, C]`: `sum_c |x_c|^2`, `[B, H*W]`.

    References:
      Zagoruyko and Komodakis 2017, "Paying more attention to attention", arXiv 1612.03928.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jnp.sum(jnp.square(x), axis=-1).reshape(x.shape[0], -1)
