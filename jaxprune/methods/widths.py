"""Widths for methods that choose channels group by group and are given a target instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np

from jaxprune.budget import Curves, allocate
from jaxprune.problem import Problem
from jaxprune.search.greedy import greedy_elimination
from jaxprune.statistics.sensitivity import KEPT, Chooser, sensitivity

Rates = Literal["sensitivity", "tolerance", "proportional"]
"""How targets become widths: see `budget.allocate`."""


def allocated(
    problem: Problem, choose: Chooser, rates: Rates = "sensitivity", kept: Sequence[float] = KEPT
) -> tuple[dict[str, int], Curves | None]:
    """The budget's fixed widths, or those that it allows by the groups' sensitivity.

    Second the curves, where they were measured.
    """
    if problem.budget.widths:
        problem.budget.require_feasible(problem.graph)
        return dict(problem.budget.widths), None
    curves = None
    if rates != "proportional":
        curves = sensitivity(problem, choose, kept, groups=problem.prunable())
    return allocate(curves, problem.graph, problem.budget, rates).widths, curves


def greedy_chooser(grams: Mapping[str, np.ndarray]) -> Chooser:
    """`widths → masks` by greedy elimination on the groups' Gram matrices."""
    on_device = {name: jnp.asarray(gram, jnp.float32) for name, gram in grams.items()}
    return lambda widths: {
        name: greedy_elimination(gram, widths[name]).astype(jnp.float32)
        for name, gram in on_device.items()
    }
