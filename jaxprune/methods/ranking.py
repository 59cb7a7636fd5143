"""From importance scores to masks: within groups at given widths, or over the whole network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from jaxprune import masks as mask_ops
from jaxprune.budget import Budget
from jaxprune.graph import ChannelGraph, Group, paths
from jaxprune.masks import Masks

Normaliser = Literal["mean", "max", "sum", "l2", "none"]
Scores = Mapping[str, np.ndarray]

_NORMALISERS = {
    "mean": np.mean,
    "max": np.max,
    "sum": np.sum,
    "l2": np.linalg.norm,
    "none": lambda s: 1.0,
}


def select(
    graph: ChannelGraph, scores: Scores, budget: Budget, normaliser: Normaliser = "mean"
) -> Masks:
    """Keeps the units with the highest scores.

    Args:
      graph: from `trace`.
      scores: per group (units,), higher is more important.
      budget: where it fixes the widths each group is ranked by itself; else units fall in the
        order of their normalised scores over the whole network until every target is met.
      normaliser: what a group's scores are divided by before they meet other groups'.

    Raises:
      ValueError: a target that cannot be met, or a score that is not finite.
    """
    for name, score in scores.items():
        if not np.isfinite(score).all():
            raise ValueError(f"the scores of group {name} are not finite")
    widths = global_widths(graph, scores, budget, normaliser)
    return mask_ops.keep_top({name: scores[name] for name in graph.groups}, widths)


def global_widths(
    graph: ChannelGraph, scores: Scores, budget: Budget, normaliser: Normaliser
) -> dict[str, int]:
    """The widths at which a ranking over the whole network first meets every target.

    Units of equal scores fall evenly, from the group of which most is left, so that a target is not
    passed by more than what the last unit costs (and the limits and rounding ask for).

    Groups of a scope are ranked among themselves, until the scope keeps no more than its fraction
    of their units.

    Raises:
      ValueError: targets beyond reach, also those that the scopes' widths leave beyond reach; a
        scope's fraction that its groups' limits do not allow; a group in two scopes.
    """
    budget.require_feasible(graph)
    low, high, steps = budget.bounds(graph)
    scale = _NORMALISERS[normaliser]
    ordered = [np.sort(scores[name] / max(scale(scores[name]), 1e-30)) for name in graph.groups]

    def first_met(groups: np.ndarray, met: Callable[[np.ndarray], bool]) -> np.ndarray:
        """Widths shrink as more units fall, so the least number that will do is bisected."""
        falls = np.concatenate([np.full(len(ordered[g]), i) for i, g in enumerate(groups)])
        gone = np.concatenate([np.arange(len(ordered[g])) / len(ordered[g]) for g in groups])
        order = falls[np.lexsort((gone, np.concatenate([ordered[g] for g in groups])))]
        size, floor, top, step = (x[groups] for x in (graph.sizes, low, high, steps))

        def widths_after(fallen: int) -> np.ndarray:
            left = size - np.bincount(order[:fallen], minlength=len(groups))
            return np.clip(np.where(left < top, left // step * step, top), floor, top)

        first, last = 0, len(order)
        while first < last:
            middle = (first + last) // 2
            done = met(widths_after(middle))
            first, last = (first, middle) if done else (middle + 1, last)
        return widths_after(first)

    widths = graph.sizes.copy()
    free = np.arange(len(widths))
    for pattern, fraction in budget.scopes.items():
        names = paths.select([pattern], graph.groups)
        groups = np.array([graph.names.index(name) for name in names])
        if not np.isin(groups, free).all():
            raise ValueError(f"budget.scopes: a group of {pattern!r} is in another scope, too")
        most = fraction * graph.sizes[groups].sum() + 1e-9
        widths[groups] = first_met(groups, lambda w, most=most: w.sum() <= most)
        if widths[groups].sum() > most:
            raise ValueError(
                f"budget.scopes[{pattern!r}]: {fraction} of its units are fewer than the limits of "
                f"its groups allow, {widths[groups].sum() / graph.sizes[groups].sum():.3g}"
            )
        free = np.setdiff1d(free, groups)

    def costs_fit(chosen: np.ndarray) -> bool:
        every = widths.copy()
        every[free] = chosen
        return bool(budget.fits(graph, every))

    if len(free):
        widths[free] = first_met(free, costs_fit)
    if not costs_fit(widths[free]):
        raise ValueError(
            f"budget.targets: {budget.targets!r} is beyond reach with what budget.scopes keep"
        )
    return dict(zip(graph.names, widths.tolist(), strict=True))


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
