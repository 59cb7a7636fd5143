"""What a batch is: `(inputs, labels)`, a mapping with `image` and `label`, or inputs alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax

Batches = Iterable[Any]
"""A re-iterable of batches: each method may walk it several times."""

_INPUT_KEYS = ("image", "inputs", "x")
_LABEL_KEYS = ("label", "labels", "y")


def inputs_of(batch: Any) -> Any:
    """The inputs of a batch, `[B, ...]`."""
    return _part(batch, 0, _INPUT_KEYS)


def count_of(inputs: Any) -> int:
    """The number of samples in a batch's inputs."""
    return len(jax.tree.leaves(inputs)[0])


def labels_of(batch: Any) -> jax.Array:
    """The labels of a batch, int `[B]`.

    Raises:
      ValueError: the batch holds none.
    """
    labels = _part(batch, 1, _LABEL_KEYS)
    if labels is None:
        raise ValueError(
            "the default loss and score need labelled batches: (inputs, labels), or a mapping with "
            "image and label; or pass loss= and score="
        )
    return labels


def _part(batch: Any, place: int, keys: tuple[str, ...]) -> Any:
    if isinstance(batch, Mapping):
        return next((batch[key] for key in keys if key in batch), None)
    if isinstance(batch, (tuple, list)):
        return batch[place] if place < len(batch) else None
    return batch if place == 0 else None


def first(batches: Batches) -> Any:
    """The first batch.

    Raises:
      ValueError: there is none, the iterable can be walked only once, or it is one batch.
    """
    shapes = [b.shape[1:] for b in batches if hasattr(b, "shape")] if type(batches) is tuple else []
    if hasattr(batches, "shape") or any(shape != shapes[0] for shape in shapes):
        raise ValueError("batches is a single batch: pass a list of them, [(inputs, labels)]")
    if iter(batches) is iter(batches):
        raise ValueError("batches is walked several times: pass a list, not an iterator")
    batch = next(iter(batches), None)
    if batch is None:
        raise ValueError("batches is empty: pass at least one batch of calibration data")
    return batch
