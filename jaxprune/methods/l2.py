"""L2: filters of small norm fall (Li et al. 2017, "Pruning filters for efficient ConvNets").

arXiv 1608.08710; the Euclidean norm instead of the sum of magnitudes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jaxprune.budget import Budget
from jaxprune.graph import ChannelGraph
from jaxprune.methods.contract import Loss, Score, Selection, Widths
from jaxprune.methods.ranking import filter_norms, select
from jaxprune.statistics.batches import Batches


def l2(
    graph: ChannelGraph,
    fn: Callable[..., Any],
    variables: Any,
    batches: Batches,
    budget: Budget | Widths,
    loss: Loss,
    score: Score,
    key: jax.Array,
) -> Selection:
    """Scores each unit by the L2 norm of its filters, summed over the kernels that write it."""
    return Selection(select(graph, filter_norms(graph, variables, 2), budget), variables)
