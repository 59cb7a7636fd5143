"""Wide ResNet (Zagoruyko and Komodakis 2016, arXiv 1605.07146) for small images."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxprune.models.layers import Sized, add, attention_map, batch_norm, classifier, conv


class WideBlock(nn.Module):
    """A residual block with BatchNorm and ReLU before each of its two 3×3 convolutions.

    Attributes:
      widths: the channels of its two convolutions.
      stride: of the first of them, and of the shortcut.
      projection: the channels of the shortcut's 1×1 convolution; None: the input itself.
      dtype: what it computes in; None follows the parameters and the input.
    """

    widths: tuple[int, int]
    stride: int = 1
    projection: int | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[B, H, W, C]` to `[B, H/stride, W/stride, widths[1]]`."""
        first, second = self.widths
        y = nn.relu(batch_norm(train, dtype=self.dtype, name="bn1")(x))
        if self.projection is not None:  # It reads what the first convolution reads.
            x = conv(
                self.projection, 1, stride=self.stride, dtype=self.dtype, name="shortcut_conv"
            )(y)
        y = conv(first, 3, stride=self.stride, dtype=self.dtype, name="conv1")(y)
        y = nn.relu(batch_norm(train, dtype=self.dtype, name="bn2")(y))
        y = conv(second, 3, dtype=self.dtype, name="conv2")(y)
        return add(x, y, self.name)


class WideResNet(Sized):
    """A stem, stages of pre-activation blocks, BatchNorm, a global average and one linear layer.

    Attributes:
      blocks: how many blocks each stage has; every stage but the first halves the map.
      num_classes: the size of the output.
      base_width: the channels of the first stage, 16 times the widening factor; each further stage
        doubles them.
      stem: the channels of the convolution before the stages.
      widths: channels of layers by path (`conv1`, `stage1_block0/conv2`), where they are not the
        usual ones.
      dtype: what it computes in; None follows the parameters and the input.
    """

    blocks: tuple[int, ...]
    num_classes: int
    base_width: int
    stem: int = 16

    @nn.nowrap
    def layers(self) -> dict[str, int]:
        """The channels of every layer but the last one, by path."""
        usual = {"conv1": self.stem}
        for s, count in enumerate(self.blocks):
            for b in range(count):
                names = ("conv1", "conv2", *(("shortcut_conv",) if b == 0 else ()))
                usual |= {f"stage{s + 1}_block{b}/{n}": self.base_width * 2**s for n in names}
        return usual | dict(self.widths)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, maps: bool = False) -> Any:
        """Logits `[B, K]` of images `[B, H, W, C]`; with `maps` also an attention map per stage.

        The maps are `[B, H*W]`, of the sum that each stage ends with.
        """
        layers = self.layers()
        x = conv(layers["conv1"], 3, dtype=self.dtype, name="conv1")(x)
        attention = []
        for s, count in enumerate(self.blocks):
            for b in range(count):
                name = f"stage{s + 1}_block{b}"
                x = WideBlock(
                    widths=(layers[f"{name}/conv1"], layers[f"{name}/conv2"]),
                    stride=2 if s > 0 and b == 0 else 1,
                    projection=layers.get(f"{name}/shortcut_conv"),
                    dtype=self.dtype,
                    name=name,
                )(x, train)
            if maps:
                attention.append(attention_map(x))
        x = nn.relu(batch_norm(train, dtype=self.dtype, name="bn")(x))
        x = jnp.mean(x, axis=(1, 2))
        logits = classifier(x, self.num_classes, dtype=self.dtype)
        return (logits, tuple(attention)) if maps else logits
