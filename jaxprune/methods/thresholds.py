"""Methods whose papers decide themselves how many units fall: those below a threshold."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jaxprune.budget import Budget, CostModel
from jaxprune.masks import Masks, keep_top
from jaxprune.methods.ranking import select
from jaxprune.problem import Method, Problem


@dataclass(frozen=True)
class Threshold(Method):
    """A method that scores units beside a threshold, below which its paper lets them fall."""

    meets_budget: ClassVar[bool] = False

    budgeted: bool = False
    """Whether the threshold is moved, for the whole network at once, until the budget is just met.
    Else the paper's own decides what falls; least widths are kept, and other budgets refused."""

    def require(self, model: CostModel, budget: Budget) -> None:
        """Refuses, before any work, a budget where the paper decides.

        Raises:
          ValueError: as `Method.require`; a target, widths or largest widths, unless `budgeted`.
        """
        super().require(model, budget)
        if self.budgeted:
            return
        high = _unforced(budget).bounds(model)[1]
        asked = [f"{q}/{by:g}" for q, by in budget.factors.items() if by > 1]
        if budget.widths:
            asked = ["fixed widths"]
        elif not asked and (high < model.sizes).any():
            asked = ["largest widths (budget.limits)"]
        if asked:
            raise ValueError(
                f"{type(self).__name__} lets its paper's threshold decide how much falls, and the "
                f"budget asks for {','.join(asked)}: budgeted=True (--method.budgeted) moves "
                "the threshold until the budget is met, and a target of params/1 asks for nothing"
            )

    def keep(self, problem: Problem, ratios: Mapping[str, np.ndarray]) -> Masks:
        """Which units stay.

        Args:
          problem: its graph and budget.
          ratios: per group (units,), the score divided by the paper's threshold: below 1 it falls.
        """
        graph, budget = problem.graph, problem.budget
        if self.budgeted:
            return select(graph, ratios, budget, "none")
        low, _, step = _unforced(budget).bounds(graph)
        above = np.array([np.count_nonzero(ratios[name] >= 1) for name in graph.names])
        rounded = np.minimum(-(-above // step) * step, graph.sizes)
        widths = np.maximum(rounded, low).tolist()
        return keep_top(
            {name: np.asarray(ratios[name]) for name in graph.names},
            dict(zip(graph.names, widths, strict=True)),
        )


def _unforced(budget: Budget) -> Budget:
    """Without the floor, which is there for what a target would take."""
    return dataclasses.replace(budget, floor=0.0)
