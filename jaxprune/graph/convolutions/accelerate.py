"""Any function with its convolutions in the form that is the quickest on the device at hand."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxprune.graph.convolutions import forms
from jaxprune.graph.rules.base import bind

# Parameters that are functions, of the primitives that can be bound anew with others.
_INNER: dict[str, tuple[str, ...]] = {
    "jit": ("jaxpr",),
    "scan": ("jaxpr",),
    "cond": ("branches",),
    "while": ("cond_jaxpr", "body_jaxpr"),
}


def accelerate(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The same function of arrays, with 3 × 3 convolutions as matrix products on the CPU.

    XLA runs a convolution on the CPU between 1 and 100 % of the machine's rate, depending on its
    shape; a matrix product always near it. `fn` is traced, and each convolution among its
    equations, those of its gradients included, takes the form that `form_of` names. Results agree
    to rounding. On other devices, and where `jax.disable_jit` is on, `fn` runs as it is.

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


Form = Callable[[Array, Array], Array]


def form_of(eqn: Any) -> Form | None:
    """The form that an equation takes; None for what stays as it is.

    Chosen by measurement on two cores with AVX-512: see `scripts/benchmarks/convolutions.py`.
    """
    if eqn.primitive.name != "conv_general_dilated" or not _ungrouped(eqn):
        return None
    p = eqn.params
    numbers = p["dimension_numbers"]
    lhs, rhs, out = (v.aval for v in (*eqn.invars, *eqn.outvars))
    if lhs.dtype != rhs.dtype or lhs.dtype not in (jnp.float32, jnp.float64):
        return None
    window = tuple(rhs.shape[a] for a in numbers.rhs_spec[2:])
    size = tuple(out.shape[a] for a in numbers.out_spec[2:])
    images, channels = (lhs.shape[a] for a in numbers.lhs_spec[:2])
    narrowest = min(channels, rhs.shape[numbers.rhs_spec[0]])
    if window == (3, 3) and p["rhs_dilation"] == (1, 1):
        if max(size) <= 2:
            return _placed(forms.unfolded, numbers, p["padding"])
        # Fewer tiles than this do not pay for the transformed kernel.
        if narrowest >= 32 and images * forms.tile_count(size) >= 64:
            return _placed(forms.winograd, numbers, p["padding"])
    elif size in ((3, 3), (1, 1)) and min(window) > 2:
        return _gradient_form(eqn, window, size)
    return None


def _gradient_form(eqn: Any, window: Sequence[int], size: Sequence[int]) -> Form | None:
    """Of the gradient of a kernel of `size`: the batch is contracted, the window is the result's.

    `lax.conv` would transpose both operands first, and XLA then computes whatever made them anew
    within the transposition, entry by entry.
    """
    p = eqn.params
    numbers = p["dimension_numbers"]
    lhs, rhs, strides = eqn.invars[0].aval, eqn.invars[1].aval, p["rhs_dilation"]
    channels, images = (lhs.shape[a] for a in numbers.lhs_spec[:2])
    narrowest = min(channels, rhs.shape[numbers.rhs_spec[0]])
    form = None
    if max(strides) > 1:
        if narrowest >= 16:
            form = functools.partial(forms.strided_kernel_gradient, window=size, strides=strides)
    elif size == (3, 3) and narrowest < 32:
        form = forms.unfolded_kernel_gradient
    elif size == (3, 3) and images * forms.tile_count(window) >= 64:
        form = forms.winograd_kernel_gradient
    return None if form is None else _placed_gradient(form, numbers, p["padding"])


def _ungrouped(eqn: Any) -> bool:
    """Two-dimensional, without groups; strides only where a kernel's gradient has them."""
    p = eqn.params
    steps = (*p["window_strides"], *p["lhs_dilation"])
    counts = (p["feature_group_count"], p["batch_group_count"])
    return len(p["window_strides"]) == 2 and {*steps, *counts} == {1}


def _placed(form: Callable[..., Array], numbers: Any, padding: Any) -> Form:
    """A form of images [N, H, W, C] and kernels [3, 3, C, O] for operands laid out otherwise."""
    (n, c, *hw), (o, i, *window), out = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    orders = (n, *hw, c), (*window, i, o), (out[0], *out[2:], out[1])
    return _laid_out(form, *orders, padding)


def _placed_gradient(form: Callable[..., Array], numbers: Any, padding: Any) -> Form:
    """In a kernel's gradient, the images' channels are the batch and their number is contracted."""
    (c, n, *hw), (o, m, *size), out = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    orders = (n, *hw, c), (m, *size, o), (*out[2:], out[0], out[1])
    return _laid_out(form, *orders, padding)


def _laid_out(
    form: Callable[..., Array],
    left: Sequence[int],
    right: Sequence[int],
    out: Sequence[int],
    padding: Any,
) -> Form:
    """A form for operands and a result whose axes, in the form's order, are these."""

    def run(lhs: Array, rhs: Array) -> Array:
        result = form(lhs.transpose(left), rhs.transpose(right), padding)
        return result.transpose([out.index(axis) for axis in range(len(out))])

    return run
