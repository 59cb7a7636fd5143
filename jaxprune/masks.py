"""Operations on masks: plain pytrees, per group a float array (units,)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.graph import ChannelGraph, paths

Masks = dict[str, jax.Array]


def keep_top(scores: Mapping[str, np.ndarray], widths: Mapping[str, int]) -> Masks:
    """Keeps the highest scores of each group; of equals, the first.

    Args:
      scores: per group (units,).
      widths: per group how many units to keep.
    """
    masks = {}
    for name, score in scores.items():
        mask = np.zeros(len(score), np.float32)
        mask[np.argsort(-score, kind="stable")[: widths[name]]] = 1
        masks[name] = jnp.asarray(mask)
    return masks


def stack(masks: list[Masks]) -> Masks:
    """A population of masks: per group (population, units)."""
    return jax.tree.map(lambda *m: jnp.stack(m), *masks)


def zeroed(graph: ChannelGraph, variables: Any, masks: Mapping[str, Any]) -> Any:
    """The variables with zeros at every place of every unit that the masks drop.

    Whoever scores these variables sees a network whose dropped units are gone: their filters have
    no norm, and the kernels that read them are zero.

    Args:
      graph: from `trace`.
      variables: the dense pytree.
      masks: per group (units,).
    """
    leaves = dict(paths.leaves(variables))
    for name, group in graph.groups.items():
        dropped = np.flatnonzero(np.asarray(masks[name]) == 0)
        for member in group.members if dropped.size else ():
            leaf = leaves[member.path]
            # A factor, not an assignment to places: its shape is the same for every mask.
            factor = np.ones([n if a == member.axis else 1 for a, n in enumerate(leaf.shape)])
            factor.reshape(-1)[member.positions[dropped]] = 0
            leaves[member.path] = leaf * jnp.asarray(factor, leaf.dtype)
    return jax.tree.structure(variables).unflatten(list(leaves.values()))
