"""Reorders the units of groups on every axis where they live; the network computes the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune.graph import paths
from jaxprune.graph.arguments import require_shapes
from jaxprune.graph.cut import Positions, copied, on_host, put
from jaxprune.graph.groups import Group


def permute(
    groups: Mapping[str, Group],
    ordered: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
    variables: Any,
    orders: Mapping[str, Any],
) -> Any:
    """The variables with some groups reordered; see `ChannelGraph.permute`.

    Args:
      groups: those of the graph.
      ordered: the groups that keep their order, and why; see `orders.fixed_orders`.
      shapes: per variable, its dense shape.
      variables: the traced pytree.
      orders: group → permutation.
    """
    require_shapes(shapes, variables, "the network that was traced")
    for name, given in orders.items():
        order = _order(groups[name], given)
        if name in ordered and not np.array_equal(order, np.arange(len(order))):
            raise ValueError(
                f"group {name} cannot be reordered: {ordered[name]}; leave it out, as all in "
                "graph.ordered"
            )
    places = positions(groups, shapes, orders)
    leaves = [_reordered(leaf, places.get(path, {})) for path, leaf in paths.leaves(variables)]
    return jax.tree.structure(variables).unflatten(leaves)


def positions(
    groups: Mapping[str, Group], shapes: Mapping[str, tuple[int, ...]], orders: Mapping[str, Any]
) -> dict[str, dict[int, np.ndarray]]:
    """Per variable and axis, from where along it each position is taken.

    Example: heads of width 2 in the order (1, 0) are taken from the positions 2, 3, 0, 1.
    """
    found: dict[str, dict[int, np.ndarray]] = {}
    for name, order in orders.items():
        for m in groups[name].members:
            along = found.setdefault(m.path, {})
            taken = along.setdefault(m.axis, np.arange(shapes[m.path][m.axis]))
            taken[m.positions] = m.positions[np.asarray(order)]
    return found


def _order(group: Group, given: Any) -> np.ndarray:
    if isinstance(given, Tracer):
        raise ValueError(
            f"the order of {group.name} is traced, and has to be concrete: make it outside jit, or "
            "with NumPy"
        )
    order = np.asarray(given)
    if not np.array_equal(np.sort(order, axis=None), np.arange(group.size)) or order.ndim != 1:
        raise ValueError(
            f"the order of {group.name} is no permutation of its units 0 to {group.size - 1}: it "
            "names each of them once, as np.argsort(scores) does"
        )
    return order


def _reordered(leaf: Any, places: Positions) -> Any:
    """An array with its entries taken from `places`, on the same devices."""
    if not places:
        return copied(leaf) if isinstance(leaf, jax.Array) else np.array(leaf)
    if not on_host(leaf):
        for axis, along in places.items():
            leaf = jnp.take(leaf, along, axis=axis, unique_indices=True)
        return leaf
    value = np.asarray(leaf)
    for axis, along in places.items():
        value = value.take(along, axis)
    return put(value, leaf) if isinstance(leaf, jax.Array) else value
