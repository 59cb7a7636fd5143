"""From importance scores to masks: within groups at given widths, or over the whole network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from jaxprune import masks as mask_ops
from jaxprune.budget import Budget
from jaxprune.budget.targets import within
from jaxprune.graph import ChannelGraph, Group, paths
from jaxprune.masks import Masks
from jaxprune.methods.contract import Widths

Normaliser = Literal["mean", "max", "sum", "none"]
Scores = Mapping[str, np.ndarray]

_NORMALISERS = {
    "mean": np.mean,
    "max": np.max,
    "sum": np.sum,
    "none": lambda s: 1.0,
}


def select(
    graph: ChannelGraph, scores: Scores, budget: Budget | Widths, normaliser: Normaliser = "mean"
) -> Masks:
    """Keeps the units with the highest scores.

    Args:
      graph: from `trace`.
      scores: per group (units,), higher is more important.
      budget: widths, then each group is ranked by itself; or targets, then units fall in the
        order of their normalised scores over the whole network until every target is met.
      normaliser: what a group's scores are divided by before they meet other groups'.

    Raises:
      ValueError: a target that cannot be met, or a score that is not finite.
    """
    for name, score in scores.items():
        if not np.isfinite(score).all():
            raise ValueError(f"the scores of group {name} are not finite")
    widths = (
        global_widths(graph, scores, budget, normaliser) if isinstance(budget, Budget) else budget
    )
    return mask_ops.keep_top({name: scores[name] for name in graph.groups}, widths)


def global_widths(
    graph: ChannelGraph, scores: Scores, budget: Budget, normaliser: Normaliser
) -> dict[str, int]:
    """The widths at which a ranking over the whole network first meets every target."""
    low, high, steps = budget.bounds(graph)
    scale = _NORMALISERS[normaliser]
    ordered = [
        np.sort(scores[name] / max(scale(scores[name]), 1e-30))[::-1] for name in graph.groups
    ]
    cuts = np.unique(np.concatenate([[-np.inf], *ordered]))

    def widths_at(cut: float) -> np.ndarray:
        above = np.array([np.sum(o > cut) for o in ordered])
        return np.clip(np.where(above < high, above // steps * steps, high), low, high)

    # Costs fall as the cut rises, so the first cut that meets all targets is found by bisection.
    reach = budget.limits_of(graph)

    def met(cut: float) -> bool:
        costs = graph.costs(widths_at(cut))
        return all(within(costs[q], most) for q, most in reach.items())

    budget.require_feasible(graph)
    first, last = 0, len(cuts) - 1
    while first < last:
        middle = (first + last) // 2
        first, last = (first, middle) if met(cuts[middle]) else (middle + 1, last)
    return dict(zip(graph.names, widths_at(cuts[first]).tolist(), strict=True))


def kernels(graph: ChannelGraph, variables: Any, group: Group) -> list[np.ndarray]:
    """The kernels that write a group, each float64 (units, fan-in): its filters, one a row."""
    leaves = dict(paths.leaves(variables))
    found = []
    for member in group.members:
        if member.role == "writes" and np.ndim(leaves[member.path]) > 1:
            kernel = np.moveaxis(np.asarray(leaves[member.path], np.float64), member.axis, 0)
            found.append(kernel[member.positions].reshape(group.size, -1))
    if not found:
        raise ValueError(f"group {group.name} is written by no kernel; use another method")
    return found


def filter_norms(graph: ChannelGraph, variables: Any, order: int) -> dict[str, np.ndarray]:
    """Per group the L1 or L2 norms of its filters, summed over its kernels, float64 (units,)."""
    return {
        name: np.sum(
            [np.linalg.norm(k, ord=order, axis=1) for k in kernels(graph, variables, group)], axis=0
        )
        for name, group in graph.groups.items()
    }
