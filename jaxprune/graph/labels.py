"""Channel ids on the axes of a value, and the ledger of what ties them together.

Every channel has an integer id, born on an axis of a variable (or where an equation makes a new
axis). A value's `Labels` say which ids lie along which of its axes:

* a *tracked* tuple of axes carries an id array of their joint shape. Most tuples are one axis;
  after a reshape C → (g, C/g) a channel lives on two axes together.
* a *free* axis is one along which the value is constant (a broadcast): it takes any size.
* any other axis is *fixed*: it keeps its size whatever is pruned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from jaxprune.graph.source import Reason

Axes = tuple[int, ...]
Ids = np.ndarray
Keep = Callable[[Ids], np.ndarray]
"""Which of the channels of an id array are kept, as a boolean array of its shape."""


@dataclass(frozen=True)
class Labels:
    """The channel ids along the axes of one value."""

    tracked: dict[Axes, Ids] = field(default_factory=dict)
    free: frozenset[int] = frozenset()

    def extent(self, axis: int, size: int) -> int | Ids:
        """The ids along `axis`, or its dense `size` where it carries none alone."""
        return self.tracked.get((axis,), size)  # pyright: ignore[reportReturnType]

    def without(self, axes: Iterable[int]) -> Labels:
        """The labels with the tracked tuples and free marks on `axes` gone."""
        gone = set(axes)
        return Labels(
            {a: i for a, i in self.tracked.items() if not gone & set(a)}, self.free - gone
        )

    def renumbered(self, new: dict[int, int]) -> Labels:
        """Axes renamed by `new`; an axis that it lacks must carry nothing."""
        tracked = {}
        for axes, ids in self.tracked.items():
            moved = tuple(new[a] for a in axes)
            order = tuple(np.argsort(moved))
            tracked[tuple(sorted(moved))] = ids.transpose(order) if len(axes) > 1 else ids
        return Labels(tracked, frozenset(new[a] for a in self.free if a in new))

    @property
    def joint(self) -> list[Axes]:
        """The tracked tuples of more than one axis."""
        return [axes for axes in self.tracked if len(axes) > 1]


PLAIN = Labels()


class Channels:
    """The id space of one analysis: births, ties and fixed ids. Only an analysis writes to it."""

    def __init__(self) -> None:
        self.count = 0
        self._ties: list[tuple[Ids, Ids]] = []
        self._fixed: list[tuple[Ids, Reason]] = []
        self._roots: Ids = np.empty(0, int)  # of the first ids, by the first ties
        self._rooted = 0  # how many ties that are

    def new(self, *shape: int) -> Ids:
        """Fresh ids in an array of `shape`."""
        size = math.prod(shape)
        ids = np.arange(self.count, self.count + size).reshape(shape)
        self.count += size
        return ids

    def mark(self) -> tuple[int, int, int]:
        """Where the ledger stands, for `forget`."""
        return self.count, len(self._ties), len(self._fixed)

    def forget(self, mark: tuple[int, int, int]) -> None:
        """Takes back every birth, tie and fixing since `mark`."""
        self.count, ties, fixed = mark
        del self._ties[ties:], self._fixed[fixed:]
        if self._rooted > ties:
            self._roots, self._rooted = self._roots[:0], 0
        self._roots = self._roots[: self.count]

    def tie(self, a: Ids, b: Ids) -> None:
        """Ties ids element by element: they stay or fall together."""
        if a is not b:
            a, b = np.broadcast_arrays(a, b)
            self._ties.append((a.ravel(), b.ravel()))

    def tie_along(self, ids: Ids, axis: int) -> Ids:
        """Ties all ids along one axis of an id array and returns the array without that axis."""
        first = np.take(ids, [0], axis)
        self.tie(ids, first)
        return first.squeeze(axis)

    def fix(self, ids: Ids, reason: Reason) -> None:
        """Fixes ids: they are never pruned. `reason` says what forbids it."""
        self._fixed.append((np.unique(ids), reason))

    def put_reason_first(
        self, mark: tuple[int, int, int], labels: Iterable[Labels], reason: Reason
    ) -> None:
        """Puts `reason` before those that fix single axes of `labels` since `mark`."""
        later = [ids for ids, _ in self._fixed[mark[2] :]]
        for held in labels if later else ():
            for axes, ids in held.tracked.items():
                told = ids[np.isin(ids, np.concatenate(later))]
                if len(axes) == 1 and told.size:
                    self._fixed.insert(mark[2], (np.unique(told), reason))

    def reach(self, ids: Ids) -> int:
        """How many channels stay or fall with these so far; 0 where any of them is fixed."""
        roots = self.roots()
        held = np.unique(roots[ids])
        stuck = np.zeros(self.count, bool)
        for fixed, _ in self._fixed:
            stuck[roots[fixed]] = True
        if stuck[held].any():
            return 0
        return int(np.bincount(roots)[held].sum())

    def reason_since(self, mark: tuple[int, int, int], ids: Ids) -> Reason | None:
        """The first reason since `mark` that fixes any of these very ids."""
        later = self._fixed[mark[2] :]
        return next((why for stuck, why in later if np.isin(ids, stuck).any()), None)

    def roots(self) -> np.ndarray:
        """For every id one that stands for all those that it is tied to, int (count,)."""
        if self._rooted == len(self._ties) and len(self._roots) == self.count:
            return self._roots
        roots = np.concatenate([self._roots, np.arange(len(self._roots), self.count)])
        ties = self._ties[self._rooted :]
        if ties:
            a, b = (roots[np.concatenate(side)] for side in zip(*ties, strict=True))
            a, b = a[a != b], b[a != b]
            touched = np.zeros(self.count, bool)
            touched[a] = touched[b] = True
            nodes, number = np.flatnonzero(touched), np.cumsum(touched) - 1
            ends = number[a], number[b]
            edges = coo_array((np.ones(len(a), np.int8), ends), shape=(len(nodes),) * 2)
            classes = connected_components(edges, directed=False)[1]
            _, first = np.unique(classes, return_index=True)
            renamed = np.arange(self.count)
            renamed[nodes] = nodes[first[classes]]
            roots = renamed[roots]
        self._roots, self._rooted = roots, len(self._ties)
        return roots

    def fixed_classes(self, roots: np.ndarray) -> dict[int, Reason]:
        """The fixed classes, each with the first reason that was given."""
        reasons: dict[int, Reason] = {}
        for ids, reason in self._fixed:
            for root in np.unique(roots[ids]):
                reasons.setdefault(int(root), reason)
        return reasons

    def own_reasons(self) -> list[Reason | None]:
        """For every id the first reason that fixes this very id, ties aside."""
        first = np.full(self.count, len(self._fixed))
        for number in reversed(range(len(self._fixed))):
            first[self._fixed[number][0]] = number
        reasons = [*(reason for _, reason in self._fixed), None]
        return [reasons[number] for number in first.tolist()]

    # What an equation can ask of its operands' labels.

    def split(self, labels: Labels, axes: Axes, kept_axis: int) -> Labels:
        """Brings a joint tuple down to one of its axes, tying the ids along the others."""
        ids = labels.tracked[axes]
        for axis in reversed([a for a in axes if a != kept_axis]):
            ids = self.tie_along(ids, axes.index(axis))
        tracked = {a: i for a, i in labels.tracked.items() if a != axes}
        return Labels({**tracked, (kept_axis,): ids}, labels.free)

    def singles(self, labels: Labels, touched: Iterable[int] = ()) -> Labels:
        """No joint tuples left: each is brought down to its first axis outside `touched`."""
        for axes in labels.joint:
            outside = [a for a in axes if a not in touched]
            labels = self.split(labels, axes, (outside or axes)[0])
        return labels

    def fix_axes(self, labels: Labels, axes: Iterable[int], reason: Reason) -> Labels:
        """Fixes what is tracked along `axes`, and lets them be neither tracked nor free."""
        axes = set(axes)
        for held, ids in labels.tracked.items():
            if axes & set(held):
                self.fix(ids, reason)
        return labels.without(axes)

    def unify(
        self, operands: Sequence[Labels], reason: Reason, skip: Axes = ()
    ) -> tuple[list[Labels], Labels]:
        """Ties operands of one shape to each other along every axis but those of `skip`.

        Returns the operands' labels, brought to one partition of the axes, and the common labels.
        A channel that meets a fixed axis is fixed.
        """
        operands = list(operands)
        while (clash := _clash(operands, skip)) is not None:
            operands = [
                self.split(o, clash, clash[0]) if clash in o.tracked else o for o in operands
            ]

        common: dict[Axes, Ids] = {}
        dropped: set[int] = set()
        for axes in {a: None for o in operands for a in o.tracked if not set(a) & set(skip)}:
            holders = [o.tracked[axes] for o in operands if axes in o.tracked]
            if any(axes not in o.tracked and not set(axes) <= o.free for o in operands):
                for ids in holders:
                    self.fix(ids, reason)
                dropped |= set(axes)
            else:
                for ids in holders[1:]:
                    self.tie(ids, holders[0])
                common[axes] = holders[0]
        everywhere = (
            frozenset.intersection(*(o.free for o in operands)) if operands else frozenset()
        )
        joint = {axes: ids for axes, ids in common.items() if len(axes) > 1}
        folded = {a for axes in joint for a in axes}
        operands = [
            Labels(
                {**{a: i for a, i in o.tracked.items() if not dropped & set(a)}, **joint},
                o.free - folded,
            )
            for o in operands
        ]
        return operands, Labels(common, everywhere)


def _clash(operands: Sequence[Labels], skip: Axes) -> Axes | None:
    """A joint tuple that some other operand does not hold as such, nor is free along."""
    for axes in {a: None for o in operands for a in o.joint if not set(a) & set(skip)}:
        if any(axes not in o.tracked and not set(axes) <= o.free for o in operands):
            return axes
    return None


# The physical layout of a sliced value: free axes have size 1, a joint tuple is one axis that
# holds the kept channels in row-major order, at the place of the tuple's first axis.


def layout(labels: Labels, ndim: int) -> list[Axes]:
    """The logical axes behind each physical axis, in order."""
    joint = {axes[0]: axes for axes in labels.joint}
    inside = {a for axes in labels.joint for a in axes[1:]}
    return [joint.get(a, (a,)) for a in range(ndim) if a not in inside]


def sliced_shape(labels: Labels, shape: tuple[int, ...], keep: Keep) -> tuple[int, ...]:
    """The physical shape of a sliced value whose dense shape is `shape`."""
    sizes = []
    for axes in layout(labels, len(shape)):
        if axes in labels.tracked:
            sizes.append(int(keep(labels.tracked[axes]).sum()))
        else:
            sizes.append(1 if axes[0] in labels.free else shape[axes[0]])
    return tuple(sizes)
