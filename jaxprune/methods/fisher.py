"""Fisher: channels with a small diagonal of the Fisher information of their mask.

Theis et al. 2018, "Faster gaze prediction with dense networks and Fisher pruning",
arXiv 1801.05787; the score of one channel in Liu et al. 2021, arXiv 2108.00708.
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


def fisher(
    graph: ChannelGraph,
    fn: Callable[..., Any],
    variables: Any,
    batches: Batches,
    budget: Budget | Widths,
    loss: Loss,
    score: Score,
    key: jax.Array,
) -> Selection:
    """Scores each unit by 1/2 E[(dL_n/dm)^2]; coupled places are summed before the square."""
    scores = mask_gradients(graph, fn, variables, batches, loss).square
    scores = {name: score / 2 for name, score in scores.items()}
    return Selection(select(graph, scores, budget, normaliser="none"), variables)
