"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381) in torchvision's form."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxprune.models.layers import Sized, add, attention_map, batch_norm, classifier, conv

Stage = tuple[int, int, int, int]
"""Expansion factor, channels, blocks, and the stride of the first block."""

STAGES: tuple[Stage, ...] = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # fmt: skip


class InvertedResidual(nn.Module):
    """A 1×1 convolution that widens, a depthwise 3×3 one, and a 1×1 one that narrows, linearly.

    Attributes:
      expansion: the channels of the first; None: there is none, and the depthwise convolution reads
        the block's input.
      projection: the channels of the last.
      stride: of the depthwise convolution.
      residual: whether the block's input is added to its result.
      dtype: what it computes in; None follows the parameters and the input.
    """

    expansion: int | None
    projection: int
    stride: int
    residual: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[B, H, W, C]` to `[B, H/stride, W/stride, projection]`."""
        y = x
        if self.expansion is not None:
            y = conv(self.expansion, 1, dtype=self.dtype, name="expand_conv")(y)
            y = nn.relu6(batch_norm(train, dtype=self.dtype, name="expand_bn")(y))
        channels = y.shape[-1]
        y = conv(
            channels,
            3,
            stride=self.stride,
            groups=channels,
            dtype=self.dtype,
            name="depthwise_conv",
        )(y)
        y = nn.relu6(batch_norm(train, dtype=self.dtype, name="depthwise_bn")(y))
        y = conv(self.projection, 1, dtype=self.dtype, name="project_conv")(y)
        y = batch_norm(train, dtype=self.dtype, name="project_bn")(y)
        return add(x, y, self.name) if self.residual else y


class MobileNetV2(Sized):
    """A stem, stages of inverted residuals, a 1×1 convolution, global average and a linear layer.

    Each block of a stage but its first adds its input.

    Attributes:
      num_classes: the size of the output.
      stages: (expansion factor, channels, blocks, stride of the first block) of each stage.
      stem: the channels of the first convolution, which has stride 2.
      head: the channels of the last one.
      dropout: the rate before the linear layer, in training mode.
      widths: channels of layers by path (`conv1`, `stage2_block0/expand_conv`), where they are not
        the usual ones. A depthwise convolution has those of what it reads.
      dtype: what it computes in; None follows the parameters and the input.
    """

    num_classes: int
    stages: tuple[Stage, ...] = STAGES
    stem: int = 32
    head: int = 1280
    dropout: float = 0.2

    @nn.nowrap
    def layers(self) -> dict[str, int]:
        """The channels of every layer but the last one and depthwise ones, by path."""
        usual = {"conv1": self.stem}
        before = self.stem
        for s, (factor, width, count, _) in enumerate(self.stages, start=1):
            for b in range(count):
                if factor > 1:
                    usual[f"stage{s}_block{b}/expand_conv"] = before * factor
                usual[f"stage{s}_block{b}/project_conv"] = width
                before = width
        return usual | {"conv2": self.head} | dict(self.widths)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, maps: bool = False) -> Any:
        """Logits `[B, K]` of images `[B, H, W, C]`; with `maps` also an attention map per stage.

        The maps are `[B, H*W]`, of what each stage gives.
        """
        layers = self.layers()
        x = conv(layers["conv1"], 3, stride=2, dtype=self.dtype, name="conv1")(x)
        x = nn.relu6(batch_norm(train, dtype=self.dtype, name="bn1")(x))
        attention = []
        for s, (_, _, count, stride) in enumerate(self.stages, start=1):
            for b in range(count):
                name = f"stage{s}_block{b}"
                x = InvertedResidual(
                    expansion=layers.get(f"{name}/expand_conv"),
                    projection=layers[f"{name}/project_conv"],
                    stride=stride if b == 0 else 1,
                    residual=b > 0,
                    dtype=self.dtype,
                    name=name,
                )(x, train)
            if maps:
                attention.append(attention_map(x))
        x = conv(layers["conv2"], 1, dtype=self.dtype, name="conv2")(x)
        x = nn.relu6(batch_norm(train, dtype=self.dtype, name="bn2")(x))
        x = jnp.mean(x, axis=(1, 2))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = classifier(x, self.num_classes, dtype=self.dtype)
        return (logits, tuple(attention)) if maps else logits
