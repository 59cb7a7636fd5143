"""Genetic channel pruning, the system of Hu et al. 2018 (arXiv 1805.11394).

Follow one array: `statistics.grams` turns calibration batches into a matrix G per group, so that
the error of a layer's output under mask m is `pᵀ G p`, p = 1 − m; `search.search_groups` evolves
masks of the group's width on that error, by roulette wheel, crossover, mutation and elites under
one jit; what comes out is the mask by which `graph.slice` cuts. Distillation follows in `train`.

The error function, roulette wheel and elites are the paper's; operators and numbers are
reconstructed (see `search.genetic`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.budget import Budget, Curves, allocate
from jaxprune.methods.constrained import constrained
from jaxprune.methods.rounds import Schedule, in_rounds
from jaxprune.methods.widths import Rates, allocated, greedy_chooser
from jaxprune.problem import Method, Problem, Selection
from jaxprune.reconstruction import least_squares, refitted, unplaced
from jaxprune.search import SearchConfig, refit, search_groups
from jaxprune.statistics import Weighting, grams
from jaxprune.statistics.moments import Moments, moments
from jaxprune.statistics.sensitivity import KEPT


@dataclass(frozen=True)
class Genetic(Method):
    """Searches the masks of all groups on the error of what reads them."""

    search: SearchConfig = field(default_factory=SearchConfig)
    """The genetic algorithm, and what polishes its result."""
    rates: Rates = "sensitivity"
    """How targets become widths.
    Least predicted loss, one accuracy drop for all groups as in the paper, or one fraction."""
    kept: tuple[float, ...] = KEPT
    """Kept fractions of a group's channels at which its sensitivity is measured, in (0, 1)."""
    schedule: Schedule = field(default_factory=Schedule)
    """In how many rounds the network is pruned, and the training between them."""
    positions: int | None = 16
    """Output positions of a consumer that are drawn from each image; None takes all of them."""
    weighting: Weighting = "energy"
    """Whether each consumer's error counts relative to its output, or as it is."""

    def __post_init__(self):
        if not self.kept or not all(0 < fraction < 1 for fraction in self.kept):
            raise ValueError(f"kept must hold fractions in (0, 1), not {list(self.kept)}")
        if self.positions is not None and self.positions < 1:
            raise ValueError(f"positions must be at least 1, not {self.positions}")
        if self.search.constraint is not None and self.schedule.name != "joint":
            raise ValueError(
                f"search.constraint is held by the one network that schedule joint leaves, not by "
                f"the rounds of {self.schedule.name}"
            )

    def prune(self, problem: Problem) -> Selection:
        """Rates by sensitivity; then for each layer matrix, population, elites, mask, distil.

        The figures are the sensitivity, and of each group that got narrower the errors, their
        proven gaps to the optimum, what no variable takes up of a refit's shifts (`left`), and the
        search's history.
        """
        problem = dataclasses.replace(problem, key=jax.random.fold_in(problem.key, 0))
        matrices = self.matrices(problem)
        choose = greedy_chooser(matrices)
        widths, curves = allocated(problem, choose, self.rates, self.kept)
        if self.schedule.name == "joint":
            fixed = dataclasses.replace(problem, budget=Budget(widths=widths))
            found = self.choose(fixed, matrices)
        else:
            budgets = self.schedule.budgets(problem, widths)
            budgets = self._narrowing(problem, budgets, widths, curves)
            found = in_rounds(problem, self.schedule, budgets, self.choose, self._figures())
        if curves is None:
            return found
        measured = {"sensitivity": curves.accuracy, "sensitivity_loss": curves.loss}
        return found._replace(figures={**measured, **found.figures})

    def matrices(self, problem: Problem) -> dict[str, np.ndarray]:
        """The Gram matrices of the groups that may get narrower."""
        return grams(
            problem,
            groups=problem.prunable(),
            positions=self.positions,
            weighting=self.weighting,
        )

    def choose(
        self, problem: Problem, matrices: Mapping[str, np.ndarray] | None = None
    ) -> Selection:
        """Searches at the budget's fixed widths; with `reconstruction` the kernels are refitted."""
        graph, variables, widths = problem.graph, problem.variables, problem.budget.widths
        groups = problem.prunable()
        if matrices is None:
            matrices = self.matrices(problem)
        layers = {}
        if self.search.reconstruction:
            layers = moments(problem, groups=groups, positions=self.positions)
        consumers = {name: [consumer_of(m) for m in read] for name, read in layers.items()}
        matrices = {name: matrices[name] for name in groups}
        key = jax.random.fold_in(problem.key, 1)
        found = search_groups(matrices, widths, key, self.search, consumers or None)
        left: dict[str, float] = {}
        for name, read in layers.items():
            kept = np.flatnonzero(np.asarray(found.masks[name]))
            for layer in read:
                fit = least_squares(layer, kept)
                variables = refitted(graph, variables, name, layer, kept, fit)
                left[name] = max(left.get(name, 0.0), unplaced(layer, fit))
        figures = {
            "error": found.errors,
            "error_plain": found.errors_plain,
            "error_polished": found.errors_polished,
            "error_refitted": found.refit_errors,
            "gap": found.gaps,
            "left": left,
            "history": found.history,
        }
        masks = {**graph.full_masks(), **found.masks}
        if self.search.constraint is not None:
            masks, kept = constrained(problem, masks, matrices, found.finalists, self.search)
            figures |= kept
        return Selection(masks, variables, figures)

    def _figures(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the figures of one group's search."""
        numbers = ("error", "error_plain", "error_polished", "error_refitted", "gap", "left")
        return {**dict.fromkeys(numbers, ()), "history": (self.search.generations,)}

    def _narrowing(
        self,
        problem: Problem,
        budgets: list[Budget],
        widths: Mapping[str, int],
        curves: Curves | None,
    ) -> list[Budget]:
        """The rounds' targets as widths: never wider than before, nor narrower than at the end."""
        before = {name: group.size for name, group in problem.graph.groups.items()}
        fixed = []
        for budget in budgets:
            chosen = budget.widths or allocate(curves, problem.graph, budget, self.rates).widths
            before = {n: max(widths[n], min(before[n], chosen[n])) for n in before}
            fixed.append(dataclasses.replace(budget, widths=before))
        return fixed


def consumer_of(layer: Moments) -> refit.Regression:
    """A consumer as the search judges it after its refit, which takes up a shift where it can."""
    second = layer.second if layer.outlet.path is None else layer.centred()[0]
    return refit.Regression(
        jnp.asarray(second, jnp.float32),
        jnp.asarray(layer.kernel.T, jnp.float32),
        1 / max(layer.energy, 1e-30),
    )
