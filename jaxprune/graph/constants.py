"""The integers that a function's own constants decide, such as a fixed order of channels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune.graph.rules.base import bind


@dataclass(eq=False)
class Known:
    """A value that constants decide. It is computed when it is asked for, since few ever are."""

    compute: Callable[[], Any]

    @functools.cached_property
    def array(self) -> Any:
        """The value, outside of whatever JAX is tracing."""
        return self.compute()


def known_constant(value: Any, dtype: Any) -> Known | None:
    """An array that a jaxpr holds; only whole numbers, whose arithmetic is exact everywhere."""
    if isinstance(value, Tracer) or not _whole(dtype):
        return None
    return Known(lambda: value if isinstance(value, jax.Array) else np.asarray(value, dtype))


def known_results(eqn: Any, operands: Sequence[Known | None]) -> list[Known | None]:
    """The results of an equation whose operands are all known.

    Example: `h[:, np.array([2, 0, 1])]` reaches its `gather` as `broadcast_in_dim(select_n(i < 0,
    i, i + 3))`.
    """
    given = [known for known in operands if known is not None]
    whole = all(_whole(v.aval.dtype) for v in eqn.outvars)
    if len(given) < len(operands) or eqn.effects or not whole:
        return [None] * len(eqn.outvars)

    if eqn.primitive.name == "pvary":  # tells how devices hold it; the same number
        return list(given)

    @functools.cache
    def results() -> list[Any]:
        with jax.ensure_compile_time_eval():
            return bind(eqn, [known.array for known in given])

    return [Known(lambda i=i: results()[i]) for i in range(len(eqn.outvars))]


def _whole(dtype: Any) -> bool:
    return not jnp.issubdtype(dtype, np.inexact)
