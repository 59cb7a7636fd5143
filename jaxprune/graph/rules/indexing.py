"""Access by index: axes that are taken whole pass through, axes that are indexed are fixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from jaxprune.graph.labels import PLAIN, Ids, Keep, Labels
from jaxprune.graph.rules.base import Equation, Relation, Rule, bind, emit_as_is

_INDEXED = "indexed along the channels"


def dynamic_slice(equation: Equation) -> Relation:
    """out = operand[start : start + size]; an axis that is taken whole passes.

    Example: one step of a sequence, whose features pass. Fields: slice_sizes.
    """
    (shape, *_), sizes = equation.in_shapes, equation.params["slice_sizes"]
    labels = _indexed(equation, [a for a, n in enumerate(sizes) if n != shape[a]])
    starts = (PLAIN,) * (len(equation.ins) - 1)
    return Relation((labels, *starts), (labels,))


def _indexed(equation: Equation, axes: Sequence[int], operand: int = 0) -> Labels:
    """An operand without joint tuples, and with nothing along the axes that are indexed."""
    channels = equation.channels
    labels = channels.singles(equation.ins[operand], touched=axes)
    return channels.fix_axes(labels, axes, equation.reason(_INDEXED))


def emit_dynamic_slice(
    eqn: Any, relation: Relation, values: Sequence[jax.Array], keep: Keep
) -> list[Any]:
    """An axis that is taken whole is as long as it is now."""
    sizes = zip(eqn.params["slice_sizes"], eqn.invars[0].aval.shape, values[0].shape, strict=True)
    return bind(eqn, values, slice_sizes=tuple(m if n == whole else n for n, whole, m in sizes))


def dynamic_update_slice(equation: Equation) -> Relation:
    """The operand with a part replaced: tied to the part along every axis that it fills."""
    shape, part, *_ = equation.in_shapes
    cut = tuple(a for a, (n, m) in enumerate(zip(shape, part, strict=True)) if n != m)
    both = [_indexed(equation, cut, i) for i in (0, 1)]
    reason = equation.reason("meets an axis that keeps its size")
    _, out = equation.channels.unify(both, reason)
    starts = (PLAIN,) * (len(equation.ins) - 2)
    return Relation((out, out, *starts), (out,))


def gather(equation: Equation) -> Relation:
    """out[batch, offset] = operand[indices[batch] + offset].

    An axis of the operand whose slices are whole passes to its offset axis, axes of the indices
    to the batch axes. Example: an embedding `table[tokens]` passes the features of the table.
    Fields: dimension_numbers, slice_sizes.
    """
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    shape, index_shape = equation.in_shapes
    paired = dict(
        zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True)
    )
    window = [a for a in range(len(shape)) if a not in (*numbers.collapsed_slice_dims, *paired)]
    whole = {
        a: out
        for a, out in zip(window, numbers.offset_dims, strict=True)
        if sizes[a] == shape[a]
    }  # fmt: skip
    cut = [a for a in range(len(shape)) if a not in whole and a not in paired]
    vector = len(index_shape) - 1
    operand = _indexed(equation, cut)
    indices = _indexed(equation, (vector,), 1)
    operand, indices = _pair(equation, operand, indices, paired)
    for ids in indices.tracked.values():  # the batch still passes; which places are read stays
        equation.channels.fix(ids, equation.reason("a place that is read by its index"))

    rank = len(equation.out_shapes[0])
    batch = [a for a in range(rank) if a not in numbers.offset_dims]
    to_out = dict(zip(range(vector), batch, strict=True))
    passed = operand.without(paired).renumbered(whole)
    along = indices.renumbered(to_out)
    out = Labels({**passed.tracked, **along.tracked}, passed.free | along.free)
    return Relation((operand, indices), (out,))


def _pair(
    equation: Equation, a: Labels, b: Labels, paired: dict[int, int]
) -> tuple[Labels, Labels]:
    """Ties batch axes of two operands; where one side carries nothing, the other is fixed."""
    reason = equation.reason("meets an axis that keeps its size")
    for left, right in paired.items():
        ids: tuple[Ids | None, ...] = a.tracked.get((left,)), b.tracked.get((right,))
        if ids[0] is not None and ids[1] is not None:
            equation.channels.tie(ids[0], ids[1])
        else:
            a = equation.channels.fix_axes(a, (left,), reason)
            b = equation.channels.fix_axes(b, (right,), reason)
    free = a.free - set(paired), b.free - set(paired.values())
    return Labels(a.tracked, free[0]), Labels(b.tracked, free[1])


def emit_gather(eqn: Any, relation: Relation, values: Sequence[jax.Array], keep: Keep) -> list[Any]:
    """Whole slices are as long as their axis is now."""
    sizes = zip(eqn.params["slice_sizes"], eqn.invars[0].aval.shape, values[0].shape, strict=True)
    return bind(eqn, values, slice_sizes=tuple(m if n == whole else n for n, whole, m in sizes))


def scatter(equation: Equation) -> Relation:
    """The operand with entries replaced or added to: tied to the updates along whole axes.

    Example: `x.at[:, 0].add(token)` passes the features of both. Fields: dimension_numbers.
    """
    numbers = equation.params["dimension_numbers"]
    shape, index_shape, update_shape = equation.in_shapes
    channels = equation.channels
    batched = numbers.operand_batching_dims
    window = [a for a in range(len(shape)) if a not in (*numbers.inserted_window_dims, *batched)]
    whole = {
        a: u
        for a, u in zip(window, numbers.update_window_dims, strict=True)
        if shape[a] == update_shape[u]
    }
    back = {u: a for a, u in whole.items()}
    operand = _indexed(equation, [a for a in range(len(shape)) if a not in whole])
    indices = _indexed(equation, range(len(index_shape)), 1)
    updates = _indexed(equation, [u for u in range(len(update_shape)) if u not in back], 2)
    reason = equation.reason("meets an axis that keeps its size")
    _, out = channels.unify([operand, updates.renumbered(back)], reason)
    return Relation((out, indices, out.renumbered(whole)), (out,))


_SCATTERS = ("scatter", "scatter-add", "scatter-sub", "scatter-mul", "scatter-min", "scatter-max")

INDEXING = {
    "dynamic_slice": Rule(dynamic_slice, emit_dynamic_slice),
    "dynamic_update_slice": Rule(dynamic_update_slice, emit_as_is),
    "gather": Rule(gather, emit_gather),
    **dict.fromkeys(_SCATTERS, Rule(scatter, emit_as_is)),
}
