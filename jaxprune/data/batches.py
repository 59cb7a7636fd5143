"""The order of the data: a pure function of (seed, step), so that a run can be resumed anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """How many whole batches an epoch has; what is left over is dropped.

    Raises:
      ValueError: there is not one whole batch.
    """
    if not 0 < batch_size <= num_examples:
        raise ValueError(
            f"batch_size is {batch_size}; {num_examples} examples allow 1 to {num_examples}"
        )
    return num_examples // batch_size


# A run asks for the same epoch step after step.
@lru_cache(maxsize=4)
def epoch_indices(seed: int, epoch: int, num_examples: int, batch_size: int) -> np.ndarray:
    """The batches of one epoch: read-only positions `[steps, B]`, none twice.

    Raises:
      ValueError: there is not one whole batch.
    """
    steps = steps_per_epoch(num_examples, batch_size)
    order = np.random.default_rng((seed, epoch)).permutation(num_examples).astype(np.int32)
    indices = order[: steps * batch_size].reshape(steps, batch_size)
    indices.flags.writeable = False
    return indices


def batch_indices(seed: int, step: int, num_examples: int, batch_size: int) -> np.ndarray:
    """The positions `[B]` of the examples of one step, counted from 0 through all epochs.

    Raises:
      ValueError: there is not one whole batch.
    """
    epoch, within = divmod(step, steps_per_epoch(num_examples, batch_size))
    return epoch_indices(seed, epoch, num_examples, batch_size)[within]


class Chunked(Protocol):
    """What can be read in its order: a `Split` or a `Streamed`."""

    def chunks(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Images and labels, `size` at a time and the rest at the end."""
        ...


class EvalBatch(NamedTuple):
    """A batch of one fixed size.

    Attributes:
      images: uint8 `[B, H, W, C]`; those past the end of the split are zeros.
      labels: int32 `[B]`.
      valid: bool `[B]`, false past the end of the split.
    """

    images: np.ndarray
    labels: np.ndarray
    valid: np.ndarray


def eval_batches(split: Chunked, batch_size: int) -> Iterator[EvalBatch]:
    """The whole split in its order, in batches of one size, so that nothing compiles twice."""
    for images, labels in split.chunks(batch_size):
        missing = batch_size - len(labels)
        yield EvalBatch(
            np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))),
            np.pad(labels, (0, missing)),
            np.arange(batch_size) < len(labels),
        )
