"""Any function with its convolutions in the form that is the quickest on the device at hand."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxprune.graph.rules.base import bind
from jaxprune.kernels.choice import form_of

# Parameters that are functions, of the primitives that can be bound anew with others.
_INNER: dict[str, tuple[str, ...]] = {
    "jit": ("jaxpr",),
    "scan": ("jaxpr",),
    "cond": ("branches",),
    "while": ("cond_jaxpr", "body_jaxpr"),
}


def accelerate(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The same function of arrays, with convolutions as matrix products on the CPU.

    XLA runs a convolution on the CPU between 1 and 100 % of the machine's rate, depending on its
    shape; a matrix product always near it, in bfloat16 at several times that of float32 where the
    processor has such products (AVX-512-BF16, AMX). `fn` is traced, and each convolution and max
    pooling among its equations, those of its gradients included, takes the form that `form_of`
    names. Results agree to rounding; in bfloat16, sums are taken in float32. On other devices, and
    where `jax.disable_jit` is on, `fn` runs as it is.

    To be called outermost, under `jit`, around what differentiates: `jit(accelerate(step))`. What
    lies within custom derivatives and `jax.checkpoint` stays as it is.

    Args:
      fn: takes and gives pytrees of arrays.
    """

    @functools.wraps(fn)
    def call(*args: Any) -> Any:
        if jax.default_backend() != "cpu" or jax.config.jax_disable_jit:  # pyright: ignore
            return fn(*args)
        closed, shapes = jax.make_jaxpr(fn, return_shape=True)(*args)
        outs = _run(closed, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), outs)

    return call


def _run(closed: Any, args: Sequence[Any]) -> list[Any]:
    jaxpr = getattr(closed, "jaxpr", closed)
    env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *args), strict=True))

    def fetch(var: Any) -> Any:
        return var.val if hasattr(var, "val") else env[var]

    for eqn in jaxpr.eqns:
        values = [fetch(var) for var in eqn.invars]
        form = form_of(eqn)
        outs = bind(eqn, values, **_inner(eqn)) if form is None else [form(*values)]
        env.update(zip(eqn.outvars, outs, strict=True))
    return [fetch(var) for var in jaxpr.outvars]


def _bodies(eqn: Any) -> dict[str, tuple[Any, ...]]:
    """The parameters of an equation that are functions, by name."""
    given = {name: eqn.params[name] for name in _INNER.get(eqn.primitive.name, ())}
    return {name: body if isinstance(body, tuple) else (body,) for name, body in given.items()}


def _inner(eqn: Any) -> dict[str, Any]:
    """Those with convolutions, rewritten."""
    changed = {}
    for name, bodies in _bodies(eqn).items():
        if any(map(_has_form, bodies)):
            new = tuple(jax.make_jaxpr(lambda *a, b=b: _run(b, a))(*b.in_avals) for b in bodies)
            changed[name] = new if isinstance(eqn.params[name], tuple) else new[0]
    return changed


def _has_form(closed: Any) -> bool:
    return any(
        form_of(eqn) is not None or any(_has_form(b) for bs in _bodies(eqn).values() for b in bs)
        for eqn in getattr(closed, "jaxpr", closed).eqns
    )
