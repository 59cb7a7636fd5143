"""The ordinary criteria: a score for each unit, and the highest stay.

Where the widths are given each group is ranked by itself, else all units over the whole network
(`ranking.select`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

import jax
import numpy as np
from scipy.spatial.distance import pdist, squareform

from jaxprune.graph import paths
from jaxprune.methods.ranking import Normaliser, Scores, filter_norms, kernels, select
from jaxprune.methods.rounds import Schedule, in_rounds
from jaxprune.problem import Method, Problem, Selection
from jaxprune.statistics import mask_gradients

_SCALE_NAMES = ("scale", "gamma", "weight")


@dataclass(frozen=True)
class Criterion(Method):
    """A method that ranks units by `scores`, per group (units,), higher is more important."""

    keeps_scopes: ClassVar[bool] = True

    schedule: Schedule = field(default_factory=Schedule)
    """In how many rounds the network is pruned, and the training between them."""
    normaliser: Normaliser = "l2"
    """What a group's scores are divided by before they meet those of other groups: their mean,
    largest, sum or Euclidean norm, or nothing. By measurement: `scripts/ranking_options.py`."""

    def __post_init__(self):
        if self.normaliser not in get_args(Normaliser):
            known = ", ".join(get_args(Normaliser))
            raise ValueError(f"normaliser is one of {known}, not {self.normaliser!r}")

    def scores(self, problem: Problem) -> Scores:
        """The importance of every unit."""
        raise NotImplementedError

    def prune(self, problem: Problem) -> Selection:
        """Keeps the units with the highest scores, round after round."""
        if self.schedule.name == "joint":
            return self.choose(problem)
        widths = None
        if self.schedule.name == "layerwise":
            widths = problem.graph.widths(self.choose(problem).masks)
        budgets = self.schedule.budgets(problem, widths)
        return in_rounds(problem, self.schedule, budgets, self.choose, {})

    def choose(self, problem: Problem) -> Selection:
        """Keeps the units with the highest scores."""
        scores = self.scores(problem)
        masks = select(problem.graph, scores, problem.budget, self.normaliser)
        return Selection(masks, problem.variables, {"score": scores})


@dataclass(frozen=True)
class Random(Criterion):
    """A number drawn from the key: the control that every criterion has to beat."""

    def scores(self, problem: Problem) -> Scores:
        """Uniform in [0, 1)."""
        groups = problem.graph.groups
        keys = jax.random.split(problem.key, len(groups))
        return {
            name: np.asarray(jax.random.uniform(key, (group.size,)))
            for key, (name, group) in zip(keys, groups.items(), strict=True)
        }


@dataclass(frozen=True)
class L1(Criterion):
    """The L1 norm of the filter (Li et al. 2017, arXiv 1608.08710)."""

    def scores(self, problem: Problem) -> Scores:
        """`Σ |w|` over the filters of a unit."""
        return filter_norms(problem.graph, problem.variables, 1)


@dataclass(frozen=True)
class L2(Criterion):
    """The L2 norm of the filter (He et al. 2018, arXiv 1808.06866)."""

    def scores(self, problem: Problem) -> Scores:
        """`‖w‖₂`, summed over the filters of a unit."""
        return filter_norms(problem.graph, problem.variables, 2)


@dataclass(frozen=True)
class GeometricMedian(Criterion):
    """FPGM: filters near the geometric median of their layer fall (He et al. 2019).

    "Filter pruning via geometric median for deep neural networks acceleration", arXiv 1811.00250.
    """

    def scores(self, problem: Problem) -> Scores:
        """The sum of the Euclidean distances of a unit's filter to all others."""
        scores = {}
        for name, group in problem.graph.groups.items():
            written = kernels(problem.graph, problem.variables, group)
            scores[name] = np.sum([squareform(pdist(k)).sum(axis=1) for k in written], axis=0)
        return scores


@dataclass(frozen=True)
class BatchNormScale(Criterion):
    """Network slimming: channels with a small BatchNorm scale |γ| fall (Liu et al. 2017).

    arXiv 1708.06519. The paper trains with `sparse_training.batchnorm_l1` first.
    """

    def scores(self, problem: Problem) -> Scores:
        """|γ|, the mean over the BatchNorm layers that a unit goes through."""
        leaves = dict(paths.leaves(problem.variables))
        scores = {}
        for name, group in problem.graph.groups.items():
            scales = [
                np.abs(np.asarray(leaves[m.path], np.float64))[m.positions].mean(axis=1)
                for m in group.members
                if is_scale(m.path, leaves[m.path])
            ]
            if not scales:
                raise ValueError(
                    f"group {name} goes through no BatchNorm scale; use another method"
                )
            scores[name] = np.mean(scales, axis=0)
        return scores


@dataclass(frozen=True)
class Taylor(Criterion):
    """Channels whose removal hardly moves the loss, to first order (Molchanov et al. 2017).

    "Pruning convolutional neural networks for resource efficient inference", arXiv 1611.06440.
    """

    def scores(self, problem: Problem) -> Scores:
        """`E |dL_n/dm|`, the first-order change of the loss of one sample."""
        return mask_gradients(problem).absolute


@dataclass(frozen=True)
class Fisher(Criterion):
    """Channels with a small diagonal of the Fisher information of their mask fall.

    Theis et al. 2018, "Faster gaze prediction with dense networks and Fisher pruning", arXiv
    1801.05787; the score of one channel in Liu et al. 2021, arXiv 2108.00708.
    """

    def scores(self, problem: Problem) -> Scores:
        """`1/2 E (dL_n/dm)²`; coupled places are summed before the square."""
        return {name: square / 2 for name, square in mask_gradients(problem).square.items()}


def is_scale(path: str, leaf: Any) -> bool:
    """Whether a variable is the scale γ of a normalisation: by its name, and one axis."""
    return path.rpartition("/")[2] in _SCALE_NAMES and np.ndim(leaf) == 1
