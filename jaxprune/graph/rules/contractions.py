"""Convolutions and matrix products: where channels are read, and new ones written."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxprune.graph.labels import Ids, Keep, Labels
from jaxprune.graph.rules.base import Equation, Read, Relation, Rule, bind, emit_as_is
from jaxprune.graph.rules.unknown import fix_all


def conv_general_dilated(equation: Equation) -> Relation:
    """out[n, o, p] = Σ_{i, t} lhs[n, i, s·p + t] rhs[o, i, t].

    The lhs feature axis is tied to the rhs input axis and read; result features are the rhs
    output axis. With `feature_group_count` g > 1 the same channels may be in each of g blocks of
    features, as where `vmap` gives each sample a kernel of its own: then this holds for a block.
    Else a block of inputs and its block of outputs are one unit (in a depthwise convolution: an
    input and its multiplier's outputs); nothing is read.

    Fields: dimension_numbers, feature_group_count, batch_group_count.
    """
    p = equation.params
    if p["batch_group_count"] != 1:
        return fix_all(equation)
    channels = equation.channels
    (lhs_n, lhs_c, *lhs_window), (rhs_o, rhs_i, *rhs_window), (out_n, out_c, *out_window) = p[
        "dimension_numbers"
    ]
    rhs_shape = equation.in_shapes[1]
    slides = equation.reason("a window slides along this axis")
    lhs = channels.fix_axes(channels.singles(equation.ins[0], lhs_window), lhs_window, slides)
    rhs = channels.fix_axes(channels.singles(equation.ins[1], rhs_window), rhs_window, slides)

    groups = p["feature_group_count"]
    reads: tuple[Read, ...] = ()
    if _alike(lhs, lhs_c, groups) and _alike(rhs, rhs_o, groups):
        one = _with_ids(lhs, lhs_c, lambda ids: ids[: len(ids) // groups])
        (one, rhs), contracted = _contract(equation, (one, rhs), ((lhs_c,), (rhs_i,)))
        lhs = _with_ids(one, lhs_c, lambda ids: np.tile(ids, groups))
        reads = (Read(0, (lhs_c,)), Read(1, (rhs_i,))) if contracted else ()
    else:
        lhs, rhs = _tie_blocks(equation, lhs, rhs, groups)

    n = lhs.without({*range(len(lhs_window) + 2)} - {lhs_n}).renumbered({lhs_n: out_n})
    c = rhs.without({*range(len(rhs_window) + 2)} - {rhs_o}).renumbered({rhs_o: out_c})
    out = Labels({**n.tracked, **c.tracked}, n.free | c.free)
    out_shape = equation.out_shapes[0]
    work = (
        out_shape[out_n] * math.prod(out_shape[a] for a in out_window),
        math.prod(rhs_shape[a] for a in rhs_window),
        rhs.extent(rhs_i, rhs_shape[rhs_i]),
        rhs.extent(rhs_o, rhs_shape[rhs_o]),
    )
    return Relation((lhs, rhs), (out,), reads, ({lhs_n: out_n}, {rhs_o: out_c}), work)


def _alike(labels: Labels, axis: int, groups: int) -> bool:
    """Whether each group of a convolution holds the same channels."""
    ids = labels.tracked.get((axis,))
    if ids is None:
        return groups == 1 or axis not in labels.free
    blocks = ids.reshape(groups, -1)
    return bool((blocks == blocks[:1]).all())


def _with_ids(labels: Labels, axis: int, change: Callable[[Ids], Ids]) -> Labels:
    if (axis,) not in labels.tracked:
        return labels
    return Labels({**labels.tracked, (axis,): change(labels.tracked[(axis,)])}, labels.free)


def _tie_blocks(equation: Equation, lhs: Labels, rhs: Labels, groups: int) -> tuple[Labels, Labels]:
    channels = equation.channels
    _, lhs_c, *_ = equation.params["dimension_numbers"].lhs_spec
    rhs_o, rhs_i, *_ = equation.params["dimension_numbers"].rhs_spec
    rhs = channels.fix_axes(rhs, (rhs_i,), equation.reason("inputs inside one convolution group"))
    ids_in, ids_out = lhs.tracked.get((lhs_c,)), rhs.tracked.get((rhs_o,))
    lhs_shape, rhs_shape = equation.in_shapes
    if ids_in is not None and rhs_o in rhs.free:  # one filter for all channels (a blur)
        ids_out = np.repeat(ids_in.reshape(groups, -1)[:, 0], rhs_shape[rhs_o] // groups)
        rhs = _carrying(rhs, rhs_o, ids_out)
    elif ids_out is not None and lhs_c in lhs.free:
        ids_in = np.repeat(ids_out.reshape(groups, -1)[:, 0], lhs_shape[lhs_c] // groups)
        lhs = _carrying(lhs, lhs_c, ids_in)
    if ids_in is None or ids_out is None:
        reason = equation.reason("a grouped convolution of channels that keep their number")
        return (
            channels.fix_axes(lhs, (lhs_c,), reason),
            channels.fix_axes(rhs, (rhs_o,), reason),
        )
    blocks_in, blocks_out = ids_in.reshape(groups, -1), ids_out.reshape(groups, -1)
    channels.tie(blocks_in, blocks_in[:, :1])
    channels.tie(blocks_out, blocks_in[:, :1])
    return lhs, rhs


def emit_conv(eqn: Any, relation: Relation, values: Sequence[jax.Array], keep: Keep) -> list[Any]:
    """The number of convolution groups follows from the sliced shapes."""
    numbers = eqn.params["dimension_numbers"]
    lhs, rhs = values
    groups = eqn.params["feature_group_count"]
    if groups > 1 and lhs.shape[numbers.lhs_spec[1]] > 0:
        groups = lhs.shape[numbers.lhs_spec[1]] // rhs.shape[numbers.rhs_spec[1]]
    return bind(eqn, values, feature_group_count=groups)


def dot_general(equation: Equation) -> Relation:
    """Contracted axes of both sides are tied and read, batch axes tied, the others pass.

    Example: `f32[8,4] · f32[4,6]` over axes 1 and 0 ties the 4 inputs and writes 6 channels.
    Fields: dimension_numbers.
    """
    return _product(equation, equation.params["dimension_numbers"])


def ragged_dot(equation: Equation) -> Relation:
    """As `dot_general`, but each run of rows meets a kernel of its own (mixtures of experts).

    Example: `f32[8,4] · f32[3,4,6]` with 3 sizes of groups writes 6 channels: each row is read by
    one of 3 experts, which all stay. Fields: ragged_dot_dimension_numbers.
    """
    numbers = equation.params["ragged_dot_dimension_numbers"]
    (contracted, _), (batch, _) = numbers.dot_dimension_numbers
    rows, experts = numbers.lhs_ragged_dimensions, numbers.rhs_group_dimensions
    if set(rows) & {*contracted, *batch}:  # the form of a derivative
        return fix_all(equation)
    reason = equation.reason("rows are counted for each kernel")
    every = range(len(equation.in_shapes[2]))
    counted = zip(equation.ins, (rows, experts, every), strict=True)
    ins = [equation.channels.fix_axes(labels, axes, reason) for labels, axes in counted]
    return _product(replace(equation, ins=tuple(ins)), numbers.dot_dimension_numbers, experts)


def _product(equation: Equation, numbers: Any, experts: Sequence[int] = ()) -> Relation:
    """The second operand may hold several kernels, along the axes `experts`."""
    (lhs_c, rhs_c), (lhs_b, rhs_b) = numbers
    channels = equation.channels
    lhs, rhs, *sizes = equation.ins
    for a, b in zip(lhs_b, rhs_b, strict=True):
        lhs, rhs = _along(equation, lhs, a, rhs, b), _along(equation, rhs, b, lhs, a)
    lhs = channels.singles(lhs, (*lhs_c, *lhs_b))
    rhs = channels.singles(rhs, (*rhs_c, *rhs_b))
    (lhs, rhs), _ = _contract(equation, (lhs, rhs), (lhs_b, rhs_b), summed=False)
    (lhs, rhs), contracted = _contract(equation, (lhs, rhs), (lhs_c, rhs_c))
    reads = ()
    if contracted:
        reads = (
            Read(0, tuple(lhs_c[i] for i in contracted)),
            Read(1, tuple(rhs_c[i] for i in contracted)),
        )

    lhs_shape, rhs_shape, *_ = equation.in_shapes
    lhs_free = [a for a in range(len(lhs_shape)) if a not in (*lhs_c, *lhs_b)]
    rhs_free = [a for a in range(len(rhs_shape)) if a not in (*rhs_c, *rhs_b, *experts)]
    lhs_to_out = {a: i for i, a in enumerate((*lhs_b, *lhs_free))}
    rhs_to_out = {a: len(lhs_to_out) + i for i, a in enumerate(rhs_free)}
    left = lhs.without(lhs_c).renumbered(lhs_to_out)
    right = rhs.without((*rhs_c, *rhs_b)).renumbered(rhs_to_out)
    out = Labels({**left.tracked, **right.tracked}, left.free | right.free)
    work = (
        *(lhs.extent(a, n) for a, n in enumerate(lhs_shape)),
        *(rhs.extent(a, rhs_shape[a]) for a in rhs_free),
    )
    rhs_writes = {**dict(zip(rhs_b, range(len(rhs_b)), strict=True)), **rhs_to_out}
    writes = (lhs_to_out, rhs_writes, *({} for _ in sizes))
    return Relation((lhs, rhs, *sizes), (out,), reads, writes, work)


def _along(equation: Equation, labels: Labels, axis: int, other: Labels, other_axis: int) -> Labels:
    """Brings a joint tuple to a batch axis along which the other can have channels (heads)."""
    if other_axis in other.free or any(other_axis in axes for axes in other.tracked):
        for held in labels.joint:
            if axis in held:
                return equation.channels.split(labels, held, axis)
    return labels


def _contract(
    equation: Equation,
    operands: tuple[Labels, Labels],
    axes: Sequence[Sequence[int]],
    summed: bool = True,
) -> tuple[tuple[Labels, Labels], list[int]]:
    """Ties the paired axes of two operands; a pair with a side that keeps its size is fixed.

    A free side is as wide as the other: the sum of n channels times one number. Where both are
    free, a sum needs to know how many there are; what is not summed stays free.

    Returns the labels, and which pairs carry channels.
    """
    lhs, rhs = operands
    tied = []
    for i, (a, b) in enumerate(zip(*axes, strict=True)):
        left, right = lhs.tracked.get((a,)), rhs.tracked.get((b,))
        if left is not None and b in rhs.free:
            rhs, right = _carrying(rhs, b, left), left
        elif right is not None and a in lhs.free:
            lhs, left = _carrying(lhs, a, right), right
        if left is not None and right is not None:
            equation.channels.tie(left, right)
            tied.append(i)
        elif summed or a not in lhs.free or b not in rhs.free:
            reason = equation.reason("contracted with an axis that keeps its size")
            lhs = equation.channels.fix_axes(lhs, (a,), reason)
            rhs = equation.channels.fix_axes(rhs, (b,), reason)
    return (lhs, rhs), tied


def _carrying(labels: Labels, axis: int, ids: Ids) -> Labels:
    """The labels with ids along an axis that was free."""
    return Labels({**labels.tracked, (axis,): ids}, labels.free - {axis})


CONTRACTIONS = {
    "conv_general_dilated": Rule(conv_general_dilated, emit_conv),
    "dot_general": Rule(dot_general, emit_as_is),
    "ragged_dot_general": Rule(ragged_dot, emit_as_is),
}
