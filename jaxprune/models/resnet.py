"""ResNet (He et al. 2015, arXiv 1512.03385) in its CIFAR form and torchvision's ImageNet form.

ResNeXt (Xie et al. 2017, arXiv 1611.05431) is the ImageNet form with grouped convolutions.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxprune.models.layers import Sized, add, attention_map, batch_norm, classifier, conv

Shortcut = Literal["identity", "A", "B"]


def pad_shortcut(x: jax.Array, channels: int, stride: int) -> jax.Array:
    """The parameter-free shortcut "A": every `stride`-th pixel, zeros for the new channels.

    Args:
      x: `[B, H, W, C]`.
      channels: how many channels come out, those of `x` first.
      stride: of the residual branch.

    Raises:
      ValueError: fewer channels come out than go in.
    """
    x = lax.slice(x, (0, 0, 0, 0), x.shape, (1, stride, stride, 1))
    missing = channels - x.shape[-1]
    if missing < 0:
        raise ValueError(
            f'shortcut "A" can only add channels, but {x.shape[-1]} go in and {channels} come out'
        )
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0),) * 3 + ((0, missing, 0),))


class Block(nn.Module):
    """A residual block: two 3×3 convolutions, or a bottleneck of 1×1, 3×3 and 1×1.

    Attributes:
      widths: the channels of its convolutions: two of them, or three in a bottleneck.
      stride: of its 3×3 convolution (the first one of two, as in torchvision's version 1.5).
      shortcut: "identity", "A" (`pad_shortcut`) or "B" (1×1 convolution and BatchNorm).
      projection: the channels of shortcut "B".
      group_width: the channels of each convolution group of a bottleneck's 3×3 convolution; None:
        one group of all channels.
      dtype: what it computes in; None follows the parameters and the input.
    """

    widths: tuple[int, ...]
    stride: int
    shortcut: Shortcut
    projection: int | None = None
    group_width: int | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[B, H, W, C]` to `[B, H/stride, W/stride, widths[-1]]`."""
        bottleneck = len(self.widths) == 3
        sizes = (1, 3, 1) if bottleneck else (3, 3)
        strided = 2 if bottleneck else 1
        groups = self.widths[0] // self.group_width if self.group_width else 1
        if groups == 0 or (self.group_width and self.widths[0] % self.group_width):
            raise ValueError(
                f"block {self.name!r}: conv1 has {self.widths[0]} channels, which is no multiple "
                f"of the {self.group_width} channels of a convolution group of conv2"
            )
        y = x
        for i, (width, size) in enumerate(zip(self.widths, sizes, strict=True), start=1):
            y = conv(
                width,
                size,
                stride=self.stride if i == strided else 1,
                groups=groups if i == 2 else 1,
                dtype=self.dtype,
                name=f"conv{i}",
            )(y)
            y = batch_norm(train, dtype=self.dtype, name=f"bn{i}")(y)
            if i < len(self.widths):
                y = nn.relu(y)
        if self.shortcut == "A":
            x = pad_shortcut(x, self.widths[-1], self.stride)
        elif self.shortcut == "B":
            assert self.projection is not None
            x = conv(
                self.projection, 1, stride=self.stride, dtype=self.dtype, name="shortcut_conv"
            )(x)
            x = batch_norm(train, dtype=self.dtype, name="shortcut_bn")(x)
        return nn.relu(add(x, y, self.name))


class ResNet(Sized):
    """A stem, stages of residual blocks, a global average and one linear layer.

    Attributes:
      blocks: how many blocks each stage has; every stage but the first halves the map.
      num_classes: the size of the output.
      base_width: the channels of the first stage; each further stage doubles them.
      bottleneck: blocks of three convolutions whose last one is four times as wide.
      imagenet: a 7×7 stem with stride 2 and a 3×3 max pooling, else a 3×3 stem.
      shortcut: "A" or "B", where a stage begins with another shape than the one before ended with.
      grouped: for ResNeXt, how many groups the 3×3 convolution of a bottleneck has and how many
        channels each of them has in the first stage, (32, 4) for 32x4d; each further stage doubles
        the latter. Its width is that of the convolution before it: a pruned one has fewer groups.
      widths: channels of layers by path (`conv1`, `stage1_block0/conv2`), where they are not the
        usual ones.
      dtype: what it computes in; None follows the parameters and the input.
    """

    blocks: tuple[int, ...]
    num_classes: int
    base_width: int
    bottleneck: bool = False
    imagenet: bool = False
    shortcut: Literal["A", "B"] = "B"
    grouped: tuple[int, int] | None = None

    @nn.nowrap
    def block_names(self) -> list[list[str]]:
        """The names of the blocks, stage by stage."""
        return [
            [f"stage{s}_block{b}" for b in range(count)]
            for s, count in enumerate(self.blocks, start=1)
        ]

    @nn.nowrap
    def shortcut_of(self, stage: int, block: int) -> Shortcut:
        """The shortcut's form in a block, both counted from 0."""
        reshapes = block == 0 and (stage > 0 or self.bottleneck)
        return self.shortcut if reshapes else "identity"

    @nn.nowrap
    def layers(self) -> dict[str, int]:
        """The channels of every layer but the last one and grouped ones, by path."""
        usual = {"conv1": self.base_width}
        for s, names in enumerate(self.block_names()):
            inner = (math.prod(self.grouped) if self.grouped else self.base_width) * 2**s
            outer = self.base_width * 2**s * (4 if self.bottleneck else 1)
            for b, name in enumerate(names):
                usual[f"{name}/conv1"] = inner
                if not self.grouped:
                    usual[f"{name}/conv2"] = inner
                if self.bottleneck:
                    usual[f"{name}/conv3"] = outer
                if self.shortcut_of(s, b) == "B":
                    usual[f"{name}/shortcut_conv"] = outer
        return usual | dict(self.widths)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, maps: bool = False) -> Any:
        """Logits `[B, K]` of images `[B, H, W, C]`; with `maps` also an attention map per stage.

        The maps are `[B, H*W]`, of what each stage gives.
        """
        layers = self.layers()
        size, stride = (7, 2) if self.imagenet else (3, 1)
        x = conv(layers["conv1"], size, stride=stride, dtype=self.dtype, name="conv1")(x)
        x = nn.relu(batch_norm(train, dtype=self.dtype, name="bn1")(x))
        if self.imagenet:
            around: Any = ((1, 1), (1, 1))  # Flax declares a name, and takes numbers as well.
            x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=around)
        attention = []
        for s, names in enumerate(self.block_names()):
            for b, name in enumerate(names):
                first = layers[f"{name}/conv1"]
                # A grouped convolution gives as many channels as it takes.
                second = layers.get(f"{name}/conv2", first)
                third = (layers[f"{name}/conv3"],) if self.bottleneck else ()
                x = Block(
                    widths=(first, second, *third),
                    stride=2 if s > 0 and b == 0 else 1,
                    shortcut=self.shortcut_of(s, b),
                    projection=layers.get(f"{name}/shortcut_conv"),
                    group_width=self.grouped[1] * 2**s if self.grouped else None,
                    dtype=self.dtype,
                    name=name,
                )(x, train)
            if maps:
                attention.append(attention_map(x))
        x = jnp.mean(x, axis=(1, 2))
        logits = classifier(x, self.num_classes, dtype=self.dtype)
        return (logits, tuple(attention)) if maps else logits
