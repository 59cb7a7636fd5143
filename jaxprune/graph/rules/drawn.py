"""Random numbers that are drawn inside the function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from jaxprune.graph.cut import take_kept
from jaxprune.graph.labels import PLAIN, Keep, Labels
from jaxprune.graph.rules.base import Equation, Relation, Rule, bind


def drawn(equation: Equation) -> Relation:
    """Entries that are drawn with a key: new ids on every axis, nothing passes from the operands.

    Example: `random_bits[shape=(8, 4)] key → u32[8,4]` in a dropout, whose second axis is tied to
    the channels that it drops; or in a projection that is never trained. What the operands carry
    (one key for each channel) is fixed. Fields: none.
    """
    reason = equation.reason("random numbers are drawn with it")
    for labels in equation.ins:
        for ids in labels.tracked.values():
            equation.channels.fix(ids, reason)
    outs = []
    for shape in equation.out_shapes:
        axes = {(a,): equation.channels.new(n) for a, n in enumerate(shape) if n > 1}
        outs.append(Labels(axes))
    return Relation((PLAIN,) * len(equation.ins), tuple(outs))


def emit_drawn(eqn: Any, relation: Relation, values: Sequence[jax.Array], keep: Keep) -> list[Any]:
    """Draws at the dense shape and takes the kept entries: those of the unpruned network.

    A key gives other numbers at another shape, so drawing fewer would make another projection of a
    fixed random one, and other masks in a dropout. The price is the draws that are thrown away: XLA
    fuses the take with what reads it, but all are drawn, also for a dropout at half the width.
    """
    return [
        take_kept(out, labels, keep)
        for out, labels in zip(bind(eqn, values), relation.outs, strict=True)
    ]


DRAWN = dict.fromkeys(
    ("random_bits", "random_gamma", "rng_bit_generator", "rng_uniform"), Rule(drawn, emit_drawn)
)
