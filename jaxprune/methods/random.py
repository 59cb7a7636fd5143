"""Random: the control that every criterion has to beat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxprune.budget import Budget
from jaxprune.graph import ChannelGraph
from jaxprune.methods.contract import Loss, Score, Selection, Widths
from jaxprune.methods.ranking import select
from jaxprune.statistics.batches import Batches


def random(
    graph: ChannelGraph,
    fn: Callable[..., Any],
    variables: Any,
    batches: Batches,
    budget: Budget | Widths,
    loss: Loss,
    score: Score,
    key: jax.Array,
) -> Selection:
    """Scores each unit with a number drawn from the key."""
    keys = jax.random.split(key, len(graph.groups))
    scores = {
        name: np.asarray(jax.random.uniform(k, (group.size,)))
        for k, (name, group) in zip(keys, graph.groups.items(), strict=True)
    }
    return Selection(select(graph, scores, budget), variables)
