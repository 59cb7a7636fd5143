"""Sensitivity: what a network loses as one group alone gets narrower."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Curves:
    """Loss and accuracy over the kept fraction, one group narrowed at a time.

    Attributes:
      grid: kept fractions [R], ascending, the last one 1: the whole network.
      loss: group -> loss [R].
      accuracy: group -> accuracy [R].
    """

    grid: np.ndarray
    loss: dict[str, np.ndarray]
    accuracy: dict[str, np.ndarray]

    def __post_init__(self):
        """Refuses curves that cannot be read."""
        grid = np.asarray(self.grid, np.float64)
        if grid.ndim != 1 or not np.all(np.diff(grid) > 0) or grid[0] <= 0 or grid[-1] != 1:
            raise ValueError(f"curves.grid: {grid}, must be ascending fractions in (0, 1] up to 1")
        for field in ("loss", "accuracy"):
            for name, values in getattr(self, field).items():
                if np.shape(values) != grid.shape or not np.isfinite(values).all():
                    raise ValueError(
                        f"curves.{field}: the curve of {name} must hold {grid.size} finite values"
                    )

    def added_loss(self, name: str, fractions: np.ndarray) -> np.ndarray:
        """What the loss rises by when the group keeps these fractions, [...]."""
        worst = max(float(np.max(v) - v[-1]) for v in self.loss.values())
        values = np.asarray(self.loss[name], np.float64)
        return self._read(values - values[-1], fractions, worst)

    def accuracy_drop(self, name: str, fractions: np.ndarray) -> np.ndarray:
        """What the accuracy falls by when the group keeps these fractions, [...]."""
        worst = max(float(v[-1] - np.min(v)) for v in self.accuracy.values())
        values = np.asarray(self.accuracy[name], np.float64)
        return self._read(values[-1] - values, fractions, worst)

    def _read(self, harm: np.ndarray, fractions: np.ndarray, worst: float) -> np.ndarray:
        """Piecewise-linear in between, and never falling as the group gets narrower.

        Measured curves are noisy: a dip is read as no better than the best wider network. Below the
        narrowest measured fraction the last slope goes on, at least up to the worst of all groups
        at no channel at all: nothing measured says that the last channels are free.
        """
        harm = np.maximum(np.maximum.accumulate(harm[::-1])[::-1], 0.0)
        slope = (harm[0] - harm[1]) / (self.grid[1] - self.grid[0]) if harm.size > 1 else 0.0
        at_none = max(harm[0] + slope * self.grid[0], worst)
        return np.interp(fractions, np.append(0.0, self.grid), np.append(at_none, harm))
