"""Structured channel pruning for JAX.

Masks are pytrees, the search is one jitted program, the result is a really smaller network:

    import jaxprune as jp

    fn, variables = jp.functional(module, variables)
    pruned = jp.prune(fn, variables, batches, budget="params/8,macs/3", key=jax.random.key(0))
    logits = pruned.wrap(fn)(pruned.variables, images)
"""

from jaxprune import interop, models
from jaxprune.budget import Budget
from jaxprune.checkpoint import load, save
from jaxprune.frontends import functional
from jaxprune.graph import ChannelGraph, Cost, Group, Member, Pruned, accelerate, cost, trace
from jaxprune.methods import METHODS as methods
from jaxprune.problem import Method, Problem, Run, Selection
from jaxprune.pruning import prune

__version__ = "0.1.0"

__all__ = [
    "Budget", "ChannelGraph", "Cost", "Group", "Member", "Method", "Problem", "Pruned", "Run",
    "Selection", "accelerate", "cost", "functional", "interop", "load", "methods", "models",
    "prune", "save", "trace",
]  # fmt: skip
