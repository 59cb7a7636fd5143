"""Equations that hold whole functions: calls, loops, functions with their own derivatives.

Each rule walks the bodies with the labels of its operands and gives a node that knows how to run
them again, in any interpretation.
"""

from jaxprune.graph.analysis import CallRule
from jaxprune.graph.calls.bodies import BODIES
from jaxprune.graph.calls.derivatives import DERIVATIVES
from jaxprune.graph.calls.loops import LOOPS
from jaxprune.graph.calls.shards import SHARDS

CALLS: dict[str, CallRule] = {**BODIES, **DERIVATIVES, **LOOPS, **SHARDS}

__all__ = ["CALLS"]
