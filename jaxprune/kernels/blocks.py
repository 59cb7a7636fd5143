"""Structure within a kernel: equal blocks, of which some are kept and some share one magnitude.

    blocks = Blocks(sides=(0, 0, 8, 8), kept=sums > threshold)       # tiles of 8 × 8 channels
    projected = blocks.project(kernel)

A block is a box of the kernel's entries. The kernels that have only these blocks are a set, and
`project` goes to its nearest member: entries of blocks that are not kept become zero, those of a
shared block their mean magnitude, each with its own sign (Lin et al. 2021, arXiv 2106.08301). What
is projected can be differentiated, so that a shared block trains one magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.kernels import columns, diagonal, tiles


class Blocks(NamedTuple):
    """A kernel cut into equal blocks.

    The arrays are the host's, so that a function is compiled for them; `project` alone also takes
    those that JAX traces.

    Attributes:
      sides: per axis the length of a block; 0 is the whole axis. Where it does not divide the axis
        the last block is shorter. Tiles of channels are `(0, 0, 8, 8)`, one tap of one input
        channel `(1, 1, 1, 0)`, four outputs of one tap `(1, 1, 1, 4)`.
      kept: bool, one a block, of the shape `grid(kernel.shape, sides)`; all else is zero.
      shared: bool, one a block: its entries have one magnitude. None: no block does.
      order: axis → its positions in the order in which they are cut into blocks; else as they are.
      run: whose kernels run tiles on no diagonal, see `tiles.by_tiles`; None: dense, with zeros.
        It is about the device at hand, and is not saved.
    """

    sides: tuple[int, ...]
    kept: np.ndarray
    shared: np.ndarray | None = None
    order: Mapping[int, np.ndarray] = {}
    run: tiles.Run | None = None

    def require(self, name: str, shape: Sequence[int]) -> None:
        """Refuses a kernel that these are not the blocks of.

        Args:
          name: of the kernel.
          shape: of the kernel.

        Raises:
          ValueError: other axes, another number of blocks, or an order that is none of the axis.
        """
        if len(self.sides) != len(shape) or min(self.sides) < 0:
            raise ValueError(
                f"blocks of {name}: sides {self.sides} for a kernel of shape {tuple(shape)}; give "
                "one length per axis, 0 for the whole axis"
            )
        wanted = grid(shape, self.sides)
        for what, array in (("kept", self.kept), ("shared", self.shared)):
            if array is None:
                continue
            if np.shape(array) != wanted or np.result_type(array).kind != "b":
                raise ValueError(
                    f"blocks of {name}: {what} is {np.result_type(array)} of shape "
                    f"{np.shape(array)}, where a kernel of shape {tuple(shape)} has {wanted} "
                    f"blocks with the sides {self.sides}: it is bool of that shape"
                )
        for axis, order in self.order.items():
            if not 0 <= axis < len(shape) or not np.array_equal(
                np.sort(order), np.arange(shape[axis])
            ):
                raise ValueError(
                    f"blocks of {name}: order[{axis}] is no permutation of the positions of that "
                    f"axis of a kernel of shape {tuple(shape)}"
                )

    def mask(self, shape: Sequence[int]) -> np.ndarray:
        """Where the kernel has entries: bool, of its shape but for 1 where an axis is whole."""
        return self.spread(self.kept, shape)

    def project(self, kernel: jax.Array) -> jax.Array:
        """The nearest kernel with this structure, of the same shape and dtype."""
        mask = self.mask(kernel.shape)
        if self.shared is not None:
            shared = self.spread(self.shared, kernel.shape)
            signs = jnp.where(kernel < 0, -1, 1).astype(kernel.dtype)
            kernel = jnp.where(shared, self.magnitudes(kernel) * signs, kernel)
        return jnp.where(mask, kernel, jnp.zeros((), kernel.dtype))

    def magnitudes(self, kernel: jax.Array) -> jax.Array:
        """The mean magnitude of each entry's block, of the kernel's shape."""
        return jnp.broadcast_to(
            self.spread(self.means(jnp.abs(kernel)), kernel.shape), kernel.shape
        )

    def means(self, values: jax.Array) -> jax.Array:
        """The mean of each block, of the shape of `kept`."""
        shape, sums, count = values.shape, values, 1
        sizes = [np.bincount(at) for at in self._at(shape)]
        for axis, (order, size) in enumerate(zip(self._orders(shape), sizes, strict=True)):
            # Cut to pieces of equal length and added up, as if a shorter one ended in zeros.
            long, length = len(size), int(size[0])
            sums = jnp.take(sums, order, axis) if axis in self.order else sums
            ends = [
                (0, long * length - len(order)) if a == axis else (0, 0) for a in range(sums.ndim)
            ]
            sums = jnp.pad(sums, ends)
            sums = sums.reshape(*sums.shape[:axis], long, length, *sums.shape[axis + 1 :])
            sums = sums.sum(axis + 1)
            count = count * size.reshape([-1 if a == axis else 1 for a in range(len(shape))])
        return sums / jnp.asarray(count, values.dtype)

    def contract(self, eqn: Any, values: Sequence[Any]) -> jax.Array | None:
        """What an equation gives whose second operand is a projected kernel.

        See `diagonal`, `columns` and `tiles`.

        None where nothing quicker is known than the equation itself.
        """
        if self.shared is not None:
            return None
        found = diagonal.contraction(eqn, values, self.kept, self.order)
        if found is None and not self.order:
            found = columns.contraction(eqn, values, self.kept)
        if found is None and self.run is not None:
            found = tiles.contraction(eqn, values, self.kept, self.order, self.sides, self.run)
        return found

    def size(self, shape: Sequence[int]) -> int:
        """How many entries of a kernel are kept: of its multiply-accumulates as many parts."""
        return int(self.entries(shape)[self.kept].sum())

    def words(self, shape: Sequence[int]) -> str:
        """Which blocks there are, in words."""
        sides = " × ".join(str(side or n) for side, n in zip(self.sides, shape, strict=True))
        cut = [axis for axis, n in enumerate(self.kept.shape) if n > 1]
        count = int(self.kept.sum())
        text = f"{count} of {self.kept.size} blocks of {sides}"
        if count == self.kept.size:
            text = f"all blocks, of {sides}" if count > 1 else "dense"
        elif len(cut) == 2:
            kept = self.kept.reshape([self.kept.shape[axis] for axis in cut])
            each = [np.unique(kept.sum(axis)) for axis in (0, 1)]
            if np.array_equal(kept, np.eye(len(kept))):
                text = f"{count} blocks of {sides} on the diagonal"
            elif len(each[0]) == 1 or len(each[1]) == 1:
                axis = 0 if len(each[0]) == 1 else 1
                text += f", {each[axis][0]} of {kept.shape[axis]} along axis {cut[axis]} each"
        if self.shared is not None:
            text += f", {int((self.shared & self.kept).sum())} with one magnitude each"
        return text

    def numbers(self, shape: Sequence[int]) -> int:
        """How many numbers say all: a shared block has one, another one as many as entries."""
        sizes = self.entries(shape)
        if self.shared is not None:
            sizes = np.where(self.shared, 1, sizes)
        return int(sizes[self.kept].sum())

    def storage(self, shape: Sequence[int], bits: int = 32) -> int:
        """Bytes of a kernel with this structure, where a number has `bits`.

        A bit a block says whether it is kept and, where some are shared, another for each kept one
        whether it is. A shared block has one number and a bit for the sign of each entry. An order
        takes as many bits a position as its number needs.
        """
        total = bits * self.numbers(shape) + self.kept.size
        if self.shared is not None:
            total += int(self.kept.sum()) + int(self.entries(shape)[self.kept & self.shared].sum())
        for order in self.order.values():
            total += len(order) * max(1, math.ceil(math.log2(len(order))))
        return -(-total // 8)

    def _at(self, shape: Sequence[int]) -> list[np.ndarray]:
        """Per axis the block of each position."""
        found = []
        for order, side, n in zip(self._orders(shape), self.sides, shape, strict=True):
            at = np.empty(n, int)
            at[order] = np.arange(n) // (side or n)
            found.append(at)
        return found

    def _orders(self, shape: Sequence[int]) -> list[np.ndarray]:
        return [np.asarray(self.order.get(axis, np.arange(n))) for axis, n in enumerate(shape)]

    def spread(self, blocks: Any, shape: Sequence[int]) -> Any:
        """A value a block as one an entry, of the kernel's shape but for 1 on whole axes."""
        at = [a if side else a[:1] for a, side in zip(self._at(shape), self.sides, strict=True)]
        if not isinstance(blocks, jax.Array):
            return np.asarray(blocks)[np.ix_(*at)]
        for axis, places in enumerate(at):
            blocks = jnp.take(blocks, places, axis)
        return blocks

    def entries(self, shape: Sequence[int]) -> np.ndarray:
        """How many entries each block has, of the shape of `kept`."""
        sizes = np.ones((), int)
        for at in self._at(shape):
            sizes = np.multiply.outer(sizes, np.bincount(at))
        return sizes


def grid(shape: Sequence[int], sides: Sequence[int]) -> tuple[int, ...]:
    """How many blocks a kernel has along each axis."""
    return tuple(-(-n // side) if side else 1 for n, side in zip(shape, sides, strict=True))


__all__ = ["Blocks", "grid"]
