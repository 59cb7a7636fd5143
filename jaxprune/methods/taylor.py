"""Taylor: channels whose removal hardly moves the loss, to first order (Molchanov et al. 2017).

"Pruning convolutional neural networks for resource efficient inference", arXiv 1611.06440.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jaxprune.budget import Budget
from jaxprune.graph import ChannelGraph
from jaxprune.methods.contract import Loss, Score, Selection, Widths
from jaxprune.methods.ranking import select
from jaxprune.statistics.batches import Batches
from jaxprune.statistics.gradients import mask_gradients


def taylor(
    graph: ChannelGraph,
    fn: Callable[..., Any],
    variables: Any,
    batches: Batches,
    budget: Budget | Widths,
    loss: Loss,
    score: Score,
    key: jax.Array,
) -> Selection:
    """Scores each unit by E|dL_n/dm|, the first-order change of the loss of one sample."""
    scores = mask_gradients(graph, fn, variables, batches, loss).absolute
    return Selection(select(graph, scores, budget, normaliser="none"), variables)
