"""A pruned network: its variables, what of the first network they are, and functions on them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.graph import paths
from jaxprune.graph.interpret import Sliced, run, take
from jaxprune.graph.reading import State, read

Dense = Mapping[str, tuple[tuple[int, ...], str]]


@dataclass(frozen=True)
class Pruned:
    """The smaller network that `graph.slice` returns.

    Attributes:
      variables: the sliced variables, in the structure of the first network's.
      indices: per cut axis, named `path[axis]`, the kept positions in the *first* network, through
        any number of prunings.
      widths: per group, the number of kept units.
      dense: per variable path, its shape and dtype in the first network.
      state: picks the new values of variables from an output, as given to `trace`.
      allow_inexact: as given to `trace`.
      before: the indices of the pruning before, where this network was pruned more than once.
    """

    variables: Any
    indices: dict[str, np.ndarray]
    widths: dict[str, int]
    dense: dict[str, tuple[tuple[int, ...], str]]
    state: State | None = field(default=None, repr=False)
    allow_inexact: bool = False
    before: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def wrap(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """`fn` on the pruned variables.

        `fn`'s first argument is the traced pytree (an apply, or a loss of it). It is traced at the
        first network's shapes, anew per call signature as `jit` does, so batch size and train or
        evaluation mode stay free. Positional arguments are traced, keyword arguments static.

        Raises (when called):
          ValueError: `fn` fixes or ties channels that were cut, or the variables have other shapes
            than these.
        """
        inner = getattr(fn, "jaxprune_inner", fn)
        compiled = compile_per_keywords(functools.partial(_run_sliced, self, inner))
        compiled.jaxprune_inner = inner
        compiled.jaxprune_pruned = self
        return compiled

    def cut(self, tree: Any) -> Any:
        """Cuts whatever follows the weights: optimizer state, averages, statistics.

        A leaf whose path ends with a variable's path (its collection may be missing) and that has
        the variable's shape before pruning is cut as the variable is; all other leaves pass.

        Raises:
          ValueError: a leaf at a variable's path with another shape.
        """

        def cut_leaf(key_path: tuple[Any, ...], leaf: Any) -> Any:
            name = paths.name(key_path)
            variable = self._variable_at(name)
            if variable is None or not hasattr(leaf, "shape"):
                return leaf
            shape = tuple(leaf.shape)
            for source in ({}, self.before):
                if shape == self._shape_after(variable, source):
                    return _cut(leaf, self._relative(variable, source))
            if shape == ():
                return leaf
            raise ValueError(
                f"{name} has shape {shape}, but the variable {variable} had "
                f"{self._shape_after(variable, self.before)} before pruning; only a tree of the "
                "unpruned network can be cut"
            )

        return jax.tree_util.tree_map_with_path(cut_leaf, tree)

    def cut_state(self, out: Any) -> Any:
        """Cuts in an output of the unpruned `fn` what holds new values of variables."""

        def cut_leaf(key_path: tuple[Any, ...], leaf: Any) -> Any:
            variable = paths.longest_suffix(paths.name(key_path), self.dense)
            if variable is None or tuple(leaf.shape) != self._shape_after(variable, self.before):
                return leaf
            return _cut(leaf, self._relative(variable, self.before))

        return jax.tree_util.tree_map_with_path(cut_leaf, out)

    def positions(self, path: str) -> dict[int, np.ndarray]:
        """Per cut axis of a variable, the kept positions in the first network."""
        return _axes_of(path, self.indices, self.dense)

    def _variable_at(self, name: str) -> str | None:
        by_suffix = {path.partition("/")[2]: path for path in self.dense if "/" in path}
        parts = name.split("/")
        for i in range(len(parts)):
            suffix = "/".join(parts[i:])
            if suffix in self.dense:
                return suffix
            if suffix in by_suffix:
                return by_suffix[suffix]
        return None

    def _shape_after(self, path: str, indices: Mapping[str, np.ndarray]) -> tuple[int, ...]:
        shape = list(self.dense[path][0])
        for axis, kept in _axes_of(path, indices, self.dense).items():
            shape[axis] = len(kept)
        return tuple(shape)

    def _relative(self, path: str, source: Mapping[str, np.ndarray]) -> dict[int, np.ndarray]:
        earlier = _axes_of(path, source, self.dense)
        return {
            axis: np.searchsorted(earlier[axis], kept) if axis in earlier else kept
            for axis, kept in self.positions(path).items()
        }


def _axes_of(path: str, indices: Mapping[str, np.ndarray], dense: Dense) -> dict[int, np.ndarray]:
    named = ((axis, f"{path}[{axis}]") for axis in range(len(dense[path][0])))
    return {axis: indices[name] for axis, name in named if name in indices}


def _cut(leaf: Any, positions: Mapping[int, np.ndarray]) -> Any:
    if isinstance(leaf, np.ndarray):
        for axis, kept in positions.items():
            leaf = leaf.take(kept, axis)
        return leaf
    for axis, kept in positions.items():
        leaf = take(leaf, kept, axis)
    return leaf


@functools.partial(jax.jit, static_argnames="positions")
def _cut_leaves(leaves: list[jax.Array], positions: _Static) -> list[jax.Array]:
    return [_cut(leaf, at) for leaf, at in zip(leaves, positions.value, strict=True)]


@dataclass(frozen=True, eq=False)
class _Static:
    """A static argument that is compared by identity."""

    value: Any


def cut_variables(variables: Any, positions: Mapping[str, Mapping[int, np.ndarray]]) -> Any:
    """The variables at the kept positions, sliced under one jit so that shardings are kept."""
    leaves, tree = jax.tree.flatten(variables)
    names = [name for name, _ in paths.leaves(variables)]
    cuts = _Static([positions.get(name, {}) for name in names])
    return tree.unflatten(_cut_leaves([jnp.asarray(x) for x in leaves], cuts))


def compile_per_keywords(fn: Callable[..., Any]) -> Any:
    """One `jit` per set of keyword arguments, so that an eager call is compiled and cached."""
    compiled: dict[Any, Callable[..., Any]] = {}

    def call(variables: Any, *args: Any, **static: Any) -> Any:
        key = tuple(sorted((k, _hashable(v)) for k, v in static.items()))
        if key not in compiled:
            compiled[key] = jax.jit(lambda v, *a: fn(v, *a, **static))
        return compiled[key](variables, *args)

    return call


def _hashable(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        if isinstance(value, (list, tuple)):
            return tuple(_hashable(v) for v in value)
        raise TypeError(
            f"keyword arguments are static and have to be hashable, got {type(value).__name__}; "
            "pass arrays as positional arguments"
        ) from None
    return value


def _run_sliced(
    pruned: Pruned, fn: Callable[..., Any], variables: Any, *args: Any, **static: Any
) -> Any:
    dense = _dense_structs(pruned, variables)
    reading = read(
        fn, dense, args, static,
        state=None, find_state=True, allow_inexact=pruned.allow_inexact,
    )  # fmt: skip
    kept = {path: pruned.positions(path) for path in pruned.dense}
    cut_off: dict[str, list[np.ndarray | None]] = {}
    for path, (shape, _) in pruned.dense.items():
        cut_off[path] = [None] * len(shape)
        for axis, positions in kept[path].items():
            gone = np.full(shape[axis], -1)
            gone[np.setdiff1d(np.arange(shape[axis]), positions)] = 0
            cut_off[path][axis] = gone
    fallen = reading.units(cut_off)
    how = Sliced(keep=lambda ids: fallen(ids) < 0)
    outs = run(reading.block, [*jax.tree.leaves(variables), *jax.tree.leaves(args)], how)
    return reading.out_tree.unflatten(outs)


def _dense_structs(pruned: Pruned, variables: Any) -> Any:
    """The variables' types at the first network's shapes."""
    leaves, tree = jax.tree.flatten(variables)
    structs = []
    wrong = []
    named = [name for name, _ in paths.leaves(variables)]
    if set(named) != set(pruned.dense):
        odd = sorted(set(named) ^ set(pruned.dense))
        raise ValueError(
            f"these variables are missing or not of this network: {', '.join(odd[:8])}"
        )
    for name, leaf in zip(named, leaves, strict=True):
        shape = pruned._shape_after(name, pruned.indices)
        if jnp.shape(leaf) != shape:
            wrong.append(f"{name} has shape {jnp.shape(leaf)}, expected {shape}")
        structs.append(jax.ShapeDtypeStruct(pruned.dense[name][0], jnp.result_type(leaf)))
    if wrong:
        raise ValueError("not the variables of this pruned network: " + "; ".join(wrong[:8]))
    return tree.unflatten(structs)
