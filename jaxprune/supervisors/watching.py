"""What a supervisor is given, and all of them by name.

A supervisor is fitted to a network on its training images, `fit(watched, seen, seed)`, and gives a
function from what the network does with other images to one anomaly value for each: higher is more
anomalous. The evaluation reads nothing but their order, so that values need not lie in [0, 1].
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.kernels import accelerate
from jaxprune.supervisors import autoencoder, mahalanobis, openmax
from jaxprune.supervisors.logits import energy, max_softmax
from jaxprune.supervisors.odin import odin


class Watched(NamedTuple):
    """A network as its supervisors see it.

    Attributes:
      forward: `(variables, images) → (logits [B, K], features [B, D])` of normalised images.
      variables: of it.
      std: of each channel, by which the images were divided.
      batch_size: how many images go through it at once.
    """

    forward: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]
    variables: Any
    std: Sequence[float]
    batch_size: int = 256


class Seen(NamedTuple):
    """What a network does with images; N of them.

    Attributes:
      images: normalised, float32 [N, H, W, C].
      logits: [N, K].
      features: what the last linear layer reads, [N, D].
      labels: int [N].
    """

    images: np.ndarray
    logits: np.ndarray
    features: np.ndarray
    labels: np.ndarray


Score = Callable[[Seen], np.ndarray]
Fit = Callable[[Watched, Seen, int], Score]


def see(watched: Watched, images: np.ndarray, labels: np.ndarray) -> Seen:
    """Shows normalised images to a network; it compiles once."""
    logits, features = in_batches(_compiled(watched), images, watched.batch_size)
    return Seen(images, logits, features, np.asarray(labels))


def in_batches(fn: Callable[[Any], Any], images: np.ndarray, size: int) -> Any:
    """A function of images [B, ...] over many, in batches of one size; NumPy arrays [N, ...]."""
    parts = []
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        missing = size - len(batch)  # of the last one alone
        parts.append(fn(np.pad(batch, [(0, missing), *[(0, 0)] * (images.ndim - 1)])))
    return jax.tree.map(lambda *p: np.concatenate(p)[: len(images)], *parts)


def _compiled(watched: Watched) -> Callable[[Any], Any]:
    return functools.partial(_forward(watched.forward), watched.variables)


@functools.lru_cache(maxsize=8)
def _forward(forward: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(accelerate(forward))


@functools.lru_cache(maxsize=8)
def _odin(forward: Callable[..., Any], std: tuple[float, ...]) -> Callable[..., Any]:
    @jax.jit
    @accelerate
    def scores(variables: Any, images: jax.Array) -> jax.Array:
        return odin(lambda x: forward(variables, x)[0], images, std)

    return scores


def _fit_max_softmax(watched: Watched, seen: Seen, seed: int) -> Score:
    return lambda shown: max_softmax(shown.logits)


def _fit_energy(watched: Watched, seen: Seen, seed: int) -> Score:
    return lambda shown: energy(shown.logits)


def _fit_odin(watched: Watched, seen: Seen, seed: int) -> Score:
    compiled = _odin(watched.forward, tuple(map(float, watched.std)))
    fn = functools.partial(compiled, watched.variables)
    return lambda shown: in_batches(fn, shown.images, watched.batch_size)


def _fit_openmax(watched: Watched, seen: Seen, seed: int) -> Score:
    fitted = openmax.fit(seen.logits, seen.labels)
    return lambda shown: openmax.score(fitted, shown.logits)


def _fit_mahalanobis(watched: Watched, seen: Seen, seed: int) -> Score:
    fitted = mahalanobis.fit(seen.features, seen.labels)
    return lambda shown: mahalanobis.score(fitted, shown.features)


def _fit_autoencoder(watched: Watched, seen: Seen, seed: int) -> Score:
    variables = autoencoder.fit(seen.images, seed)
    fn = functools.partial(autoencoder.score, variables)
    return lambda shown: in_batches(lambda x: fn(jnp.asarray(x)), shown.images, watched.batch_size)


SUPERVISORS: dict[str, Fit] = {
    "max_softmax": _fit_max_softmax,
    "odin": _fit_odin,
    "openmax": _fit_openmax,
    "energy": _fit_energy,
    "mahalanobis": _fit_mahalanobis,
    "autoencoder": _fit_autoencoder,
}
"""All supervisors, with the settings that they are published with."""

BLIND = ("autoencoder",)
"""Those that see the images alone, whatever the network is: fitted once for many networks."""
