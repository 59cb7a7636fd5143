"""A multi-layer perceptron for small images; LeNet-300-100 (LeCun et al. 1998) by its widths."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

from jaxprune.models.layers import Sized, classifier


class MLP(Sized):
    """Linear layers with ReLU on all pixels of an image, without BatchNorm.

    Attributes:
      hidden: the units of each layer but the last.
      num_classes: the size of the output.
      widths: units of layers by name (`fc1`), where they are not the usual ones.
      dtype: what it computes in; None follows the parameters and the input.
    """

    hidden: tuple[int, ...]
    num_classes: int

    @nn.nowrap
    def layers(self) -> dict[str, int]:
        """The units of every layer but the last one, by name."""
        return {f"fc{i}": width for i, width in enumerate(self.hidden, start=1)} | dict(self.widths)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, maps: bool = False) -> Any:
        """Logits `[B, K]` of images `[B, H, W, C]`; with `maps` also no attention maps."""
        del train  # It computes the same.
        x = x.reshape(x.shape[0], -1)
        for name, width in self.layers().items():
            kernel = nn.initializers.he_normal()
            x = nn.relu(nn.Dense(width, dtype=self.dtype, kernel_init=kernel, name=name)(x))
        logits = classifier(x, self.num_classes, dtype=self.dtype)
        return (logits, ()) if maps else logits
