"""FPGM: filters near the geometric median of their layer fall (He et al. 2019).

"Filter pruning via geometric median for deep neural networks acceleration", arXiv 1811.00250.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from scipy.spatial.distance import pdist, squareform

from jaxprune.budget import Budget
from jaxprune.graph import ChannelGraph
from jaxprune.methods.contract import Loss, Score, Selection, Widths
from jaxprune.methods.ranking import kernels, select
from jaxprune.statistics.batches import Batches


def geometric_median(
    graph: ChannelGraph,
    fn: Callable[..., Any],
    variables: Any,
    batches: Batches,
    budget: Budget | Widths,
    loss: Loss,
    score: Score,
    key: jax.Array,
) -> Selection:
    """Scores each unit by the sum of the Euclidean distances of its filter to all others."""
    scores = {}
    for name, group in graph.groups.items():
        written = kernels(graph, variables, group)
        scores[name] = np.sum([squareform(pdist(k)).sum(axis=1) for k in written], axis=0)
    return Selection(select(graph, scores, budget), variables)
