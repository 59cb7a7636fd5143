"""Masks, multiplied in where channels are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.graph.labels import Axes, Ids, Labels


@dataclass(frozen=True)
class Masking:
    """Multiplies by the masks where channels are read.

    Attributes:
      flat: the masks of all groups side by side, ([batch,] units + 1); the last entry is 1, for
        channels that are in no group.
      units: for an id array, the number of each channel's unit, or -1.
      samples: for an id array, the number of each id's sample, or None if it is no batch axis.
    """

    flat: jax.Array
    units: Callable[[Ids], np.ndarray]
    samples: Callable[[Ids], np.ndarray | None]

    def __call__(self, value: jax.Array, labels: Labels, axes: Sequence[int]) -> jax.Array:
        """The operand times the masks of the channels along these axes."""
        for axis in axes:
            mask = self._along(labels, (axis,), value)
            if mask is not None:
                value = value * mask.astype(value.dtype)
        return value

    def stop(self, value: jax.Array, labels: Labels) -> jax.Array:
        """The same value, but no gradient comes back to where a mask is zero.

        A backward rule of the user's need not be linear: it may give a gradient for what nothing
        reads, which would reach the layers before. What all samples share stops where all do.
        """
        masking = self
        if self.flat.ndim == 2 and self._batch(labels) is None:
            masking = replace(self, flat=jnp.abs(self.flat).max(0))
        for axes in labels.tracked:
            mask = masking._along(labels, axes, value)
            if mask is not None:
                value = jnp.where(mask != 0, value, jax.lax.stop_gradient(value))
        return value

    def _along(self, labels: Labels, axes: Axes, value: jax.Array) -> jax.Array | None:
        """The masks of the channels on a tuple of axes, to be broadcast; None where there are none.

        With masks per sample they also lie along the batch axis.
        """
        units = self.units(labels.tracked[axes])
        if (units < 0).all():
            return None
        shape = [1] * value.ndim
        for axis, size in zip(axes, units.shape, strict=True):
            shape[axis] = size
        mask = _gather(self.flat, units.ravel())
        if mask.ndim == 2:
            batch = self._batch(labels)
            if batch is None:
                raise ValueError(
                    "masks per sample need the batch axis of the inputs where channels are read, "
                    "and one consumer has lost it; use masks of shape (units,)"
                )
            batch_axis, samples = batch
            shape[batch_axis] = len(samples)
            mask = mask[samples]
            mask = mask.reshape(-1, *units.shape)
            mask = jnp.moveaxis(mask, 0, sum(a < batch_axis for a in axes))
        return mask.reshape(shape)

    def _batch(self, labels: Labels) -> tuple[int, np.ndarray] | None:
        for axes, ids in labels.tracked.items():
            samples = self.samples(ids)
            if samples is not None and len(axes) == 1:
                return axes[0], samples
        return None

    def count(self, ids: Ids) -> jax.Array:
        """How many channels are left, for a normalisation over them."""
        kept = _gather(self.flat, self.units(ids)).sum(-1)
        if kept.ndim:
            raise ValueError("allow_inexact and masks per sample do not go together")
        return kept


def _gather(flat: jax.Array, units: np.ndarray) -> jax.Array:
    units = np.where(units < 0, flat.shape[-1] - 1, units)
    if len(units) > 0 and np.array_equal(units, np.arange(units[0], units[0] + len(units))):
        return flat[..., units[0] : units[0] + len(units)]
    return flat[..., units]
