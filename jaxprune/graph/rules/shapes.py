"""Operations that move, cut, join and make axes; channel ids move with them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune.graph.labels import PLAIN, Axes, Ids, Keep, Labels, layout, sliced_shape
from jaxprune.graph.rules.base import Equation, Relation, Rule, Shape, bind, emit_as_is
from jaxprune.graph.rules.unknown import fix_all


def emit_reshape(
    eqn: Any, relation: Relation, values: Sequence[jax.Array], keep: Keep
) -> list[Any]:
    """Kept channels are in row-major order before and after, so the sliced shape is enough."""
    shape = sliced_shape(relation.outs[0], eqn.outvars[0].aval.shape, keep)
    return [lax.reshape(values[0], shape)]  # of an array or of a Python number


def broadcast_in_dim(equation: Equation) -> Relation:
    """Result axis `broadcast_dimensions[i]` is operand axis i; all others are free.

    Example: `f32[4] → f32[8,4]` with dimensions (1,): axis 0 is free, axis 1 keeps its ids.
    Fields: broadcast_dimensions, shape.
    """
    placed = dict(enumerate(equation.params["broadcast_dimensions"]))
    shape, out_shape = equation.in_shapes[0], equation.out_shapes[0]
    if 0 in out_shape:
        return fix_all(equation)
    labels = equation.ins[0].renumbered(placed)
    stays = {d for a, d in placed.items() if shape[a] == out_shape[d]}
    grown = {d for d in range(len(out_shape)) if d not in stays and out_shape[d] > 1}
    dynamic = (PLAIN,) * (len(equation.ins) - 1)
    out = Labels(labels.tracked, labels.free | grown)
    return Relation((equation.ins[0], *dynamic), (out,))


def reshape(equation: Equation) -> Relation:
    """Row-major reshape, factored into the smallest runs of axes of equal size on both sides.

    Example: `f32[2,4,4,8] → f32[2,128]` repeats the 8 ids 16 times; the inverse finds them again;
    `f32[2,8] → f32[2,2,4]` holds them on axes (1, 2) together. With `dimensions` the operand's
    axes are first brought into that order, as `order="F"` and `jnp.concatenate(array)` have it.
    Fields: new_sizes, dimensions.
    """
    shape, out_shape = equation.in_shapes[0], equation.out_shapes[0]
    if 0 in shape:
        return fix_all(equation)
    order = equation.params["dimensions"] or range(len(shape))
    shape = tuple(shape[a] for a in order)
    labels = equation.ins[0].renumbered({a: i for i, a in enumerate(order)})
    labels, runs = _hold_joints(equation, labels, shape, list(_runs(shape, out_shape)))
    alone = _alone(runs)
    changed = {a for run, _ in runs for a in run if a not in alone}
    moved = labels.without(a for axes in labels.tracked if changed & set(axes) for a in axes)
    out = Labels(moved.tracked, labels.free & alone.keys()).renumbered(alone)
    tracked, free = dict(out.tracked), set(out.free)
    for axes, out_axes in runs:
        if axes[0] in alone:
            continue
        if set(axes) <= labels.free:
            free |= set(out_axes)
            continue
        labels = _one_tuple(equation, labels, axes)
        held = [a for a in labels.tracked if set(a) & set(axes)]
        if held:
            tracked |= _reshape_ids(
                held[0], labels.tracked[held[0]], axes, shape, out_axes, out_shape
            )
        labels = Labels(labels.tracked, labels.free - set(axes))
    labels = labels.renumbered(dict(enumerate(order)))
    return Relation((labels,), (Labels(tracked, frozenset(free)),))


def emit_ordered_reshape(
    eqn: Any, relation: Relation, values: Sequence[jax.Array], keep: Keep
) -> list[Any]:
    """As `emit_reshape`, after the axes were brought into the order of `dimensions`."""
    order, value = eqn.params["dimensions"], values[0]
    if order is not None:
        value = _transposed(value, relation.ins[0], order, keep)
    return emit_reshape(eqn, relation, [value], keep)


Run = tuple[list[int], list[int]]
"""Axes of the operand and axes of the result with the same entries in the same order."""


def _runs(shape: Shape, out_shape: Shape) -> Iterator[Run]:
    """Pairs of runs of axes with equal size; axes of size 1 belong to none."""
    left = [a for a, n in enumerate(shape) if n != 1]
    right = [a for a, n in enumerate(out_shape) if n != 1]
    while left and right:
        axes, out_axes = [left.pop(0)], [right.pop(0)]
        while (n := math.prod(shape[a] for a in axes)) != (
            m := math.prod(out_shape[a] for a in out_axes)
        ):
            if n < m:
                axes.append(left.pop(0))
            else:
                out_axes.append(right.pop(0))
        yield axes, out_axes


def _alone(runs: Sequence[Run]) -> dict[int, int]:
    """The axes that stay as they are, and where each of them is in the result."""
    return {run[0]: out_run[0] for run, out_run in runs if len(run) == len(out_run) == 1}


def _hold_joints(
    equation: Equation, labels: Labels, shape: Shape, runs: list[Run]
) -> tuple[Labels, list[Run]]:
    """Brings joint tuples and runs together, so that each tuple lies in one run.

    A tuple may be a piece of a run, or all of several, which become one; free axes may belong to
    it. Example: `f32[2,r,7,4] → f32[2·r,7,4]` repeats two key heads; the channels on axes (0, 3)
    are in the run (0, 1, 3), and on all of it. A tuple that fits no such run is parted. Of its axes
    one stays that the reshape leaves alone, if there is one: in a pixel shuffle the channels, not
    the places within a pixel.
    """
    alone = _alone(runs)
    for held in labels.joint:
        if all(a in alone for a in held):
            continue
        spanned = [run for run in runs if set(run[0]) & set(held)]
        axes, out_axes = (
            [a for part in parts for a in part] for parts in zip(*spanned, strict=True)
        )
        piece = axes if len(spanned) > 1 else [a for a in axes if held[0] <= a <= held[-1]]
        if {*held, *labels.free}.issuperset(piece):
            labels = _widened(labels, held, tuple(piece), shape)
            at = runs.index(spanned[0])
            runs = [run for run in runs if run not in spanned]
            runs.insert(at, (axes, out_axes))
        else:
            stays = next((a for a in held if a in alone), next(a for a in axes if a in held))
            labels = equation.channels.split(labels, held, stays)
    return labels, runs


def _widened(labels: Labels, held: Axes, whole: Axes, shape: Shape) -> Labels:
    """A joint tuple with the free axes in its midst."""
    ids = labels.tracked[held].reshape([shape[a] if a in held else 1 for a in whole])
    tracked = {a: i for a, i in labels.tracked.items() if a != held}
    ids = np.broadcast_to(ids, [shape[a] for a in whole])
    return Labels({**tracked, whole: ids}, labels.free - {*whole})


def _one_tuple(equation: Equation, labels: Labels, axes: list[int]) -> Labels:
    """Leaves at most one tracked tuple inside a run of axes."""
    channels = equation.channels
    held = [a for a in labels.tracked if set(a) & set(axes)]
    if len(held) < 2:
        return labels
    # What is fixed anyway gives way, then what has fewer channels tied to it: a kernel's taps, not
    # its inputs; the width of the one value head, not the heads of a flat query kernel.
    held.sort(key=lambda a: channels.reach(labels.tracked[a]))
    for extra in held[:-1]:
        labels = channels.fix_axes(
            labels, extra, equation.reason("merges two channel axes into one")
        )
    return labels


def _reshape_ids(
    held: Axes, ids: Ids, axes: list[int], shape: Shape, out_axes: list[int], out_shape: Shape
) -> dict[Axes, Ids]:
    spread = ids.reshape([shape[a] if a in held else 1 for a in axes])
    spread = np.broadcast_to(spread, [shape[a] for a in axes])
    spread = spread.reshape([out_shape[a] for a in out_axes])
    between = set(range(out_axes[0], out_axes[-1])).difference(out_axes)
    if any(out_shape[a] > 1 for a in between):  # physically still one axis, before those
        return {tuple(out_axes): spread}
    varying = [
        i for i in range(len(out_axes)) if not np.array_equal(spread, _repeat_first(spread, i))
    ]
    if not varying:  # one channel only: it cannot be cut
        return {}
    first, last = varying[0], varying[-1]
    ids = spread[tuple(slice(None) if first <= i <= last else 0 for i in range(len(out_axes)))]
    return {tuple(out_axes[first : last + 1]): ids}


def _repeat_first(ids: Ids, axis: int) -> Ids:
    return np.broadcast_to(np.take(ids, [0], axis), ids.shape)


def squeeze(equation: Equation) -> Relation:
    """Drops axes of size 1. Fields: dimensions."""
    gone = {d % len(equation.in_shapes[0]) for d in equation.params["dimensions"]}
    kept = [a for a in range(len(equation.in_shapes[0])) if a not in gone]
    labels = equation.ins[0].without(gone)
    return Relation((labels,), (labels.renumbered({a: i for i, a in enumerate(kept)}),))


def transpose(equation: Equation) -> Relation:
    """Result axis i is operand axis `permutation[i]`. Fields: permutation."""
    new = {a: i for i, a in enumerate(equation.params["permutation"])}
    return Relation(equation.ins, (equation.ins[0].renumbered(new),))


def emit_transpose(
    eqn: Any, relation: Relation, values: Sequence[jax.Array], keep: Keep
) -> list[Any]:
    """See `_transposed`."""
    return [_transposed(values[0], relation.ins[0], eqn.params["permutation"], keep)]


def _transposed(
    value: jax.Array, labels: Labels, permutation: Sequence[int], keep: Keep
) -> jax.Array:
    """Moves physical axes, and puts the channels of a joint tuple into their new order."""
    out = labels.renumbered({a: i for i, a in enumerate(permutation)})
    ndim = len(permutation)
    before = [frozenset(axes) for axes in layout(labels, ndim)]
    after = layout(out, ndim)
    value = value.transpose(
        [before.index(frozenset(permutation[a] for a in axes)) for axes in after]
    )
    for place, axes in enumerate(after):
        came = [permutation[a] for a in axes]
        if came != sorted(came):
            mask = keep(labels.tracked[tuple(sorted(came))])
            rank = np.cumsum(mask.ravel()).reshape(mask.shape) - 1
            order = np.argsort(np.argsort(came))
            value = jnp.take(value, rank.transpose(order)[mask.transpose(order)], axis=place)
    return value


def concatenate(equation: Equation) -> Relation:
    """Lays ids side by side along `dimension`; a part without channels stays as it is.

    Fields: dimension.
    """
    axis = equation.params["dimension"]
    channels = equation.channels
    operands = [channels.singles(o, touched=(axis,)) for o in equation.ins]
    reason = equation.reason("meets an axis that keeps its size")
    operands, out = channels.unify(operands, reason, skip=(axis,))
    parts = None
    if any((axis,) in o.tracked for o in operands):
        parts = []
        for labels, shape in zip(operands, equation.in_shapes, strict=True):
            ids = labels.tracked.get((axis,))
            if ids is None:
                ids = channels.new(shape[axis])
                if axis not in labels.free:
                    channels.fix(ids, equation.reason("joined with what carries no channels"))
            parts.append(ids)
    ins = []
    for i in range(len(operands)):
        tracked = dict(out.tracked) if parts is None else {**out.tracked, (axis,): parts[i]}
        ins.append(Labels(tracked, out.free - {axis}))
    joined = {} if parts is None else {(axis,): np.concatenate(parts)}
    return Relation(tuple(ins), (Labels({**out.tracked, **joined}, out.free - {axis}),))


def emit_concatenate(
    eqn: Any, relation: Relation, values: Sequence[jax.Array], keep: Keep
) -> list[Any]:
    """As it is; the operands are already laid out alike."""
    return [lax.concatenate(list(values), eqn.params["dimension"])]


def stack(equation: Equation) -> Relation:
    """Operands side by side along a new axis `axis`: tied to each other. Fields: axis."""
    axis = equation.params["axis"]
    channels = equation.channels
    operands = [channels.singles(o) for o in equation.ins]
    _, common = channels.unify(operands, equation.reason("meets an axis that keeps its size"))
    rank = len(equation.in_shapes[0])
    out = common.renumbered({a: a + (a >= axis) for a in range(rank)})
    return Relation((common,) * len(operands), (out,))


def unstack(equation: Equation) -> Relation:
    """Takes an axis apart, which is fixed. Fields: axis."""
    axis, rank = equation.params["axis"], len(equation.in_shapes[0])
    channels = equation.channels
    labels = channels.singles(equation.ins[0], touched=(axis,))
    labels = channels.fix_axes(labels, (axis,), equation.reason("picks out one channel"))
    out = labels.renumbered({a: a - (a > axis) for a in range(rank) if a != axis})
    return Relation((labels,), (out,) * len(equation.out_shapes))


def tile(equation: Equation) -> Relation:
    """Repeats the operand `reps` times along each axis, and its ids with it. Fields: reps."""
    labels, reps = equation.ins[0], equation.params["reps"]
    tracked = {axes: np.tile(ids, [reps[a] for a in axes]) for axes, ids in labels.tracked.items()}
    shape = equation.in_shapes[0]
    grown = {a for a, n in enumerate(shape) if n == 1 and reps[a] > 1}
    return Relation((labels,), (Labels(tracked, labels.free | grown),))


def emit_tile(eqn: Any, relation: Relation, values: Sequence[jax.Array], keep: Keep) -> list[Any]:
    """Nothing repeats along a free axis; the kept channels of a joint tuple are taken anew."""
    (labels,), (out,), (value,), reps = relation.ins, relation.outs, values, eqn.params["reps"]
    places = layout(labels, len(reps))
    for place, axes in enumerate(places):
        if len(axes) > 1 and any(reps[a] > 1 for a in axes):
            mask = keep(labels.tracked[axes])
            rank = np.tile(np.cumsum(mask).reshape(mask.shape) - 1, [reps[a] for a in axes])
            value = jnp.take(value, rank[keep(out.tracked[axes])], axis=place)
    done = {*out.free, *(a for axes in labels.joint for a in axes)}
    return bind(eqn, [value], reps=tuple(1 if a in done else reps[a] for a, *_ in places))


def slice_(equation: Equation) -> Relation:
    """Cuts ids with `start_indices`, `limit_indices`, `strides`; a free axis stays free."""
    labels = equation.channels.singles(equation.ins[0], touched=_sliced_axes(equation.eqn))
    cuts = _cuts(equation.eqn)
    tracked = {axes: ids[cuts[axes[0]]] for axes, ids in labels.tracked.items()}
    return Relation((labels,), (_no_single_channel(equation, Labels(tracked, labels.free)),))


def _no_single_channel(equation: Equation, labels: Labels) -> Labels:
    """An axis of size 1 broadcasts, so it must not hold a channel that could fall."""
    single = [axes[0] for axes, ids in labels.tracked.items() if ids.size == 1]
    return equation.channels.fix_axes(labels, single, equation.reason("picks out one channel"))


def _cuts(eqn: Any) -> list[slice]:
    p = eqn.params
    strides = p["strides"] or (1,) * len(p["start_indices"])
    return [
        slice(a, b, s)
        for a, b, s in zip(p["start_indices"], p["limit_indices"], strides, strict=True)
    ]


def _sliced_axes(eqn: Any) -> list[int]:
    shapes = zip(eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape, strict=True)
    return [a for a, (n, m) in enumerate(shapes) if n != m]


def emit_slice(eqn: Any, relation: Relation, values: Sequence[jax.Array], keep: Keep) -> list[Any]:
    """Along a channel axis the kept positions inside the cut are taken; elsewhere as it is."""
    (labels,), (value,) = relation.ins, values
    cuts = {axis: _cuts(eqn)[axis] for axis in _sliced_axes(eqn)}
    for axis in [a for a in cuts if (a,) in labels.tracked]:
        mask = keep(labels.tracked[(axis,)])
        chosen = np.zeros(len(mask), bool)
        chosen[cuts.pop(axis)] = True
        value = jnp.take(value, np.flatnonzero(chosen[mask]), axis=axis)
    # All other axes in one equation, as the user wrote it: two are not merged by every compiler.
    cuts = {a: cut for a, cut in cuts.items() if a not in labels.free}
    ends = [cuts.get(a, slice(0, n, 1)) for a, n in enumerate(value.shape)]
    starts, stops, steps = zip(*((e.start, e.stop, e.step) for e in ends), strict=True)
    return [lax.slice(value, starts, stops, steps) if cuts else value]


def split(equation: Equation) -> Relation:
    """Cuts one axis into parts of `sizes`. Fields: sizes, axis."""
    axis = equation.params["axis"]
    labels = equation.channels.singles(equation.ins[0], touched=(axis,))
    ids = labels.tracked.get((axis,))
    if ids is None:
        labels = Labels(labels.tracked, labels.free - {axis})
        return Relation((labels,), (labels,) * len(equation.out_shapes))
    parts = np.split(ids, np.cumsum(equation.params["sizes"])[:-1])
    outs = (Labels({**labels.tracked, (axis,): part}, labels.free) for part in parts)
    return Relation((labels,), tuple(_no_single_channel(equation, out) for out in outs))


def emit_split(eqn: Any, relation: Relation, values: Sequence[jax.Array], keep: Keep) -> list[Any]:
    """Each part has the kept channels of its range."""
    axis = eqn.params["axis"]
    shapes = zip(relation.outs, eqn.outvars, strict=True)
    sizes = tuple(sliced_shape(out, v.aval.shape, keep)[axis] for out, v in shapes)
    return bind(eqn, values, sizes=sizes)


def pad(equation: Equation) -> Relation:
    """New ids at the edges of a channel axis; padding between channels, or cropping, fixes.

    Example: the option-A shortcut of a ResNet pads 16 channels to 32 with 8 on each side.
    Fields: padding_config.
    """
    config = equation.params["padding_config"]
    channels = equation.channels
    padded = [a for a, field in enumerate(config) if field != (0, 0, 0)]
    labels = channels.singles(equation.ins[0], touched=padded)
    odd = [a for a in padded if min(config[a]) < 0 or config[a][2] > 0]
    labels = channels.fix_axes(labels, odd, equation.reason("crops or pads between channels"))
    labels = Labels(labels.tracked, labels.free - set(padded))
    tracked = dict(labels.tracked)
    for axis in padded:
        if (axis,) in tracked:
            low, high, _ = config[axis]
            tracked[(axis,)] = np.concatenate(
                [channels.new(low), tracked[(axis,)], channels.new(high)]
            )
    return Relation((labels, PLAIN), (Labels(tracked, labels.free),))


def emit_pad(eqn: Any, relation: Relation, values: Sequence[jax.Array], keep: Keep) -> list[Any]:
    """The edges of a channel axis hold as many zeros as there are kept channels in them."""
    config = list(eqn.params["padding_config"])
    for axes, ids in relation.outs[0].tracked.items():
        low, high, interior = config[axes[0]]
        if low or high:
            kept = keep(ids)
            config[axes[0]] = (int(kept[:low].sum()), int(kept[len(kept) - high :].sum()), interior)
    return bind(eqn, values, padding_config=tuple(config))


def iota(equation: Equation) -> Relation:
    """0, 1, 2, … along `dimension`: new ids there, every other axis is free."""
    shape, axis = equation.out_shapes[0], equation.params["dimension"]
    free = frozenset(a for a, n in enumerate(shape) if a != axis and n > 1)
    tracked = {(axis,): equation.channels.new(shape[axis])} if shape[axis] > 1 else {}
    return Relation(equation.ins, (Labels(tracked, free),))


def emit_iota(eqn: Any, relation: Relation, values: Sequence[jax.Array], keep: Keep) -> list[Any]:
    """The kept positions."""
    axis = eqn.params["dimension"]
    (labels,) = relation.outs
    ids = labels.tracked.get((axis,))
    positions = np.zeros(1) if ids is None else np.flatnonzero(keep(ids))
    shape = sliced_shape(labels, eqn.outvars[0].aval.shape, keep)
    flat = jnp.asarray(positions, eqn.params["dtype"])
    return [lax.broadcast_in_dim(flat, shape, (axis,))]


SHAPES = {
    "broadcast_in_dim": Rule(broadcast_in_dim, emit_reshape),
    "reshape": Rule(reshape, emit_ordered_reshape),
    "squeeze": Rule(squeeze, emit_reshape),
    "transpose": Rule(transpose, emit_transpose),
    "concatenate": Rule(concatenate, emit_concatenate),
    "stack": Rule(stack, emit_as_is),
    "unstack": Rule(unstack, emit_as_is),
    "tile": Rule(tile, emit_tile),
    "slice": Rule(slice_, emit_slice),
    "split": Rule(split, emit_split),
    "pad": Rule(pad, emit_pad),
    "iota": Rule(iota, emit_iota),
}
