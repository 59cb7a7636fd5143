"""BatchNorm scale: channels with a small |γ| fall ("Network slimming", Liu et al. 2017).

arXiv 1708.06519. The paper trains with an L1 penalty on γ first: `sparse_training.batchnorm_l1`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxprune.budget import Budget
from jaxprune.graph import ChannelGraph, paths
from jaxprune.methods.contract import Loss, Score, Selection, Widths
from jaxprune.methods.ranking import select
from jaxprune.statistics.batches import Batches

_SCALE_NAMES = ("scale", "gamma", "weight")


def batchnorm_scale(
    graph: ChannelGraph,
    fn: Callable[..., Any],
    variables: Any,
    batches: Batches,
    budget: Budget | Widths,
    loss: Loss,
    score: Score,
    key: jax.Array,
) -> Selection:
    """Scores each unit by |γ|, the mean over the BatchNorm layers that it goes through."""
    leaves = dict(paths.leaves(variables))
    scores = {}
    for name, group in graph.groups.items():
        scales = [
            np.abs(np.asarray(leaves[m.path], np.float64))[m.positions].mean(axis=1)
            for m in group.members
            if is_scale(m.path, leaves[m.path])
        ]
        if not scales:
            raise ValueError(f"group {name} goes through no BatchNorm scale; use another method")
        scores[name] = np.mean(scales, axis=0)
    return Selection(select(graph, scores, budget, normaliser="none"), variables)


def is_scale(path: str, leaf: Any) -> bool:
    """Whether a variable is the scale γ of a normalisation: by its name, and one axis."""
    return path.rpartition("/")[2] in _SCALE_NAMES and np.ndim(leaf) == 1
