"""Operations that cut axes apart where the equation says; channel ids are cut with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune.graph.labels import Keep, Labels, sliced_shape
from jaxprune.graph.rules.base import Equation, Relation, Rule, bind, emit_as_is


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


def unstack(equation: Equation) -> Relation:
    """Takes an axis apart, which is fixed. Fields: axis."""
    axis, rank = equation.params["axis"], len(equation.in_shapes[0])
    channels = equation.channels
    labels = channels.singles(equation.ins[0], touched=(axis,))
    labels = channels.fix_axes(labels, (axis,), equation.reason("picks out one channel"))
    out = labels.renumbered({a: a - (a > axis) for a in range(rank) if a != axis})
    return Relation((labels,), (out,) * len(equation.out_shapes))


CUTS = {
    "slice": Rule(slice_, emit_slice),
    "split": Rule(split, emit_split),
    "unstack": Rule(unstack, emit_as_is),
}
