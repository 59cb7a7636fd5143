"""Operations that act on each entry alone: they tie operands of one shape along every axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.graph.cut import fitting
from jaxprune.graph.labels import PLAIN, Keep, Labels, sliced_shape
from jaxprune.graph.rules.base import Equation, Relation, Rule, bind, emit_as_is


def elementwise(equation: Equation) -> Relation:
    """out[i] = f(a[i], b[i], …); a scalar or an axis of size 1 broadcasts.

    Example: `mul f32[8,4] f32[1,4]` ties the two last axes; the first is the left operand's.
    Fields: none.
    """
    out_shape = equation.out_shapes[0]
    full = [i for i, shape in enumerate(equation.in_shapes) if len(shape) == len(out_shape)]
    operands = [_broadcast_labels(equation.ins[i], equation.in_shapes[i], out_shape) for i in full]
    operands, out = equation.channels.unify(
        operands, equation.reason("meets an axis that keeps its size")
    )
    ins = [PLAIN] * len(equation.ins)
    for i, labels in zip(full, operands, strict=True):
        ins[i] = labels
    return Relation(tuple(ins), (out,) * len(equation.out_shapes))


def _broadcast_labels(labels: Labels, shape: tuple[int, ...], out: tuple[int, ...]) -> Labels:
    stretched = {a for a, (n, m) in enumerate(zip(shape, out, strict=True)) if n == 1 and m > 1}
    kept = labels.without(stretched)
    return Labels(kept.tracked, kept.free | stretched)


def emit_elementwise(
    eqn: Any, relation: Relation, values: Sequence[jax.Array], keep: Keep
) -> list[Any]:
    """Operands are brought to the result's shape, so that nothing broadcasts by accident."""
    shape = sliced_shape(relation.outs[0], eqn.outvars[0].aval.shape, keep)
    return bind(eqn, [v if np.ndim(v) == 0 else jnp.broadcast_to(v, shape) for v in values])


def emit_sharding_constraint(
    eqn: Any, relation: Relation, values: Sequence[jax.Array], keep: Keep
) -> list[Any]:
    """The constraint holds for the sliced shape too, along each axis that can be laid out so."""
    return _laid_out(eqn, values, "sharding")


def emit_reshard(
    eqn: Any, relation: Relation, values: Sequence[jax.Array], keep: Keep
) -> list[Any]:
    """The same layout over devices, along each axis that can be laid out so."""
    return _laid_out(eqn, values, "dst_sharding")


def _laid_out(eqn: Any, values: Sequence[jax.Array], field: str) -> list[Any]:
    if jnp.ndim(values[0]) < len(eqn.outvars[0].aval.shape):  # some axes are one now
        return list(values)
    sharding = fitting(eqn.params[field], values[0].shape)
    return list(values) if sharding is None else bind(eqn, values, **{field: sharding})


def same_labels(equation: Equation) -> Relation:
    """Every result has the labels of the operand at its place (barriers, debug callbacks)."""
    return Relation(equation.ins, equation.ins[: len(equation.out_shapes)])


def bitcast(equation: Equation) -> Relation:
    """The same bits in another type. A narrower one adds an axis at the end, a wider one takes it.

    Example: `f32[8,4] → u8[8,4,4]`; what is along the first two axes passes. Fields: none.
    """
    channels, rank = equation.channels, len(equation.out_shapes[0])
    labels = equation.ins[0]
    parts = range(rank, len(equation.in_shapes[0]))
    labels = channels.singles(labels, parts) if parts else labels
    labels = channels.fix_axes(labels, parts, equation.reason("joins the bits of several entries"))
    return Relation((labels,), (labels,))


_NAMES = """
abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp
clz complex conj convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv erfc exp
exp2 expm1 floor ge gt igamma igamma_grad_a igammac imag integer_pow is_finite le lgamma log log1p
log2 logistic lt max min mul mulhi name ne neg nextafter not one_minus_square or polygamma
polynomial population_count pow real reduce_precision regularized_incomplete_beta rem round rsqrt
select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square
stop_gradient sub tan tanh xor zeta
""".split()

ELEMENTWISE = {
    **dict.fromkeys(_NAMES, Rule(elementwise, emit_elementwise)),
    "sharding_constraint": Rule(elementwise, emit_sharding_constraint),
    "reshard": Rule(elementwise, emit_reshard),
    "bitcast_convert_type": Rule(bitcast, emit_as_is),
    "optimization_barrier": Rule(same_labels, emit_as_is),
    "device_put": Rule(same_labels, emit_as_is),
    "debug_callback": Rule(same_labels, emit_as_is),
}
