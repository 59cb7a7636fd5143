"""A convolution or product whose kernel is block-diagonal, as G smaller ones.

Block g reads the channels that its rows are and writes those that its columns are. Rows with an
order of their own are gathered first; the results are put where the columns say. It is one grouped
convolution, which `accelerate` runs on a CPU as matrix products together with its gradients: XLA's
own grouped convolutions are slow there (`scripts/benchmarks/blocks.py`).

Axes: `G` blocks, `I, O` channels read and written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

_NARROWEST = 32
"""Least channels of a block on a CPU: narrower ones are taken together, their zeros with them, as
products that small take as long."""


class Diagonal(NamedTuple):
    """A block-diagonal kernel.

    Attributes:
      groups: the number of blocks.
      reads: the kernel's axis whose blocks are the rows.
      writes: that whose blocks are the columns.
      rows: the order of what is read, int (I,); None: as it is.
      columns: the order of what is written, int (O,); None: as it is.
    """

    groups: int
    reads: int
    writes: int
    rows: np.ndarray | None
    columns: np.ndarray | None


def diagonal_of(
    kept: np.ndarray,
    order: Mapping[int, np.ndarray],
    shape: Sequence[int],
    reads: int,
    writes: int,
) -> Diagonal | None:
    """Blocks as those on a diagonal; None where they are not, or not of one size.

    Args:
      kept: bool, one a block.
      order: axis → the order of its positions.
      shape: of the kernel.
      reads: its axis that is summed over.
      writes: its axis that is left.
    """
    groups = kept.shape[reads]
    cut = [axis for axis, n in enumerate(kept.shape) if n > 1]
    if groups < 2 or sorted(cut) != sorted((reads, writes)) or kept.shape[writes] != groups:
        return None
    if shape[reads] % groups or shape[writes] % groups or order.keys() - {reads, writes}:
        return None
    if not np.array_equal(kept.reshape(groups, groups), np.eye(groups)):
        return None
    return Diagonal(groups, reads, writes, order.get(reads), order.get(writes))


def contraction(eqn: Any, values: Sequence[Any], kept: np.ndarray, order: Any) -> Array | None:
    """What an equation gives whose second operand is a kernel with these blocks, already projected.

    None where it is no plain convolution or product, or the blocks are on no diagonal.
    """
    images, kernel = values
    p = eqn.params
    if eqn.primitive.name == "conv_general_dilated":
        if p["feature_group_count"] != 1 or p["batch_group_count"] != 1:
            return None
        numbers = p["dimension_numbers"]
        outputs, inputs = numbers.rhs_spec[:2]
        diagonal = diagonal_of(kept, order, kernel.shape, inputs, outputs)
        if diagonal is None:
            return None
        found = _convolution(images, kernel, diagonal, p)
        axis = numbers.out_spec[1]
    elif eqn.primitive.name == "dot_general":
        (mine, theirs), batch = p["dimension_numbers"]
        if batch != ((), ()) or len(mine) != 1 or kernel.ndim != 2:
            return None
        diagonal = diagonal_of(kept, order, kernel.shape, theirs[0], 1 - theirs[0])
        if diagonal is None:
            return None
        found = _product(jnp.moveaxis(images, mine[0], -1), kernel, diagonal, p)
        axis = found.ndim - 1
    else:
        return None
    if found is not None and diagonal.columns is not None:
        found = jnp.take(found, np.argsort(diagonal.columns), axis, unique_indices=True)
    return found


def blocks(kernel: Array, diagonal: Diagonal) -> list[Array]:
    """The blocks on the diagonal, each of the kernel's rank."""
    found = []
    for g in range(diagonal.groups):
        block = kernel
        for axis, order in ((diagonal.reads, diagonal.rows), (diagonal.writes, diagonal.columns)):
            size = kernel.shape[axis] // diagonal.groups
            if order is None:
                block = lax.slice_in_dim(block, g * size, (g + 1) * size, axis=axis)
            else:
                places = order[g * size : (g + 1) * size]
                block = jnp.take(block, places, axis, unique_indices=True)
        found.append(block)
    return found


def _gathered(values: Array, diagonal: Diagonal, axis: int) -> Array:
    if diagonal.rows is None:
        return values
    return jnp.take(values, diagonal.rows, axis, unique_indices=True)


def _convolution(
    images: Array, kernel: Array, diagonal: Diagonal, p: Mapping[str, Any]
) -> Array | None:
    numbers = p["dimension_numbers"]
    axis = numbers.lhs_spec[1]
    if jax.default_backend() == "cpu":
        narrowest = min(kernel.shape[diagonal.reads], kernel.shape[diagonal.writes])
        most = max(1, narrowest // _NARROWEST)
        apart = max(g for g in range(1, most + 1) if diagonal.groups % g == 0)
        if apart == 1:
            return None
        diagonal = diagonal._replace(groups=apart)
    images, parts = _gathered(images, diagonal, axis), blocks(kernel, diagonal)
    compact = jnp.concatenate(parts, diagonal.writes)
    grouped = {**p, "feature_group_count": diagonal.groups}
    return lax.conv_general_dilated_p.bind(images, compact, **grouped)


def _product(rows: Array, kernel: Array, diagonal: Diagonal, p: Mapping[str, Any]) -> Array:
    """Of rows [..., I]."""
    rows = _gathered(rows, diagonal, rows.ndim - 1)
    rows = rows.reshape(*rows.shape[:-1], diagonal.groups, -1)
    parts = jnp.stack(blocks(kernel, diagonal))
    pattern = "...gi,gio->...go" if diagonal.reads == 0 else "...gi,goi->...go"
    found = jnp.einsum(
        pattern, rows, parts,
        precision=p["precision"], preferred_element_type=p["preferred_element_type"],
    )  # fmt: skip
    return found.reshape(*found.shape[:-2], -1)


__all__ = ["Diagonal", "blocks", "contraction", "diagonal_of"]
