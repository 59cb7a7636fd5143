"""What training knows of a network: two pure functions, and what a call gives back.

Axes: `B` batch, `K` classes, `H` and `W` the spatial size of a stage's output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Output(NamedTuple):
    """What one call of a network gives.

    Attributes:
      logits: `[B, K]`.
      maps: one attention map `[B, H*W]` a stage, `sum_c |A_c|^2` of the stage's output `A`, not
        normalised. The channels are summed away, so that networks of unequal widths compare.
      state: the collections beside `params` after the call, e.g. `{"batch_stats": ...}`: updated
        in training mode, as they came in evaluation mode, `{}` if there are none.
    """

    logits: jax.Array
    maps: tuple[jax.Array, ...]
    state: dict[str, Any]


Forward = Callable[[Any, jax.Array, jax.Array | None], Output]
"""`(variables, images, key) -> Output`: pure, `variables = {"params": ..., **state}`, images
`[B, H, W, C]` already normalised; the key drives dropout and may be None where there is none."""


class Network(NamedTuple):
    """A network in training and in evaluation mode.

    A pruned student is `Network(pruned.wrap(network.train), pruned.wrap(network.eval))`.
    """

    train: Forward
    eval: Forward
