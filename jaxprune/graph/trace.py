"""`trace` and `cost`: from a function and example inputs to its channel graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune.graph import paths
from jaxprune.graph.again import inherit
from jaxprune.graph.channel_graph import ChannelGraph, Fn
from jaxprune.graph.cost import Cost, cost_at
from jaxprune.graph.groups import Grouping, cost_terms, group_channels
from jaxprune.graph.orders import fixed_orders
from jaxprune.graph.program import State, analyse
from jaxprune.graph.pruned import rebuild_of


def trace(
    fn: Fn,
    variables: Any,
    *args: Any,
    state: State | None = None,
    protect: Sequence[str] = (),
    allow_inexact: bool = False,
) -> ChannelGraph:
    """Finds the coupled channel groups of `fn(variables, *args)`.

    Args:
      fn: any function that JAX can trace. Its first argument is a pytree of arrays.
      variables: that pytree, as arrays or `jax.ShapeDtypeStruct`s.
      *args: example inputs, or structs of their shapes. Costs are counted for these: trace with
        a batch of one for the cost of one example.
      state: picks from the output what holds new values of variables (batch statistics), e.g.
        `lambda out: out[1]`; all other outputs keep their channels.
      protect: patterns of layers or variables whose channels all stay: `stem`, `stage3/block?`.
      allow_inexact: open normalisations over the channels (LayerNorm, RMSNorm). A pruned network
        then normalises over the channels that are left, as the same code does on the narrow
        weights. A mean divides by their number, and so does an unbiased variance: a sum over
        channels that is divided by exactly as many as it adds up, or by one less, as it stands in
        the jaxpr. Any other sum is that of the channels that are left: of `x / norm(x)` nothing
        is rescaled. What cannot be told from the jaxpr: a number that was meant to follow the
        width but is not divided by there, such as the `sqrt(dim)` of an RMSNorm that multiplies
        by it, stays what it was; and a constant that happens to equal the width follows it.

    Raises:
      ValueError: nothing is prunable, NaN or infinity in a variable, a pattern that matches
        nothing.
      TypeError: `fn` cannot be traced on these arguments, or variables that are no arrays.
    """
    _require_arrays(variables)
    _require_finite(variables)
    base = getattr(fn, "jaxprune_pruned", None)
    inherited = state is None and base is not None and base.state is not None
    if state is None and base is not None:
        state = base.state
    program = analyse(
        fn, variables, args, {}, state=state, lenient=inherited, protect=protect,
        allow_inexact=allow_inexact, fix_unused=True,
    )  # fmt: skip
    names = None
    if base is not None:
        first = base.analyse(fn, variables, args, {}, state=state, allow_inexact=allow_inexact)
        names = inherit(program, first, base)
    grouping = group_channels(program.analysis, names)
    if not grouping.groups:
        shown = "; ".join(f"{axis}: {why}" for axis, why in list(grouping.fixed.items())[:8])
        raise ValueError(f"nothing in this function is prunable. Fixed: {shown or 'no variables'}")
    dense = {
        path: (tuple(np.shape(leaf)), str(jnp.result_type(leaf)))
        for path, leaf in paths.leaves(variables)
    }
    return ChannelGraph(
        groups=grouping.groups,
        fixed=grouping.fixed,
        ordered=fixed_orders(program.analysis, grouping),
        _grouping=grouping,
        _terms=cost_terms(program.analysis, grouping),
        _dense=dense,
        _state=state,
        _allow_inexact=allow_inexact,
        _base=base,
        _rebuild=rebuild_of(fn),
    )


def cost(fn: Fn, variables: Any, *args: Any) -> Cost:
    """The cost of `fn(variables, *args)`, counted from its jaxpr; see `Cost`."""
    program = analyse(fn, variables, args, {})
    empty = Grouping({}, {}, {p: [None] * len(a) for p, a in program.analysis.variables.items()})
    return cost_at(cost_terms(program.analysis, empty), np.empty(0))


def _require_arrays(variables: Any) -> None:
    for path, leaf in paths.leaves(variables):
        if not hasattr(leaf, "shape") and not isinstance(leaf, (bool, int, float, complex)):
            raise TypeError(
                f"the variables hold a {type(leaf).__name__} at {path!r}, which is no array: leave "
                "it out, or, for a module of a library, fn, variables = jp.functional(module)"
            )


def _require_finite(variables: Any) -> None:
    for path, leaf in paths.leaves(variables):
        if isinstance(leaf, np.ndarray) or (
            isinstance(leaf, jax.Array)
            and not isinstance(leaf, Tracer)
            and leaf.is_fully_addressable
            and jnp.issubdtype(leaf.dtype, jnp.inexact)
        ):  # On the host: a compiled check for every shape would take seconds.
            values = np.asarray(leaf)
            if jnp.issubdtype(values.dtype, jnp.inexact) and not np.isfinite(values).all():
                raise ValueError(
                    f"{path} holds NaN or infinity; train on, or restore a sound checkpoint"
                )
