"""Where what a consumer gives goes on to: a variable that shifts it, a residual sum that it enters.

Both are told by derivatives, not by names, in one backward pass over a few images. A bias has the
derivative of a shift of the consumer's output, the mean of a BatchNorm that follows its negative.
A sum has it up to one factor a channel (the scale of a BatchNorm between), where nothing but that
lies between.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.batches import first, inputs_of
from jaxprune.graph import ChannelGraph, Consumer, paths
from jaxprune.kernels import accelerate
from jaxprune.problem import Problem
from jaxprune.statistics.gram import feature_axes

IMAGES = 16
"""Images of the first batch that are looked at."""
_ALIKE = 1e-3
"""The largest relative difference of two derivatives that are one but for rounding."""


class Outlet(NamedTuple):
    """Of one consumer.

    Attributes:
      path: the variable that takes up a shift of its output, or None.
      sign: 1 where that is a bias, -1 where it is the mean that a BatchNorm subtracts.
      sum: the residual sum that it enters, a name of `Tapped.sums`, or None.
      scale: float64 (O,), how far the sum moves with the output.
    """

    path: str | None = None
    sign: float = 1.0
    sum: str | None = None
    scale: np.ndarray | None = None


def outlets(problem: Problem) -> dict[str, Outlet]:
    """The outlet of each consumer by name; one of which no derivative comes back has none."""
    inputs = jax.tree.map(lambda x: x[:IMAGES], inputs_of(first(problem.batches)))
    look, consumers, order = _backward(problem.graph, problem.fn)
    shifted, moved = look(problem.variables, inputs)
    shifted, moved = jax.tree.map(lambda g: np.asarray(g, np.float64), (shifted, moved))
    sums = {name: g for name, g in shifted.items() if name not in consumers}
    found = {}
    for name, consumer in consumers.items():
        if name not in shifted or not shifted[name].any() or not consumer.kernel_shape:
            continue
        features = feature_axes(consumer)
        whole = np.moveaxis(shifted[name], features, range(-len(features), 0))
        outputs = math.prod(whole.shape[whole.ndim - len(features) :])
        rows = whole.reshape(-1, outputs)
        path, sign = _bias(rows.sum(0), moved, consumer)
        found[name] = Outlet(path, sign, *_sum(shifted[name], rows, sums, features, name, order))
    return found


def _bias(shift: np.ndarray, moved: dict[str, np.ndarray], consumer: Consumer) -> Any:
    """The variable that moves the network as a shift of the output does, and its sign."""
    layer = consumer.name.rpartition("/")[0]
    near = {p: g.ravel() for p, g in moved.items() if g.size == shift.size}
    # The bias of the layer itself, else another one, else a mean.
    for sign in (1.0, -1.0):
        for path in sorted(near, key=lambda p: p.rpartition("/")[0] != layer):
            if path != consumer.name and _alike(sign * near[path], shift):
                return path, sign
    return None, 1.0


def _sum(
    own: np.ndarray, rows: np.ndarray, sums: dict[str, np.ndarray], features: tuple[int, ...],
    name: str, order: list[str],
) -> tuple[str | None, np.ndarray | None]:  # fmt: skip
    """The first sum after the consumer that is it but for a factor a channel."""
    for at in order[order.index(name) :]:
        if at not in sums or sums[at].shape != own.shape:
            continue
        there = np.moveaxis(sums[at], features, range(-len(features), 0)).reshape(rows.shape)
        power = np.square(there).sum(0)
        scale = (rows * there).sum(0) / np.where(power > 0, power, 1)
        if _alike(scale * there, rows):
            return at, scale
    return None, None


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.linalg.norm(a - b) <= _ALIKE * np.linalg.norm(b))


@functools.lru_cache(maxsize=4)
def _backward(
    graph: ChannelGraph, fn: Callable[..., Any]
) -> tuple[Callable[..., Any], dict[str, Consumer], list[str]]:
    """The compiled backward pass; the consumers, and they and the sums in order, after its call."""
    consumers: dict[str, Consumer] = {}
    order: list[str] = []

    def shapes_of(variables: Any, inputs: Any) -> dict[str, jax.Array]:
        _, tapped = graph.tap(fn, variables, inputs)
        consumers.update(tapped.consumers)
        order[:] = tapped.order
        return {**tapped.outputs, **tapped.sums}

    @jax.jit
    @accelerate
    def look(variables: Any, inputs: Any) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        shapes = jax.eval_shape(shapes_of, variables, inputs)
        shifts = {name: jnp.zeros(s.shape, s.dtype) for name, s in shapes.items()}
        tree = jax.tree.structure(variables)
        leaves = dict(paths.leaves(variables))
        sizes = {c.kernel_shape[a] for c in consumers.values() for a in range(len(c.kernel_shape))}
        moving = {
            path: leaf for path, leaf in leaves.items()
            if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.size in sizes
            and leaf.size == max(leaf.shape, default=0)
        }  # fmt: skip

        def total(shifts: Any, moving: Any) -> jax.Array:
            given = tree.unflatten(list({**leaves, **moving}.values()))
            outs, _ = graph.tap(fn, given, inputs, shifts=shifts)
            # Any direction will do that makes no two channels alike by accident.
            floats = [o for o in jax.tree.leaves(outs) if jnp.issubdtype(o.dtype, jnp.floating)]
            keys = jax.random.split(jax.random.key(0), len(floats))
            drawn = [jax.random.normal(k, o.shape) for k, o in zip(keys, floats, strict=True)]
            return sum((jnp.sum(o * d) for o, d in zip(floats, drawn, strict=True)), jnp.zeros(()))

        return jax.grad(total, argnums=(0, 1))(shifts, moving)

    return look, consumers, order


__all__ = ["Outlet", "outlets"]
