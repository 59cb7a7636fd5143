"""Genetic channel pruning, the system of Hu et al. 2018 (arXiv 1805.11394).

Follow one array: `statistics.grams` turns calibration batches into a matrix G per group, so that
the error of a layer's output under mask m is `pᵀ G p`, p = 1 − m; `search.search_groups` evolves
masks of the group's width on that error, by roulette wheel, crossover, mutation and elites under
one jit; what comes out is the mask by which `graph.slice` cuts. Distillation follows in `train`.

The error function, roulette wheel and elites are the paper's; operators and numbers are
reconstructed (see `search.genetic`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxprune.budget import Budget
from jaxprune.graph import ChannelGraph
from jaxprune.methods.contract import Loss, Score, Selection, Widths
from jaxprune.methods.widths import allocate_widths, narrowed_groups
from jaxprune.search import SearchConfig, refit, search_groups
from jaxprune.statistics import Weighting, grams
from jaxprune.statistics.batches import Batches
from jaxprune.statistics.hessian import LayerHessian, hessians, with_kernel


def genetic(
    graph: ChannelGraph,
    fn: Callable[..., Any],
    variables: Any,
    batches: Batches,
    budget: Budget | Widths,
    loss: Loss,
    score: Score,
    key: jax.Array,
    *,
    config: SearchConfig | None = None,
    positions: int | None = 16,
    weighting: Weighting = "energy",
) -> Selection:
    """Searches the masks of all groups on the error of what reads them.

    Args beyond the contract's:
      config: the search; its defaults when None.
      positions: output positions per calibration image and consumer; None takes all.
      weighting: how the errors of a group's consumers are added; see `statistics.grams`.

    Returns:
      The selection. Its variables are the given ones, or with `reconstruction` those whose kernels
      are refitted to the kept channels. `details` has the errors, their proven gaps to the optimum
      and the search's history of each group that got narrower.
    """
    config = config or SearchConfig()
    calibration_key, search_key = jax.random.split(key)
    groups = narrowed_groups(graph, budget)
    matrices = grams(
        graph, fn, variables, batches, calibration_key,
        groups=groups, positions=positions, weighting=weighting,
    )  # fmt: skip
    widths = allocate_widths(graph, fn, variables, batches, budget, loss, score, matrices)
    layers: dict[str, list[LayerHessian]] = {}
    if config.reconstruction:
        layers = hessians(
            graph, fn, variables, batches, calibration_key, groups=groups, positions=positions
        )
    consumers = {
        name: [refit.Consumer(h.hessian, h.kernel, 1 / h.energy) for h in read]
        for name, read in layers.items()
    }
    found = search_groups(matrices, widths, search_key, config, consumers or None)
    for name, read in layers.items():
        mask = found.masks[name].astype(bool)
        for layer, consumer in zip(read, consumers[name], strict=True):
            kernel = refit.refit_kernel(mask, consumer, widths[name])
            kept = np.flatnonzero(np.asarray(mask))
            variables = with_kernel(graph, variables, name, layer, kept, kernel)
    details = {
        "errors": found.errors,
        "errors_plain": found.errors_plain,
        "errors_polished": found.errors_polished,
        "refit_errors": found.refit_errors,
        "history": found.history,
        "bounds": found.bounds,
        "gaps": found.gaps,
    }
    return Selection({**graph.full_masks(), **found.masks}, variables, details)
