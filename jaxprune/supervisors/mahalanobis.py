"""The Mahalanobis distance of features from the nearest class.

Lee et al. 2018, arXiv 1807.03888: a Gaussian a class, all of one covariance, on what the last
linear layer reads. The score is `min_k (f - mean_k)ᵀ Σ⁻¹ (f - mean_k)`. Σ is shrunk as Ledoit and
Wolf do (2004), so that channels which hardly ever vary do not blow up; that is ours.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from sklearn.covariance import ledoit_wolf


class Gaussians(NamedTuple):
    """What was fitted; K classes, D features.

    Attributes:
      means: [K, D].
      factor: Cholesky factor of the covariance, as `scipy.linalg.cho_factor` gives it.
    """

    means: np.ndarray
    factor: tuple[np.ndarray, bool]


def fit(features: np.ndarray, labels: np.ndarray) -> Gaussians:
    """The classes' means and their one covariance, of features [N, D] and labels int [N].

    Raises:
      ValueError: features that never vary within a class.
    """
    features = np.asarray(features, np.float64)
    classes, of = np.unique(labels, return_inverse=True)
    means = np.stack([features[of == k].mean(axis=0) for k in range(len(classes))])
    within = features - means[of]
    if not np.ptp(within):
        raise ValueError("the features never vary within a class: the network sees nothing")
    covariance, _ = ledoit_wolf(within, assume_centered=True)
    return Gaussians(means, cho_factor(covariance))


def score(fitted: Gaussians, features: np.ndarray) -> np.ndarray:
    """The squared distances [N] of features [N, D] from the nearest mean; they have no bounds."""
    gaps = np.asarray(features, np.float64) - fitted.means[:, None]
    return np.min([np.sum(g * cho_solve(fitted.factor, g.T).T, axis=1) for g in gaps], axis=0)
