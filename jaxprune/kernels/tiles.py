"""Kernels with tiles by rows or anywhere, run by their kept tiles alone on a GPU or a TPU.

    quick = dataclasses.replace(pruned, blocks=by_tiles(pruned.blocks)).wrap(fn)

Tiles on no diagonal run as a dense kernel with zeros: nothing is quicker in XLA on a CPU
(`scripts/benchmarks/blocks.py`). `by_tiles` is the explicit choice of the Pallas kernels of
`visits` instead. They have been run interpreted only, so nothing chooses them by itself. A
convolution is the product of its unfolded patches, in which each tap has the kernel's tiles.

The gradient with respect to what is read visits the transposed tiles, and that of the kernel is
computed for kept tiles alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.kernels.windows import by_taps

if TYPE_CHECKING:
    from jaxprune.kernels.visits import Device, Visits

_DEVICES = ("gpu", "tpu")
_STEP = 128
"""Rows that are multiplied at a time, at most."""


class Run(NamedTuple):
    """Whose kernels run tiles: `gpu` or `tpu`, and whether they are interpreted."""

    device: str
    interpret: bool = False


def by_tiles(
    blocks: Mapping[str, Any], device: str | None = None, interpret: bool = False
) -> dict[str, Any]:
    """Blocks of kernels (`Pruned.blocks`) that run by the kernels here where they suit.

    Where the sides of tiles do not suit the device (powers of two from 16 on for a GPU, multiples
    of 128 for a TPU), kernels stay dense with zeros.

    Args:
      blocks: kernel's path → its blocks.
      device: `gpu` or `tpu`; None: JAX's default backend.
      interpret: as `pallas_call`, for tests on a CPU; any sides suit.

    Raises:
      ValueError: another device.
    """
    device = device or jax.default_backend()
    if device not in _DEVICES:
        raise ValueError(
            f"tiles have kernels of their own for gpu and tpu, not for {device}; leave the blocks "
            "as they are there"
        )
    return {path: each._replace(run=Run(device, interpret)) for path, each in blocks.items()}


def contraction(
    eqn: Any,
    values: Sequence[Any],
    kept: np.ndarray,
    order: Mapping[int, Any],
    sides: Sequence[int],
    run: Run,
) -> Array | None:
    """What an equation gives whose second operand is a projected kernel with these tiles.

    None for what is no plain convolution or product with tiles of channels that suit the device.
    """
    p = eqn.params
    images, kernel = values
    if eqn.primitive.name == "conv_general_dilated":
        if max(p["feature_group_count"], p["batch_group_count"], *p["lhs_dilation"]) > 1:
            return None
        numbers = p["dimension_numbers"]
        (n, axis, *places), (writes, reads, *window) = numbers.lhs_spec, numbers.rhs_spec
        images = images.transpose(n, *places, axis)
    elif eqn.primitive.name == "dot_general":
        (mine, theirs), batch = p["dimension_numbers"]
        if batch != ((), ()) or len(mine) != 1 or kernel.ndim != 2:
            return None
        numbers, reads, writes, window = None, theirs[0], 1 - theirs[0], []
        images = jnp.moveaxis(images, mine[0], -1)
    else:
        return None
    r, c = sides[reads], sides[writes]
    if 0 in (r, c) or any(kept.shape[a] > 1 for a in window) or order.keys() - {reads, writes}:
        return None
    if not _suit(*run, r, c):
        return None
    images = _ordered(images, order.get(reads), images.ndim - 1)
    matrix = kernel.transpose(*window, reads, writes)
    matrix = _ordered(matrix, order.get(reads), len(window))
    matrix = _padded(_ordered(matrix, order.get(writes), len(window) + 1), len(window), r)
    images = _padded(images, images.ndim - 1, r)
    if numbers is not None:
        taps = by_taps(images, matrix.shape[: len(window)], p)
        images = jnp.concatenate([part for _, part in taps], axis=-1)
    tiles = kept.transpose(*window, reads, writes).reshape(kept.shape[reads], kept.shape[writes])
    count = math.prod(matrix.shape[: len(window)])
    rows, matrix = (v.reshape(-1, v.shape[-1]) for v in (images, matrix))
    found = product(rows, matrix, np.tile(tiles, (count, 1)), (r, c), *run)
    found = found.reshape(*images.shape[:-1], -1).astype(eqn.outvars[0].aval.dtype)
    if writes in order:
        found = _ordered(found, np.argsort(order[writes]), found.ndim - 1)
    if numbers is None:
        return found
    out = (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
    return found.transpose([out.index(a) for a in range(found.ndim)])


def product(
    rows: Array, matrix: Array, kept: np.ndarray, sides: tuple[int, int], device: str,
    interpret: bool = False,
) -> Array:  # fmt: skip
    """`rows @ matrix`, [T, O], of a matrix that is zero outside its kept tiles.

    Sums are taken in float32, or in float64 where that is what comes in.

    Args:
      rows: [T, I].
      matrix: [I, O].
      kept: bool, [⌈I / r⌉, ⌈O / c⌉].
      sides: r and c.
      device: `gpu` or `tpu`, whose kernels run.
      interpret: as `pallas_call`.
    """
    from jaxprune.kernels.visits import visits_of  # Pallas is slow to import, and rarely needed

    (r, c), (count, outputs) = sides, (len(rows), matrix.shape[1])
    if not kept.any():
        return jnp.zeros((count, outputs), rows.dtype)
    step = min(_STEP, 16 * 2 ** math.ceil(math.log2(max(1, count / 16))))
    rows = _padded(_padded(rows, 1, r), 0, step)
    matrix = _padded(_padded(matrix, 0, r), 1, c)
    visits = visits_of(kept)
    squares = matrix.reshape(len(matrix) // r, r, -1, c).transpose(0, 2, 1, 3)
    tiles = squares[visits.rows, visits.columns]
    visits = jax.tree.map(jnp.asarray, visits)
    return _product(rows, tiles, visits, device, step, interpret)[:count, :outputs]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _by_visits(
    rows: Array, tiles: Array, visits: Visits, device: str, step: int, interpret: bool
) -> Array:
    """The product of rows [T, I] and tiles [K, r, c]."""
    return _kernels(device).product(rows, _ended(tiles), visits.forward, False, step, interpret)


def _forward(rows: Array, tiles: Array, visits: Visits, *how: Any) -> tuple[Array, Any]:
    return _by_visits(rows, tiles, visits, *how), (rows, tiles, visits)


def _backward(device: str, step: int, interpret: bool, saved: Any, gradient: Array) -> Any:
    (rows, tiles, visits), run = saved, _kernels(device)
    read = run.product(gradient, _ended(tiles), visits.backward, True, step, interpret)
    kept = run.outer(rows, gradient, visits, tiles.shape[1:], step, interpret)
    return read, kept, None


_by_visits.defvjp(_forward, _backward)
# Compiled once for as many tiles, wherever they lie.
_product = jax.jit(_by_visits, static_argnums=(3, 4, 5))


def _kernels(device: str) -> Device:
    from jaxprune.kernels.visits import DEVICES

    return DEVICES[device]


def _ended(tiles: Array) -> Array:
    """With a tile of zeros behind, for what no tile writes."""
    return jnp.concatenate([tiles, jnp.zeros_like(tiles[:1])])


def _suit(device: str, interpret: bool, *sides: int) -> bool:
    if interpret:
        return True
    if device == "gpu":
        return all(n >= 16 and n & (n - 1) == 0 for n in sides)
    return device == "tpu" and not any(n % 128 for n in sides)


def _ordered(values: Array, order: Any, axis: int) -> Array:
    return values if order is None else jnp.take(values, order, axis, unique_indices=True)


def _padded(values: Array, axis: int, multiple: int) -> Array:
    """With zeros at the end of an axis, up to a multiple."""
    ends = [(0, -n % multiple if a == axis else 0) for a, n in enumerate(values.shape)]
    return jnp.pad(values, ends)


__all__ = ["Run", "by_tiles", "contraction", "product"]
