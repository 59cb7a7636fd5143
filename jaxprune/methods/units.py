"""What a tree of parameters holds of each unit: its norm, its size, and the tree scaled by units.

The parameters are those of `TrainState.params`, or of the whole traced pytree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.graph import ChannelGraph, Member, paths

Role = Literal["writes", "reads"]

_COLLECTION = "params/"


def unit_norms(graph: ChannelGraph, params: Any, role: Role | None = None) -> dict[str, jax.Array]:
    """Per group that the parameters hold something of, the units' norms `‖w_k‖₂` (units,).

    A number that a unit reaches by two axes of one variable counts twice. Differentiable: the
    gradient of a norm that is 0 is 0.

    Args:
      graph: from `trace`.
      params: the parameters.
      role: of the axes that count: those that write a unit (its filters, biases, normalisation),
        those that read it, or all.

    Raises:
      ValueError: parameters that hold nothing of any group, or of another network's shapes.
    """
    squares = unit_sums(graph, jax.tree.map(_square, params), role)
    # Chosen before the root too: its slope at 0 is infinite, and 0 times that is NaN.
    return {
        name: jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
        for name, square in squares.items()
    }


def unit_sums(graph: ChannelGraph, params: Any, role: Role | None = None) -> dict[str, jax.Array]:
    """Per group, the sum (units,) of all that the parameters hold of each unit; as `unit_norms`."""
    return {
        name: jnp.sum(jnp.stack([_sums(member, leaf) for member, leaf in held]), axis=0)
        for name, held in holders(graph, params, role).items()
        if held
    }


def unit_sizes(graph: ChannelGraph, params: Any, role: Role | None = None) -> dict[str, int]:
    """Per group, how many of the parameters `unit_norms` counts for one of its units."""
    return {
        name: sum(
            leaf.size // leaf.shape[member.axis] * member.positions.shape[1]
            for member, leaf in held
        )
        for name, held in holders(graph, params, role).items()
    }


def scale_units(
    graph: ChannelGraph, params: Any, factors: Mapping[str, jax.Array], role: Role | None = None
) -> Any:
    """The parameters with all that they hold of a unit multiplied by the unit's factor.

    Args:
      graph: from `trace`.
      params: the parameters.
      factors: per group (units,); a group that is not among them stays as it is.
      role: as for `unit_norms`.
    """
    leaves = dict(paths.leaves(params))
    names = _names(graph, leaves)
    for name, held in holders(graph, params, role).items():
        for member, leaf in held if name in factors else ():
            along = jnp.ones(leaf.shape[member.axis], factors[name].dtype)
            along = along.at[places(member)].set(factors[name][:, None])
            shape = [-1 if axis == member.axis else 1 for axis in range(len(leaf.shape))]
            own = names[member.path]
            leaves[own] = leaves[own] * along.reshape(shape).astype(leaf.dtype)
    return jax.tree.structure(params).unflatten(list(leaves.values()))


def holders(
    graph: ChannelGraph, params: Any, role: Role | None = None
) -> dict[str, list[tuple[Member, Any]]]:
    """Per group, the axes of the parameters along which its units lie, each with its leaf.

    Raises:
      ValueError: parameters that hold nothing of any group, or of another network's shapes.
    """
    named = dict(paths.leaves(params))
    leaves = {variable: named[own] for variable, own in _names(graph, named).items()}
    found: dict[str, list[tuple[Member, Any]]] = {name: [] for name in graph.groups}
    for name, group in graph.groups.items():
        for member in group.members:
            leaf = leaves.get(member.path)
            if leaf is None or role not in (None, member.role):
                continue
            if len(leaf.shape) <= member.axis or leaf.shape[member.axis] <= member.positions.max():
                raise ValueError(
                    f"{member.path} has shape {leaf.shape}, but group {group.name} reaches up to "
                    f"position {member.positions.max()} of axis {member.axis}; trace this network"
                )
            found[name].append((member, leaf))
    return found


def places(member: Member) -> np.ndarray:
    """A member's positions in the type that JAX indexes with, whether or not it has 64 bits."""
    return member.positions.astype(np.int32)


def _square(leaf: jax.Array) -> jax.Array:
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) ** 2


def _sums(member: Member, leaf: jax.Array) -> jax.Array:
    along = jnp.sum(leaf, axis=[a for a in range(leaf.ndim) if a != member.axis])
    return jnp.sum(along[places(member)], axis=1)


def _names(graph: ChannelGraph, named: Mapping[str, Any]) -> dict[str, str]:
    """The traced variables that hold units → their names among the parameters."""
    variables = {m.path for group in graph.groups.values() for m in group.members}
    if any(path.startswith(_COLLECTION) for path in variables):
        variables = {path for path in variables if path.startswith(_COLLECTION)}
    names = {v: v if v in named else paths.bare(v) for v in variables}
    found = {v: name for v, name in names.items() if name in named}
    if not found:
        raise ValueError(
            f"none of {', '.join(list(named)[:4])} is a variable of the traced network, such as "
            f"{', '.join(sorted(variables)[:4])}"
        )
    return found
