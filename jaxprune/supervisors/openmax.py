"""OpenMax: logits weighed by how far they lie from those of their classes.

Bendale and Boult 2016, arXiv 1511.06233. For each class: the mean of the logits of its training
images that the network has right, and a Weibull distribution of the largest distances from it. Of
the `alpha` largest logits of an image, the one at rank i (from 0) is weighed by

    w_k = 1 - (alpha - i) / alpha · F_k(‖z - mean_k‖),   z'_k = w_k z_k,   z'_0 = Σ_k (1 - w_k) z_k,

with F_k the distribution and z'_0 the logit of "unknown". The score is one minus the largest
softmax of a known class. Reconstructed: that the tail is moved to begin at 1, as the authors'
library does before it fits, and that no tail has more than half of its class's images, so that the
other half says where it begins.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from scipy.special import softmax
from scipy.stats import weibull_min


class OpenMax(NamedTuple):
    """What was fitted; K classes.

    Attributes:
      means: of the logits, [K, K].
      shape: of the Weibull distributions, [K].
      scale: likewise.
      start: the least distance of each tail, [K].
    """

    means: np.ndarray
    shape: np.ndarray
    scale: np.ndarray
    start: np.ndarray


def fit(logits: np.ndarray, labels: np.ndarray, tail: int = 20) -> OpenMax:
    """Means and tails of every class.

    Args:
      logits: of training images, [N, K].
      labels: int [N].
      tail: how many of the largest distances each distribution is fitted to; of a class with fewer
        than twice as many images half of them, and then there is a warning.

    Raises:
      ValueError: a class without two images.
    """
    logits = np.asarray(logits, np.float64)
    right = logits.argmax(axis=-1) == labels
    counts = np.bincount(labels[right], minlength=logits.shape[-1])
    few = int(counts.argmin())
    if counts[few] < 2 * tail:
        warnings.warn(
            f"openmax: a tail of {tail} distances takes {2 * tail} training images of each class "
            f"that the network has right, and class {few} has {counts[few]}: such classes have a "
            "tail of half their images; fit to more (--images)",
            stacklevel=2,
        )
    fitted = [_of_class(logits, right, labels == k, k, tail) for k in range(logits.shape[-1])]
    return OpenMax(*(np.array(part) for part in zip(*fitted, strict=True)))


def _of_class(
    logits: np.ndarray, right: np.ndarray, of: np.ndarray, label: int, tail: int
) -> tuple[np.ndarray, float, float, float]:
    """Of a class that the network has hardly ever right, all images count."""
    if of.sum() < 2:
        raise ValueError(f"class {label} has {of.sum()} images, and OpenMax takes two of each")
    its = logits[of & right] if (of & right).sum() >= 2 else logits[of]
    mean = its.mean(axis=0)
    tail = max(1, min(tail, len(its) // 2))
    far = np.sort(np.linalg.norm(its - mean, axis=1))[-tail:]
    moved = far - far[0] + 1
    if moved[-1] - moved[0] < 1e-9:  # one distance has no distribution: all beyond it is unknown
        return mean, np.inf, 1.0, far[0]
    fitted: Any = weibull_min.fit(moved, floc=0)
    return mean, fitted[0], fitted[2], far[0]


def score(fitted: OpenMax, logits: np.ndarray, alpha: int = 10) -> np.ndarray:
    """The scores [N] of logits [N, K]; `alpha` of them, at most K, are weighed."""
    logits = np.asarray(logits, np.float64)
    alpha = min(alpha, logits.shape[-1])
    distance = np.linalg.norm(logits[:, None] - fitted.means, axis=-1)
    moved = np.maximum(distance - fitted.start + 1, 0)
    with np.errstate(over="ignore", divide="ignore"):
        known = np.exp(-((moved / fitted.scale) ** fitted.shape))  # 1 - F
    rank = np.argsort(np.argsort(-logits, axis=-1, kind="stable"), axis=-1)
    weight = 1 - np.maximum(alpha - rank, 0) / alpha * (1 - known)
    unknown = np.sum((1 - weight) * logits, axis=-1, keepdims=True)
    return 1 - softmax(np.hstack([weight * logits, unknown]), axis=-1)[:, :-1].max(axis=-1)
