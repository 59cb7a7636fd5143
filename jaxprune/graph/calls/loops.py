"""`scan` and `while`: what a loop carries is tied over its start, its input and its output.

What a body does to the labels of its carry is only known after it was walked with some. So it is
walked until the labels that go in come out again; what an earlier walk found is taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune.graph.analysis import Analysis, Value
from jaxprune.graph.blocks import Block, Node, open_jaxpr
from jaxprune.graph.interpret import Interpretation, Values, run
from jaxprune.graph.labels import Labels
from jaxprune.graph.rules import Relation
from jaxprune.graph.rules.base import bind
from jaxprune.graph.source import Reason


def scan(analysis: Analysis, eqn: Any, operands: list[Value]) -> tuple[Node, list[Value]]:
    """carry, y[i] = body(constants, carry, x[i]) for each i along the leading axis of the xs.

    That axis is fixed: of stacked layers all stay. Their channels are the same in each layer.
    Fields: jaxpr, length, reverse, unroll, and how many constants and carries there are.
    """
    consts, starts, stacked = parts_of_scan(eqn, operands)
    reason = analysis.reason("a loop runs along this axis", eqn)
    slices = []
    for value in stacked:
        labels = analysis.channels.singles(value.labels, touched=(0,))
        labels = analysis.channels.fix_axes(labels, (0,), reason)
        slices.append(Value(labels, value.source, value.constant, value.sums))
    each = [
        Value(_without_leading(v.labels), v.source, v.constant, v.sums) for v in slices
    ]  # fmt: skip
    body = eqn.params["jaxpr"]

    def walk(carry: list[Value]) -> tuple[tuple[Block, ...], list[Value]]:
        ins = [*consts, *carry, *each]
        block, outs = analysis.walk(open_jaxpr(body), getattr(body, "consts", ()), ins)
        return (block,), outs

    around = analysis.repeats
    analysis.repeats = around * eqn.params["length"]
    (block,), carry, outs = _settle(analysis, eqn, starts, walk)
    analysis.repeats = around
    count = len(carry)
    block.outs = (*(v.labels for v in carry), *(v.labels for v in outs[count:]))
    ys = [Value(_with_leading(v.labels), v.source, v.constant, v.sums) for v in outs[count:]]
    ins = (*consts, *carry, *slices)
    results = [*carry, *ys]
    relation = Relation(tuple(v.labels for v in ins), tuple(v.labels for v in results))
    return Node(eqn, relation, inner=(block,), emit=_emit_scan), results


def parts_of_scan(eqn: Any, values: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """Constants, starts of the carry, and what is scanned over."""
    params = eqn.params
    if "num_carry" in params:
        constants, carries = params["num_consts"], params["num_carry"]
    else:  # JAX 0.12
        constants, carries, _ = (len(part.vals) for part in params["ft_in"].unpack())
    end = constants + carries
    return list(values[:constants]), list(values[constants:end]), list(values[end:])


def _without_leading(labels: Labels) -> Labels:
    """The labels of one slice along axis 0, which carries nothing."""
    return _moved(labels, -1)


def _with_leading(labels: Labels) -> Labels:
    """The labels of results side by side along a new axis 0, which carries nothing."""
    return _moved(labels, 1)


def _moved(labels: Labels, by: int) -> Labels:
    tracked = {tuple(a + by for a in axes): ids for axes, ids in labels.tracked.items()}
    return Labels(tracked, frozenset(a + by for a in labels.free if a + by >= 0))


def _emit_scan(node: Node, values: Values, how: Interpretation) -> Values:
    if how.passes(node):
        return bind(node.eqn, values)
    (block,) = node.inner
    params = node.eqn.params
    consts, carry, xs = parts_of_scan(node.eqn, values)
    carry = _typed(carry, block.invars[len(consts) :])
    count = len(carry)

    def step(carry: Any, x: Any) -> tuple[Any, Any]:
        outs = run(block, [*consts, *carry, *x], how)
        return tuple(outs[:count]), tuple(outs[count:])

    if how.inline:
        return _unrolled(step, carry, xs, node)
    carry, ys = lax.scan(
        step, tuple(carry), tuple(xs),
        length=params["length"], reverse=params["reverse"], unroll=params["unroll"],
    )  # fmt: skip
    return [*carry, *ys]


def _unrolled(step: Callable[..., Any], carry: Any, xs: Values, node: Node) -> Values:
    """All steps one after the other, so that what they read can leave the loop."""
    length, reverse = node.eqn.params["length"], node.eqn.params["reverse"]
    ys: list[Any] = [None] * length
    for i in reversed(range(length)) if reverse else range(length):
        carry, ys[i] = step(carry, [x[i] for x in xs])
    stacked = [jnp.stack(along) for along in zip(*ys, strict=True)]
    return [*carry, *stacked]


def while_(analysis: Analysis, eqn: Any, operands: list[Value]) -> tuple[Node, list[Value]]:
    """carry = body(carry) as long as cond(carry). Its work is counted as if it ran once.

    Under `vmap` a loop per entry: cond(carry) has leading axes, which the carry has too.
    Fields: cond_jaxpr, cond_nconsts, body_jaxpr, body_nconsts.
    """
    for_cond, for_body, starts = parts_of_while(eqn, operands)
    cond, body = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"]
    reason = analysis.reason("differs between the steps of a loop", eqn)

    def walk(carry: list[Value]) -> tuple[tuple[Block, ...], list[Value]]:
        given = [*for_cond, *carry]
        test, (goes_on,) = analysis.walk(open_jaxpr(cond), getattr(cond, "consts", ()), given)
        loops = range(test.jaxpr.outvars[0].aval.ndim)
        given = [*for_body, *carry]
        step, outs = analysis.walk(open_jaxpr(body), getattr(body, "consts", ()), given)
        return (step, test), [_per_loop(analysis, v, goes_on, loops, reason) for v in outs]

    (step, test), carry, _ = _settle(analysis, eqn, starts, walk)
    step.outs = tuple(v.labels for v in carry)
    ins = (*for_cond, *for_body, *carry)
    relation = Relation(tuple(v.labels for v in ins), step.outs)
    return Node(eqn, relation, inner=(step, test), emit=_emit_while), carry


def _per_loop(
    analysis: Analysis, value: Value, goes_on: Value, loops: range, reason: Reason
) -> Value:
    """A carry after a step: along the axes of a `vmap` tied to the condition of its loops."""
    if not loops:
        return value
    labels = analysis.channels.singles(value.labels, touched=loops)
    leading = Labels(
        {axes: ids for axes, ids in labels.tracked.items() if axes[0] in loops},
        labels.free & set(loops),
    )
    _, common = analysis.channels.unify([leading, goes_on.labels], reason)
    rest = labels.without(loops)
    return replace(
        value, labels=Labels({**rest.tracked, **common.tracked}, rest.free | common.free)
    )


def parts_of_while(eqn: Any, values: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """Constants of the condition, those of the body, and the carry."""
    first = eqn.params["cond_nconsts"]
    end = first + eqn.params["body_nconsts"]
    return list(values[:first]), list(values[first:end]), list(values[end:])


def _emit_while(node: Node, values: Values, how: Interpretation) -> Values:
    if how.passes(node):
        return bind(node.eqn, values)
    how = how.untapped(node)
    step, test = node.inner
    for_cond, for_body, carry = parts_of_while(node.eqn, values)

    def goes_on(carry: Any) -> Any:
        return run(test, [*for_cond, *carry], how)[0]

    def body(carry: Any) -> Any:
        outs = tuple(run(step, [*for_body, *carry], how))
        on = goes_on(carry) if per_loop else True
        return tuple(_where_on(on, a, b) for a, b in zip(outs, carry, strict=True))

    start = tuple(_typed(carry, step.invars[len(for_body) :]))
    per_loop = test.jaxpr.outvars[0].aval.ndim > 0
    return list(lax.while_loop(lambda carry: jnp.any(goes_on(carry)), body, start))


def _where_on(on: Any, after: Any, before: Any) -> Any:
    """Where a loop goes on, its carry moves; another one waits for it."""
    if np.ndim(on) == 0:
        return after
    return jnp.where(on.reshape(on.shape + (1,) * (after.ndim - on.ndim)), after, before)


def _typed(values: Values, invars: Sequence[Any]) -> Values:
    """A literal that a loop starts with, at the type that it is carried with."""
    return [
        v if hasattr(v, "aval") else jnp.asarray(v, var.aval.dtype)
        for v, var in zip(values, invars, strict=False)
    ]


Walk = Callable[[list[Value]], tuple[tuple[Block, ...], list[Value]]]


def _settle(
    analysis: Analysis, eqn: Any, starts: list[Value], walk: Walk
) -> tuple[tuple[Block, ...], list[Value], list[Value]]:
    """Walks a body until its carry has the same form going in and coming out.

    Each round can only take away: an axis goes from free to tracked to fixed, joint axes part. So
    there is a last one. Returns the blocks of that walk, the carry and all results of the body.
    """
    channels = analysis.channels
    # What is known of a carry is so in the first step alone.
    starts = [replace(v, known=None, number=None, total=()) for v in starts]
    reasons = [analysis.reason("differs between the steps of a loop", eqn)] * len(starts)
    carry = list(starts)
    while True:
        mark = analysis.mark()
        blocks, outs = walk(carry)
        met = [_meet(analysis, a, b, why) for a, b, why in zip(carry, outs, reasons, strict=False)]
        if all(_alike(a, b) for a, b in zip(carry, met, strict=True)):
            for start, value, why in zip(starts, carry, reasons, strict=True):
                channels.unify([start.labels, value.labels], why)
            return blocks, carry, outs
        for i, (a, b) in enumerate(zip(carry, met, strict=True)):
            lost = [ids for axes, ids in a.labels.tracked.items() if axes not in b.labels.tracked]
            found = (channels.reason_since((mark[0], mark[1], mark[2]), ids) for ids in lost)
            reasons[i] = next((why for why in found if why is not None), reasons[i])
        analysis.forget(mark)
        carry = [_with_form(analysis, a, b) for a, b in zip(carry, met, strict=True)]


def _meet(analysis: Analysis, a: Value, b: Value, reason: Any) -> Value:
    _, labels = analysis.channels.unify([a.labels, b.labels], reason)
    return Value(labels, a.source or b.source, a.constant and b.constant, a.sums)


def _alike(a: Value, b: Value) -> bool:
    forms = [(v.labels.tracked.keys(), v.labels.free, v.constant, v.source) for v in (a, b)]
    return forms[0] == forms[1]


def _with_form(analysis: Analysis, value: Value, form: Value) -> Value:
    """A carry of a given form, with ids of its own where it had none of that form."""
    tracked = {
        axes: value.labels.tracked[axes]
        if axes in value.labels.tracked
        else analysis.channels.new(*ids.shape)
        for axes, ids in form.labels.tracked.items()
    }
    return Value(Labels(tracked, form.labels.free), form.source, form.constant, value.sums)


LOOPS = {"scan": scan, "while": while_}
