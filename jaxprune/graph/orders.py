"""Which groups may be reordered: whether each equation commutes with moving their units.

Moving units says of every array that holds them what moves there: the r-th position of unit i, in
row-major order, gets what was at the r-th position of unit `order[i]`. That is sound where

* every array holds each unit of the group equally often, so that there is an r-th position of each;
* each equation gives the moved result where its operands are moved.

What acts entry by entry, contracts, or reduces over other axes does: tied axes hold the same units
at the same positions. What only moves entries does, where the r-th position of one unit goes where
that of any other goes. What fills an axis from elsewhere (an array that the function holds, numbers
that are counted or drawn) does not: it stays where it is. An operation that is not among these
fixes the order of what it touches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jax.core import Tracer

from jaxprune.graph.analysis import Analysis
from jaxprune.graph.blocks import Block, Node
from jaxprune.graph.groups import Grouping, units_of_classes
from jaxprune.graph.labels import Ids, Labels
from jaxprune.graph.rules.collectives import COLLECTIVES
from jaxprune.graph.rules.contractions import CONTRACTIONS
from jaxprune.graph.rules.drawn import DRAWN
from jaxprune.graph.rules.elementwise import ELEMENTWISE
from jaxprune.graph.rules.gathers import GATHERS
from jaxprune.graph.rules.indexing import SLICES
from jaxprune.graph.rules.reductions import REDUCTIONS
from jaxprune.graph.source import Reason

MADE = frozenset({"iota", *DRAWN})
"""What fills an axis by itself."""
POINTED = frozenset({*GATHERS, *SLICES})
"""What reads or writes at places, which constants may tell."""
PICKED = frozenset({"slice", "split", "pad"})
"""What takes some positions of an axis, or adds others."""
COMMUTES = frozenset(
    {
        *ELEMENTWISE, *CONTRACTIONS, *REDUCTIONS, *COLLECTIVES,
        "broadcast_in_dim", "reshape", "squeeze", "transpose", "concatenate", "stack", "unstack",
        "tile",
    }
)  # fmt: skip
"""What commutes with every order, where each array holds all units equally often.

A reshape keeps the row-major order of entries, a transpose and a tile that of each unit's, and a
concatenation puts the positions of each unit in one part before those in the next.
"""

_PARTS = "takes some of its units, or some oftener than others"
_MIXED = "the channels of a unit lie in no one order along several axes"
_OTHERS = "takes other channels of one unit than of another"


def fixed_orders(analysis: Analysis, grouping: Grouping) -> dict[str, str]:
    """The groups that cannot be reordered: name → why, with the source line that says so.

    Example: in `(x @ w1 * jnp.arange(8.0)) @ w2` the groups' 8 units could be pruned, but each has
    a factor of its own, which is no variable.
    """
    if analysis.block is None or not grouping.groups:
        return {}
    roots = analysis.channels.roots()
    unit_of, _ = units_of_classes(analysis, roots, grouping.units)
    search = _Search(unit_of[roots], np.array([g.size for g in grouping.groups.values()]))
    search.block(analysis.block, ())
    names = list(grouping.groups)
    return {names[g]: str(search.reasons[g]) for g in sorted(search.reasons)}


@dataclass(frozen=True)
class _Held:
    """The units along an array of ids, -1 for none; `rank` counts those of one unit."""

    units: np.ndarray
    groups: np.ndarray
    present: tuple[int, ...]
    rank: np.ndarray
    repeated: frozenset[int]
    wrong: dict[int, str]


@dataclass
class _Search:
    """Looks at every equation, and keeps the first reason for each group.

    Attributes:
      unit_of: per id, its unit or -1.
      sizes: of the groups, in units.
      reasons: what was found.
    """

    unit_of: np.ndarray
    sizes: np.ndarray
    reasons: dict[int, Reason] = field(default_factory=dict)
    _cache: dict[int, tuple[Ids, _Held | None]] = field(default_factory=dict)

    def block(self, block: Block, around: tuple[Any, ...]) -> None:
        """All equations of a block and of those inside, in their order."""
        self._constants(block, around)
        for node in block.nodes:
            self._regular(node, around)
            if node.emit is None:
                self._equation(node, around)
            for inner in node.inner:
                self.block(inner, (*around, node.eqn))

    def _say(self, groups: Any, text: str, eqn: Any, around: tuple[Any, ...]) -> None:
        for group in groups:
            self.reasons.setdefault(int(group), Reason(text, eqn, around))

    def _constants(self, block: Block, around: tuple[Any, ...]) -> None:
        """Arrays that the function holds, unless all units have the same in them."""
        for var, value in zip(block.constvars, block.consts, strict=True):
            for (axis,), ids in block.labels[var].tracked.items():
                held = self._held(ids)
                if held is None:
                    continue
                for group in held.present:
                    if not self._same_for_all(value, axis, held, group):
                        uses = (n.eqn for n in block.nodes if any(v is var for v in n.eqn.invars))
                        text = "meets an array that is no variable, with an entry for each channel"
                        self._say([group], text, next(uses, None), around)

    def _same_for_all(self, value: Any, axis: int, held: _Held, group: int) -> bool:
        if isinstance(value, Tracer) or group in held.wrong:
            return False
        at = np.flatnonzero(held.groups == group)
        at = at[np.argsort(held.units[at], kind="stable")].reshape(self.sizes[group], -1)
        parts = np.moveaxis(np.asarray(value), axis, 0)[at]
        return bool((parts == parts[:1]).all())

    def _regular(self, node: Node, around: tuple[Any, ...]) -> None:
        for labels in (*node.relation.ins, *node.relation.outs):
            for ids in labels.tracked.values():
                held = self._held(ids)
                if held is not None:
                    for group, text in held.wrong.items():
                        self._say([group], text, node.eqn, around)

    def _equation(self, node: Node, around: tuple[Any, ...]) -> None:
        name, relation = node.eqn.primitive.name, node.relation
        if name in COMMUTES:
            return
        if name in MADE:
            text = "each channel has a number of its own, which is no variable"
            self._say(self._present(relation.outs), text, node.eqn, around)
        elif name in POINTED:
            if relation.index is not None:
                mixed = self._repeated((*relation.ins, *relation.outs))
                text = "picks by constants from units of several channels"
                self._say(mixed, text, node.eqn, around)
                if name in GATHERS and _together(relation.index):
                    text = "picks by constants along the channels and another axis together"
                    self._say(self._present(relation.outs), text, node.eqn, around)
        elif name in PICKED:
            for before, after, places in _taken(node):
                self._say(self._apart(before, after, places), _OTHERS, node.eqn, around)
        else:
            touched = self._present((*relation.ins, *relation.outs))
            self._say(touched, "no rule says how it is reordered", node.eqn, around)

    def _present(self, several: Sequence[Labels]) -> set[int]:
        return {g for held in self._all(several) for g in held.present}

    def _repeated(self, several: Sequence[Labels]) -> set[int]:
        return {g for held in self._all(several) for g in held.repeated}

    def _all(self, several: Sequence[Labels]) -> Iterator[_Held]:
        for labels in several:
            for ids in labels.tracked.values():
                held = self._held(ids)
                if held is not None:
                    yield held

    def _apart(self, before: Ids, after: Ids, places: np.ndarray) -> list[int]:
        """The groups of which position r of one unit goes elsewhere than that of another.

        `after[i]` is what was at `before[places[i]]`, or comes from nowhere where that is -1.
        """
        held, now = self._held(before), self._held(after)
        if held is None or now is None:
            return []
        moved = places >= 0
        came, went = held.rank[places[moved]], now.rank[moved]
        groups = held.groups[places[moved]]
        found = []
        for group in held.present:
            pairs = np.stack([came, went], -1)[groups == group]
            pairs = np.unique(pairs, axis=0)
            if any(len(np.unique(side)) < len(side) for side in pairs.T):
                found.append(group)
        return found

    def _held(self, ids: Ids) -> _Held | None:
        """What an array holds of the groups; None where nothing."""
        if id(ids) not in self._cache:
            self._cache[id(ids)] = ids, self._look(ids)  # with the array, whose id stays its own
        return self._cache[id(ids)][1]

    def _look(self, ids: Ids) -> _Held | None:
        units = self.unit_of[ids]
        flat = units.ravel()
        if flat.max(initial=-1) < 0:
            return None
        ends = np.cumsum(self.sizes)
        groups = np.where(flat < 0, -1, np.searchsorted(ends, flat, side="right"))
        counts = np.bincount(flat[flat >= 0], minlength=int(ends[-1]))
        present = tuple(np.unique(groups[groups >= 0]).tolist())
        each = {g: counts[ends[g] - self.sizes[g] : ends[g]] for g in present}
        wrong = {g: _PARTS for g, n in each.items() if n.min() < n.max()}
        repeated = frozenset(g for g, n in each.items() if n.max() > 1)
        wrong = dict.fromkeys(repeated & _across(units, ends, present), _MIXED) | wrong
        order = np.argsort(flat, kind="stable")
        first = np.searchsorted(flat[order], flat[order])
        rank = np.empty(flat.size, int)
        rank[order] = np.arange(flat.size) - first
        return _Held(flat, groups, present, rank, repeated, wrong)


def _across(units: np.ndarray, ends: np.ndarray, present: tuple[int, ...]) -> set[int]:
    """Groups with several channels a unit at places that vary along several axes.

    Such as a unit that is on the axes (0, 2) at different distances; heads, which are the same
    along their width, vary along one.
    """
    varying = [a for a in range(units.ndim) if (units != units.take([0], a)).any()]
    if len(varying) < 2:
        return set()
    flat = units[tuple(slice(None) if a in varying else 0 for a in range(units.ndim))].ravel()
    counts = np.bincount(flat[flat >= 0], minlength=int(ends[-1]))
    of = np.searchsorted(ends, np.flatnonzero(counts > 1), side="right")
    return set(of.tolist()) & set(present)


def _together(index: np.ndarray) -> bool:
    """Whether an index goes along several axes of an array at once, as `h[:, [0, 1], [2, 3]]`."""
    if np.ma.is_masked(index):
        return True
    index = np.asarray(index)
    axes = range(index.ndim - 1)
    return any(((index != index.take([0], a)).any(tuple(axes))).sum() > 1 for a in axes)


def _taken(node: Node) -> Iterator[tuple[Ids, Ids, np.ndarray]]:
    """The ids along an axis before and after, and which positions are taken; -1 for new ones."""
    eqn, (labels, *_) = node.eqn, node.relation.ins
    for (axis, *more), ids in labels.tracked.items():
        where = np.arange(len(ids))
        if more:  # along these nothing is taken
            continue
        if eqn.primitive.name == "split":
            parts = [where] * len(eqn.outvars)
            if axis == eqn.params["axis"]:
                parts = np.split(where, np.cumsum(eqn.params["sizes"])[:-1])
        elif eqn.primitive.name == "slice":
            starts, stops, steps = (
                eqn.params[f] for f in ("start_indices", "limit_indices", "strides")
            )
            parts = [where[starts[axis] : stops[axis] : steps[axis] if steps else 1]]
        else:
            low, high, _ = eqn.params["padding_config"][axis]
            parts = [np.pad(where, (low, high), constant_values=-1)]
        for out, places in zip(node.relation.outs, parts, strict=True):
            if (axis,) in out.tracked:
                yield ids, out.tracked[(axis,)], places
