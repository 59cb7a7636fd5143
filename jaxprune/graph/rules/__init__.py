"""One rule per primitive: which channels an equation ties, and how it runs at smaller shapes.

`relate` takes the labels of an equation's operands and gives the labels of its results;
`emit` runs the equation on sliced operands. A primitive without a rule fixes what it touches.
"""

from jaxprune.graph.rules.base import Equation, Read, Relation, Rule
from jaxprune.graph.rules.collectives import COLLECTIVES
from jaxprune.graph.rules.contractions import CONTRACTIONS
from jaxprune.graph.rules.cuts import CUTS
from jaxprune.graph.rules.drawn import DRAWN
from jaxprune.graph.rules.elementwise import ELEMENTWISE
from jaxprune.graph.rules.gathers import GATHERS
from jaxprune.graph.rules.indexing import SLICES
from jaxprune.graph.rules.joins import JOINS
from jaxprune.graph.rules.reductions import REDUCTIONS
from jaxprune.graph.rules.reshapes import RESHAPES
from jaxprune.graph.rules.unknown import UNKNOWN

RULES: dict[str, Rule] = {
    **ELEMENTWISE, **RESHAPES, **JOINS, **CUTS, **SLICES, **GATHERS, **REDUCTIONS, **CONTRACTIONS,
    **COLLECTIVES, **DRAWN,
}  # fmt: skip


def rule_for(primitive_name: str) -> Rule:
    """The rule of a primitive; the one that fixes everything where there is none."""
    return RULES.get(primitive_name, UNKNOWN)


__all__ = ["RULES", "UNKNOWN", "Equation", "Read", "Relation", "Rule", "rule_for"]
