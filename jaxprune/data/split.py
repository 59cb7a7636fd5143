"""A part of a data set in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np


@dataclasses.dataclass(frozen=True)
class Split:
    """Images with their labels.

    Attributes:
      images: uint8 `[N, H, W, C]`.
      labels: int32 `[N]`, from 0.
      ids: `[N]` strings that name the examples across splits.
    """

    images: np.ndarray
    labels: np.ndarray
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Of one image: (height, width, channels)."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def first(self, count: int | None) -> Split:
        """The first `count` examples; None: all."""
        return Split(self.images[:count], self.labels[:count], self.ids[:count])

    def chunks(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All images and labels in their order, `size` at a time and the rest at the end."""
        for start in range(0, len(self), size):
            stop = start + size
            yield self.images[start:stop], self.labels[start:stop]

    def take(self, positions: np.ndarray) -> Split:
        """The examples at `positions`, in that order."""
        return Split(self.images[positions], self.labels[positions], self.ids[positions])
