"""Widths as an episode: layer after layer an action is the fraction that a group keeps.

The constraint holds by lifting: a group may keep no more than what still lets the groups after it
meet the targets at their narrowest. So every episode ends at or below what is asked for.
Many episodes run side by side under one `vmap`, and nothing but widths comes out of them.

Axes: `E` episodes, `T` steps, which are the groups that may get narrower, `G` groups.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.budget import Budget
from jaxprune.graph import ChannelGraph, Consumer
from jaxprune.search.ddpg import Params, act

LEAST = 0.01
"""The least fraction that an action keeps."""
FEATURES = 12
"""Of a state: 8 of the layer, the rate, and 3 of what was decided so far."""


class Episodes(NamedTuple):
    """What a batch of episodes did.

    Attributes:
      states: float32 (E, T, S).
      actions: (E, T), the fraction that was kept.
      widths: (E, G), whole numbers.
    """

    states: jax.Array
    actions: jax.Array
    widths: jax.Array


@dataclass(frozen=True, eq=False)
class Environment:
    """A network to be narrowed. It is hashed by identity: `rollouts` compiles once for each.

    Attributes:
      costs: widths (..., G) → quantity → totals.
      steps: int (T,), the groups in the order of the network.
      allowed: int (G, M), the allowed widths of each group, ascending, the last one repeated.
      sizes: int (G,).
      features: float32 (T, 8) in [0, 1], of the layer that reads the group: its place, its
        multiply-accumulates, outputs, inputs, height, width, stride, taps.
      exponents: quantity → the power of the rate by which it is limited.
    """

    costs: Callable[[Any], Mapping[str, Any]]
    steps: np.ndarray
    allowed: np.ndarray
    sizes: np.ndarray
    features: np.ndarray
    exponents: dict[str, float]


def environment(
    graph: ChannelGraph,
    budget: Budget,
    groups: list[str],
    readers: Mapping[str, tuple[Consumer, tuple[int, ...]]],
) -> Environment:
    """The environment of a budget, whose targets are met at the rate `rate_of(budget)`.

    Args:
      graph: from `trace`.
      budget: its targets and allowed widths.
      groups: those that may get narrower.
      readers: of each group the layer that reads it, and the shape of what it reads.
    """
    widths = budget.widths_of(graph)
    most = max(map(len, widths))
    rows = [_row(*readers[name]) for name in groups]
    features = np.array([[i, *row] for i, row in enumerate(rows)], float)
    span = np.ptp(features, axis=0)
    features = (features - features.min(axis=0)) / np.where(span > 0, span, 1)
    first = _reference(budget)
    base = math.log(budget.factors[first])
    return Environment(
        graph.costs,
        np.array([graph.names.index(name) for name in groups]),
        np.stack([np.pad(w, (0, most - len(w)), mode="edge") for w in widths]),
        graph.sizes,
        features.astype(np.float32),
        {q: math.log(f) / base if base else 1.0 for q, f in budget.factors.items()},
    )


def rate_of(budget: Budget) -> float:
    """The fraction of cost that the budget leaves: of the MACs, or of its first quantity."""
    return 1 / budget.factors[_reference(budget)]


def _reference(budget: Budget) -> str:
    return "macs" if "macs" in budget.factors else next(iter(budget.factors))


def _row(consumer: Consumer, shape: tuple[int, ...]) -> list[float]:
    """MACs, outputs, inputs, height, width, stride, taps."""
    if consumer.primitive != "conv_general_dilated":
        inputs = math.prod(shape[1:])
        outputs = math.prod(consumer.kernel_shape) / max(1, inputs) if consumer.kernel_shape else 1
        return [inputs * outputs, outputs, inputs, 1, 1, 1, 1]
    numbers = consumer.params["dimension_numbers"]
    outputs, inputs, *window = (consumer.kernel_shape[a] for a in numbers.rhs_spec)
    spatial = [shape[a] for a in numbers.lhs_spec[2:]]
    strides = consumer.params["window_strides"]
    positions = math.prod(math.ceil(n / s) for n, s in zip(spatial, strides, strict=True))
    macs = math.prod(consumer.kernel_shape) * positions
    return [macs, outputs, inputs, spatial[0], spatial[-1], strides[0], math.prod(window)]


@functools.partial(jax.jit, static_argnames=("env",))
def rollouts(
    env: Environment, actor: Params, rates: jax.Array, given: jax.Array, noise: jax.Array
) -> Episodes:
    """Episodes side by side, compiled once for a batch size.

    Args:
      env: the environment.
      actor: the policy.
      rates: (E,), the fraction of cost that each may keep.
      given: (E, T), actions in place of the policy's; NaN where the policy acts.
      noise: (E, T), added to the actions.
    """
    sizes, allowed = jnp.asarray(env.sizes, float), jnp.asarray(env.allowed, float)
    whole = {q: jnp.asarray(c, float) for q, c in env.costs(sizes).items()}
    narrowest = allowed[:, 0]
    least = {q: jnp.asarray(c, float) for q, c in env.costs(narrowest).items()}
    quantity = next(iter(env.exponents)) if "macs" not in env.exponents else "macs"
    groups = jnp.arange(len(env.sizes))

    def left(widths: jax.Array) -> jax.Array:
        return env.costs(widths)[quantity] / whole[quantity]

    def one(rate: jax.Array, given: jax.Array, noise: jax.Array) -> Episodes:
        limits = {
            q: jnp.maximum(whole[q] * rate**power, least[q]) for q, power in env.exponents.items()
        }

        def step(carry: Any, at: Any) -> Any:
            widths, previous = carry
            group, features, given, noise, ahead = at
            narrow = jnp.where(ahead, narrowest, widths)  # all that are still to come
            dynamic = jnp.stack([1 - left(widths), left(widths) - left(narrow), previous])
            state = jnp.concatenate([features, rate[None], dynamic])
            wished = jnp.where(jnp.isnan(given), act(actor, state), given) + noise
            wished = jnp.clip(wished, LEAST, 1.0)
            own = allowed[group]
            width = jnp.ceil(wished * sizes[group] - 1e-4)
            place = jnp.maximum(jnp.sum(own <= width) - 1, 0)
            trials = jnp.where(groups[None] == group, own[:, None], narrow[None])
            costs = env.costs(trials)
            fits = jnp.stack([costs[q] <= limits[q] * (1 + 1e-6) for q in limits]).all(0)
            place = jnp.minimum(place, jnp.max(jnp.where(fits, jnp.arange(len(own)), 0)))
            place = jnp.minimum(place, jnp.argmax(own))  # the padding repeats the last one
            widths = jnp.where(groups == group, own[place], widths)
            kept = own[place] / sizes[group]
            return (widths, kept), (state, kept)

        steps = jnp.asarray(env.steps)
        ahead = (jnp.arange(len(steps))[:, None] < jnp.arange(len(steps))[None]) @ (
            steps[:, None] == groups[None]
        ).astype(float) > 0
        start = (allowed[:, -1], jnp.ones(()))
        at = (steps, jnp.asarray(env.features), given, noise, ahead)
        (widths, _), (states, actions) = jax.lax.scan(step, start, at)
        return Episodes(states, actions, widths)

    return jax.vmap(one)(rates, given, noise)
