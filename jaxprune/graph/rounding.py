"""What rounding does to a function's outputs: its precision, points to try it at, differences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.graph.blocks import open_jaxpr
from jaxprune.graph.cut import on_host, put

# What may differ where sums are rounded in another order, per precision. A quick look, after which
# wider precision decides, takes no more than `QUICK`.
_TOLERANCES = {"float64": 1e-9, "float32": 2e-3, "float16": 2e-2, "bfloat16": 0.1}
_NARROWEST = 0.5
QUICK = 1e-4


def tolerance_of(dtype: Any) -> float:
    """What rounding allows in a precision, relative to the largest entry."""
    return _TOLERANCES.get(str(dtype), _NARROWEST)


def precision_of(jaxpr: Any) -> Any:
    """The narrowest real type that a function computes in, also inside the bodies that it calls.

    A complex type has its parts' precision. float64 where nothing is rounded.
    """
    types = {jnp.finfo(dtype).dtype for dtype in _inexact(open_jaxpr(jaxpr))}
    return max(types, key=lambda dtype: float(jnp.finfo(dtype).eps), default=np.dtype("float64"))


def _inexact(jaxpr: Any) -> Iterator[Any]:
    for eqn in jaxpr.eqns:
        yield from (v.aval.dtype for v in eqn.outvars if is_inexact(v.aval))
        is_body = lambda leaf: hasattr(open_jaxpr(leaf), "eqns")  # noqa: E731
        for leaf in jax.tree.leaves(list(eqn.params.values()), is_leaf=is_body):
            if is_body(leaf):
                yield from _inexact(open_jaxpr(leaf))


def is_inexact(leaf: Any) -> bool:
    """Whether an array, the type of one, or a dtype is of real or complex numbers."""
    dtype = getattr(leaf, "dtype", leaf)
    return isinstance(dtype, np.dtype) and jnp.issubdtype(dtype, jnp.inexact)


def widened(tree: Any) -> Any:
    """The tree in double precision; for use under `jax.enable_x64`."""

    def wide(leaf: Any) -> Any:
        if not is_inexact(leaf):
            return leaf
        is_complex = jnp.issubdtype(leaf.dtype, jnp.complexfloating)
        return jnp.asarray(leaf, jnp.complex128 if is_complex else jnp.float64)

    return jax.tree.map(wide, tree)


def beside(tree: Any, rng: np.random.Generator) -> Any:
    """The tree at a point nearby, where nothing is zero and no two entries are equal.

    What holds for a function holds at any point. At the user's, zeros can hide it (a last layer
    that starts at zero) and equal values can leave it to rounding (a ReLU at zero).
    """

    def moved(x: np.ndarray) -> np.ndarray:
        largest = np.abs(x[np.isfinite(x)]).max(initial=0)
        fill = 0.01 * largest or 0.1 / np.sqrt(max(1, np.prod(x.shape[:-1])))
        factor = 1 + 0.01 * rng.uniform(-1, 1, x.shape)
        return np.where(x == 0, fill * rng.uniform(0.5, 1.5, x.shape), x * factor)

    return _on_arrays(moved, tree)


def nudged(tree: Any, eps: float, rng: np.random.Generator) -> Any:
    """The tree with each entry up or down by what rounding takes away from it."""
    return _on_arrays(lambda x: x * (1 + eps * rng.choice([-1.0, 1.0], x.shape)), tree)


def _on_arrays(change: Any, tree: Any) -> Any:
    def changed(leaf: Any) -> Any:
        if not is_inexact(leaf) or not on_host(leaf):
            return leaf
        return put(np.asarray(change(_exact(leaf))).astype(leaf.dtype), leaf)

    return jax.tree.map(changed, tree)


def _exact(leaf: Any) -> np.ndarray:
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        return np.asarray(leaf).astype(np.complex128)
    return np.asarray(leaf).astype(np.float64)


class Apart(NamedTuple):
    """How far two arrays differ at most, and their largest entry; finite entries alone."""

    difference: float
    scale: float


def apart(a: Any, b: Any) -> Apart:
    """Two arrays held together. Whole numbers and truth values differ by 1 or not at all."""
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    if a.shape != b.shape:
        return Apart(float("inf"), 1.0)
    if not is_inexact(a):
        return Apart(float(np.any(np.asarray(a) != np.asarray(b))), 1.0)
    x, y = _exact(a), _exact(b)
    finite = np.isfinite(x)
    with np.errstate(invalid="ignore"):
        same = (x == y) | (np.isnan(x) & np.isnan(y))
    if (finite != np.isfinite(y)).any() or not same[~finite].all():
        return Apart(float("inf"), 1.0)
    scale = np.abs(x[finite]).max(initial=0)
    return Apart(float(np.abs(x[finite] - y[finite]).max(initial=0)), float(scale))


def some_finite(leaf: Any) -> bool:
    """Whether there is something to compare in an array."""
    return not is_inexact(leaf) or leaf.size == 0 or bool(np.isfinite(_exact(leaf)).any())
