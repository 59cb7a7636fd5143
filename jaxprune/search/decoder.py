"""Any other evosax algorithm on the same problem: real-valued, read through a top-k decoder."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import evosax.algorithms
import jax
import jax.numpy as jnp
from evosax.algorithms.population_based.base import PopulationBasedAlgorithm
from jax import Array

from jaxprune.search.genetic import Evolved
from jaxprune.search.greedy import top_k


def algorithm_names() -> list[str]:
    """The evosax algorithms that can be named: those that need a size and a solution, no more."""
    return sorted(
        name
        for name, kind in evosax.algorithms.algorithms.items()
        if {
            p.name
            for p in inspect.signature(kind).parameters.values()
            if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
        }
        == {"population_size", "solution"}
    )


def build(name: str, population: int, channels: int) -> Any:
    """The evosax algorithm of that class name over C real scores.

    Raises:
      ValueError: an unknown name, with the known ones; or a population that it refuses.
    """
    if name not in algorithm_names():
        known = ", ".join(["genetic", *algorithm_names()])
        raise ValueError(f"search.algorithm: unknown {name!r}; known are {known}")
    try:
        return evosax.algorithms.algorithms[name](
            population_size=population, solution=jnp.zeros(channels)
        )
    except (AssertionError, ValueError) as error:
        raise ValueError(
            f"search.population: {name} refuses {population} individuals of {channels} channels: "
            f"{error}"
        ) from error


def evolve(
    algorithm: Any,
    params: Any,
    keep: Array,
    evaluate: Callable[[Array], Array],
    key: Array,
    *,
    generations: int,
) -> Evolved:
    """Runs an evosax algorithm on scores [P, C], of which the K largest are kept.

    `evaluate` maps boolean masks [P, C] to errors [P]; `params` are evosax's,
    usually `algorithm.default_params` (read outside of jit: some of them need concrete values).
    """
    channels = algorithm.num_dims
    key_first, key_loop = jax.random.split(key)
    if isinstance(algorithm, PopulationBasedAlgorithm):
        scores = jax.random.normal(key_first, (algorithm.population_size, channels))
        masks = top_k(scores, keep)
        state = algorithm.init(key_first, scores, evaluate(masks), params)
        best, error = _best(masks, evaluate(masks))
    else:
        state = algorithm.init(key_first, jnp.zeros(channels), params)
        best, error = top_k(jnp.zeros(channels), keep), jnp.asarray(jnp.inf)

    def generation(carry, step):
        state, best, error = carry
        key_ask, key_tell = jax.random.split(jax.random.fold_in(key_loop, step))
        scores, asked = algorithm.ask(key_ask, state, params)
        masks = top_k(scores, keep)
        errors = evaluate(masks)
        told, _ = algorithm.tell(key_tell, scores, errors, asked, params)
        # Not evosax's archive: it would hand back scores, and of some algorithms only the mean.
        found, lowest = _best(masks, errors)
        best = jnp.where(lowest < error, found, best)
        error = jnp.minimum(lowest, error)
        return (told, best, error), error

    start = (state, best, error.astype(evaluate(best[None]).dtype))
    (_, best, _), history = jax.lax.scan(generation, start, jnp.arange(generations))
    return Evolved(best, best[None], history)


def _best(masks: Array, errors: Array) -> tuple[Array, Array]:
    index = jnp.argmin(errors)
    return masks[index], errors[index]
