"""Operations that give axes new sizes or a new order; channel ids move with them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune.graph.labels import PLAIN, Axes, Ids, Keep, Labels, layout, sliced_shape
from jaxprune.graph.rules.base import Equation, Relation, Rule, Shape
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


RESHAPES = {
    "broadcast_in_dim": Rule(broadcast_in_dim, emit_reshape),
    "reshape": Rule(reshape, emit_ordered_reshape),
    "squeeze": Rule(squeeze, emit_reshape),
    "transpose": Rule(transpose, emit_transpose),
}
