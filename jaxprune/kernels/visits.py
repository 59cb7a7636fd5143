"""Pallas kernels for products with kept tiles alone.

A visit is a kept tile with the block of columns that it reads and the block that it adds to. Visits
are sorted by what they write; a block that no tile writes is visited once, with a tile of zeros. On
a TPU the visits are prefetched scalars that say which blocks a step of the grid is given; on a GPU
a program has one block of the result and reads its own visits, by way of Triton. They have been
lowered for both and run interpreted only: there was neither device.

Axes: `T` rows, `I, O` channels read and written, `r, c` sides of a tile, `K` kept tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu


class Order(NamedTuple):
    """Visits in the order of what they write.

    Attributes:
      tile: which tile, int (visits,); K is one of zeros.
      reads: the block of columns that it reads, int (visits,).
      writes: the block that it adds to, int (visits,).
      starts: where the visits of each written block begin, and their end, int (blocks + 1,).
    """

    tile: Any
    reads: Any
    writes: Any
    starts: Any


class Visits(NamedTuple):
    """Those of a product, and of its gradient.

    Attributes:
      forward: with the matrix.
      backward: with the transposed matrix.
      rows: the row of tiles in which each tile is, int (K,).
      columns: its column.
    """

    forward: Order
    backward: Order
    rows: Any
    columns: Any


class Device(NamedTuple):
    """The kernels of a kind of device.

    Attributes:
      product: of rows [T, I] and tiles [K + 1, r, c] in an order, [T, O]; with transposed tiles, of
        [T, O], [T, I].
      outer: of rows [T, I] and [T, O] the product of each tile's columns, [K, r, c].
    """

    product: Callable[..., Array]
    outer: Callable[..., Array]


def visits_of(kept: np.ndarray) -> Visits:
    """The visits of a matrix: `kept` is bool, [tiles of I, tiles of O]."""
    rows, columns = (places.astype(np.int32) for places in np.nonzero(kept))
    backward, forward = _order(columns, rows, len(kept)), _order(rows, columns, kept.shape[1])
    return Visits(forward, backward, rows, columns)


def _order(reads: np.ndarray, writes: np.ndarray, blocks: int) -> Order:
    unwritten = np.setdiff1d(np.arange(blocks), writes)
    tile = np.concatenate([np.arange(len(reads)), np.full(len(unwritten), len(reads))])
    reads = np.concatenate([reads, np.zeros(len(unwritten), int)])
    writes = np.concatenate([writes, unwritten])
    order = np.argsort(writes, kind="stable")
    starts = np.searchsorted(writes[order], np.arange(blocks + 1))
    return Order(*(a.astype(np.int32) for a in (tile[order], reads[order], writes[order], starts)))


def _tpu_product(
    rows: Array, tiles: Array, order: Order, transposed: bool, step: int, interpret: bool
) -> Array:
    (_, r, c), visits, blocks = tiles.shape, len(order.tile), len(order.starts) - 1
    read, written = (c, r) if transposed else (r, c)

    def kernel(tile: Any, reads: Any, writes: Any, x: Any, w: Any, out: Any, total: Any) -> None:
        k = pl.program_id(1)

        @pl.when((k == 0) | (writes[k] != writes[jnp.maximum(k - 1, 0)]))
        def _() -> None:
            total[...] = jnp.zeros_like(total)

        total[...] += _dot(x[...], w[...], 1, int(transposed))

        @pl.when((k == visits - 1) | (writes[k] != writes[jnp.minimum(k + 1, visits - 1)]))
        def _() -> None:
            out[...] = total[...].astype(out.dtype)

    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=3,
        grid=(len(rows) // step, visits),
        in_specs=[
            pl.BlockSpec((step, read), lambda t, k, tile, reads, writes: (t, reads[k])),
            pl.BlockSpec((None, r, c), lambda t, k, tile, reads, writes: (tile[k], 0, 0)),
        ],
        out_specs=pl.BlockSpec((step, written), lambda t, k, tile, reads, writes: (t, writes[k])),
        scratch_shapes=[pltpu.VMEM((step, written), _wide(rows))],
    )
    shape = jax.ShapeDtypeStruct((len(rows), blocks * written), rows.dtype)
    run = pl.pallas_call(kernel, out_shape=shape, grid_spec=grid, interpret=interpret)
    return run(order.tile, order.reads, order.writes, rows, tiles)


def _tpu_outer(
    rows: Array, others: Array, visits: Visits, sides: tuple[int, int], step: int, interpret: bool
) -> Array:
    (r, c), steps = sides, len(rows) // step

    def kernel(places: Any, across: Any, x: Any, y: Any, out: Any, total: Any) -> None:
        t = pl.program_id(1)

        @pl.when(t == 0)
        def _() -> None:
            total[...] = jnp.zeros_like(total)

        total[...] += _dot(x[...], y[...], 0, 0)

        @pl.when(t == steps - 1)
        def _() -> None:
            out[...] = total[...].astype(out.dtype)

    count = len(visits.rows)
    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=2,
        grid=(count, steps),
        in_specs=[
            pl.BlockSpec((step, r), lambda k, t, places, across: (t, places[k])),
            pl.BlockSpec((step, c), lambda k, t, places, across: (t, across[k])),
        ],
        out_specs=pl.BlockSpec((None, r, c), lambda k, t, places, across: (k, 0, 0)),
        scratch_shapes=[pltpu.VMEM((r, c), _wide(rows))],
    )
    shape = jax.ShapeDtypeStruct((count, r, c), rows.dtype)
    run = pl.pallas_call(kernel, out_shape=shape, grid_spec=grid, interpret=interpret)
    return run(visits.rows, visits.columns, rows, others)


def _gpu_product(
    rows: Array, tiles: Array, order: Order, transposed: bool, step: int, interpret: bool
) -> Array:
    (_, r, c), blocks = tiles.shape, len(order.starts) - 1
    read, written = (c, r) if transposed else (r, c)
    dtype = _wide(rows)

    def kernel(tile: Any, reads: Any, starts: Any, x: Any, w: Any, out: Any) -> None:
        block = pl.program_id(1)

        def add(k: Any, total: Array) -> Array:
            part = x[:, pl.ds(reads[k] * read, read)]
            return total + _dot(part, w[tile[k]], 1, int(transposed))

        total = jnp.zeros((step, written), dtype)
        total = lax.fori_loop(starts[block], starts[block + 1], add, total)
        out[...] = total.astype(out.dtype)

    run = pl.pallas_call(
        kernel,
        grid=(len(rows) // step, blocks),
        in_specs=[
            *map(_whole, (order.tile, order.reads, order.starts)),
            pl.BlockSpec((step, rows.shape[1]), lambda t, block: (t, 0)),
            _whole(tiles),
        ],
        out_specs=pl.BlockSpec((step, written), lambda t, block: (t, block)),
        out_shape=jax.ShapeDtypeStruct((len(rows), blocks * written), rows.dtype),
        compiler_params=_triton(),
        interpret=interpret,
    )
    return run(order.tile, order.reads, order.starts, rows, tiles)


def _gpu_outer(
    rows: Array, others: Array, visits: Visits, sides: tuple[int, int], step: int, interpret: bool
) -> Array:
    (r, c), steps, dtype = sides, len(rows) // step, _wide(rows)

    def kernel(places: Any, across: Any, x: Any, y: Any, out: Any) -> None:
        k = pl.program_id(0)
        at, to = places[k] * r, across[k] * c

        def add(t: Any, total: Array) -> Array:
            left, right = (
                v[pl.ds(t * step, step), pl.ds(begin, n)]
                for v, begin, n in ((x, at, r), (y, to, c))
            )
            return total + _dot(left, right, 0, 0)

        out[...] = lax.fori_loop(0, steps, add, jnp.zeros((r, c), dtype)).astype(out.dtype)

    count = len(visits.rows)
    run = pl.pallas_call(
        kernel,
        grid=(count,),
        in_specs=[*map(_whole, (visits.rows, visits.columns, rows, others))],
        out_specs=pl.BlockSpec((None, r, c), lambda k: (k, 0, 0)),
        out_shape=jax.ShapeDtypeStruct((count, r, c), rows.dtype),
        compiler_params=_triton(),
        interpret=interpret,
    )
    return run(visits.rows, visits.columns, rows, others)


def _triton() -> Any:
    # Named, as JAX would take Mosaic. Imported here, as a later JAX may come without it.
    from jax.experimental.pallas import triton

    return triton.CompilerParams()


def _whole(array: Array) -> pl.BlockSpec:
    return pl.BlockSpec(array.shape, lambda *_: (0,) * array.ndim)


def _wide(rows: Array) -> Any:
    """What sums are taken in: at least float32."""
    return jnp.promote_types(rows.dtype, jnp.float32)


def _dot(left: Array, right: Array, over: int, against: int) -> Array:
    numbers = (((over,), (against,)), ((), ()))
    return lax.dot_general(left, right, numbers, preferred_element_type=_wide(left))


DEVICES = {"gpu": Device(_gpu_product, _gpu_outer), "tpu": Device(_tpu_product, _tpu_outer)}

__all__ = ["DEVICES", "Device", "Order", "Visits", "visits_of"]
