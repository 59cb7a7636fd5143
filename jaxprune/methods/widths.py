"""Widths for methods that choose channels group by group and are given a target instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxprune.budget import Budget, allocate
from jaxprune.graph import ChannelGraph
from jaxprune.methods.contract import Loss, Score, Widths
from jaxprune.search.greedy import greedy_elimination
from jaxprune.statistics.batches import Batches
from jaxprune.statistics.sensitivity import KEPT, Chooser, sensitivity


def allocate_widths(
    graph: ChannelGraph,
    fn: Callable[..., Any],
    variables: Any,
    batches: Batches,
    budget: Budget | Widths,
    loss: Loss,
    score: Score,
    grams: Mapping[str, np.ndarray],
) -> dict[str, int]:
    """The widths as given, or those that lose least by the groups' sensitivity curves."""
    if not isinstance(budget, Budget):
        return dict(budget)
    choose = greedy_chooser(grams)
    curves = sensitivity(graph, fn, variables, batches, choose, KEPT, loss, score)
    return allocate(curves, graph, budget).widths


def narrowed_groups(graph: ChannelGraph, budget: Budget | Widths) -> list[str]:
    """The groups that need a choice: all under targets, else those narrower than their size."""
    if isinstance(budget, Budget):
        return list(graph.groups)
    return [name for name, group in graph.groups.items() if budget[name] < group.size]


def greedy_chooser(grams: Mapping[str, np.ndarray]) -> Chooser:
    """`widths → masks` by greedy elimination on the groups' Gram matrices."""
    on_device = {name: jnp.asarray(gram, jnp.float32) for name, gram in grams.items()}
    return lambda widths: {
        name: greedy_elimination(gram, widths[name]).astype(jnp.float32)
        for name, gram in on_device.items()
    }
