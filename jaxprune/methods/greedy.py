"""Greedy elimination on the layer error, the selection of ThiNet (Luo et al. 2017).

arXiv 1707.06342. Channel after channel falls whose removal raises the error of the next layer's
output least; here on the second-order error `pᵀ G p`, which is that error exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxprune.methods.widths import Rates, allocated, greedy_chooser
from jaxprune.problem import Method, Problem, Selection
from jaxprune.statistics import Weighting, grams
from jaxprune.statistics.sensitivity import KEPT


@dataclass(frozen=True)
class Greedy(Method):
    """Eliminates channels group by group; widths for a target come from sensitivity curves."""

    rates: Rates = "sensitivity"
    """How targets become widths.
    Least predicted loss, one accuracy drop for all groups, or one fraction for all."""
    kept: tuple[float, ...] = KEPT
    """Kept fractions of a group's channels at which its sensitivity is measured, in (0, 1)."""
    positions: int | None = 16
    """Output positions of a consumer that are drawn from each image; None takes all of them."""
    weighting: Weighting = "energy"
    """Whether each consumer's error counts relative to its output, or as it is."""

    def prune(self, problem: Problem) -> Selection:
        """Eliminates by the Gram matrices of the groups that may get narrower."""
        matrices = grams(
            problem,
            groups=problem.prunable(),
            positions=self.positions,
            weighting=self.weighting,
        )
        choose = greedy_chooser(matrices)
        widths, curves = allocated(problem, choose, self.rates, self.kept)
        masks = {**problem.graph.full_masks(), **choose(widths)}
        figures = {} if curves is None else {"sensitivity": curves.accuracy}
        return Selection(masks, problem.variables, figures)
