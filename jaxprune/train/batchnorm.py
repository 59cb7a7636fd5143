"""BatchNorm statistics taken anew, as they have to be after channels are cut."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.data.augment import normalize
from jaxprune.kernels import accelerate
from jaxprune.train.network import Forward, Network


def recalibrate(
    network: Network,
    variables: Any,
    images: np.ndarray,
    *,
    batch_size: int = 128,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int = 0,
) -> Any:
    """The variables with every running statistic replaced by its mean over calibration batches.

    Exact whatever the moving average's momentum is, and without knowing it. A running statistic is
    updated to `f(s) = a s + (1 - a) b` from the batch's own `b`, and `b` does not depend on `s` in
    training mode. So `f(0) = (1 - a) b`, the derivative of `f` is `a`, one forward pass with its
    derivative along ones gives both, and `b = f(0) / (1 - a)` up to rounding (relative 1e-6 at a
    momentum of 0.99 in float32). The result is the mean of `b`, not weighted by age.

    State that the first batch leaves unchanged, and whatever is not floating-point (counters,
    keys), stays as it is.

    Args:
      network: its training mode gives the statistics.
      variables: `{"params": ..., **state}`.
      images: calibration images uint8 `[N, H, W, C]`; the rest that fills no batch is left out.
      batch_size: images a batch; all of them where there are fewer.
      mean: per channel, of pixels in [0, 1].
      std: per channel, of pixels in [0, 1].
      seed: drives dropout, where the network has it.

    Raises:
      ValueError: no images.
    """
    if len(images) == 0:
        raise ValueError("there are no calibration images to take BatchNorm statistics from")
    size = min(batch_size, len(images))
    batches = [np.asarray(images[i * size : (i + 1) * size]) for i in range(len(images) // size)]
    keys = jax.random.split(jax.random.key(seed), len(batches))
    step = _step(network.train, tuple(map(float, mean)), tuple(map(float, std)))

    state = {name: tree for name, tree in variables.items() if name != "params"}
    leaves, tree = jax.tree.flatten(state)
    leaves = [jnp.asarray(leaf) for leaf in leaves]

    def run(i: int, running: list[bool]) -> tuple[list[jax.Array], list[jax.Array]]:
        return step(variables["params"], tree.unflatten(leaves), running, batches[i], keys[i])

    updated, _ = run(0, [False] * len(leaves))
    running = [
        bool(jnp.issubdtype(leaf.dtype, jnp.floating) and jnp.any(new != leaf))
        for new, leaf in zip(updated, leaves, strict=True)
    ]
    if not any(running):
        return variables
    sums = [jnp.zeros_like(leaf) for leaf in leaves]
    for i in range(len(batches)):
        _, own = run(i, running)
        sums = [s + b for s, b in zip(sums, own, strict=True)]
    fresh = [
        s / len(batches) if moves else leaf
        for s, moves, leaf in zip(sums, running, leaves, strict=True)
    ]
    return {"params": variables["params"], **tree.unflatten(fresh)}


def renewal(network: Network, inputs: jax.Array, seed: int = 0) -> Callable[[Any], Any]:
    """`renew(variables)`: they with the statistics of one batch of inputs, as `recalibrate` has it.

    Pure, so that it can be masked and mapped: every mask's network has its own statistics.

    Args:
      network: its training mode gives the statistics.
      inputs: normalised images [N, H, W, C].
      seed: drives dropout, where the network has it.
    """

    def renew(variables: Any) -> Any:
        state = {name: tree for name, tree in variables.items() if name != "params"}
        leaves, tree = jax.tree.flatten(state)
        key = jax.random.key(seed)
        params = variables["params"]
        running = _running(network.train, params, state, inputs, key)
        if not running:
            return variables
        moves = [running.get(i, False) for i in range(len(leaves))]
        _, own = _statistics(network.train, params, state, moves, inputs, key)
        fresh = [jnp.where(m, b, s) for s, b, m in zip(leaves, own, moves, strict=True)]
        return {"params": params, **tree.unflatten(fresh)}

    return renew


@functools.lru_cache(maxsize=4)
def _step(
    train: Forward, mean: tuple[float, ...], std: tuple[float, ...]
) -> Callable[..., tuple[list[jax.Array], list[jax.Array]]]:
    """Cached, so that each network compiles once; few, so that old ones go."""

    @jax.jit
    @accelerate
    def step(
        params: Any,
        state: dict[str, Any],
        running: list[jax.Array],
        images: jax.Array,
        key: jax.Array,
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        """The updated state, and the batch's own statistics `b` of the leaves that are running.

        `running` is data, so that finding those leaves and averaging them share a compilation.
        """
        return _statistics(
            train, params, state, running, normalize(images, mean=mean, std=std), key
        )

    return step


def _running(
    train: Forward, params: Any, state: Any, inputs: jax.Array, key: Any
) -> dict[int, jax.Array]:
    """Of each floating-point leaf, where a step does more than to pass it on: its slope is not 1.

    Traced, so that it needs no values; XLA leaves the forward pass out, which it does not take.
    """
    leaves, where, update = _update(train, params, state, inputs, key)
    floats = [leaves[i] for i in where]
    _, slopes, _ = jax.jvp(update, (floats,), (list(map(jnp.ones_like, floats)),), has_aux=True)
    return {i: slope != 1 for i, slope in zip(where, slopes, strict=True)}


def _statistics(
    train: Forward, params: Any, state: Any, running: Sequence[Any], inputs: jax.Array, key: Any
) -> tuple[list[jax.Array], list[jax.Array]]:
    """The updated state of a batch, and its own statistics `b` of the leaves that are running."""
    leaves, where, update = _update(train, params, state, inputs, key)
    at = [jnp.where(running[i], 0.0, leaves[i]).astype(leaves[i].dtype) for i in where]
    along = [jnp.full_like(leaves[i], running[i]) for i in where]
    floats, slopes, new = jax.jvp(update, (at,), (along,), has_aux=True)
    own = [jnp.zeros_like(leaf) for leaf in leaves]
    for i, value, slope in zip(where, floats, slopes, strict=True):
        # A unit with slope 1 is not averaged but kept; 0 / 0 would spoil it.
        own[i] = jnp.where(slope == 1, leaves[i], value / jnp.where(slope == 1, 1, 1 - slope))
    return new, own


def _update(
    train: Forward, params: Any, state: Any, inputs: jax.Array, key: Any
) -> tuple[list[jax.Array], list[int], Callable[..., Any]]:
    """The state's leaves, which are of floating point, and a step of training as a map of these.

    The map gives the new ones among them and, beside, all.
    """
    leaves, tree = jax.tree.flatten(state)
    where = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]

    def update(floats: list[jax.Array]) -> tuple[list[jax.Array], list[jax.Array]]:
        given = list(leaves)
        for i, leaf in zip(where, floats, strict=True):
            given[i] = leaf
        out = train({"params": params, **tree.unflatten(given)}, inputs, key)
        new = jax.tree.leaves(out.state)
        return [new[i] for i in where], new

    return leaves, where, update
