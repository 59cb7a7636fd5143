"""Which form a convolution takes on the CPU, and its operands laid out for it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxprune.graph.rules.base import bind
from jaxprune.kernels import bfloat16, forms, pooling
from jaxprune.kernels.bits import bits, floats
from jaxprune.kernels.forms import Padding

_MOST_TAPS = 49
"""Products and copies that a form makes at most, one for each tap of a kernel."""
_LEAST_OF_A_GROUP = 8
"""Channels of a group that is worth products: XLA has a loop of its own for fewer."""

Form = Callable[..., Array]
"""Takes the operands of an equation and gives its result."""


def form_of(eqn: Any) -> Form | None:
    """The form that an equation takes; None for what stays as it is.

    Chosen by measurement on two cores with AVX-512: see `scripts/benchmarks/convolutions.py`.
    """
    name = eqn.primitive.name
    low = all(v.aval.dtype == jnp.bfloat16 for v in eqn.invars)
    if name in _POOLINGS:
        return _with_derivative(eqn, _pooling_form(eqn))
    if name in _MOVED and low:
        return _with_derivative(eqn, functools.partial(_MOVED[name], eqn))
    if name != "conv_general_dilated" or len(eqn.params["window_strides"]) != 2:
        return None
    groups = _groups(eqn)
    if groups > 1 and _narrowest(eqn) < _LEAST_OF_A_GROUP:
        return None
    if low and groups == 1:
        return _with_derivative(eqn, _bfloat16_form(eqn))
    form = _exact_form(eqn, groups)
    return _apart(eqn, groups) if form is None and groups > 1 else form


def _exact_form(eqn: Any, groups: int) -> Form | None:
    """Of a convolution of float32 or float64, or of its kernel's gradient."""
    p = eqn.params
    numbers = p["dimension_numbers"]
    lhs, rhs, out = (v.aval for v in (*eqn.invars, *eqn.outvars))
    if lhs.dtype != rhs.dtype or lhs.dtype not in (jnp.float32, jnp.float64):
        return None
    window = tuple(rhs.shape[a] for a in numbers.rhs_spec[2:])
    size = tuple(out.shape[a] for a in numbers.out_spec[2:])
    tiles = lhs.shape[numbers.lhs_spec[0]] * forms.tile_count(size)
    if _strided(eqn):
        return None
    if p["batch_group_count"] > 1:
        return _gradient_form(eqn, window, size, groups)
    if window == (3, 3) and p["rhs_dilation"] == (1, 1):
        if groups == 1 and max(size) <= 2:
            return _placed(forms.unfolded, numbers, p["padding"])
        # Fewer tiles than this do not pay for the transformed kernel.
        if max(size) > 2 and tiles >= 64 and (groups > 1 or _narrowest(eqn) >= 32):
            form = functools.partial(forms.winograd, groups=groups)
            return _placed(form, numbers, p["padding"])
    elif groups == 1 and size in ((3, 3), (1, 1)) and min(window) > 2:
        return _gradient_form(eqn, window, size, groups)
    return None


def _apart(eqn: Any, groups: int) -> Form:
    """Each group as a convolution of its own, in the form that this one takes."""
    p = eqn.params
    numbers = p["dimension_numbers"]
    left = numbers.lhs_spec[0 if p["batch_group_count"] > 1 else 1]
    axes, written = (left, numbers.rhs_spec[0]), numbers.out_spec[1]
    alone = {**p, "feature_group_count": 1, "batch_group_count": 1}

    def run(*values: Array) -> Array:
        parts = zip(
            *(jnp.split(v, groups, a) for v, a in zip(values, axes, strict=True)), strict=True
        )
        conv = functools.partial(eqn.primitive.bind, **alone)
        results = []
        for part in parts:
            (one,) = jax.make_jaxpr(conv)(*part).eqns
            form = form_of(one)
            results.append(conv(*part) if form is None else form(*part))
        return jnp.concatenate(results, written)

    return run


def _with_derivative(eqn: Any, form: Form | None) -> Form | None:
    """The form, with the derivative of the equation: that of moved bits would be zero."""
    if form is None:
        return None

    @jax.custom_jvp
    def run(*values: Array) -> Array:
        return form(*values)

    @run.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        return jax.jvp(lambda *values: bind(eqn, values)[0], primals, tangents)

    return run


_POOLINGS = {
    "reduce_window_max": pooling.max_pool,
    "select_and_scatter_add": pooling.max_pool_gradient,
}


def _reversed(eqn: Any, values: Array) -> Array:
    return floats(lax.rev(bits(values), eqn.params["dimensions"]))


def _summed(eqn: Any, values: Array) -> Array:
    """Summed in float32: XLA makes a loop of bfloat16's own sum."""
    total = jnp.sum(values.astype(jnp.float32), axis=eqn.params["axes"])
    return total.astype(values.dtype)


_MOVED = {"rev": _reversed, "reduce_sum": _summed}


def _pooling_form(eqn: Any) -> Form | None:
    p = eqn.params
    window = p["window_dimensions"]
    by_largest = p.get("select_prim", lax.ge_p) is lax.ge_p
    if not by_largest or not pooling.side_by_side(p) or math.prod(window) > _MOST_TAPS:
        return None
    return functools.partial(_POOLINGS[eqn.primitive.name], window=window)


def _gradient_form(
    eqn: Any, window: Sequence[int], size: Sequence[int], groups: int
) -> Form | None:
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
        if narrowest >= 16 and groups == 1:
            form = functools.partial(forms.strided_kernel_gradient, window=size, strides=strides)
    elif size == (3, 3) and narrowest < 32:
        form = forms.unfolded_kernel_gradient if groups == 1 else None
    elif size == (3, 3) and images * forms.tile_count(window) >= 64:
        form = functools.partial(forms.winograd_kernel_gradient, groups=groups)
    return None if form is None else _placed_gradient(form, numbers, p["padding"])


def _bfloat16_form(eqn: Any) -> Form | None:
    """Of a convolution or a kernel's gradient, whichever takes fewer products of taps."""
    p = eqn.params
    numbers, dilation = p["dimension_numbers"], p["lhs_dilation"]
    lhs, rhs, out = (v.aval for v in (*eqn.invars, *eqn.outvars))
    window = tuple(rhs.shape[a] for a in numbers.rhs_spec[2:])
    size = tuple(out.shape[a] for a in numbers.out_spec[2:])
    as_gradient = max(p["rhs_dilation"]) > 1 or math.prod(window) > math.prod(size)
    if math.prod(size if as_gradient else window) > _MOST_TAPS:
        return None
    if as_gradient:
        if _strided(eqn):
            return None
        strides, few = p["rhs_dilation"], lhs.shape[numbers.lhs_spec[0]] <= 8
        if few or max(window) <= 2 or max(strides) > 1:
            form = functools.partial(
                bfloat16.strided_kernel_gradient,
                size=size,
                strides=strides,
                unfold=max(strides) == 1,
            )
        else:
            form = functools.partial(bfloat16.kernel_gradient, size=size)
        return _placed_gradient(form, numbers, p["padding"], out.dtype)
    strides, channels = p["window_strides"], lhs.shape[numbers.lhs_spec[1]]
    widest = max(channels, rhs.shape[numbers.rhs_spec[0]])
    if channels <= 8:
        form = functools.partial(bfloat16.unfolded, size=size, strides=strides)
    elif window == (3, 3) and max(strides) == 1 and min(size) > 4:
        form = functools.partial(bfloat16.windows, outputs=1 if widest >= 64 else 2)
    else:
        form = functools.partial(bfloat16.taps, size=size, strides=strides)

    def dilated(images: Array, kernel: Array, padding: Padding) -> Array:
        return form(bfloat16.spread(images, dilation), kernel, padding)

    return _placed(form if max(dilation) == 1 else dilated, numbers, p["padding"], out.dtype)


def _groups(eqn: Any) -> int:
    return max(eqn.params["feature_group_count"], eqn.params["batch_group_count"])


def _narrowest(eqn: Any) -> int:
    """The channels that one group reads or writes, whichever are fewer."""
    p = eqn.params
    numbers, (lhs, rhs) = p["dimension_numbers"], (v.aval for v in eqn.invars)
    read = rhs.shape[numbers.rhs_spec[1]]
    if p["batch_group_count"] > 1:
        read = lhs.shape[numbers.lhs_spec[0]] // p["batch_group_count"]
    return min(read, rhs.shape[numbers.rhs_spec[0]] // _groups(eqn))


def _strided(eqn: Any) -> bool:
    """Whether it skips places of what it reads or writes, as only a kernel's gradient does not."""
    return max(*eqn.params["window_strides"], *eqn.params["lhs_dilation"]) > 1


def _placed(form: Callable[..., Array], numbers: Any, padding: Any, dtype: Any = None) -> Form:
    """A form of images [N, H, W, C] and kernels [3, 3, C, O] for operands laid out otherwise."""
    (n, c, *hw), (o, i, *window), out = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    orders = (n, *hw, c), (*window, i, o), (out[0], *out[2:], out[1])
    return _laid_out(form, *orders, padding, dtype)


def _placed_gradient(
    form: Callable[..., Array], numbers: Any, padding: Any, dtype: Any = None
) -> Form:
    """In a kernel's gradient, the images' channels are the batch and their number is contracted."""
    (c, n, *hw), (o, m, *size), out = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    orders = (n, *hw, c), (m, *size, o), (*out[2:], out[0], out[1])
    return _laid_out(form, *orders, padding, dtype)


def _laid_out(
    form: Callable[..., Array],
    left: Sequence[int],
    right: Sequence[int],
    out: Sequence[int],
    padding: Any,
    dtype: Any,
) -> Form:
    """A form for operands and a result whose axes, in the form's order, are these."""

    def run(lhs: Array, rhs: Array) -> Array:
        result = form(lhs.transpose(left), rhs.transpose(right), padding)
        result = result if dtype is None else result.astype(dtype)
        return result.transpose([out.index(axis) for axis in range(len(out))])

    return run
