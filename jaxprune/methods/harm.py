"""What a selection may have destroyed, said before anything is trained on it."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import numpy as np

from jaxprune.batches import count_of, inputs_of, labels_of
from jaxprune.masks import Masks, stack
from jaxprune.problem import Problem, Selection, accuracy
from jaxprune.statistics.population import evaluate_masks


class PruningWarning(UserWarning):
    """A selection that is within its budget, and yet hardly what anybody wants."""


def warn_of_harm(problem: Problem, selection: Selection) -> list[str]:
    """Warns of groups that are left with one unit, and of a network that is at chance as cut.

    Chance is the share of the commonest label in the calibration batches, with two standard
    deviations of it; it is known for the default score alone. A network that was at chance before
    lost nothing.

    Returns:
      the sentences of the warnings.
    """
    found = [*_narrow(problem, selection), *_at_chance(problem, selection)]
    for text in found:
        warnings.warn(text, PruningWarning, stacklevel=3)
    return found


def _narrow(problem: Problem, selection: Selection) -> list[str]:
    if problem.budget.widths:  # as they were asked for
        return []
    groups = problem.graph.groups
    widths = problem.graph.widths(selection.masks)
    narrow = [name for name, width in widths.items() if width == 1 < groups[name].size]
    if not narrow:
        return []
    more = f" and {len(narrow) - 3} more" if len(narrow) > 3 else ""
    return [
        f"one unit alone is left of {', '.join(narrow[:3])}{more}: raise budget.floor or "
        "budget.min_channels, or set budget.limits"
    ]


def _at_chance(problem: Problem, selection: Selection) -> list[str]:
    if problem.score is not accuracy:
        return []
    labels = np.concatenate([np.ravel(labels_of(batch)) for batch in problem.batches])
    count = sum(count_of(inputs_of(batch)) for batch in problem.batches)
    commonest = np.unique(labels, return_counts=True)[1].max() / len(labels)
    chance = commonest + 2 * math.sqrt(commonest * (1 - commonest) / count)
    calibrated = dataclasses.replace(problem, heldout=None)

    def score(variables: Any, masks: Masks) -> float:
        return float(evaluate_masks(calibrated.at(variables), stack([masks]))["score"][0])

    reached = score(selection.variables, selection.masks)
    if reached > chance or score(problem.variables, problem.graph.full_masks()) <= chance:
        return []
    return [
        f"as cut, the network is at chance on the calibration batches ({reached:.1%}, where the "
        f"commonest label alone gives {commonest:.1%}): its BatchNorm statistics taken anew or a "
        "fine-tune may bring it back; else ask for less, or try another method"
    ]
