"""Calls of one body that runs once: `jit`, `checkpoint`, and the branches of a `cond`."""

from __future__ import annotations

from typing import Any

import jax
from jax import lax

from jaxprune.graph.analysis import Analysis, Node, Value, open_jaxpr
from jaxprune.graph.interpret import Interpretation, Values, run
from jaxprune.graph.rules import UNKNOWN, Equation, Relation
from jaxprune.graph.rules.base import bind


def call(analysis: Analysis, eqn: Any, operands: list[Value]) -> tuple[Node, list[Value]]:
    """`jit` and other calls: the body is walked with the operands' own labels."""
    body = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    block, outs = analysis.walk(open_jaxpr(body), getattr(body, "consts", ()), operands)
    return Node(eqn, Relation(block.ins, block.outs), inner=(block,), emit=_emit_call), outs


def _emit_call(node: Node, values: Values, how: Interpretation) -> Values:
    return bind(node.eqn, values) if how.passes(node) else run(node.inner[0], values, how)


def checkpoint(analysis: Analysis, eqn: Any, operands: list[Value]) -> tuple[Node, list[Value]]:
    """`jax.checkpoint`: as a call, and it stays one, with its policy."""
    node, outs = call(analysis, eqn, operands)
    node.emit = _emit_checkpoint
    return node, outs


def _emit_checkpoint(node: Node, values: Values, how: Interpretation) -> Values:
    if how.passes(node) or how.inline:
        return _emit_call(node, values, how)
    checkpointed = jax.checkpoint(
        lambda *xs: run(node.inner[0], xs, how),
        prevent_cse=node.eqn.params["prevent_cse"],
        policy=node.eqn.params["policy"],
    )
    return checkpointed(*values)


def cond(analysis: Analysis, eqn: Any, operands: list[Value]) -> tuple[Node, list[Value]]:
    """The results of all branches are tied to each other.

    Its work is that of the branch with the most. Branches per platform are not looked into.
    Fields: branches.
    """
    if eqn.params.get("branches_platforms") is not None:
        labels = tuple(v.labels for v in operands)
        relation = UNKNOWN.relate(Equation(eqn, labels, analysis.channels, analysis.around))
        return Node(eqn, relation), [Value(out) for out in relation.outs]
    index, *given = operands
    before = len(analysis.work)
    most: list[Any] = []
    blocks, results = [], []
    for branch in eqn.params["branches"]:
        block, outs = analysis.walk(open_jaxpr(branch), getattr(branch, "consts", ()), given)
        blocks.append(block)
        results.append(outs)
        found = analysis.work[before:]
        del analysis.work[before:]
        most = max(most, found, key=lambda work: sum(w.dense_macs for w in work))
    analysis.work += most

    reason = analysis.reason("differs between the branches of a condition", eqn)
    outs = []
    for versions in zip(*results, strict=True):
        _, labels = analysis.channels.unify([v.labels for v in versions], reason)
        outs.append(
            Value(
                labels,
                next((v.source for v in versions if v.source), None),
                index.constant and all(v.constant for v in versions),
                frozenset[int]().union(*(v.sums for v in versions)),
            )
        )
    for block in blocks:
        block.outs = tuple(v.labels for v in outs)
    relation = Relation((index.labels, *blocks[0].ins), blocks[0].outs)
    return Node(eqn, relation, inner=tuple(blocks), emit=_emit_cond), outs


def _emit_cond(node: Node, values: Values, how: Interpretation) -> Values:
    if how.passes(node):
        return bind(node.eqn, values)
    how = how.untapped()
    index, *given = values
    branches = [lambda *xs, block=block: tuple(run(block, xs, how)) for block in node.inner]
    return list(lax.switch(index, branches, *given))


BODIES = {
    **dict.fromkeys(("jit", "pjit", "closed_call", "core_call", "call", "composite"), call),
    **dict.fromkeys(("checkpoint", "remat2", "remat"), checkpoint),
    "cond": cond,
}
