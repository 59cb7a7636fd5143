"""Reductions and windows. A sum over channels reads them; any other reduction fixes them."""

from __future__ import annotations

from collections.abc import Sequence

from jaxprune.graph.labels import PLAIN, Labels
from jaxprune.graph.rules.base import Equation, Read, Relation, Rule, emit_as_is


def reduce_sum(equation: Equation) -> Relation:
    """out = Σ over `axes`: zero is neutral, so channels summed away are read and can be masked.

    Example: global average pooling sums over h and w and passes the channels through.
    Fields: axes.
    """
    axes = tuple(equation.params["axes"])
    labels = equation.channels.singles(equation.ins[0], touched=axes)
    labels = Labels(labels.tracked, labels.free - set(axes))
    summed = tuple(a for a in axes if (a,) in labels.tracked)
    reads = (Read(0, summed),) if summed else ()
    within = any(set(held) & set(axes) for held in equation.ins[0].joint) and not summed
    out = _drop_axes(labels, axes, equation.in_shapes[0])
    return Relation((labels,), (out,), reads, within=within)


def reduce_other(equation: Equation) -> Relation:
    """Max, product, argmax, …: zero is not neutral, so the reduced channels are fixed.

    Fields: axes.
    """
    axes = tuple(equation.params["axes"])
    labels = equation.channels.singles(equation.ins[0], touched=axes)
    labels = equation.channels.fix_axes(labels, axes, equation.reason("reduces over the channels"))
    return Relation((labels,), (_drop_axes(labels, axes, equation.in_shapes[0]),))


def _drop_axes(labels: Labels, axes: Sequence[int], shape: tuple[int, ...]) -> Labels:
    kept = [a for a in range(len(shape)) if a not in axes]
    return labels.without(axes).renumbered({a: i for i, a in enumerate(kept)})


def reduce_window(equation: Equation) -> Relation:
    """Pooling: windows slide over some axes, which are fixed; axes of window 1 pass through.

    Fields: window_dimensions, window_strides, padding, base_dilation, window_dilation.
    """
    p = equation.params
    still = zip(
        p["window_dimensions"], p["window_strides"], p["padding"], p["base_dilation"], strict=True
    )
    slid = [a for a, field in enumerate(still) if field != (1, 1, (0, 0), 1)]
    return fix_touched(equation, slid, "a window slides over the channels")


def along_axis(equation: Equation) -> Relation:
    """Cumulative sums and their like: the axis that they run along is fixed. Fields: axis."""
    return fix_touched(equation, [equation.params["axis"]], "runs along the channels")


def fft(equation: Equation) -> Relation:
    """Fourier transforms of the last axes, which are fixed. Fields: fft_lengths."""
    rank = len(equation.in_shapes[0])
    axes = range(rank - len(equation.params["fft_lengths"]), rank)
    return fix_touched(equation, axes, "transforms the channels")


def reverse(equation: Equation) -> Relation:
    """out[i] = operand[n - 1 - i] along `dimensions`: ids turn round with the channels."""
    labels = equation.channels.singles(equation.ins[0])
    turned = set(equation.params["dimensions"])
    tracked = {a: i[::-1] if a[0] in turned else i for a, i in labels.tracked.items()}
    return Relation((labels,), (Labels(tracked, labels.free),))


def sort(equation: Equation) -> Relation:
    """All operands are brought into the order of the first: tied, and fixed along `dimension`."""
    axis = equation.params["dimension"]
    channels, reason = equation.channels, equation.reason("sorts the channels")
    operands = [channels.singles(o, touched=(axis,)) for o in equation.ins]
    operands = [channels.fix_axes(o, (axis,), reason) for o in operands]
    _, out = channels.unify(operands, equation.reason("meets an axis that keeps its size"))
    return Relation((out,) * len(operands), (out,) * len(operands))


def top_k(equation: Equation) -> Relation:
    """The largest along one axis, which is fixed. Fields: axis."""
    return fix_touched(equation, [equation.params["axis"]], "sorts the channels")


def fix_touched(equation: Equation, axes: Sequence[int], text: str) -> Relation:
    """One operand, some of whose axes are fixed; the others pass to every result."""
    labels = equation.channels.singles(equation.ins[0], touched=axes)
    labels = equation.channels.fix_axes(labels, axes, equation.reason(text))
    return Relation((labels,), (labels,) * len(equation.out_shapes))


def reduce_any(equation: Equation) -> Relation:
    """A reduction by any function, of several operands at once, each with its start.

    Fields: dimensions.
    """
    half = len(equation.ins) // 2
    axes = tuple(equation.params["dimensions"])
    channels = equation.channels
    operands = [channels.singles(o, touched=axes) for o in equation.ins[:half]]
    reason = equation.reason("reduces over the channels")
    operands = [channels.fix_axes(o, axes, reason) for o in operands]
    _, common = channels.unify(operands, equation.reason("meets an axis that keeps its size"))
    out = _drop_axes(common, axes, equation.in_shapes[0])
    return Relation((common,) * half + (PLAIN,) * half, (out,) * half)


_OTHER = ("reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "reduce_xor")
_WINDOWS = ("reduce_window_max", "reduce_window_sum", "reduce_window_min")
_ALONG = ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")

REDUCTIONS = {
    "reduce_sum": Rule(reduce_sum, emit_as_is),
    **dict.fromkeys((*_OTHER, "argmax", "argmin"), Rule(reduce_other, emit_as_is)),
    "reduce": Rule(reduce_any, emit_as_is),
    "fft": Rule(fft, emit_as_is),
    "rev": Rule(reverse, emit_as_is),
    "sort": Rule(sort, emit_as_is),
    "top_k": Rule(top_k, emit_as_is),
    **dict.fromkeys(_WINDOWS, Rule(reduce_window, emit_as_is)),
    **dict.fromkeys(_ALONG, Rule(along_axis, emit_as_is)),
}
