"""In how many rounds a network is pruned: all at once, group by group, or little by little.

A round narrows some groups by what the network that is already pruned computes, and trains a little
before the next one. Until the last round everything stays at its dense shape, under masks that are
data: one compiled program serves all rounds, and the network is sliced once, at the end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.budget import Budget, Curves, allocate
from jaxprune.config import ScheduleConfig
from jaxprune.graph import ChannelGraph
from jaxprune.masks import Masks, keep_top
from jaxprune.train.network import Network, Output

MASKS = "masks"
"""The collection, beside `params`, in which a masked network's variables carry their masks."""

Widths = Mapping[str, int]


def rounds(
    config: ScheduleConfig,
    graph: ChannelGraph,
    budget: Budget,
    widths: Widths,
    curves: Curves | None,
    allocation: str,
) -> list[dict[str, int]]:
    """The widths of all groups after each round; the last ones are `widths`.

    Args:
      config: the schedule.
      graph: of the network.
      budget: what `widths` keep to.
      widths: where the rounds end.
      curves: the groups' sensitivity, where the allocation reads it.
      allocation: how an interim budget becomes widths.

    `joint` has one round. `layerwise` has one for each group that gets narrower, in the order in
    which the network writes them, the order of Hu et al. 2018 (arXiv 1805.11394). `gradual` lowers
    the budget: after round r of n each target allows `1 - (1 - 1/factor) f(r/n)` of the whole, with
    `f(t) = t`, or `f(t) = 1 - (1 - t)³` (Zhu and Gupta 2017, arXiv 1710.01878).
    """
    full = {name: group.size for name, group in graph.groups.items()}
    if config.name == "joint":
        return [dict(widths)]
    if config.name == "layerwise":
        narrowed = [name for name in graph.groups if widths[name] < full[name]]
        return [
            {n: widths[n] if n in narrowed[: i + 1] else full[n] for n in full}
            for i in range(len(narrowed))
        ]
    plan = []
    before = full
    for done in range(1, config.rounds):
        fraction = done / config.rounds
        fall = fraction if config.decline == "linear" else 1 - (1 - fraction) ** 3
        targets = ",".join(
            f"{quantity}/{1 / (1 - (1 - 1 / factor) * fall)!r}"
            for quantity, factor in budget.factors.items()
        )
        interim = dataclasses.replace(budget, targets=targets)
        chosen = allocate(curves, graph, interim, allocation).widths
        # Never wider than before, and never narrower than at the end.
        before = {n: max(widths[n], min(before[n], chosen[n])) for n in full}
        plan.append(before)
    return [*plan, dict(widths)]


def narrowed(before: Masks, chosen: Mapping[str, Any], widths: Widths) -> Masks:
    """The masks after a round: of the units that were left, those that were chosen.

    A method that keeps a unit which is gone already keeps one unit that is left instead, the first
    that it did not choose.
    """
    scores = {name: np.asarray(before[name]) * (1 + np.asarray(chosen[name])) for name in before}
    return keep_top(scores, widths)


def masked_network(graph: ChannelGraph, network: Network) -> Network:
    """The network whose variables carry masks, which training leaves as they are."""

    def under_masks(fn: Any) -> Any:
        masked = graph.masked(fn)

        def call(variables: Any, images: jax.Array, key: jax.Array | None) -> Output:
            masks = variables[MASKS]
            dense = {name: tree for name, tree in variables.items() if name != MASKS}
            out = masked(dense, masks, images, key)
            return out._replace(state={**out.state, MASKS: masks})

        return call

    return Network(under_masks(network.train), under_masks(network.eval))


def with_masks(variables: Mapping[str, Any], masks: Masks) -> dict[str, Any]:
    """Variables for a masked network."""
    return {**variables, MASKS: {name: jnp.asarray(mask) for name, mask in masks.items()}}


def split_masks(variables: Mapping[str, Any]) -> tuple[dict[str, Any], Masks]:
    """The dense variables of a masked network, and its masks."""
    return {n: t for n, t in variables.items() if n != MASKS}, dict(variables[MASKS])
