"""How a network behaves beside its accuracy: by class, by how sure it is, and next to another.

Logits are [N, K], labels int [N]; all of it is NumPy.
"""

from __future__ import annotations

import numpy as np
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

BINS = 15


def class_accuracies(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The accuracy of each class, [K]; NaN of one without images."""
    right = logits.argmax(axis=-1) == labels
    of = np.bincount(labels, minlength=logits.shape[-1])
    with np.errstate(invalid="ignore"):
        return np.bincount(labels, weights=right, minlength=logits.shape[-1]) / of


def calibration_error(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """The expected calibration error in 15 bins of equal width (Guo et al. 2017, 1706.04599).

    `Σ_b n_b / N |accuracy_b - confidence_b|`, the confidence being the largest softmax of the
    logits over the temperature.

    >>> import numpy as np
    >>> sure = np.log(np.array([[0.9, 0.1]] * 10))
    >>> round(calibration_error(sure, np.array([0] * 9 + [1])), 6)
    0.0
    """
    confidence = softmax(np.asarray(logits, np.float64) / temperature, axis=-1).max(axis=-1)
    right = logits.argmax(axis=-1) == labels
    of = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = np.bincount(of, weights=right - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(labels))


def fitted_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature of least cross-entropy, in [0.05, 20]; of held-out images."""
    logits = np.asarray(logits, np.float64)

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits / np.exp(log_temperature), axis=-1)
        return -float(np.mean(np.take_along_axis(scaled, labels[:, None].astype(int), axis=1)))

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded")
    return float(np.exp(found.x))


def most(count: int, of: int, confidence: float = 0.95) -> float:
    """The share that is not exceeded with this confidence, where `count` of `of` were seen.

    Exact and one-sided (Clopper and Pearson 1934).

    >>> round(most(0, 300), 4)                        # 1 - 0.05^(1/300)
    0.0099
    """
    return 1.0 if count == of else float(stats.beta.ppf(confidence, count + 1, of - count))
