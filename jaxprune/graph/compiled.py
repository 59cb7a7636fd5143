"""Compiles what the engine hands out once, and finds it again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
from jax.core import Tracer

from jaxprune.graph import outside

_MOST = 32


def compile_per_keywords(fn: Callable[..., Any]) -> Any:
    """One `jit` per set of keyword arguments, so that an eager call is compiled and cached.

    An eager call has its convolutions in their quickest form; one that is being traced, perhaps to
    be differentiated, has them as they are: there that is up to whoever compiles.
    """
    compiled: dict[Any, Callable[..., Any]] = {}

    def call(variables: Any, *args: Any, **static: Any) -> Any:
        traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((variables, args)))
        key = traced, *sorted((k, _hashable(v)) for k, v in static.items())
        if key not in compiled:
            called = functools.partial(fn, **static)
            compiled[key] = jax.jit(called if traced else outside.accelerated(called))
        return compiled[key](variables, *args)

    return call


def _hashable(value: Any) -> Any:
    """A key that tells apart what a function may: 1, 1.0 and True are equal, but not alike."""
    if isinstance(value, (list, tuple)):
        return type(value), tuple(_hashable(v) for v in value)
    if not isinstance(value, Hashable):
        raise TypeError(
            f"keyword arguments are static and have to be hashable, got {type(value).__name__}; "
            "pass arrays as positional arguments"
        )
    return type(value), value


def remember(cache: dict[Any, Any], key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    """What was made for the same key before, so that it is compiled once; else it is made.

    Only the latest few are kept: a caller may come with a new function at each step.
    """
    if not all(isinstance(part, Hashable) for part in key):
        return make()
    if key not in cache:
        while len(cache) >= _MOST:
            cache.pop(next(iter(cache)))
        cache[key] = make()
    return cache[key]


# At level 0 XLA gives NaN for the gradient of some maxima, where it is finite at all others.
_QUICK: tuple[dict[str, Any], ...] = (
    {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False},
    {"xla_backend_optimization_level": 1},  # JAX 0.12 has the fusion emitters alone
)


@functools.cache
def quick_options() -> dict[str, Any]:
    """Compiler options for what runs once or twice: compiled in half the time, no less exact.

    Empty where the compiler knows none of them.
    """
    for options in _QUICK:
        try:
            jax.jit(lambda: 0, compiler_options=options)()
        except jax.errors.JaxRuntimeError:
            continue
        return options
    return {}
