"""Block-diagonal convolutions as PyTorch has them, in groups, and back.

Group g of G reads I/G channels and writes O/G. PyTorch's groups are those next to each other, so
where the blocks here take channels from elsewhere, these are gathered before the layer, and put in
their places after it. All positions here are those that the channels have in PyTorch.

Axes there: `O, I` channels written and read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprune.interop.layout import Variable
from jaxprune.kernels.blocks import Blocks
from jaxprune.kernels.diagonal import diagonal_of


class Groups(NamedTuple):
    """A convolution in groups.

    Attributes:
      count: how many.
      reads: the channel that is read at each place, int (I,).
      writes: the channel that is written at each place, int (O,).
    """

    count: int
    reads: np.ndarray
    writes: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Of the compact weight but for its taps: (O, I/G)."""
        return len(self.writes), len(self.reads) // self.count

    def compact(self, weight: np.ndarray) -> np.ndarray:
        """A dense weight (O, I, height, width) as that of the groups, (O, I/G, height, width)."""
        written = weight[self.writes].reshape(self.count, -1, *weight.shape[1:])
        reads = self.reads.reshape(self.count, -1)
        return np.concatenate([w[:, r] for w, r in zip(written, reads, strict=True)])

    def dense(self, weight: np.ndarray) -> np.ndarray:
        """The other way: zero where a group does not read."""
        whole = np.zeros((len(weight), len(self.reads), *weight.shape[2:]), weight.dtype)
        reads = np.repeat(self.reads.reshape(self.count, -1), len(weight) // self.count, 0)
        whole[self.writes[:, None], reads] = weight
        return whole

    def record(self) -> dict[str, Any]:
        """What has to be built: `groups`, and the indices of `x[:, reads]` and `y[:, writes]`.

        Those that change nothing are left out.
        """
        found: dict[str, Any] = {"groups": self.count}
        for name, index in (("reads", self.reads), ("writes", np.argsort(self.writes))):
            if not np.array_equal(index, np.arange(len(index))):
                found[name] = index.tolist()
        return found

    def blocks(self, variable: Variable) -> Blocks:
        """The blocks of the kernel here, of the shape (height, width, I, O)."""
        order = {}
        for axis, there, places in (
            (2, variable.reads, self.reads),
            (3, variable.writes, self.writes),
        ):
            here = places if there is None else np.argsort(there)[places]
            if not np.array_equal(here, np.arange(len(here))):
                order[axis] = here
        sides = (0, 0, len(self.reads) // self.count, len(self.writes) // self.count)
        return Blocks(sides, np.eye(self.count, dtype=bool)[None, None], None, order)


def groups_of(blocks: Any, variable: Variable) -> Groups | None:
    """The groups of a kernel with these blocks; None where it is no diagonal of a convolution."""
    if len(variable.shape) != 4 or not isinstance(blocks, Blocks) or blocks.shared is not None:
        return None
    written, read, *taps = variable.shape
    diagonal = diagonal_of(blocks.kept, blocks.order, (*taps, read, written), 2, 3)
    if diagonal is None:
        return None
    both = []
    for order, there, size in (
        (diagonal.rows, variable.reads, read),
        (diagonal.columns, variable.writes, written),
    ):
        here = np.arange(size) if order is None else np.asarray(order)
        places = here if there is None else there[here]
        # Within a group the order says nothing, nor does that of the groups.
        both.append(np.sort(places.reshape(diagonal.groups, -1), 1))
    first = np.argsort(both[1][:, 0])
    return Groups(diagonal.groups, both[0][first].ravel(), both[1][first].ravel())


def groups_in(record: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> dict[str, Groups]:
    """The groups that a record tells of, by the layers' names.

    Args:
      record: from `to_torch`.
      shapes: of the dense weights, by name.

    Raises:
      ValueError: of no convolution, a number that does not divide its channels, or an index that
        does not name each of them once.
    """
    found = {}
    for name, said in record.get("groups", {}).items():
        shape, count = tuple(shapes.get(f"{name}.weight", ())), said.get("groups", 0)
        if len(shape) != 4:
            raise ValueError(f"the record's groups of {name}: there is no such convolution")
        if count < 1 or shape[0] % count or shape[1] % count:
            raise ValueError(
                f"the record's groups of {name}: {count} do not divide the {shape[1]} channels "
                f"that it reads and the {shape[0]} that it writes"
            )
        indices = []
        for key, size in (("reads", shape[1]), ("writes", shape[0])):
            index = np.asarray(said.get(key, np.arange(size)))
            if not np.array_equal(np.sort(index, axis=None), np.arange(size)) or index.ndim != 1:
                raise ValueError(
                    f"the record's groups of {name}: {key} does not name each of {size} channels "
                    "once"
                )
            indices.append(index)
        found[name] = Groups(count, indices[0], np.argsort(indices[1]))
    return found
