"""Training towards structured kernels, as wrappers of the optimizer.

`admm` pulls kernels towards a set by the alternating direction method of multipliers: with the
copy Z of the weights W that lies in the set, and the running difference U,

    W ← argmin loss(W) + ρ/2 ‖W − Z + U‖²,    Z ← projection of W + U,    U ← U + W − Z,

the first by the optimizer, to whose gradient `ρ (W − Z + U)` is added, the others every so many
steps; ρ grows then. Defaults are those of the group that the paper on unification comes from
(Zhang et al. 2018, arXiv 1804.03294, and its successors).

`keep_pattern` trains on within structure that is fixed. That is data of its state, so that more may
be fixed from round to round and nothing is compiled anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune.graph import paths
from jaxprune.wrappers import Wrapper

Project = Callable[[str, jax.Array], jax.Array]
"""`project(path, kernel) → the nearest kernel of the set`, traced."""


class ADMMState(NamedTuple):
    """The state of an optimizer under `admm`.

    Attributes:
      inner: that of the optimizer itself.
      nearest: Z by kernel.
      dual: U by kernel.
      rho: ρ.
      steps: steps done.
    """

    inner: Any
    nearest: dict[str, jax.Array]
    dual: dict[str, jax.Array]
    rho: jax.Array
    steps: jax.Array


def admm(
    kernels: Mapping[str, Any],
    project: Project,
    interval: int,
    rho: float = 1e-4,
    growth: float = 1.35,
    most: float = 1.0,
) -> Wrapper:
    """The wrapper of an optimizer that pulls kernels towards a set.

    Args:
      kernels: by path, with the collection `params` or without.
      project: on the set.
      interval: steps between two projections.
      rho: the weight ρ at the beginning.
      growth: what ρ is multiplied by at each projection.
      most: what ρ grows to.
    """
    names = {paths.bare(path): path for path in kernels}

    def wrap(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
        def init(params: Any) -> ADMMState:
            held = _named(params, names)
            nearest = {path: project(path, kernel) for path, kernel in held.items()}
            dual = jax.tree.map(jnp.zeros_like, held)
            start = jnp.asarray(rho, jnp.float32)
            return ADMMState(optimizer.init(params), nearest, dual, start, jnp.zeros((), jnp.int32))

        def update(updates: Any, state: Any, params: Any = None) -> Any:
            if params is None:
                raise ValueError("admm reads the weights: optimizer.update(..., params)")
            held = _named(params, names)
            steps = jnp.asarray(optax.safe_increment(state.steps))

            def moved(nearest: Any, dual: Any) -> Any:
                new = {p: project(p, held[p] + dual[p]) for p in held}
                left = {p: dual[p] + held[p] - new[p] for p in held}
                return new, left, jnp.minimum(most, growth * state.rho)

            nearest, dual, weight = jax.lax.cond(
                steps % interval == 0,
                moved,
                lambda nearest, dual: (nearest, dual, state.rho),
                state.nearest,
                state.dual,
            )
            pull = {p: weight.astype(w.dtype) * (w - nearest[p] + dual[p]) for p, w in held.items()}
            updates = _changed(updates, names, lambda path, gradient: gradient + pull[path])
            updates, inner = optimizer.update(updates, state.inner, params)
            return updates, ADMMState(inner, nearest, dual, weight, steps)

        return optax.GradientTransformation(init, update)

    return wrap


class PatternState(NamedTuple):
    """The state of an optimizer under `keep_pattern`.

    Attributes:
      inner: that of the optimizer itself.
      kept: of each kernel in turn, bool, one a block: all others stay zero.
      shared: of each kernel in turn, bool, one a block: the block keeps one magnitude.
    """

    inner: Any
    kept: tuple[jax.Array, ...]
    shared: tuple[jax.Array, ...]


def keep_pattern(blocks: Mapping[str, Any]) -> Wrapper:
    """The wrapper of an optimizer under which kernels keep the structure that they have.

    Args:
      blocks: `kernels.blocks.Blocks` by path. Their sides and orders stay; what is kept and shared
        is the state's, at first these, and `with_pattern` gives it others.
    """
    names = {paths.bare(path): path for path in blocks}
    place = {path: i for i, path in enumerate(blocks)}

    def wrap(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
        def init(params: Any) -> PatternState:
            return PatternState(optimizer.init(params), *_pattern(blocks))

        def update(updates: Any, state: Any, params: Any = None) -> Any:
            if params is None:
                raise ValueError("keep_pattern reads the weights: optimizer.update(..., params)")
            updates, inner = optimizer.update(updates, state.inner, params)
            held = _named(params, names)

            def within(path: str, step: jax.Array) -> jax.Array:
                kept, shared = state.kept[place[path]], state.shared[place[path]]
                if blocks[path].shared is None:
                    mask = blocks[path]._replace(kept=kept).mask(step.shape)
                    return jnp.where(mask, step, -held[path])
                now = blocks[path]._replace(kept=kept, shared=shared)
                return now.project(held[path] + step) - held[path]

            return _changed(updates, names, within), state._replace(inner=inner)

        return optax.GradientTransformation(init, update)

    return wrap


def with_pattern(opt_state: Any, blocks: Mapping[str, Any]) -> Any:
    """The state of an optimizer with what these blocks, of the same kernels, keep and share."""
    kept, shared = _pattern(blocks)

    def changed(state: Any) -> Any:
        return state._replace(kept=kept, shared=shared) if _is_pattern(state) else state

    return jax.tree.map(changed, opt_state, is_leaf=_is_pattern)


def _is_pattern(state: Any) -> bool:
    return isinstance(state, PatternState)


def _pattern(blocks: Mapping[str, Any]) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    kept = tuple(jnp.asarray(each.kept) for each in blocks.values())
    shared = tuple(
        jnp.zeros_like(all_kept) if each.shared is None else jnp.asarray(each.shared)
        for all_kept, each in zip(kept, blocks.values(), strict=True)
    )
    return kept, shared


def _named(params: Any, names: Mapping[str, str]) -> dict[str, jax.Array]:
    """The kernels among the parameters, by their full path."""
    leaves = {paths.bare(path): leaf for path, leaf in paths.leaves(params)}
    return {path: leaves[name] for name, path in names.items()}


def _changed(tree: Any, names: Mapping[str, str], change: Callable[[str, Any], Any]) -> Any:
    leaves = [
        change(names[name], leaf) if (name := paths.bare(path)) in names else leaf
        for path, leaf in paths.leaves(tree)
    ]
    return jax.tree.structure(tree).unflatten(leaves)


__all__ = ["ADMMState", "PatternState", "admm", "keep_pattern", "with_pattern"]
