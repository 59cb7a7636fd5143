"""Traces a function on abstract values and analyses the jaxpr, once per call signature."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.graph import paths
from jaxprune.graph.analysis import Analysis
from jaxprune.graph.blocks import Block, open_jaxpr, without_dead_code
from jaxprune.graph.calls import CALLS
from jaxprune.graph.calls.entries import settle_entries
from jaxprune.graph.groups import Units, units_of_classes
from jaxprune.graph.labels import PLAIN, Ids, Labels
from jaxprune.graph.source import Reason

State = Callable[[Any], Any]


@dataclass(frozen=True)
class Program:
    """A function as the engine sees it for one signature: its analysed jaxpr and its trees."""

    analysis: Analysis
    block: Block
    roots: np.ndarray
    out_tree: Any

    def units(self, units: Units) -> Callable[[Ids], np.ndarray]:
        """Maps ids to a graph's units.

        Raises:
          ValueError: the function ties or fixes channels that the graph holds apart or prunable.
        """
        unit_of, clash = units_of_classes(self.analysis, self.roots, units)
        if clash is not None:
            raise ValueError(
                f"this function ties channels of {clash} to others that are separate in the graph; "
                "trace this function itself, or protect that variable"
            )
        for root, reason in self.analysis.channels.fixed_classes(self.roots).items():
            if unit_of[root] >= 0:
                where = self.where(root)
                raise ValueError(
                    f"this function fixes channels of {where}, which the graph prunes: {reason}"
                )
        return lambda ids: unit_of[self.roots[ids]]

    def where(self, root: int) -> str:
        """A variable axis on which channels of a class lie."""
        return next(
            f"{path}[{axis}]"
            for path, all_ids in self.analysis.variables.items()
            for axis, ids in enumerate(all_ids)
            if ids is not None and (self.roots[ids] == root).any()
        )

    def samples(self, ids: Ids) -> np.ndarray | None:
        """The number of each id's sample, or None where the ids lie along no batch axis."""
        batch = self.analysis.batch
        if batch is None or not np.isin(self.roots[ids], self.roots[batch]).all():
            return None
        number = {root: i for i, root in enumerate(self.roots[batch].tolist())}
        return np.array([number[root] for root in self.roots[ids].tolist()])


def analyse(
    fn: Callable[..., Any],
    variables: Any,
    args: Sequence[Any],
    static: Mapping[str, Any],
    *,
    state: State | None = None,
    lenient: bool = False,
    protect: Sequence[str] = (),
    allow_inexact: bool = False,
    fix_unused: bool = False,
) -> Program:
    """Traces `fn(variables, *args, **static)` and analyses it.

    Args:
      fn: the function; its first argument is a pytree of arrays.
      variables: arrays or `jax.ShapeDtypeStruct`s at the dense shapes.
      args: further inputs, arrays or structs in pytrees.
      static: keyword arguments.
      state: picks from the output what holds new values of variables.
      lenient: this may be another function than the one that was traced. `state` need not fit its
        output, and each output whose path ends with that of a variable of its shape is state too.
      protect: patterns of variables whose channels all stay.
      allow_inexact: open normalisations over channels.
      fix_unused: fix variables that the function does not use.

    Raises:
      TypeError: `fn` cannot be traced.
      ValueError: a pattern or state path that names no variable.
    """
    closed, out_shapes = _jaxpr(fn, variables, args, static)
    jaxpr = without_dead_code(open_jaxpr(closed))
    analysis = Analysis(CALLS)
    named = [(path, np.shape(leaf)) for path, leaf in paths.leaves(variables)]
    ins = [analysis.new_variable(path, shape) for path, shape in named]
    ins += [analysis.new_input(v.aval.shape) for v in jaxpr.invars[len(named) :]]
    block, outs = analysis.walk(jaxpr, closed.consts, ins)
    analysis.block = block

    for path in paths.select(protect, [p for p, _ in named]) if protect else ():
        for ids in analysis.variables[path]:
            if ids is not None:
                analysis.channels.fix(ids, Reason("protected"))
    if fix_unused:
        _fix_unused(analysis, jaxpr, [p for p, _ in named])

    state_paths = state_outputs(out_shapes, dict(named), state, lenient=lenient)
    leaves = paths.leaves(out_shapes)
    wanted = []
    for i, (value, (path, leaf)) in enumerate(zip(outs, leaves, strict=True)):
        if i in state_paths:
            wanted.append(_tie_state(analysis, value.labels, state_paths[i], leaf.shape))
        else:
            kept = f"an output of the function: {path or 'its result'}"
            variable = paths.longest_suffix(path, analysis.shapes)
            if variable and _has_name(variable) and analysis.shapes[variable] == leaf.shape:
                kept += f"; if these are new values of {variable}, name them with state="
            for ids in value.labels.tracked.values():
                analysis.channels.fix(ids, Reason(kept))
            wanted.append(PLAIN)
    block.outs = tuple(wanted)
    if fix_unused:
        _fix_left_over(analysis, block)
    analysis.settle_normalisations(allow_inexact)
    settle_entries(analysis)
    return Program(analysis, block, analysis.channels.roots(), jax.tree.structure(out_shapes))


def _jaxpr(
    fn: Callable[..., Any], variables: Any, args: Sequence[Any], static: Mapping[str, Any]
) -> tuple[Any, Any]:
    """The closed jaxpr of `fn`, and the structs of its output."""
    try:
        return jax.make_jaxpr(lambda v, *a: fn(v, *a, **static), return_shape=True)(
            variables, *args
        )
    except Exception as problem:
        inner = fn
        while isinstance(inner, functools.partial):
            inner = inner.func
        named = hasattr(inner, "__name__")
        # JAX raises TypeErrors for shapes that do not fit and traced branches. All others are the
        # function's own, unless it is none.
        if named and not isinstance(problem, TypeError):
            raise
        called = getattr(inner, "__name__", f"an object of type {type(inner).__name__}")
        given = [f"{path} {np.shape(leaf)}" for path, leaf in paths.leaves(variables)]
        shapes = [str(np.shape(leaf)) for leaf in jax.tree.leaves(args)]
        hint = (
            "The function takes the variables first, and may look at shapes, not at values; what "
            "is no array is bound before: functools.partial(fn, train=False)"
            if named
            else "For a module of a library: fn, variables = jp.functional(module, variables)"
        )
        raise TypeError(
            f"JAX cannot trace {called} on these arguments: "
            f"{str(problem).partition(chr(10))[0].rstrip('.')}. Variables: "
            f"{paths.listed(given) if given else 'none'}; shapes of the other arguments: "
            f"{paths.listed(shapes) if shapes else 'none'}. {hint}"
        ) from problem


def _fix_unused(analysis: Analysis, jaxpr: Any, names: Sequence[str]) -> None:
    used = {id(v) for eqn in jaxpr.eqns for v in eqn.invars} | {id(v) for v in jaxpr.outvars}
    for path, var in zip(names, jaxpr.invars, strict=False):
        if id(var) not in used:
            for ids in analysis.variables[path]:
                if ids is not None:
                    analysis.channels.fix(ids, Reason("not used by the function"))


def _fix_left_over(analysis: Analysis, block: Block) -> None:
    """Fixes what the function leaves in a variable at these shapes, and may use at others.

    Example: of a table of positions as long as the longest text, a short one uses the first rows.
    """
    used = [
        labels
        for node in block.all_nodes()
        if not node.constant or node.relation.work or node.relation.reads
        for labels in node.relation.ins
    ]
    roots = analysis.channels.roots()
    met = np.zeros(int(roots.max(initial=-1)) + 1, bool)
    arrays = {id(i): i for labels in (*used, *block.outs) for i in labels.tracked.values()}
    for ids in arrays.values():
        met[roots[ids]] = True
    for all_ids in analysis.variables.values():
        for ids in all_ids:
            if ids is not None and not met[roots[ids]].all():
                left = ids[~met[roots[ids]]]
                analysis.channels.fix(left, Reason("not used by the function at these shapes"))


def state_outputs(
    out: Any, shapes: Mapping[str, tuple[int, ...]], state: State | None, *, lenient: bool
) -> dict[int, str]:
    """Which flat outputs are new values of which variables; see `analyse`."""
    leaves, tree = jax.tree.flatten(out)
    found: dict[int, str] = {}
    if lenient:
        for i, (path, leaf) in enumerate(paths.leaves(out)):
            variable = paths.longest_suffix(path, shapes)
            if variable is not None and shapes[variable] == jnp.shape(leaf) and _has_name(variable):
                found[i] = variable
    if state is None:
        return found
    try:
        picked = paths.leaves(state(tree.unflatten(range(len(leaves)))))
        return found | {i: _variable_of(path, leaves[i], shapes) for path, i in picked}
    except (ValueError, TypeError, LookupError, AttributeError) as problem:
        if lenient:
            return found
        if isinstance(problem, ValueError):
            raise
        raise ValueError(
            f"state= does not fit the output of the function, {tree}: {problem}; it picks the new "
            "values of variables, as in state=lambda out: out[1]"
        ) from problem


def _has_name(path: str) -> bool:
    """Whether a path is more than positions in tuples, which are alike by chance."""
    return not path.replace("/", "").isdigit()


def _variable_of(path: str, leaf: Any, shapes: Mapping[str, tuple[int, ...]]) -> str:
    variable = paths.longest_suffix(path, shapes)
    if variable is None:
        variable = next((v for v in shapes if v.endswith(f"/{path}")), None)
    if variable is None or shapes[variable] != jnp.shape(leaf):
        raise ValueError(
            f"state= names the output {path} of shape {jnp.shape(leaf)}, which is no variable of "
            f"that shape; the variables are {', '.join(list(shapes)[:12])}"
        )
    return variable


def _tie_state(analysis: Analysis, labels: Labels, path: str, shape: tuple[int, ...]) -> Labels:
    ids = analysis.variables[path]
    variable = Labels({(a,): i for a, i in enumerate(ids) if i is not None})
    reason = Reason(f"the new value of {path} does not follow its channels")
    analysis.channels.unify([variable, labels], reason)
    follows = {axes[0] for axes in labels.tracked if len(axes) == 1} | labels.free
    return Labels({(a,): i for (a,), i in variable.tracked.items() if a in follows})
