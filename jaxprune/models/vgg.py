"""VGG with BatchNorm (Simonyan and Zisserman, arXiv 1409.1556), in its CIFAR and ImageNet forms."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxprune.models.layers import Sized, attention_map, batch_norm, classifier, conv


class VGG(Sized):
    """Stages of 3×3 convolutions, each with bias, BatchNorm and ReLU, then linear layers.

    The CIFAR form averages what is left of the map and has one linear layer; the ImageNet form
    (`hidden`) flattens it into torchvision's classifier of three, with dropout between them.

    Attributes:
      stages: the channels of each convolution, stage by stage.
      num_classes: the size of the output.
      pools: how many of the stages end with a 2×2 max pooling: the first ones.
      hidden: the widths of the linear layers before the last one; empty: global average.
      dropout: the rate after each hidden layer, in training mode.
      widths: channels of layers by name (`conv1_1`, `fc1`), where they are not the usual ones.
      dtype: what it computes in; None follows the parameters and the input.
    """

    stages: tuple[tuple[int, ...], ...]
    num_classes: int
    pools: int
    hidden: tuple[int, ...] = ()
    dropout: float = 0.5

    @nn.nowrap
    def layers(self) -> dict[str, int]:
        """The channels of every layer but the last one, by name."""
        usual = {
            f"conv{s}_{i}": width
            for s, stage in enumerate(self.stages, start=1)
            for i, width in enumerate(stage, start=1)
        } | {f"fc{i}": width for i, width in enumerate(self.hidden, start=1)}
        return usual | dict(self.widths)

    @property
    def smallest_side(self) -> int:
        """The least height and width of an image that the poolings leave a pixel of."""
        return 2**self.pools

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, maps: bool = False) -> Any:
        """Logits `[B, K]` of images `[B, H, W, C]`; with `maps` also an attention map per stage.

        The maps are `[B, H*W]`, of what each stage gives before its pooling.
        """
        layers = self.layers()
        attention = []
        for s, stage in enumerate(self.stages, start=1):
            for i in range(1, len(stage) + 1):
                x = conv(
                    layers[f"conv{s}_{i}"], 3, bias=True, dtype=self.dtype, name=f"conv{s}_{i}"
                )(x)
                x = nn.relu(batch_norm(train, dtype=self.dtype, name=f"bn{s}_{i}")(x))
            if maps:
                attention.append(attention_map(x))
            if s <= self.pools:
                x = nn.max_pool(x, window_shape=(2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1) if self.hidden else jnp.mean(x, axis=(1, 2))
        for i in range(1, len(self.hidden) + 1):
            x = nn.relu(nn.Dense(layers[f"fc{i}"], dtype=self.dtype, name=f"fc{i}")(x))
            x = nn.Dropout(self.dropout, deterministic=not train, name=f"dropout{i}")(x)
        logits = classifier(x, self.num_classes, dtype=self.dtype)
        return (logits, tuple(attention)) if maps else logits


def _stages(depths: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    widths = (64, 128, 256, 512, 512)
    return tuple((width,) * depth for width, depth in zip(widths, depths, strict=True))


VGG16 = _stages((2, 2, 3, 3, 3))
VGG19 = _stages((2, 2, 4, 4, 4))
SMALL = ((16, 16), (32, 32), (128, 128))
