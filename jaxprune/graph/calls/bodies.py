"""Calls of one body that runs once: `jit`, `checkpoint`, and the branches of a `cond`."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune.graph.analysis import Analysis, Value
from jaxprune.graph.blocks import Node, open_jaxpr
from jaxprune.graph.interpret import Interpretation, TappedRead, Values, run
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
    index, *given = values
    if how.inline:
        return _emit_tapped_cond(node, index, given, how)
    branches = [lambda *xs, block=block: tuple(run(block, xs, how)) for block in node.inner]
    return list(lax.switch(index, branches, *given))


def _emit_tapped_cond(node: Node, index: Any, given: Values, how: Interpretation) -> Values:
    """What a branch reads is handed out of it; zeros where it did not run, which read nothing.

    A kernel that is made of variables alone is the same whether it ran or not.
    """
    taps: list[list[TappedRead]] = [[] for _ in node.inner]

    def branch(i: int, *xs: Any, quiet: bool = True) -> tuple[Any, Any]:
        taps[i].clear()
        outs = tuple(run(node.inner[i], xs, how.collecting(taps[i], quiet)))
        return outs, [(value, kernel) for _, value, kernel in taps[i]]

    count = len(node.inner)
    idle = [jax.eval_shape(functools.partial(branch, i), *given)[1] for i in range(count)]
    idle = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), idle)

    def among_idle(i: int, *xs: Any) -> tuple[Any, Any]:
        outs, reads = branch(i, *xs)
        return outs, [*idle[:i], reads, *idle[i + 1 :]]

    branches = [functools.partial(among_idle, i) for i in range(count)]
    outs, reads = lax.switch(index, branches, *given)
    for i, found in enumerate(reads):
        kernels = [kernel for _, kernel in branch(i, *given, quiet=False)[1]]
        for one, (value, kernel), always in zip(list(taps[i]), found, kernels, strict=True):
            assert one.node.read is not None
            constant = 1 - one.node.read.operand in one.node.kernels
            how.hand_out([TappedRead(one.node, value, always if constant else kernel)])
    return list(outs)


BODIES = {
    **dict.fromkeys(
        ("jit", "pjit", "closed_call", "core_call", "call", "composite", "eval_jaxpr"), call
    ),
    **dict.fromkeys(("checkpoint", "remat2", "remat"), checkpoint),
    "cond": cond,
}
