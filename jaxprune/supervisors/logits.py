"""Supervisors of the logits alone."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp, softmax


def max_softmax(logits: np.ndarray) -> np.ndarray:
    """The baseline, `1 - max_k softmax(z)_k`, of logits [N, K].

    Hendrycks and Gimpel 2017, arXiv 1610.02136. It is the sum of all others, which tells certain
    images apart where one minus the largest would be 0.
    """
    ranked = np.sort(softmax(np.asarray(logits, np.float64), axis=-1), axis=-1)
    return ranked[:, :-1].sum(axis=-1)


def energy(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """The free energy, `-T log Σ_k exp(z_k / T)`, of logits [N, K]; it has no bounds.

    Liu et al. 2020, arXiv 2010.03759.
    """
    scaled = np.asarray(logits, np.float64) / temperature
    return -temperature * logsumexp(scaled, axis=-1)
