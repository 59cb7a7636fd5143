"""What a selection may have destroyed, said before anything is trained on it."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxprune.batches import labels_of
from jaxprune.masks import Masks, stack
from jaxprune.problem import Problem, Selection, accuracy
from jaxprune.statistics.population import evaluate_masks


class PruningWarning(UserWarning):
    """A selection that is within its budget, and yet hardly what anybody wants."""


def warn(sentences: Sequence[str]) -> None:
    """Warns with each sentence."""
    for text in sentences:
        warnings.warn(text, PruningWarning, stacklevel=3)


def narrow_groups(problem: Problem, selection: Selection) -> list[str]:
    """What there is to say of groups that are left with one unit, unless that was asked for."""
    if problem.budget.widths:
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


def network_at_chance(problem: Problem, selection: Selection) -> list[str]:
    """What there is to say of a network that is at chance as cut, on the calibration batches.

    Chance is known for the default score alone. A network that was at chance before lost nothing.
    """
    if problem.score is not accuracy:
        return []
    labels = np.concatenate([np.ravel(labels_of(batch)) for batch in problem.batches])
    calibrated = dataclasses.replace(problem, heldout=None)

    def score(variables: Any, masks: Masks) -> float:
        return float(evaluate_masks(calibrated.at(variables), stack([masks]))["score"][0])

    found = at_chance(score(selection.variables, selection.masks), labels)
    if found and not at_chance(score(problem.variables, problem.graph.full_masks()), labels):
        return [
            f"as cut, the network {found}: its BatchNorm statistics taken anew or a fine-tune may "
            "bring it back; else ask for less, or try another method"
        ]
    return []


def at_chance(reached: float, labels: np.ndarray) -> str:
    """That this accuracy is chance, where it is: the commonest label's share, with two deviations.

    Args:
      reached: the accuracy.
      labels: those that it was measured with, int (N,).
    """
    commonest = np.unique(labels, return_counts=True)[1].max() / labels.size
    if reached > commonest + 2 * math.sqrt(commonest * (1 - commonest) / labels.size):
        return ""
    return (
        f"is at chance on the calibration batches ({reached:.1%}, where the commonest label alone "
        f"gives {commonest:.1%})"
    )
