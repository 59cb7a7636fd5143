"""Equinox: a module, which is its own pytree of variables, and its `eqx.nn.State`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

from jaxprune.frontends.parts import MODULE, call_as_before, is_array
from jaxprune.graph import Pruned, paths


def functional(
    module: eqx.Module, state: eqx.nn.State | None = None
) -> tuple[Callable[..., Any], Any]:
    """A call of the module as `fn(variables, *args, train=False, **static)`.

    As the module itself it takes one example where its layers do; for a batch
    `jax.vmap(fn, in_axes=(None, 0))`.

    Args:
      module: any callable Equinox module.
      state: what `eqx.nn.make_with_state` gave beside it. The module then takes it as its last
        positional argument and returns it last.

    Returns:
      The function, and its variables by path: `params`, the module's arrays, and with a state
      `state`. `train=True` leaves the layers' `inference` flags off; with a state the result is
      then `(output, {"state": new_state})`.

    Raises:
      TypeError: a module without `__call__`, or a state that is none.
    """
    if not callable(module):
        raise TypeError(
            f"{type(module).__name__} has no __call__: write fn(variables, *args) yourself, with "
            "eqx.partition and eqx.combine"
        )
    if state is not None and not isinstance(state, eqx.nn.State):
        raise TypeError(f"the state of an Equinox module is an eqx.nn.State, not a {type(state)}")
    modes = {train: _Static(eqx.nn.inference_mode(module, not train)) for train in (False, True)}
    places = () if state is None else _places(module, state)

    def run(variables: Any, *args: Any, static: _Static, **kwargs: Any) -> Any:
        """The module's call; with a state, the output and the new state by name."""
        live = static.module(variables["params"])
        if state is None:
            return live(*args, **kwargs)
        *out, new = live(*args, _state(variables["state"], state, places), **kwargs)
        return (out[0] if len(out) == 1 else tuple(out)), {"state": _named(new, places)}

    def fn(variables: Any, *args: Any, train: bool = False, **kwargs: Any) -> Any:
        out = run(variables, *args, static=modes[train], **kwargs)
        return out if state is None or train else out[0]

    def small(pruned: Pruned) -> Any:
        call = call_as_before(pruned, run)
        own = _Static(module).module(pruned.variables["params"])
        if state is None:
            return SmallModule(own, call)
        smaller = _state(pruned.variables["state"], state, places)
        return SmallModule(own, call, places), smaller

    setattr(fn, MODULE, small)
    variables = {"params": _arrays(module)}
    if state is not None:
        variables["state"] = _named(state, places)
    return fn, variables


class SmallModule(eqx.Module):
    """A pruned Equinox module: a pytree, called as before.

    Attributes:
      module: the module as it was, with the smaller arrays; only this wrapper can call it.
    """

    module: eqx.Module
    _call: Callable[..., Any] = eqx.field(static=True)
    _places: tuple[str, ...] | None = eqx.field(static=True, default=None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the module was called with; a state is the last positional argument."""
        variables, places = {"params": _arrays(self.module)}, self._places
        static = _Static(self.module)
        if places is None:
            return self._call(variables, *args, static=static, **kwargs)
        *inputs, state = args
        variables["state"] = _named(state, places)
        out, new = self._call(variables, *inputs, static=static, **kwargs)
        return out, _state(new["state"], state, places)


class _Static:
    """All of a module but its arrays, compared by value so that it is compiled once."""

    def __init__(self, module: eqx.Module):
        leaves, self._tree = jax.tree.flatten(module)
        self._leaves = tuple(None if is_array(leaf) else (leaf,) for leaf in leaves)

    def module(self, arrays: dict[str, Any]) -> Any:
        """The module with these arrays, by path."""
        found = self._tree.unflatten(range(len(self._leaves)))
        names = [name for name, _ in paths.leaves(found)]
        return self._tree.unflatten(
            arrays[name] if leaf is None else leaf[0]
            for name, leaf in zip(names, self._leaves, strict=True)
        )

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Static)
            and self._tree == other._tree
            and self._leaves == other._leaves
        )

    def __hash__(self) -> int:
        return hash((self._tree, self._leaves))


def _arrays(module: eqx.Module) -> dict[str, Any]:
    return {name: leaf for name, leaf in paths.leaves(module) if is_array(leaf)}


def _places(module: eqx.Module, state: eqx.nn.State) -> tuple[str, ...]:
    """The name of each leaf of the state: the path of its index in the module."""
    leaves, tree = jax.tree.flatten(state)
    numbered = tree.unflatten(range(len(leaves)))
    names = [f"{i}" for i in range(len(leaves))]

    def is_index(leaf: Any) -> bool:
        return isinstance(leaf, eqx.nn.StateIndex)

    for key_path, leaf in jax.tree_util.tree_leaves_with_path(module, is_leaf=is_index):
        if is_index(leaf):
            for name, number in paths.leaves(numbered.get(leaf)):
                names[number] = f"{paths.name(key_path)}/{name}".removesuffix("/")
    return tuple(names)


def _named(state: eqx.nn.State, places: tuple[str, ...]) -> dict[str, Any]:
    return dict(zip(places, jax.tree.leaves(state), strict=True))


def _state(named: dict[str, Any], like: eqx.nn.State, places: tuple[str, ...]) -> eqx.nn.State:
    return jax.tree.structure(like).unflatten([named[name] for name in places])
