"""Gram matrices as trained networks have them, and brute force on small ones."""

from __future__ import annotations

import itertools

import numpy as np


def trained_gram(channels, seed=0):
    """Decaying spectrum, heavy-tailed channel norms, a strong common direction (ReLU's mean)."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(channels, 2 * channels)) * np.arange(1, 2 * channels + 1) ** -0.7
    factors[:, 0] = np.abs(factors[:, 0])
    norms = np.exp(0.8 * rng.normal(size=(channels, 1)))
    factors *= norms / np.linalg.norm(factors, axis=1, keepdims=True)
    return (factors @ factors.T).astype(np.float32)


def error(mask, gram):
    dropped = 1 - np.asarray(mask, np.float64)
    return float(dropped @ np.asarray(gram, np.float64) @ dropped)


def brute_force(gram, keep):
    channels = len(gram)
    kept = np.array(list(itertools.combinations(range(channels), keep)))
    masks = np.zeros((len(kept), channels))
    np.put_along_axis(masks, kept, 1, axis=1)
    dropped = 1 - masks
    return float(np.min(np.sum(dropped @ np.asarray(gram, np.float64) * dropped, axis=1)))
