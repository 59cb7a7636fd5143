"""Slices at a place that is told at run time. An axis that is taken whole passes its channels.

Where constants tell the place, channels are followed along the axis that is cut, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxprune.graph.labels import Ids, Keep, Labels
from jaxprune.graph.rules.base import Equation, Relation, Rule, bind

INDEXED = "indexed along the channels by what is no constant, or by constants that mix them"
Places = tuple[int, np.ndarray]
"""An axis of what is taken or put, and where its entries lie along an axis of the array."""


def dynamic_slice(equation: Equation) -> Relation:
    """out = operand[start : start + size]; an axis that is taken whole passes.

    Example: one step of a sequence, whose features pass. Fields: slice_sizes.
    """
    sizes = equation.params["slice_sizes"]
    cut = _cut_axes(equation, sizes)
    labels = equation.channels.singles(equation.ins[0], touched=cut)
    pointed = _windows(equation, sizes, [a for a in cut if (a,) in labels.tracked], first=1)
    labels = fix_unpointed(equation, labels, cut, pointed)
    taken = {(a,): labels.tracked[(a,)][places] for a, (_, places) in pointed.items()}
    out = Labels(labels.tracked | taken, labels.free)
    return Relation((labels, *equation.ins[1:]), (out,), index=_starts(equation, pointed))


def _cut_axes(equation: Equation, sizes: Sequence[int]) -> list[int]:
    return [a for a, n in enumerate(equation.in_shapes[0]) if n != sizes[a]]


def _windows(
    equation: Equation, sizes: Sequence[int], axes: Sequence[int], first: int
) -> dict[int, Places]:
    """Where the slice lies along those of `axes` whose start is known; operand `first` is one."""
    found = {}
    for axis in axes:
        start = equation.known(first + axis)
        if start is not None and sizes[axis] > 1:
            last = equation.in_shapes[0][axis] - sizes[axis]
            found[axis] = axis, np.clip(start, 0, last) + np.arange(sizes[axis])
    return found


def _starts(equation: Equation, pointed: Mapping[int, Places]) -> np.ndarray | None:
    if not pointed:
        return None
    places = (pointed.get(a, (a, np.zeros(1, int)))[1] for a in range(len(equation.in_shapes[0])))
    return np.array([p[0] for p in places])


def fix_unpointed(
    equation: Equation, labels: Labels, cut: Sequence[int], pointed: Mapping[int, Places]
) -> Labels:
    """Of the axes that are cut only those carry channels along which the places are known."""
    fixed = [a for a in cut if a not in pointed]
    labels = equation.channels.fix_axes(labels, fixed, equation.reason(INDEXED))
    return Labels(labels.tracked, labels.free - set(cut))


def emit_dynamic_slice(
    eqn: Any, relation: Relation, values: Sequence[jax.Array], keep: Keep
) -> list[Any]:
    """An axis that is taken whole is as long as it is now."""
    (labels,), sizes = relation.ins[:1], list(eqn.params["slice_sizes"])
    shape = eqn.invars[0].aval.shape
    starts: list[Any] = list(values[1:])
    for axis, size in enumerate(sizes):
        if size == shape[axis]:
            sizes[axis] = values[0].shape[axis]
        elif relation.index is not None and (axis,) in labels.tracked:
            kept, start = keep(labels.tracked[(axis,)]), relation.index[axis]
            starts[axis] = _start_among(kept, start, eqn.invars[1 + axis])
            sizes[axis] = int(kept[start : start + size].sum())
    return bind(eqn, [values[0], *starts], slice_sizes=tuple(sizes))


def _start_among(kept: np.ndarray, start: int, like: Any) -> np.ndarray:
    """Where a window lies among the kept positions."""
    return np.asarray(kept[:start].sum(), like.aval.dtype)


def dynamic_update_slice(equation: Equation) -> Relation:
    """The operand with a part replaced: tied to the part along every axis that it fills."""
    _, part_shape, *_ = equation.in_shapes
    channels = equation.channels
    cut = _cut_axes(equation, part_shape)
    array, part = (channels.singles(labels, touched=cut) for labels in equation.ins[:2])
    carrying = [a for a in cut if (a,) in array.tracked or (a,) in part.tracked]
    pointed = _windows(equation, part_shape, carrying, first=2)
    array, part = put_at(equation, array, part, pointed)
    array = fix_unpointed(equation, array, cut, pointed)
    part = fix_unpointed(equation, part, cut, pointed)
    reason = equation.reason("meets an axis that keeps its size")
    _, out = channels.unify([array, part], reason, skip=tuple(cut))
    ins = tuple(
        Labels(out.tracked | {(a,): o.tracked[(a,)] for a in pointed}, out.free)
        for o in (array, part)
    )
    return Relation((*ins, *equation.ins[2:]), ins[:1], index=_starts(equation, pointed))


def put_at(
    equation: Equation, array: Labels, part: Labels, pointed: Mapping[int, Places]
) -> tuple[Labels, Labels]:
    """Ties the entries of a part to the places of the array that they are put at.

    A side that is constant along its axis gets channels of its own there; one that keeps its size
    fixes what it meets.
    """
    channels = equation.channels
    reason = equation.reason("meets an axis that keeps its size")

    def carried(labels: Labels, axis: int, ids: Ids) -> Labels:
        if (axis,) in labels.tracked:
            return labels
        if axis not in labels.free:
            channels.fix(ids, reason)
        return Labels({**labels.tracked, (axis,): ids}, labels.free - {axis})

    for axis, (along, places) in pointed.items():
        size = equation.in_shapes[0][axis]
        if (axis,) not in array.tracked:
            array = carried(array, axis, channels.new(size))
        part = carried(part, along, array.tracked[(axis,)][places])
        channels.tie(part.tracked[(along,)], array.tracked[(axis,)][places])
    return array, part


def emit_dynamic_update_slice(
    eqn: Any, relation: Relation, values: Sequence[jax.Array], keep: Keep
) -> list[Any]:
    """Along channels the part begins after as many as are kept before it."""
    if relation.index is None:
        return bind(eqn, values)
    labels = relation.ins[0]
    starts: list[Any] = list(values[2:])
    for axis, (n, size) in enumerate(zip(*(v.aval.shape for v in eqn.invars[:2]), strict=True)):
        if n != size and (axis,) in labels.tracked:
            kept = keep(labels.tracked[(axis,)])
            starts[axis] = _start_among(kept, relation.index[axis], eqn.invars[2 + axis])
    return bind(eqn, [*values[:2], *starts])


SLICES = {
    "dynamic_slice": Rule(dynamic_slice, emit_dynamic_slice),
    "dynamic_update_slice": Rule(dynamic_update_slice, emit_dynamic_update_slice),
}
