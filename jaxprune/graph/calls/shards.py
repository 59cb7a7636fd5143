"""`shard_map`: one function on every device, each with its part of the arrays."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.graph.analysis import Analysis, Value
from jaxprune.graph.blocks import Node, open_jaxpr
from jaxprune.graph.interpret import Interpretation, Values, run
from jaxprune.graph.rules import Relation


def shard_map(analysis: Analysis, eqn: Any, operands: list[Value]) -> tuple[Node, list[Value]]:
    """The body with what one device holds: an axis that is parted over devices is fixed.

    Example: a batch over devices, with the variables whole on each, passes their channels. Joint
    tuples do not get in or out, so that each axis keeps its place. The work of all devices counts.
    Fields: jaxpr, in_specs, out_specs, mesh, newly_manual_axes, check_vma.
    """
    params, channels = eqn.params, analysis.channels
    reason = analysis.reason("parted over devices along this axis", eqn)

    def whole(value: Value, spec: Any) -> Value:
        parted = [axis for axis, names in enumerate(spec) if names is not None]
        labels = channels.singles(value.labels, touched=parted)
        labels = channels.fix_axes(labels, parted, reason)
        return replace(value, labels=labels, known=None if parted else value.known)

    ins = [whole(v, spec) for v, spec in zip(operands, params["in_specs"], strict=True)]
    around = analysis.repeats
    analysis.repeats *= math.prod(params["mesh"].shape[n] for n in params["newly_manual_axes"])
    body = params["jaxpr"]
    block, outs = analysis.walk(open_jaxpr(body), getattr(body, "consts", ()), ins)
    analysis.repeats = around
    results = [whole(v, spec) for v, spec in zip(outs, params["out_specs"], strict=True)]
    block.outs = tuple(v.labels for v in results)
    relation = Relation(tuple(v.labels for v in ins), block.outs)
    return Node(eqn, relation, inner=(block,), emit=_emit_shard_map), results


def _emit_shard_map(node: Node, values: Values, how: Interpretation) -> Values:
    (block,), params = node.inner, node.eqn.params
    how = how.untapped(node)
    mapped = jax.shard_map(
        lambda *xs: tuple(run(block, xs, how)),
        mesh=params["mesh"],
        in_specs=tuple(params["in_specs"]),
        out_specs=tuple(params["out_specs"]),
        axis_names=set(params["newly_manual_axes"]),
        check_vma=params["check_vma"],
    )
    return list(mapped(*(jnp.asarray(v) for v in values)))


SHARDS = {"shard_map": shard_map}
