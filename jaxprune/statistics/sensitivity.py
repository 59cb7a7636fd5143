"""How loss and score fall as one group after the other gets narrower, nothing else touched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxprune import masks as mask_ops
from jaxprune.budget import Curves
from jaxprune.graph import ChannelGraph
from jaxprune.masks import Masks
from jaxprune.statistics.batches import Batches
from jaxprune.statistics.population import Metric, evaluate_masks

KEPT = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""The kept fractions at which sensitivity is measured by default."""

Chooser = Callable[[Mapping[str, int]], Masks]
"""`widths → masks`: which units of each group stay at a width."""


def sensitivity(
    graph: ChannelGraph,
    fn: Callable[..., Any],
    variables: Any,
    batches: Batches,
    choose: Chooser,
    kept: Sequence[float],
    loss: Metric,
    score: Metric,
    *,
    groups: Sequence[str] | None = None,
    mesh: Mesh | None = None,
) -> Curves:
    """Loss and score of every (group, kept fraction) pair, all of them as one population of masks.

    The curves of Hu et al. 2018 (arXiv 1805.11394), step A; that the channels which stay are chosen
    by a cheap rule there is reconstructed.

    Args:
      graph: from `trace`.
      fn: `fn(variables, inputs)`, in evaluation mode.
      variables: the dense variables.
      batches: held-out batches, labelled.
      choose: which units stay at a width.
      kept: fractions of a group's units that are kept, in (0, 1); 1 is added.
      loss: `loss(outputs, batch)`.
      score: `score(outputs, batch)`.
      groups: the groups that are measured, all by default; the others' curves are flat.
      mesh: splits the work as in `evaluate_masks`.
    """
    grid = np.unique([*kept, 1.0])
    groups = list(graph.groups) if groups is None else list(groups)
    population = _one_group_at_a_time(graph, groups, choose, grid[:-1])
    metrics = {"loss": loss, "score": score}
    measured = evaluate_masks(graph, fn, variables, population, batches, metrics, mesh=mesh)
    curves: Mapping[str, dict[str, np.ndarray]] = {"loss": {}, "score": {}}
    for metric, values in measured.items():
        whole, each = values[0], values[1:].reshape(len(groups), -1)
        measured_rows = dict(zip(groups, each, strict=True))
        for name in graph.names:
            row = measured_rows.get(name, np.full(len(grid) - 1, whole))
            curves[metric][name] = np.append(row, whole)
    return Curves(grid, loss=curves["loss"], accuracy=curves["score"])


def _one_group_at_a_time(
    graph: ChannelGraph, groups: Sequence[str], choose: Chooser, grid: np.ndarray
) -> Masks:
    """The full masks, then group by group the masks that narrow it alone, over the grid."""
    full = graph.full_masks()
    sizes = {name: group.size for name, group in graph.groups.items()}
    narrowed = [
        choose({n: int(np.clip(round(fraction * c), 1, c)) for n, c in sizes.items()})
        for fraction in grid
    ]
    population = [{**full, name: masks[name]} for name in groups for masks in narrowed]
    return mask_ops.stack([full, *population])
