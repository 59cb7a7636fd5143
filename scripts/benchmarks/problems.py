"""Gram matrices for the tables of the search: deterministic, and without a checkpoint.

A made-up layer as trained ones are: activations after a ReLU with channels that are correlated
through common factors and of heavy-tailed size, read by kernels of heavy-tailed norm whose output
directions are shared. `G = H ∘ WᵀW` of them, as `statistics.grams` computes it.
"""

from __future__ import annotations

import numpy as np


def gram(channels: int, seed: int = 0) -> np.ndarray:
    """A Gram matrix [C, C] in float64, of output energy one."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(channels, channels)) * np.arange(1, channels + 1) ** -0.5
    raw = rng.normal(size=(4 * channels, channels)) @ factors.T + 0.3 * rng.normal(size=channels)
    inputs = np.maximum(raw, 0) * np.exp(0.5 * rng.normal(size=channels))
    shared = rng.normal(size=(channels, channels)) * np.arange(1, channels + 1) ** -0.3
    kernels = (
        rng.normal(size=(channels, channels))
        @ shared
        * np.exp(0.3 * rng.normal(size=(channels, 1)))
    )
    matrix = (inputs.T @ inputs) * (kernels @ kernels.T)
    return matrix / matrix.sum()


VGG16 = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)


def vgg16() -> dict[str, np.ndarray]:
    """A matrix for each of the 13 groups of a VGG-16, by name."""
    return {f"conv{i}": gram(channels, i) for i, channels in enumerate(VGG16, start=1)}
