"""Widths for methods that choose channels group by group and are given a target instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np

from jaxprune.budget import Budget, Curves, allocate
from jaxprune.graph import ChannelGraph
from jaxprune.problem import Problem
from jaxprune.search.greedy import greedy_elimination
from jaxprune.statistics.sensitivity import KEPT, Chooser, sensitivity

Rates = Literal["sensitivity", "tolerance", "proportional"]
"""How targets become widths: see `budget.allocate`."""


def allocated(
    problem: Problem, choose: Chooser, rates: Rates = "sensitivity", kept: Sequence[float] = KEPT
) -> tuple[dict[str, int], Curves | None]:
    """The budget's fixed widths, or those that it allows by the groups' sensitivity.

    Second the curves, where they were measured.
    """
    if problem.budget.widths:
        problem.budget.require_feasible(problem.graph)
        return dict(problem.budget.widths), None
    curves = None
    if rates != "proportional":
        curves = sensitivity(problem, choose, kept, groups=problem.prunable())
    return allocate(curves, problem.graph, problem.budget, rates).widths, curves


def greedy_chooser(grams: Mapping[str, np.ndarray]) -> Chooser:
    """`widths → masks` by greedy elimination on the groups' Gram matrices."""
    on_device = {name: jnp.asarray(gram, jnp.float32) for name, gram in grams.items()}
    return lambda widths: {
        name: greedy_elimination(gram, widths[name]).astype(jnp.float32)
        for name, gram in on_device.items()
    }


def adjusted(graph: ChannelGraph, budget: Budget, widths: np.ndarray) -> np.ndarray:
    """Widths int (G,) moved to where the budget is met and no group can be a step wider.

    For methods that find their widths without looking at what the last unit costs. While a target
    is missed the group narrows that keeps the largest part; then the one widens, of those that
    still fit, that keeps the smallest.
    """
    allowed = budget.widths_of(graph)
    at = np.array([int(np.searchsorted(a, w)) for a, w in zip(allowed, widths, strict=True)])
    last = np.array([len(a) - 1 for a in allowed])
    at = np.clip(at, 0, last)
    one = np.eye(len(at), dtype=int)

    def widths_at(places: np.ndarray) -> np.ndarray:
        return np.stack([a[places[..., g]] for g, a in enumerate(allowed)], axis=-1)

    while not budget.fits(graph, widths_at(at)):
        parts = np.where(at > 0, widths_at(at) / graph.sizes, -1)
        at = at - one[np.argmax(parts)]
    while True:
        groups = np.flatnonzero(at < last)
        wider = widths_at(at + one[groups])
        fitting = groups[budget.fits(graph, wider)] if len(groups) else groups
        if not len(fitting):
            return widths_at(at)
        at = at + one[fitting[np.argmin((widths_at(at) / graph.sizes)[fitting])]]
