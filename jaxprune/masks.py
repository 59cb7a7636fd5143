"""Operations on masks: plain pytrees, per group a float array (units,)."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

Masks = dict[str, jax.Array]


def keep_top(scores: Mapping[str, np.ndarray], widths: Mapping[str, int]) -> Masks:
    """Keeps the highest scores of each group; of equals, the first.

    Args:
      scores: per group (units,).
      widths: per group how many units to keep.
    """
    masks = {}
    for name, score in scores.items():
        kept = np.argsort(-score, kind="stable")[: widths[name]]
        masks[name] = jnp.zeros(len(score), jnp.float32).at[kept].set(1)
    return masks


def stack(masks: list[Masks]) -> Masks:
    """A population of masks: per group (population, units)."""
    return jax.tree.map(lambda *m: jnp.stack(m), *masks)
