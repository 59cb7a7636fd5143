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
    """A value that constants decide. It is computed when it is asked for, since few ever are.

    Where they decide it in `part` alone, the value is a masked array.
    """

    compute: Callable[[], Any]
    part: bool = False

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
    if eqn.primitive.name == "pvary":  # says how devices hold it
        return list(operands)
    given = [known for known in operands if known is not None and not known.part]
    if eqn.effects or not all(_whole(v.aval.dtype) for v in eqn.outvars):
        return [None] * len(eqn.outvars)
    if len(given) < len(operands):
        side_by_side = given and eqn.primitive.name == "concatenate"
        return [_joined(eqn, operands)] if side_by_side else [None] * len(eqn.outvars)

    @functools.cache
    def results() -> list[Any]:
        with jax.ensure_compile_time_eval():
            return bind(eqn, [known.array for known in given])

    return [Known(lambda i=i: results()[i]) for i in range(len(eqn.outvars))]


def _joined(eqn: Any, operands: Sequence[Known | None]) -> Known:
    """An index of several axes, of which some are known: `x[rows, computed, np.arange(6)]`."""

    def compute() -> Any:
        parts = [
            np.ma.masked_all(v.aval.shape, v.aval.dtype)
            if known is None or known.part
            else np.ma.asarray(known.array)
            for known, v in zip(operands, eqn.invars, strict=True)
        ]
        return np.ma.concatenate(parts, eqn.params["dimension"])

    return Known(compute, part=True)


def _whole(dtype: Any) -> bool:
    return not jnp.issubdtype(dtype, np.inexact)
