"""Primitives without a rule: sound, since everything that they touch keeps its size."""

from __future__ import annotations

from jaxprune.graph.labels import PLAIN
from jaxprune.graph.rules.base import Equation, Relation, Rule, emit_as_is


def fix_all(equation: Equation) -> Relation:
    """Fixes every channel that an operand carries; the results carry none."""
    reason = equation.reason("no rule for this operation")
    for labels in equation.ins:
        for ids in labels.tracked.values():
            equation.channels.fix(ids, reason)
    return Relation(ins=(PLAIN,) * len(equation.ins), outs=(PLAIN,) * len(equation.eqn.outvars))


UNKNOWN = Rule(fix_all, emit_as_is)
