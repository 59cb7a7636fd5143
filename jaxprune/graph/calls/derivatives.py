"""Functions with derivative rules of their own: the rules are analysed and run again too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.graph.analysis import Analysis, CustomRule, Value
from jaxprune.graph.blocks import Block, Node, differentiable, in_custom_rule, open_jaxpr
from jaxprune.graph.calls.bodies import call
from jaxprune.graph.interpret import Interpretation, Values, run
from jaxprune.graph.labels import Labels
from jaxprune.graph.rules import Relation
from jaxprune.graph.rules.base import bind

_RULE_DEPTH = 2


def custom_jvp_call(
    analysis: Analysis, eqn: Any, operands: list[Value]
) -> tuple[Node, list[Value]]:
    """The body and its derivative rule's own jaxpr, with their results tied to each other.

    A rule calls its own function again for the primal result, so rules are followed to the second
    derivative and no further. Masks cannot come in between a function and its rule, which knows
    nothing of them: they are put on its operands, see `entries.py`.
    """
    if analysis.rule_depth == _RULE_DEPTH:
        return call(analysis, eqn, operands)
    body = eqn.params["call_jaxpr"]
    block, outs = analysis.walk(open_jaxpr(body), getattr(body, "consts", ()), operands)
    # Captured arrays come first among the operands; the rule is not given them.
    closed_over = eqn.params["num_consts"]
    zeros = tuple(not differentiable(v.aval) for v in eqn.invars[closed_over:])
    rule_jaxpr, rule_consts, out_zeros = eqn.params["jvp_jaxpr_fun"].call_wrapped(*zeros)
    given = operands[closed_over:]
    tangents = [replace(v, constant=False) for v, z in zip(given, zeros, strict=True) if not z]
    rule, rule_outs = _walk_rule(analysis, rule_jaxpr, rule_consts, [*given, *tangents])

    tangent_outs = iter(rule_outs[len(outs) :])
    versions = [[out.labels, rule_outs[i].labels] for i, out in enumerate(outs)]
    for labels, zero in zip(versions, out_zeros, strict=True):
        if not zero:
            labels.append(next(tangent_outs).labels)
    reason = analysis.reason("differs between a function and its derivative rule", eqn)
    common = [analysis.channels.unify(labels, reason)[1] for labels in versions]
    block.outs = tuple(common)
    rule.outs = (*common, *(c for c, zero in zip(common, out_zeros, strict=True) if not zero))

    def emit(node: Node, values: Values, how: Interpretation) -> Values:
        if how.passes(node) or how.inline:
            return how.leave(node, _emit_inline(node, how.enter(node, values), how))
        return list(_with_jvp_rule(node, tuple(out_zeros), how)(*values))

    node = Node(eqn, Relation(block.ins, block.outs), inner=(block, rule), emit=emit)
    return _own(analysis, node, operands, [False] * closed_over + [not z for z in zeros]), [
        replace(v, labels=c) for v, c in zip(outs, common, strict=True)
    ]


def _walk_rule(
    analysis: Analysis, jaxpr: Any, consts: Any, ins: list[Value]
) -> tuple[Block, list[Value]]:
    analysis.rule_depth += 1
    rule, outs = analysis.walk(open_jaxpr(jaxpr), consts, ins)
    analysis.rule_depth -= 1
    return rule, outs


def _own(
    analysis: Analysis, node: Node, operands: list[Value], has_derivative: Sequence[bool]
) -> Node:
    """Remembers a function that is run under masks: one that is not inside of another."""
    if not in_custom_rule(analysis.around[:-1]):
        reason = analysis.reason("read in a function with its own derivative", node.eqn)
        constant = tuple(v.constant for v in operands)
        analysis.custom_rules.append(CustomRule(node, constant, tuple(has_derivative), reason))
    return node


def _emit_inline(node: Node, values: Values, how: Interpretation) -> Values:
    return bind(node.eqn, values) if how.passes(node) else run(node.inner[0], values, how)


def _with_jvp_rule(
    node: Node, zero_tangents: tuple[bool, ...], how: Interpretation
) -> Callable[..., tuple[Any, ...]]:
    """The user's function with the user's own derivative rule, both interpreted."""
    body, rule = node.inner
    closed_over = node.eqn.params["num_consts"]
    has_tangent = [differentiable(v.aval) for v in node.eqn.invars[closed_over:]]

    @jax.custom_jvp
    def primal(*args: Any) -> tuple[Any, ...]:
        return tuple(run(body, args, how))

    @primal.defjvp
    def derivative(primals: Any, tangents: Any) -> tuple[Any, Any]:
        moved = tangents[closed_over:]
        given = [t for t, has in zip(moved, has_tangent, strict=True) if has]
        outs = run(rule, [*primals[closed_over:], *given], how)
        results, rest = outs[: len(body.outs)], iter(outs[len(body.outs) :])
        tangents_out = [
            _zero_tangent(out) if zero else next(rest)
            for out, zero in zip(results, zero_tangents, strict=True)
        ]
        return tuple(results), tuple(tangents_out)

    return primal


def _zero_tangent(value: jax.Array) -> Any:
    if differentiable(value):
        return jnp.zeros_like(value)
    return np.zeros(value.shape, jax.dtypes.float0)


def custom_vjp_call(
    analysis: Analysis, eqn: Any, operands: list[Value]
) -> tuple[Node, list[Value]]:
    """The body, and the forward and backward passes of its rule, as `jax.vjp` runs them.

    The cotangent of an operand is tied to the operand, that of a result to the result. No axis is
    free, in or out: a cotangent has an entry of its own for each place of a broadcast. For the
    rest as `custom_jvp_call`.
    """
    if analysis.rule_depth == _RULE_DEPTH:
        return call(analysis, eqn, operands)
    operands = [replace(v, labels=Labels(v.labels.tracked)) for v in operands]
    has_cotangent, forward, backward = _rule_of(eqn)
    mark = analysis.mark()
    body = eqn.params["call_jaxpr"]
    block, outs = analysis.walk(open_jaxpr(body), getattr(body, "consts", ()), operands)
    fwd, fwd_outs = _walk_rule(analysis, forward, forward.consts, operands)
    results, residuals = fwd_outs[: len(outs)], fwd_outs[len(outs) :]
    reason = analysis.reason("differs between a function and its derivative rule", eqn)
    common = []
    for a, b in zip(outs, results, strict=True):
        _, labels = analysis.channels.unify([a.labels, b.labels], reason)
        common.append(Labels(labels.tracked))
    cotangents = [
        Value(c) for c, var in zip(common, eqn.outvars, strict=True) if differentiable(var.aval)
    ]
    ins = [*(replace(v, constant=False) for v in residuals), *cotangents]
    bwd, moved = _walk_rule(analysis, backward, backward.consts, ins)
    wanted = [v.labels for v, has in zip(operands, has_cotangent, strict=True) if has]
    if any(_parts(labels, value.labels) for labels, value in zip(wanted, moved, strict=True)):
        analysis.forget(mark)
        singles = [replace(v, labels=analysis.channels.singles(v.labels)) for v in operands]
        return custom_vjp_call(analysis, eqn, singles)
    for labels, value in zip(wanted, moved, strict=True):
        analysis.channels.unify([labels, value.labels], reason)
    block.outs = tuple(common)
    fwd.outs = (*common, *(v.labels for v in residuals))
    bwd.outs = tuple(wanted)

    def emit(node: Node, values: Values, how: Interpretation) -> Values:
        values = [how.guard(v, w) for v, w in zip(values, node.relation.ins, strict=True)]
        if how.passes(node) or how.inline:
            outs = how.leave(node, _emit_inline(node, how.enter(node, values), how))
            if node.entries is None:
                return outs
            return [how.guard(v, w) for v, w in zip(outs, node.relation.outs, strict=True)]
        return list(_with_vjp_rule(node, has_cotangent, how)(*values))

    node = Node(eqn, Relation(block.ins, block.outs), inner=(block, fwd, bwd), emit=emit)
    return _own(analysis, node, operands, has_cotangent), [
        replace(v, labels=c) for v, c in zip(outs, common, strict=True)
    ]


def _parts(operand: Labels, cotangent: Labels) -> bool:
    """Whether a cotangent has lost joint axes that its operand has."""
    return any(
        axes not in cotangent.tracked and not set(axes) <= cotangent.free for axes in operand.joint
    )


def _rule_of(eqn: Any) -> tuple[list[bool], Any, Any]:
    """Which operands the rule speaks of, and its passes: not what the function closes over.

    Inside another rule, and under `vmap`, JAX forgets which those are, but still refuses to
    differentiate in them.
    """
    closed_over = eqn.params["num_consts"]
    has = [i >= closed_over and differentiable(v.aval) for i, v in enumerate(eqn.invars)]
    if (passes := _passes(eqn, has)) is None:
        alone = [[i == j for j in range(len(has))] for i in range(len(has))]
        has = [h and _passes(eqn, only) is not None for h, only in zip(has, alone, strict=True)]
        passes = _vjp_jaxprs(eqn, has)
    return has, *passes


def _passes(eqn: Any, has: list[bool]) -> tuple[Any, Any] | None:
    try:
        return _vjp_jaxprs(eqn, has)
    except Exception as problem:
        if type(problem).__name__ != "CustomVJPException":  # a private type
            raise
    return None


def _vjp_jaxprs(eqn: Any, has: list[bool]) -> tuple[Any, Any]:
    """Operands → results and residuals; residuals and cotangents → cotangents of the operands."""

    def forward(*args: Any) -> tuple[list[Any], Any]:
        def moving(*moved: Any) -> list[Any]:
            rest = iter(moved)
            return bind(eqn, [next(rest) if h else a for a, h in zip(args, has, strict=True)])

        return jax.vjp(moving, *(a for a, h in zip(args, has, strict=True) if h))

    def backward(residuals: Any, cotangents: Any) -> Any:
        given = iter(cotangents)
        return residuals(
            [
                next(given) if differentiable(v.aval) else np.zeros(v.aval.shape, jax.dtypes.float0)
                for v in eqn.outvars
            ]
        )

    structs = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
    fwd, (outs, residuals) = jax.make_jaxpr(forward, return_shape=True)(*structs)
    cotangents = [out for out in outs if differentiable(out)]
    return fwd, jax.make_jaxpr(backward)(residuals, cotangents)


def _with_vjp_rule(
    node: Node, has_cotangent: list[bool], how: Interpretation
) -> Callable[..., tuple[Any, ...]]:
    """The user's function with the user's own backward pass, both interpreted."""
    body, fwd, bwd = node.inner
    count = len(body.outs)
    moves = [differentiable(v.aval) for v in node.eqn.outvars]

    @jax.custom_vjp
    def primal(*args: Any) -> tuple[Any, ...]:
        return tuple(run(body, args, how))

    def forward(*args: Any) -> tuple[Any, Any]:
        outs = run(fwd, args, how)
        return tuple(outs[:count]), tuple(outs[count:])

    def backward(residuals: Any, cotangents: Any) -> tuple[Any, ...]:
        given = [c for c, m in zip(cotangents, moves, strict=True) if m]
        moved = iter(run(bwd, [*residuals, *given], how))
        return tuple(next(moved) if has else None for has in has_cotangent)

    primal.defvjp(forward, backward)
    return primal


DERIVATIVES = {"custom_jvp_call": custom_jvp_call, "custom_vjp_call": custom_vjp_call}
