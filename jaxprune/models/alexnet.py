"""AlexNet in torchvision's form: the single tower of Krizhevsky 2014, arXiv 1404.5997."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

from jaxprune.models.layers import Sized, attention_map, classifier, conv

_SIZES = {"conv1": 11, "conv2": 5, "conv3": 3, "conv4": 3, "conv5": 3}
_POOLED = ("conv1", "conv2", "conv5")


class AlexNet(Sized):
    """Five convolutions with bias and ReLU, then three linear layers with dropout before each but
    the last one. It has no BatchNorm.

    Three of the convolutions end with a 3×3 max pooling with stride 2. The map is flattened as it
    is: 6×6 at torchvision's 224×224 pixels.

    Attributes:
      num_classes: the size of the output.
      dropout: the rate, in training mode.
      widths: channels of layers by name (`conv1`, `fc1`), where they are not the usual ones.
      dtype: what it computes in; None follows the parameters and the input.
    """

    num_classes: int
    dropout: float = 0.5

    @nn.nowrap
    def layers(self) -> dict[str, int]:
        """The channels of every layer but the last one, by name."""
        usual = {"conv1": 64, "conv2": 192, "conv3": 384, "conv4": 256, "conv5": 256}
        return usual | {"fc1": 4096, "fc2": 4096} | dict(self.widths)

    @property
    def smallest_side(self) -> int:
        """The least height and width of an image that the poolings leave a pixel of."""
        return 63

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, maps: bool = False) -> Any:
        """Logits `[B, K]` of images `[B, H, W, C]`; with `maps` also an attention map per stage.

        The maps are `[B, H*W]`, of what each pooling reads.
        """
        layers = self.layers()
        attention = []
        for name, size in _SIZES.items():
            first = name == "conv1"
            x = conv(
                layers[name],
                size,
                stride=4 if first else 1,
                padding=2 if first else None,
                bias=True,
                dtype=self.dtype,
                name=name,
            )(x)
            x = nn.relu(x)
            if name in _POOLED:
                if maps:
                    attention.append(attention_map(x))
                x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        for name in ("fc1", "fc2"):
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            x = nn.relu(nn.Dense(layers[name], dtype=self.dtype, name=name)(x))
        logits = classifier(x, self.num_classes, dtype=self.dtype)
        return (logits, tuple(attention)) if maps else logits
