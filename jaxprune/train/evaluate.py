"""Logits of a network, and which are right, in evaluation mode.

Axes: `N` examples, `B` batch, `K` classes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxprune.data.augment import normalize
from jaxprune.data.batches import eval_batches
from jaxprune.data.split import Split
from jaxprune.data.streamed import Streamed
from jaxprune.kernels import accelerate
from jaxprune.mesh import DATA, place, require_shares
from jaxprune.train.network import Forward, Network


def predict(
    network: Network,
    variables: Any,
    split: Split | Streamed,
    *,
    batch_size: int = 256,
    mean: Sequence[float],
    std: Sequence[float],
    mesh: Mesh | None = None,
) -> np.ndarray:
    """Logits float32 `[N, K]` of a split's images.

    Compiled once for a network and batch size: the last batch is filled up. `mean` and `std` are
    per channel, of pixels in [0, 1]. A mesh splits each batch over its axis `data`.

    Raises:
      ValueError: no images, or a batch that the mesh cannot split evenly.
    """
    batches = _predict(network, variables, split, batch_size, mean, std, mesh)
    return np.concatenate([logits for logits, _ in batches])


def correct(
    network: Network,
    variables: Any,
    split: Split | Streamed,
    *,
    batch_size: int = 256,
    mean: Sequence[float],
    std: Sequence[float],
    mesh: Mesh | None = None,
) -> np.ndarray:
    """Whether the highest logit of each of a split's images is its label's, bool `[N]`.

    One batch is held at a time, so that a split on disk may be larger than memory. The rest is as
    for `predict`.

    Raises:
      ValueError: as `predict`, or logits that are not finite.
    """
    right = []
    for logits, labels in _predict(network, variables, split, batch_size, mean, std, mesh):
        if not np.isfinite(logits).all():
            raise ValueError("the network's logits have NaN or infinity: its variables are broken")
        right.append(logits.argmax(axis=-1) == labels)
    return np.concatenate(right)


def _predict(
    network: Network,
    variables: Any,
    split: Split | Streamed,
    batch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    mesh: Mesh | None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Logits and labels, batch by batch."""
    if len(split) == 0:
        raise ValueError("there are no images to predict")
    require_shares("batch_size", batch_size, mesh)
    forward = _logits(network.eval, tuple(map(float, mean)), tuple(map(float, std)))
    variables = place(variables, mesh)
    for images, labels, valid in eval_batches(split, batch_size):
        images = place(images, mesh, DATA)
        yield np.asarray(forward(variables, images), np.float32)[valid], labels[valid]


@functools.lru_cache(maxsize=8)
def _logits(
    forward: Forward, mean: tuple[float, ...], std: tuple[float, ...]
) -> Callable[..., jax.Array]:
    """Cached, so that each network compiles once; few, so that old ones go."""

    @jax.jit
    @accelerate
    def logits(variables: Any, images: jax.Array) -> jax.Array:
        return forward(variables, normalize(images, mean=mean, std=std), None).logits

    return logits
