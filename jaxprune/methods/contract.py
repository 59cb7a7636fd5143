"""The door that every published method goes through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from jaxprune.budget import Budget
from jaxprune.graph import ChannelGraph
from jaxprune.masks import Masks
from jaxprune.statistics.batches import Batches, labels_of

Loss = Callable[[Any, Any], jax.Array]
"""`loss(outputs, batch)`: the mean over the samples of the batch."""
Score = Callable[[Any, Any], jax.Array]
"""`score(outputs, batch)`: the mean over the samples of the batch, higher is better."""
Widths = Mapping[str, int]
"""Per group the number of units to keep."""


class Selection(NamedTuple):
    """What a method answers.

    Attributes:
      masks: per group (units,), exactly 0 or 1.
      variables: the dense variables; others than before where the method refits weights.
      details: figures of the method's own, for the report.
    """

    masks: Masks
    variables: Any
    details: Mapping[str, Any] = {}


class Method(Protocol):
    """A published method as a function."""

    def __call__(
        self,
        graph: ChannelGraph,
        fn: Callable[..., Any],
        variables: Any,
        batches: Batches,
        budget: Budget | Widths,
        loss: Loss,
        score: Score,
        key: jax.Array,
    ) -> Selection:
        """Chooses channels.

        Args:
          graph: from `trace`.
          fn: `fn(variables, inputs)`, in evaluation mode.
          variables: the dense variables.
          batches: calibration batches, walked several times.
          budget: targets, or the widths to keep where they have been chosen already.
          loss: `loss(outputs, batch)`.
          score: `score(outputs, batch)`.
          key: of all that the method draws.
        """
        ...


def cross_entropy(outputs: Any, batch: Any) -> jax.Array:
    """The default loss: softmax cross-entropy with the batch's integer labels."""
    logits = logits_of(outputs).astype(jnp.float32)
    labels = _labels_for(logits, batch)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def accuracy(outputs: Any, batch: Any) -> jax.Array:
    """The default score: the fraction of samples whose largest logit is the label's."""
    logits = logits_of(outputs)
    return jnp.mean(jnp.argmax(logits, axis=-1) == _labels_for(logits, batch))


def _labels_for(logits: jax.Array, batch: Any) -> jax.Array:
    labels = jnp.asarray(labels_of(batch))
    if labels.shape != logits.shape[:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"the default loss and score take integer labels of shape {logits.shape[:-1]} for "
            f"outputs of shape {logits.shape}, not {labels.dtype} of shape {labels.shape}; pass "
            "loss= and score= of your own"
        )
    return labels


def logits_of(outputs: Any) -> jax.Array:
    """The logits in a model's outputs: `.logits`, or the first array."""
    return outputs.logits if hasattr(outputs, "logits") else jax.tree.leaves(outputs)[0]
