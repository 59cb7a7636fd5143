"""What devices of a `shard_map`, or entries of a named `vmap` axis, tell each other.

Each of them runs the same equation on channels of the same ids, so what goes entry by entry passes.
"""

from __future__ import annotations

from jaxprune.graph.rules.base import Equation, Relation, Rule, emit_as_is
from jaxprune.graph.rules.elementwise import same_labels
from jaxprune.graph.rules.reductions import fix_touched, reduce_other, reduce_sum
from jaxprune.graph.rules.unknown import fix_all

_TRADED = "traded between devices along the channels"


def collective(equation: Equation) -> Relation:
    """psum, pmax, pmin: over names of mapped axes entry by entry, over positions a reduction.

    Example: BatchNorm in a `vmap` is `psum[axes=('batch',)]` inside it, `psum[axes=(0,)]` outside.
    Fields: axes.
    """
    axes = equation.params["axes"]
    if all(isinstance(axis, str) for axis in axes):
        return same_labels(equation)
    if len(equation.ins) > 1 or any(isinstance(axis, str) for axis in axes):
        return fix_all(equation)
    is_sum = equation.eqn.primitive.name == "psum"
    return reduce_sum(equation) if is_sum else reduce_other(equation)


def all_gather(equation: Equation) -> Relation:
    """What all devices hold, side by side: along a new axis, or along one that is fixed.

    Fields: all_gather_dimension, tiled.
    """
    axis = equation.params["all_gather_dimension"]
    if equation.params["tiled"]:
        return fix_touched(equation, [axis], _TRADED)
    labels = equation.ins[0]
    moved = {a: a + (a >= axis) for a in range(len(equation.in_shapes[0]))}
    if any(axes[0] < axis <= axes[-1] for axes in labels.joint):
        labels = equation.channels.singles(labels)
    return Relation((labels,), (labels.renumbered(moved),))


def reduce_scatter(equation: Equation) -> Relation:
    """The sum over all devices, of which each has its part of an axis, which is fixed.

    Fields: scatter_dimension, tiled.
    """
    axis, rank = equation.params["scatter_dimension"], len(equation.in_shapes[0])
    relation = fix_touched(equation, [axis], _TRADED)
    if equation.params["tiled"]:
        return relation
    kept = {a: a - (a > axis) for a in range(rank) if a != axis}
    return Relation(relation.ins, (relation.outs[0].renumbered(kept),))


def all_to_all(equation: Equation) -> Relation:
    """Parts of one axis for parts of another, which are both fixed.

    Fields: split_axis, concat_axis, tiled.
    """
    if not equation.params["tiled"]:
        return fix_all(equation)
    axes = [equation.params["split_axis"], equation.params["concat_axis"]]
    return fix_touched(equation, axes, _TRADED)


_ENTRYWISE = ("psum_invariant", "pvary", "preduced", "ppermute", "pbroadcast")

COLLECTIVES = {
    **dict.fromkeys(("psum", "pmax", "pmin"), Rule(collective, emit_as_is)),
    **dict.fromkeys(_ENTRYWISE, Rule(same_labels, emit_as_is)),
    **dict.fromkeys(("all_gather", "all_gather_invariant"), Rule(all_gather, emit_as_is)),
    "reduce_scatter": Rule(reduce_scatter, emit_as_is),
    "all_to_all": Rule(all_to_all, emit_as_is),
}
