"""Operations on masks: plain pytrees, per group a float array (units,)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

Masks = dict[str, jax.Array]


def keep_top(scores: Mapping[str, jax.Array], widths: Mapping[str, int]) -> Masks:
    """Keeps the highest scores of each group; of equals, the first.

    Args:
      scores: per group (units,).
      widths: per group how many units to keep.
    """
    masks = {}
    for name, score in scores.items():
        kept = np.argsort(-np.asarray(score, np.float64), kind="stable")[: widths[name]]
        masks[name] = jnp.zeros(len(score), jnp.float32).at[kept].set(1)
    return masks


def stack(masks: list[Masks]) -> Masks:
    """A population of masks: per group (population, units)."""
    return jax.tree.map(lambda *m: jnp.stack(m), *masks)


def unstack(population: Mapping[str, jax.Array]) -> Iterator[Masks]:
    """The members of a population."""
    for i in range(len(next(iter(population.values())))):
        yield {name: m[i] for name, m in population.items()}
