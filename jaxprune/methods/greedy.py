"""Greedy elimination on the layer error, the selection of ThiNet (Luo et al. 2017).

arXiv 1707.06342. Channel after channel falls whose removal raises the error of the next layer's
output least; here on the second-order error `pᵀ G p`, which is that error exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jaxprune.budget import Budget
from jaxprune.graph import ChannelGraph
from jaxprune.methods.contract import Loss, Score, Selection, Widths
from jaxprune.methods.widths import allocate_widths, greedy_chooser, narrowed_groups
from jaxprune.statistics import Weighting, grams
from jaxprune.statistics.batches import Batches


def greedy(
    graph: ChannelGraph,
    fn: Callable[..., Any],
    variables: Any,
    batches: Batches,
    budget: Budget | Widths,
    loss: Loss,
    score: Score,
    key: jax.Array,
    *,
    positions: int | None = 16,
    weighting: Weighting = "energy",
) -> Selection:
    """Eliminates channels group by group; widths for a target come from sensitivity curves.

    `positions` and `weighting` are those of `statistics.grams`.
    """
    groups = narrowed_groups(graph, budget)
    matrices = grams(
        graph, fn, variables, batches, key, groups=groups, positions=positions, weighting=weighting
    )
    widths = allocate_widths(graph, fn, variables, batches, budget, loss, score, matrices)
    return Selection({**graph.full_masks(), **greedy_chooser(matrices)(widths)}, variables)
