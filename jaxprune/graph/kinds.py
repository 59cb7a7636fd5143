"""What the units of attention's groups are: heads, key-value heads, or channels of a head's width.

It is told from the products of two activations and from where units lie, never from names. The
batch axes of such a product (of queries and keys) are heads; the axis that is summed away, or that
passes, is a head's width. In a kernel whole heads are runs of positions and a channel of their
width is the same position of every run, or heads and width have an axis each. Where the products
and the kernels do not say the same, nothing is said: a channel that is weighted with an activation
of its own is no head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jaxprune.graph.labels import Ids

if TYPE_CHECKING:
    from jaxprune.graph.analysis import Analysis

Axis = tuple[str, int, Ids]
"""A variable's path, an axis of it, and the ids along that axis."""


@dataclass(frozen=True)
class Kinds:
    """What the products of two activations tell of each class of tied channels.

    Attributes:
      heads: int (classes,): how many heads of a product a class is, 0 where it is none.
      width: bool (classes,): whether a product sums a class away, or passes it beside heads.
      summed: int (classes,): what the first product with a class as heads sums over.
      sides: int (classes, 2): the variable axes that the two operands' heads come from, or -1.
      axes: of all variables, each with the classes along it.
    """

    heads: np.ndarray
    width: np.ndarray
    summed: np.ndarray
    sides: np.ndarray
    axes: Sequence[tuple[str, int, np.ndarray]]

    def of(self, classes: np.ndarray, positions: dict[int, np.ndarray]) -> str:
        """What the units of a group are, or nothing.

        Args:
          classes: int (units,).
          positions: by number of the axis that writes them: int (units, repeats).
        """
        places = positions.items()
        if (self.heads[classes] > 0).all():
            if not any(_in_runs(p) or self._beside(n, self.width) for n, p in places):
                return ""
            each = self._queries(classes, positions)
            return "heads" if each == 1 else f"key-value heads, each of {each} query heads"
        widths = any(_interleaved(p) or self._beside(n, self.heads) for n, p in places)
        return "head width" if widths and self.width[classes].all() else ""

    def _beside(self, number: int, marks: np.ndarray) -> bool:
        """Whether the variable has marked classes on another axis."""
        path, axis, _ = self.axes[number]
        others = (a for a in self.axes if a[0] == path and a[1] != axis)
        return any(marks[classes].any() for *_, classes in others)

    def _queries(self, classes: np.ndarray, positions: dict[int, np.ndarray]) -> int:
        """How many query heads read one unit."""
        first = classes[0]
        repeats = [positions[n].shape[1] for n in self.sides[first].tolist() if n in positions]
        if len(repeats) == 2:
            most, least = max(repeats), min(repeats)
            if most % least == 0 and least in (1, self.summed[first]):
                return max(most // least, int(self.heads[first]))
        return int(self.heads[first])


def _in_runs(positions: np.ndarray) -> bool:
    """Whether each unit has two positions or more side by side, at every place where it lies."""
    near = np.diff(positions, axis=1) == 1
    if not near.size:
        return False
    alone = ~np.pad(near, ((0, 0), (1, 0))) & ~np.pad(near, ((0, 0), (0, 1)))
    return not alone.any()


def _interleaved(positions: np.ndarray) -> bool:
    """Whether all units lie at the same distances, each at several places with others between."""
    distances = positions - positions[:, :1]
    return bool((distances == distances[0]).all() and distances[0, -1] >= positions.shape[1])


def find_kinds(analysis: Analysis, roots: np.ndarray, axes: Sequence[Axis]) -> Kinds:
    """From the products of two activations; the first that has a class as heads decides on it."""
    count = int(roots.max(initial=-1)) + 1
    heads, summed = np.zeros(count, int), np.zeros(count, int)
    width, sides = np.zeros(count, bool), np.full((count, 2), -1)
    owner = np.full(len(roots), -1)
    for number, (*_, ids) in enumerate(axes):
        owner[ids] = number
    for node in analysis.block.all_nodes(rules=False) if analysis.block else ():
        if node.eqn.primitive.name != "dot_general" or node.kernels:
            continue
        contracted, batch = node.eqn.params["dimension_numbers"]
        new = heads == 0
        for side, (labels, var) in enumerate(zip(node.relation.ins, node.eqn.invars, strict=True)):
            for (axis, *_), ids in labels.tracked.items():
                classes, first, repeats = np.unique(
                    roots[ids.ravel()], return_index=True, return_counts=True
                )
                if axis not in batch[side]:
                    width[classes] = True
                    continue
                told = new[classes]
                heads[classes[told]] = repeats[told]
                summed[classes[told]] = math.prod(var.aval.shape[a] for a in contracted[side])
                sides[classes[told], side] = owner[ids.ravel()[first[told]]]
    return Kinds(heads, width, summed, sides, [(p, a, roots[ids]) for p, a, ids in axes])
