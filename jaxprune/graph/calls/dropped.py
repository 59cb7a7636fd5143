"""What becomes of a channel inside a function whose operands were multiplied by its mask.

A mask cannot be put inside a function with its own derivative rule, since the rule knows nothing of
it; but it can be put on what enters. `follow` says whether that is enough: it walks an analysed
body and finds out, for each value and each of its channel axes, what number lies at the channels
whose mask is zero. A read is safe where that number is zero on one of its sides.

    x * m ── round ── · ── sum over the channels      0 at dropped channels: nothing of them is read
    x * m ── exp ──── · ── sum over the channels      1 at dropped channels: they would be counted
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jax.extend.core import Literal

from jaxprune.graph.blocks import Block, Node, differentiable
from jaxprune.graph.calls.effects import MASKED, At, Effect, constant, equation, join, unknown
from jaxprune.graph.calls.loops import parts_of_scan, parts_of_while
from jaxprune.graph.labels import Ids, Labels


@dataclass(frozen=True)
class Seen:
    """One equation's read along one axis of each of its sides.

    Attributes:
      ids: what is summed away.
      sides: what is known of each side along its axis.
      in_rule: whether it is in a derivative rule.
    """

    ids: Ids
    sides: tuple[At | None, ...]
    in_rule: bool = False

    @property
    def safe(self) -> bool:
        """Whether nothing of the dropped channels is read."""
        numbers = [at.number for at in self.sides if at is not None]
        return 0 in numbers and math.inf not in numbers

    @property
    def linear(self) -> bool:
        """Whether the mask comes in as a factor, once. Derivatives need not look like that."""
        reached = [at for at in self.sides if at is not None]
        return self.in_rule or (len(reached) == 1 and reached[0].linear)


def follow(block: Block, operands: Sequence[Effect], seen: list[Seen]) -> list[Effect]:
    """What is known of a block's results, and in `seen` of all its reads, also inside."""
    env = dict(zip(block.invars, operands, strict=True))
    for var, value in zip(block.constvars, block.consts, strict=True):
        env[var] = constant(value)

    def fetch(atom: Any, want: Labels) -> Effect:
        effect = constant(atom.val) if isinstance(atom, Literal) else env[atom]
        return effect.at_labels(want)

    for node in block.nodes:
        relation = node.relation
        ins = [fetch(v, w) for v, w in zip(node.eqn.invars, relation.ins, strict=True)]
        if node.emit is None:
            outs = equation(node, ins)
            seen += _reads(node, ins)
        else:
            outs = _CALLS.get(node.eqn.primitive.name, _unknown_call)(node, ins, seen)
        env.update(zip(node.eqn.outvars, outs, strict=True))
    return [fetch(v, w) for v, w in zip(block.jaxpr.outvars, block.outs, strict=True)]


def _reads(node: Node, ins: Sequence[Effect]) -> Iterator[Seen]:
    reads = node.relation.reads
    for along in zip(*(r.axes for r in reads), strict=True):
        sides = [(r.operand, axis) for r, axis in zip(reads, along, strict=True)]
        operand, axis = sides[0]
        ids = node.relation.ins[operand].tracked[(axis,)]
        yield Seen(ids, tuple(ins[i].at.get((a,)) for i, a in sides))


# Equations that hold bodies.


def _joined(a: Sequence[Effect], b: Sequence[Effect]) -> list[Effect]:
    return [join(x, y) for x, y in zip(a, b, strict=False)]


def _body(node: Node, ins: Sequence[Effect], seen: list[Seen]) -> list[Effect]:
    return follow(node.inner[0], ins, seen)


def _cond(node: Node, ins: Sequence[Effect], seen: list[Seen]) -> list[Effect]:
    first, *others = [follow(block, ins[1:], seen) for block in node.inner]
    for outs in others:
        first = _joined(first, outs)
    return first


def _scan(node: Node, ins: Sequence[Effect], seen: list[Seen]) -> list[Effect]:
    consts, carry, xs = parts_of_scan(node.eqn, ins)
    each = [x.moved(-1) for x in xs]
    carry, outs = _settled(
        lambda carry, seen: follow(node.inner[0], [*consts, *carry, *each], seen), carry, seen
    )
    return [*carry, *(y.moved(1) for y in outs[len(carry) :])]


def _while(node: Node, ins: Sequence[Effect], seen: list[Seen]) -> list[Effect]:
    for_cond, for_body, carry = parts_of_while(node.eqn, ins)
    step, test = node.inner
    carry, _ = _settled(lambda c, seen: follow(step, [*for_body, *c], seen), carry, seen)
    follow(test, [*for_cond, *carry], seen)
    return carry


def _settled(
    walk: Callable[[list[Effect], list[Seen]], list[Effect]], carry: list[Effect], seen: list[Seen]
) -> tuple[list[Effect], list[Effect]]:
    """Walks a loop's body until what is known of the carry holds before and after each step."""
    while True:
        reads: list[Seen] = []
        outs = walk(carry, reads)
        after = _joined(carry, outs)
        if after == carry:
            seen += reads
            return carry, outs
        carry = after


def with_rule(
    node: Node, ins: Sequence[Effect], seen: list[Seen]
) -> tuple[list[Effect], list[Effect]]:
    """A function with its own derivative rule, followed through the body and the rule.

    What is one number has no tangent. A cotangent is zero at the channels that are dropped.
    Returns what is known of the results, and of the cotangents that a backward pass gives.
    """
    body, *rules = node.inner
    outs = follow(body, ins, seen)
    moved: list[Effect] = []
    in_rules: list[Seen] = []
    if len(rules) == 1:
        (rule,) = rules
        closed_over = node.eqn.params["num_consts"]  # the rule is not given them
        given = ins[closed_over:]
        tangents = [
            _tangent(effect)
            for effect, var in zip(given, node.eqn.invars[closed_over:], strict=True)
            if differentiable(var.aval)
        ]
        follow(rule, [*given, *tangents], in_rules)
    elif rules:
        forward, backward = rules
        kept = follow(forward, ins, in_rules)[len(outs) :]
        cotangents = [
            Effect(dict.fromkeys(labels.tracked, MASKED)) for labels in backward.ins[len(kept) :]
        ]
        moved = follow(backward, [*kept, *cotangents], in_rules)
    seen += [replace(s, in_rule=True) for s in in_rules]
    return outs, moved


def _tangent(effect: Effect) -> Effect:
    found = {}
    for axes, at in effect.at.items():
        constant = at.number is not None and math.isfinite(at.number)
        found[axes] = At(0.0 if constant else at.number, at.linear)
    return Effect(found)


def _unknown_call(node: Node, ins: Sequence[Effect], seen: list[Seen]) -> list[Effect]:
    for block in node.inner:
        for inner in block.all_nodes():
            seen += _reads(inner, [Effect()] * len(inner.relation.ins))
    return unknown(node, ins)


_CALLS: dict[str, Callable[[Node, Sequence[Effect], list[Seen]], list[Effect]]] = {
    **dict.fromkeys(
        "jit pjit closed_call core_call call composite eval_jaxpr checkpoint remat2 remat".split(),
        _body,
    ),
    "cond": _cond,
    "scan": _scan,
    "while": _while,
    **dict.fromkeys(
        ("custom_jvp_call", "custom_vjp_call"),
        lambda node, ins, seen: with_rule(node, ins, seen)[0],
    ),
}
