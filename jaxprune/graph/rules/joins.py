"""Operations that join, repeat, pad and make axes, and channel ids with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune.graph.labels import PLAIN, Keep, Labels, layout, sliced_shape
from jaxprune.graph.rules.base import Equation, Relation, Rule, bind, emit_as_is


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


JOINS = {
    "concatenate": Rule(concatenate, emit_concatenate),
    "stack": Rule(stack, emit_as_is),
    "tile": Rule(tile, emit_tile),
    "pad": Rule(pad, emit_pad),
    "iota": Rule(iota, emit_iota),
}
