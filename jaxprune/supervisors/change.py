"""How much a supervisor's AUROC changes from one network to another, and how sure that is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SAMPLES = 1000


class Change(NamedTuple):
    """A difference with its 95 % interval.

    Attributes:
      mean: of the AUROC, the second minus the first.
      low: the lower end.
      high: the upper end.
    """

    mean: float
    low: float
    high: float


def auroc_change(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], seed: int = 0
) -> Change:
    """The change between two networks on the same images, by the bootstrap over these.

    The AUROC is the share of pairs of an outlier and an inlier in which the outlier scores higher,
    and a pair of equal scores counts half.

    Args:
      first: scores of the outliers [M] and of the inliers [N] by one network.
      second: the same by the other.
      seed: of the bootstrap.
    """
    gap = _above(*second) - _above(*first)
    rng = np.random.default_rng(seed)

    def weights(count: int) -> np.ndarray:
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=SAMPLES)
        return (drawn / count).astype(np.float32)

    m, n = gap.shape
    drawn = np.sum((weights(m) @ gap) * weights(n), axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Change(float(gap.mean(dtype=np.float64)), float(low), float(high))


def _above(outliers: np.ndarray, inliers: np.ndarray) -> np.ndarray:
    a, b = np.asarray(outliers)[:, None], np.asarray(inliers)
    return ((a > b) + 0.5 * (a == b)).astype(np.float32)
