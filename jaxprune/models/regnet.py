"""RegNetX (Radosavovic et al. 2020, arXiv 2003.13678): widths of all blocks from four numbers."""

from __future__ import annotations

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.models.layers import Sized, attention_map, batch_norm, classifier, conv
from jaxprune.models.resnet import Block


def stages_of(
    depth: int, initial: int, slope: float, factor: float, group_width: int
) -> tuple[tuple[int, int], ...]:
    """(channels, blocks) of each stage.

    Block j, from 0, is meant to have `w0 + wa j` channels. Each takes the nearest `w0 wm^s`, s
    whole, as a multiple of 8 (Eq. 2-4 there); neighbours of one s are a stage. The last rounding is
    to whole convolution groups.

        >>> stages_of(22, 24, 24.48, 2.54, 16)  # RegNetX-400MF
        ((32, 1), (64, 2), (160, 7), (384, 12))

    Args:
      depth: how many blocks there are.
      initial: w0.
      slope: wa.
      factor: wm.
      group_width: channels of each convolution group.
    """
    wanted = initial + slope * np.arange(depth)
    powers = np.round(np.log(wanted / initial) / np.log(factor))
    widths = np.round(initial * factor**powers / 8) * 8
    stages = [(int(width), len(list(same))) for width, same in itertools.groupby(widths)]
    return tuple(
        (max(1, round(width / group_width)) * group_width, blocks) for width, blocks in stages
    )


class RegNet(Sized):
    """A stem, four stages of bottlenecks with grouped convolutions, global average, a linear layer.

    A block is that of ResNeXt, its three convolutions of one width.

    Attributes:
      num_classes: the size of the output.
      stages: (channels, blocks) of each stage, which halves the map; from `stages_of`.
      group_width: the channels of each group of a 3×3 convolution. Its width is that of the
        convolution before it: a pruned one has fewer groups.
      stem: the channels of the first convolution, which has stride 2.
      widths: channels of layers by path (`conv1`, `stage1_block0/conv1`), where they are not the
        usual ones.
      dtype: what it computes in; None follows the parameters and the input.
    """

    num_classes: int
    stages: tuple[tuple[int, int], ...]
    group_width: int
    stem: int = 32

    @nn.nowrap
    def layers(self) -> dict[str, int]:
        """The channels of every layer but the last one and grouped ones, by path."""
        usual = {"conv1": self.stem}
        for s, (width, count) in enumerate(self.stages, start=1):
            for b in range(count):
                usual[f"stage{s}_block{b}/conv1"] = usual[f"stage{s}_block{b}/conv3"] = width
            usual[f"stage{s}_block0/shortcut_conv"] = width
        return usual | dict(self.widths)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, maps: bool = False) -> Any:
        """Logits `[B, K]` of images `[B, H, W, C]`; with `maps` also an attention map per stage.

        The maps are `[B, H*W]`, of what each stage gives.
        """
        layers = self.layers()
        x = conv(layers["conv1"], 3, stride=2, dtype=self.dtype, name="conv1")(x)
        x = nn.relu(batch_norm(train, dtype=self.dtype, name="bn1")(x))
        attention = []
        for s, (_, count) in enumerate(self.stages, start=1):
            for b in range(count):
                name = f"stage{s}_block{b}"
                inner = layers[f"{name}/conv1"]
                x = Block(
                    widths=(inner, inner, layers[f"{name}/conv3"]),
                    stride=2 if b == 0 else 1,
                    shortcut="B" if b == 0 else "identity",
                    projection=layers.get(f"{name}/shortcut_conv"),
                    group_width=self.group_width,
                    dtype=self.dtype,
                    name=name,
                )(x, train)
            if maps:
                attention.append(attention_map(x))
        x = jnp.mean(x, axis=(1, 2))
        logits = classifier(x, self.num_classes, dtype=self.dtype)
        return (logits, tuple(attention)) if maps else logits
