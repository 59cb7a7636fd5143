"""What is asked of masks and variables before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune.graph import paths
from jaxprune.graph.groups import Group

Groups = Mapping[str, Group]


def flat_masks(groups: Groups, masks: Mapping[str, Any]) -> jax.Array:
    """The masks of all groups side by side and a last 1: ([batch,] units + 1).

    Raises:
      ValueError: masks of other groups or shapes.
    """
    require_groups(groups, masks)
    parts = [jnp.asarray(masks[name]) for name in groups]
    for (name, group), part in zip(groups.items(), parts, strict=True):
        if part.ndim not in (1, 2) or part.shape[-1] != group.size:
            raise ValueError(
                f"the mask of {name} has shape {part.shape}; it has to be ({group.size},) or "
                f"(batch, {group.size})"
            )
    batches = sorted({part.shape[0] for part in parts if part.ndim == 2})
    if len(batches) > 1:
        raise ValueError(f"masks per sample of unequal batch sizes {batches}")
    if batches == [1]:
        parts = [part.reshape(-1) for part in parts]
    elif batches:
        parts = [jnp.broadcast_to(part, (*batches, part.shape[-1])) for part in parts]
    one = jnp.ones((*parts[0].shape[:-1], 1), parts[0].dtype)
    return jnp.concatenate([*parts, one], axis=-1)


def require_groups(groups: Groups, masks: Mapping[str, Any]) -> None:
    """One entry for each group, and none for another.

    Raises:
      TypeError: no mapping.
      ValueError: groups that are unknown or missing.
    """
    if not isinstance(masks, Mapping):
        raise TypeError(
            f"masks are a mapping from group to array, not {type(masks).__name__}: "
            "masked(fn)(variables, masks, *args), slice(variables, masks); start from "
            "graph.full_masks()"
        )
    unknown = [name for name in masks if name not in groups]
    missing = [name for name in groups if name not in masks]
    if unknown or missing:
        raise ValueError(
            f"masks do not fit the graph: unknown groups {unknown[:5]}, missing {missing[:5]}; "
            "start from graph.full_masks()"
        )


def require_gates(groups: Groups, gates: Mapping[str, Any], at: str) -> None:
    """Gates of groups, or of kernels that write some.

    Raises:
      ValueError: a gate of anything else, or of a group that no kernel writes.
    """
    writers = {kernel for group in groups.values() for kernel in group.writers}
    for name in gates:
        if name in groups:
            if at == "write" and not groups[name].writers:
                raise ValueError(
                    f"group {name} is written by no convolution or product, where a gate could be "
                    "put; use at='read'"
                )
        elif name in writers and at == "read":
            raise ValueError(
                f"{name} has a gate of its own where it writes: use at='write', or a group's name"
            )
        elif name not in writers:
            raise ValueError(
                f"gates of {name!r}, which is neither a group nor a kernel that writes one; "
                f"{paths.nearest(name, [*groups, *writers])}"
            )


def require_binary(groups: Groups, masks: Mapping[str, Any]) -> None:
    """Masks that can be sliced: concrete, exactly 0 or 1, no group empty.

    Raises:
      ValueError: any other masks.
    """
    require_groups(groups, masks)
    for name, group in groups.items():
        if isinstance(masks[name], Tracer):
            raise ValueError("slice needs concrete masks: call it outside jit, grad and vmap")
        mask = np.asarray(masks[name])
        if mask.shape != (group.size,):
            raise ValueError(f"the mask of {name} has shape {mask.shape}, not ({group.size},)")
        if not np.isin(mask, (0, 1)).all():
            raise ValueError(
                f"the mask of {name} has entries other than 0 and 1: soft masks are for "
                "masked(fn); round them, mask > 0.5, to cut"
            )
        if not mask.any():
            raise ValueError(f"the mask of {name} keeps nothing; each group needs one unit")


def require_shapes(expected: Mapping[str, tuple[int, ...]], variables: Any, of: str) -> None:
    """Variables of the expected paths and shapes.

    Raises:
      ValueError: any others; `of` says whose they should have been.
    """
    found = {name: jnp.shape(leaf) for name, leaf in paths.leaves(variables)}
    odd = [
        f"{name} is {found.get(name, 'missing')}, expected {expected.get(name, 'no such variable')}"
        for name in {**expected, **found}
        if found.get(name) != expected.get(name)
    ]
    if odd:
        raise ValueError(f"these are not the variables of {of}: {'; '.join(odd[:8])}")
