"""Gram matrices of what consumers read: the layer-wise Hessian, and the error of any mask.

For a consumer with kernel `W` and inputs `x` (a patch of taps per channel), `H = E[x xᵀ]` is half
the Hessian of the layer's squared output error (L-OBS, Dong et al. 2017, arXiv 1705.07565), and
with `G[c,d] = Σ_o W[o,c]ᵀ H[c,d] W[o,d]` that error under a mask m is `pᵀ G p`, p = 1 − m, exactly
(the error function of Hu et al. 2018, arXiv 1805.11394). `G = Σ_taps H ∘ WᵀW` is linear in H, so it
is accumulated batch by batch and no H is kept.

Axes: `R` rows (images × positions), `U` units of a group, `T` taps (and repeats) per unit,
`O` outputs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune.batches import count_of, first, inputs_of
from jaxprune.graph import ChannelGraph, Consumer
from jaxprune.kernels import accelerate
from jaxprune.problem import Problem

Weighting = Literal["energy", "sum"]
_HIGHEST = lax.Precision.HIGHEST
_BLOCK_ELEMENTS = 1 << 24
"""The largest block of H that is held at once: 64 MiB in float32."""


class Layer(NamedTuple):
    """What one consumer reads of one group.

    Attributes:
      name: the consumer's.
      inputs: float32 (R, U, T).
      kernel: float32 (U, T, O).
      energy: the mean square norm of the consumer's output, over all groups that it reads.
      outputs: float32 (R, O), that output itself, or the residual sum that it enters.
    """

    name: str
    inputs: jax.Array
    kernel: jax.Array
    energy: jax.Array
    outputs: jax.Array


def grams(
    problem: Problem,
    *,
    groups: Sequence[str] | None = None,
    masks: Mapping[str, Any] | None = None,
    positions: int | None = 16,
    weighting: Weighting = "energy",
) -> dict[str, np.ndarray]:
    """Per group its Gram matrix, float64 (units, units), summed over its consumers.

    Args:
      problem: the network and its calibration batches; its key draws the output positions.
      groups: whose matrices are computed, all by default; whichever they are, one program serves.
      masks: statistics of the network under these masks; of the dense one by default.
      positions: output positions drawn per image and consumer; None takes all.
      weighting: `energy` divides each consumer's matrix by the mean square norm of its output, so
        that the error is a fraction and the largest consumer does not decide alone; `sum` does not.

    Raises:
      ValueError: no batches, or activations that are not finite.
    """
    first(problem.batches)
    names = problem.graph.names
    groups = names if groups is None else tuple(groups)
    wanted = {name: name in groups for name in names}
    masks = None if masks is None else dict(masks)
    accumulate = _accumulator(problem.graph, problem.fn, positions)
    total: Any = None
    count = 0
    for i, batch in enumerate(problem.batches):
        inputs, key = inputs_of(batch), jax.random.fold_in(problem.key, i)
        part = accumulate(problem.variables, inputs, key, masks, wanted)
        part = {name: part[name] for name in groups if name in part}
        part = jax.tree.map(lambda a: np.asarray(a, np.float64), part)
        total = part if total is None else jax.tree.map(np.add, total, part)
        count += count_of(inputs)
    result = {}
    for group in groups:
        matrices = [
            g / (max(energy, np.finfo(float).tiny) if weighting == "energy" else count)
            for g, energy in total.get(group, [])
        ]
        if not matrices:
            raise ValueError(
                f"group {group} is read by no contraction or sum, or by one in a loop of unknown "
                "length, so it has no Gram matrix; use a criterion on weights or mask gradients"
            )
        result[group] = np.sum(matrices, axis=0)
        if not np.isfinite(result[group]).all():
            raise ValueError(f"the activations that readers of {group} see are not finite")
    return result


@functools.lru_cache(maxsize=4)
def _accumulator(
    graph: ChannelGraph, fn: Callable[..., Any], positions: int | None
) -> Callable[..., Any]:
    """Cached, so that a network pruned in many rounds compiles once; few, so that old ones go."""

    @jax.jit
    @accelerate
    def accumulate(
        variables: Any, inputs: Any, key: jax.Array, masks: Any, wanted: dict[str, Any]
    ) -> dict[str, list[tuple[jax.Array, jax.Array]]]:
        layers = layers_of(graph, fn, variables, inputs, key, masks, positions)
        images = count_of(inputs)

        def matrix(group: str, layer: Layer) -> jax.Array:
            units = graph.groups[group].size
            return value_or_zeros(wanted[group], lambda: _collapse(layer), (units, units))

        return {
            group: [(matrix(group, layer) * images, layer.energy * images) for layer in read]
            for group, read in layers.items()
        }

    return accumulate


def value_or_zeros(
    wanted: jax.Array, compute: Callable[[], jax.Array], shape: tuple[int, ...]
) -> jax.Array:
    """What `compute` gives, float32 of `shape`, or zeros without the work; `wanted` is data."""
    return lax.cond(wanted, compute, lambda: jnp.zeros(shape, jnp.float32))


def layers_of(
    graph: ChannelGraph,
    fn: Callable[..., Any],
    variables: Any,
    inputs: Any,
    key: jax.Array,
    masks: Mapping[str, Any] | None = None,
    positions: int | None = 16,
    seen: dict[str, Consumer] | None = None,
    sums: Mapping[str, str] | None = None,
) -> dict[str, list[Layer]]:
    """Per group what each of its consumers reads in one batch; for use inside `jit`.

    The consumers themselves, which are static, are put into `seen` by name. `sums` names the sums
    (of `Tapped.sums`) whose rows stand for the outputs of some consumers. A group of which a
    consumer's reads cannot be handed out has no entry, rather than a part of its error.
    """
    _, tapped = graph.tap(fn, variables, inputs, masks=masks)
    if seen is not None:
        seen.update(tapped.consumers)
    starts = dict(zip(graph.names, np.cumsum([0, *graph.sizes])[:-1].tolist(), strict=True))
    layers: dict[str, list[Layer]] = {}
    for i, (name, consumer) in enumerate(tapped.consumers.items()):
        own = jax.random.fold_in(key, i)
        rows, kernel = unfold(
            consumer, tapped.reads[name], tapped.kernels.get(name), own, positions
        )
        outputs = jnp.einsum("rct,cto->ro", rows, kernel, precision=_HIGHEST)
        energy = jnp.mean(jnp.sum(jnp.square(outputs), axis=-1))
        if sums and name in sums:
            outputs = rows_of(consumer, tapped.sums[sums[name]], own, positions)
        for group in consumer.groups:
            size = graph.groups[group].size
            places, whole = places_of(consumer, starts[group], size)
            if not whole:
                rows = jnp.pad(rows, ((0, 0), (0, 1), (0, 0)))
                kernel = jnp.pad(kernel, ((0, 1), (0, 0), (0, 0)))
            layers.setdefault(group, []).append(
                Layer(
                    name,
                    rows[:, places].reshape(len(rows), size, -1),
                    kernel[places].reshape(size, -1, kernel.shape[-1]),
                    energy,
                    outputs,
                )
            )
    missed = {group for consumer in tapped.missed.values() for group in consumer.groups}
    return {group: found for group, found in layers.items() if group not in missed}


def places_of(consumer: Consumer, start: int, size: int) -> tuple[np.ndarray, bool]:
    """Where each unit of a group lies among a consumer's channels, int (units, repeats).

    The group's units are numbered from `start`. Second, whether all lie equally often: a consumer
    of a part of the channels reads some units less often, which are filled up with -1.
    """
    units = consumer.units[0] if len(consumer.units) == 1 else _joint_units(consumer)
    units = units - start
    inside = np.flatnonzero((units >= 0) & (units < size))
    counts = np.bincount(units[inside], minlength=size)
    places = np.full((size, counts.max()), -1)
    for position in inside.tolist():
        unit = units[position]
        counts[unit] -= 1
        places[unit, counts[unit]] = position
    places = np.sort(places, axis=1)
    return places, bool((places >= 0).all())


def _joint_units(consumer: Consumer) -> np.ndarray:
    """Units along several contracted axes, flattened: the first axis that holds units decides."""
    grids = np.meshgrid(*consumer.units, indexing="ij")
    return functools.reduce(lambda a, b: np.where(a >= 0, a, b), grids).ravel()


def unfold(
    consumer: Consumer,
    operand: jax.Array,
    kernel: jax.Array | None,
    key: jax.Array,
    positions: int | None,
) -> tuple[jax.Array, jax.Array]:
    """A consumer as one matrix product: rows float32 (R, C, T) and a kernel float32 (C, T, O).

    The consumer's output (without bias) at each row is `rows · kernel` over C and T.
    """
    operand = operand.astype(jnp.float32)
    if consumer.primitive == "conv_general_dilated":
        assert kernel is not None
        return _unfold_conv(consumer, operand, kernel.astype(jnp.float32), key, positions)
    if kernel is None:  # a sum over the channels
        summed = [a for a in consumer.params["axes"] if a not in consumer.axes]
        rows = jnp.moveaxis(
            operand, (*consumer.axes, *summed), range(-len(consumer.axes) - len(summed), 0)
        )
        channels = math.prod(operand.shape[a] for a in consumer.axes)
        rows = rows.reshape(-1, channels, math.prod(operand.shape[a] for a in summed))
        return _sample(rows, key, positions, operand.shape[0]), jnp.ones((*rows.shape[1:], 1))
    return _unfold_dot(consumer, operand, kernel.astype(jnp.float32), key, positions)


def rows_of(
    consumer: Consumer, value: jax.Array, key: jax.Array, positions: int | None
) -> jax.Array:
    """Of a value of the shape of a consumer's output, the rows that `unfold` draws: (R, O)."""
    value = value.astype(jnp.float32)
    order = feature_axes(consumer)
    value = jnp.moveaxis(value, order, range(-len(order), 0))
    outputs = math.prod(value.shape[value.ndim - len(order) :])
    if consumer.primitive == "conv_general_dilated":
        flat = value.reshape(value.shape[0], -1, outputs)
        at = _drawn(key, flat.shape[0], flat.shape[1], positions)
        return jnp.take_along_axis(flat, at[..., None], axis=1).reshape(-1, outputs)
    return _sample(value.reshape(-1, outputs), key, positions, value.shape[0])


def feature_axes(consumer: Consumer) -> tuple[int, ...]:
    """The axes of a contraction's output that its kernel writes, in the kernel's order."""
    numbers = consumer.params["dimension_numbers"]
    if consumer.primitive == "conv_general_dilated":
        return (numbers.out_spec[1],)
    contract, _ = numbers
    written = len(consumer.kernel_shape) - len(contract[1 - consumer.operand])
    return tuple(range(-written, 0)) if consumer.operand == 0 else tuple(range(written))


def _unfold_dot(
    consumer: Consumer, operand: jax.Array, kernel: jax.Array, key: jax.Array, positions: int | None
) -> tuple[jax.Array, jax.Array]:
    contract, batch = consumer.params["dimension_numbers"]
    if batch[0]:
        raise ValueError(
            f"{consumer.name} is a batched product of activations, whose error is not quadratic in "
            "its mask; use a criterion on mask gradients (taylor, fisher)"
        )
    mine, other = contract[consumer.operand], contract[1 - consumer.operand]
    taps = [a for a in mine if a not in consumer.axes]
    paired = dict(zip(mine, other, strict=True))
    order = (*consumer.axes, *taps)
    channels = math.prod(operand.shape[a] for a in consumer.axes)
    rows = jnp.moveaxis(operand, order, range(-len(order), 0))
    rows = rows.reshape(-1, channels, math.prod(operand.shape[a] for a in taps))
    kernel = jnp.moveaxis(kernel, [paired[a] for a in order], range(len(order)))
    return _sample(rows, key, positions, operand.shape[0]), kernel.reshape(*rows.shape[1:], -1)


def _sample(rows: jax.Array, key: jax.Array, positions: int | None, images: int) -> jax.Array:
    if positions is None or len(rows) <= positions * images:
        return rows
    return rows[jax.random.choice(key, len(rows), (positions * images,), replace=False)]


def _unfold_conv(
    consumer: Consumer, operand: jax.Array, kernel: jax.Array, key: jax.Array, positions: int | None
) -> tuple[jax.Array, jax.Array]:
    p = consumer.params
    numbers = p["dimension_numbers"]
    x = operand.transpose(numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1])
    w = kernel.transpose(numbers.rhs_spec[1], *numbers.rhs_spec[2:], numbers.rhs_spec[0])
    window = w.shape[1:-1]
    spans = [(k - 1) * d + 1 for k, d in zip(window, p["rhs_dilation"], strict=True)]
    sizes = [
        (n - 1) * d + 1 + lo + hi
        for n, d, (lo, hi) in zip(x.shape[1:-1], p["lhs_dilation"], p["padding"], strict=True)
    ]
    outputs = [
        (n - span) // s + 1 for n, span, s in zip(sizes, spans, p["window_strides"], strict=True)
    ]
    images, count = x.shape[0], math.prod(outputs)
    starts = jnp.unravel_index(_drawn(key, images, count, positions), outputs)
    taps = np.stack(np.meshgrid(*map(np.arange, window), indexing="ij")).reshape(len(window), -1)
    # A gather of shifted positions; those in the padding, or between dilated ones, are zero.
    where, inside = [], jnp.asarray(True)
    for axis, (start, tap) in enumerate(zip(starts, taps, strict=True)):
        lo, stretch = p["padding"][axis][0], p["lhs_dilation"][axis]
        offsets = tap[None, None] * p["rhs_dilation"][axis] - lo
        at = start[..., None] * p["window_strides"][axis] + offsets
        last = x.shape[axis + 1] - 1
        inside &= (at >= 0) & (at <= last * stretch) & (at % stretch == 0)
        where.append(jnp.clip(at // stretch, 0, last))
    rows = x[(jnp.arange(images)[:, None, None], *where)]  # (images, positions, T, C)
    rows = jnp.where(inside[..., None], rows, 0)
    rows = jnp.swapaxes(rows, -1, -2).reshape(-1, x.shape[-1], taps.shape[1])
    return rows, w.reshape(w.shape[0], -1, w.shape[-1])


def _drawn(key: jax.Array, images: int, count: int, positions: int | None) -> jax.Array:
    """Positions of a map, int (images, positions): one from each of so many equal parts of it."""
    if positions is None or positions >= count:
        return jnp.broadcast_to(jnp.arange(count), (images, count))
    parts = jnp.arange(positions, dtype=float)[None] + jax.random.uniform(key, (images, positions))
    return jnp.minimum((parts * (count / positions)).astype(int), count - 1)


def _collapse(layer: Layer) -> jax.Array:
    """G (U, U) of one consumer, in blocks of rows of H that stay within a bounded memory."""
    inputs, kernel = layer.inputs, layer.kernel
    rows, units, taps = inputs.shape
    block = _block_size(units, units * taps * taps)

    def gram_rows(part: tuple[jax.Array, jax.Array]) -> jax.Array:
        x, w = part  # (B, T, R), (B, T, O)
        hessian = jnp.einsum("btr,rus->btus", x, inputs, precision=_HIGHEST) / rows
        products = jnp.einsum("bto,uso->btus", w, kernel, precision=_HIGHEST)
        return jnp.einsum("btus,btus->bu", hessian, products, precision=_HIGHEST)

    parts = (jnp.moveaxis(inputs, 0, -1), kernel)
    blocked = jax.tree.map(lambda a: a.reshape(units // block, block, *a.shape[1:]), parts)
    return lax.map(gram_rows, blocked).reshape(units, units)


def _block_size(units: int, elements_per_unit: int) -> int:
    fitting = max(1, _BLOCK_ELEMENTS // elements_per_unit)
    return max(d for d in range(1, units + 1) if units % d == 0 and d <= fitting)


__all__: Sequence[str] = (
    "Layer", "Weighting", "feature_axes", "grams", "layers_of", "places_of", "rows_of", "unfold",
)  # fmt: skip
