"""What changes a training from outside: wrappers of its network and optimizer, and its end.

A wrapper of a network is `Network → Network`, one of an optimizer is `GradientTransformation →
GradientTransformation`. Their state lives in the variables and in `opt_state`, so that resuming
costs nothing, and they work in a user's own loop just as well.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune.graph import paths

Wrapper = Callable[[Any], Any]
Join = Callable[[Any, Any], Any]
"""What is trained and the rest of the variables → the variables."""

WEIGHTS, MASKS = "weights", "masks"
"""Where parameters hold masks that a training moves, beside the weights. They are no weights:
nothing clips, decays or rounds them."""


def split_params(variables: Any) -> tuple[Any, dict[str, Any], Join]:
    """What of the variables is trained, the rest, and how both are put together again.

    `params` of a mapping that has it; a tree without it is trained whole.
    """
    if isinstance(variables, Mapping) and "params" in variables:
        rest = {name: tree for name, tree in variables.items() if name != "params"}
        return variables["params"], rest, join_params
    return variables, {}, _whole


def join_params(params: Any, rest: Mapping[str, Any]) -> dict[str, Any]:
    """Variables with a collection `params`."""
    return {"params": params, **rest}


def _whole(params: Any, rest: Mapping[str, Any]) -> Any:
    return params


def weights_of(params: Any) -> Any:
    """The parameters less the masks that they hold."""
    if isinstance(params, Mapping) and params.keys() == {WEIGHTS, MASKS}:
        return params[WEIGHTS]
    return params


def same(value: Any) -> Any:
    """The wrapper that leaves a network or an optimizer as it is."""
    return value


def keep_zeros(kernels: Iterable[str]) -> Wrapper:
    """The wrapper of an optimizer under which entries of these kernels that are zero stay zero.

    It has no state, and looks at the parameters alone: more zeros, from one round to the next, are
    other data and nothing is compiled anew.

    Args:
      kernels: their paths, as those of `Selection.blocks`; with the collection `params` or without.
    """
    names = tuple(sorted(paths.bare(name) for name in kernels))
    return _keep_zeros(names) if names else same


@functools.lru_cache(maxsize=8)
def _keep_zeros(names: tuple[str, ...]) -> Wrapper:
    def wrap(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
        def update(updates: Any, state: Any, params: Any = None) -> Any:
            if params is None:
                raise ValueError("keep_zeros reads the weights: optimizer.update(..., params)")
            moved, state = optimizer.update(updates, state, params)
            kept = [
                jnp.where(leaf == 0, jnp.zeros_like(step), step)
                if paths.bare(path) in names
                else step
                for (path, leaf), step in zip(
                    paths.leaves(params), jax.tree.leaves(moved), strict=True
                )
            ]
            return jax.tree.structure(moved).unflatten(kept), state

        return optax.GradientTransformation(optimizer.init, update)

    return wrap


class Until(NamedTuple):
    """Where a training ends: a condition on its state that is asked after every so many steps.

    At no other steps, so that the end does not depend on how steps are grouped, nor on where a
    process was killed.
    """

    reached: Callable[[Any], bool]
    every: int

    def holds(self, state: Any, done: int) -> bool:
        """Whether a training that has done so many steps has come to its end."""
        return done > 0 and done % self.every == 0 and bool(self.reached(state))


def steps_after(rounds_done: int, rounds: int, total: int) -> int:
    """Steps done after some of the equal rounds of a training of `total` steps."""
    return round(rounds_done * total / rounds)
