"""Logits and accuracy of a network in evaluation mode.

Axes: `N` examples, `B` batch, `K` classes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxprune.data.augment import normalize
from jaxprune.data.dataset import Split
from jaxprune.train.network import Forward, Network


def predict(
    network: Network,
    variables: Any,
    images: np.ndarray,
    *,
    batch_size: int = 256,
    mean: Sequence[float],
    std: Sequence[float],
) -> np.ndarray:
    """Logits float32 `[N, K]` of images uint8 `[N, H, W, C]`.

    Compiled once for a network and batch size: the last batch is filled up with its own first
    image. `mean` and `std` are per channel, of pixels in [0, 1].

    Raises:
      ValueError: no images.
    """
    if len(images) == 0:
        raise ValueError("there are no images to predict")
    forward = _logits(network.eval, tuple(map(float, mean)), tuple(map(float, std)))
    logits = []
    for start in range(0, len(images), batch_size):
        batch = np.asarray(images[start : start + batch_size])
        missing = batch_size - len(batch)
        filled = np.concatenate([batch, np.repeat(batch[:1], missing, axis=0)])
        logits.append(forward(variables, filled)[: len(batch)])
    return np.concatenate([np.asarray(x, np.float32) for x in logits])


def accuracy(
    network: Network,
    variables: Any,
    split: Split,
    *,
    batch_size: int = 256,
    mean: Sequence[float],
    std: Sequence[float],
) -> float:
    """The fraction of a split's images whose highest logit is their label's.

    Raises:
      ValueError: an empty split, or logits that are not finite.
    """
    logits = predict(network, variables, split.images, batch_size=batch_size, mean=mean, std=std)
    if not np.isfinite(logits).all():
        raise ValueError("the network's logits have NaN or infinity: its variables are broken")
    return float(np.mean(logits.argmax(axis=-1) == np.asarray(split.labels)))


@functools.lru_cache(maxsize=8)
def _logits(
    forward: Forward, mean: tuple[float, ...], std: tuple[float, ...]
) -> Callable[..., jax.Array]:
    """Cached, so that each network compiles once; few, so that it is freed."""

    @jax.jit
    def logits(variables: Any, images: jax.Array) -> jax.Array:
        return forward(variables, normalize(images, mean=mean, std=std), None).logits

    return logits
