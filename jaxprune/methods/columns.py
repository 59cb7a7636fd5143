"""What structured probabilistic pruning masks: columns of convolutions, or units of groups.

A column is one tap of one input channel over all filters: a block of the kernel that is whole along
the axis of filters and has one entry along each other axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.budget import Budget
from jaxprune.budget.targets import within
from jaxprune.graph import ChannelGraph, paths
from jaxprune.methods.units import scale_units, unit_sums
from jaxprune.wrappers import Join

Arrays = Mapping[str, Any]


class Units(Protocol):
    """What is masked: columns of kernels, or units of groups."""

    def norms(self, weights: Any) -> dict[str, jax.Array]:
        """By kernel or group, the L1 norm of each unit, of the shape of its mask."""
        ...

    def ones(self, weights: Any) -> dict[str, jax.Array]:
        """Masks that keep all."""
        ...

    def scale(self, tree: Any, masks: Arrays) -> Any:
        """A tree like the weights, with what belongs to a unit multiplied by its mask."""
        ...

    def masked(self, fn: Any, join: Join) -> Any:
        """`fn(variables, ...)` as `masked(weights, rest, masks, ...)`."""
        ...


@dataclass(frozen=True)
class Columns:
    """One tap of one input channel over all filters, in each kernel: a block of the kernel.

    Attributes:
      axes: kernel's path → its axis of filters.
    """

    axes: tuple[tuple[str, int], ...]

    def norms(self, weights: Any) -> dict[str, jax.Array]:
        """By kernel, of its shape with 1 for the filters."""
        leaves = {paths.bare(name): leaf for name, leaf in paths.leaves(weights)}
        magnitudes = {p: jnp.abs(leaves[paths.bare(p)].astype(jnp.float32)) for p, _ in self.axes}
        return {path: jnp.sum(magnitudes[path], a, keepdims=True) for path, a in self.axes}

    def ones(self, weights: Any) -> dict[str, jax.Array]:
        """By kernel, of its shape with 1 for the filters."""
        return jax.tree.map(jnp.ones_like, self.norms(jax.tree.map(jnp.asarray, weights)))

    def scale(self, tree: Any, masks: Arrays) -> Any:
        """Every kernel multiplied by its mask."""
        own = {paths.bare(path): mask for path, mask in masks.items()}
        leaves = [
            leaf * own[paths.bare(name)].astype(leaf.dtype) if paths.bare(name) in own else leaf
            for name, leaf in paths.leaves(tree)
        ]
        return jax.tree.structure(tree).unflatten(leaves)

    def masked(self, fn: Any, join: Join) -> Any:
        """The network of masked kernels."""

        def call(weights: Any, rest: Any, masks: Arrays, *args: Any) -> Any:
            return fn(join(self.scale(weights, masks), rest), *args)

        return call


@dataclass(frozen=True)
class Channels:
    """The units of the coupled groups, each with all that writes it."""

    graph: ChannelGraph

    def norms(self, weights: Any) -> dict[str, jax.Array]:
        """By group (units,)."""
        return unit_sums(self.graph, jax.tree.map(jnp.abs, weights), "writes")

    def ones(self, weights: Any) -> dict[str, jax.Array]:
        """By group (units,)."""
        return self.graph.full_masks()

    def scale(self, tree: Any, masks: Arrays) -> Any:
        """What writes a unit multiplied by the unit's mask."""
        return scale_units(self.graph, tree, masks, "writes")

    def masked(self, fn: Any, join: Join) -> Any:
        """The network under masks."""
        inner = self.graph.masked(fn)

        def call(weights: Any, rest: Any, masks: Arrays, *args: Any) -> Any:
            return inner(join(weights, rest), masks, *args)

        return call


def columns_of(graph: ChannelGraph) -> dict[str, tuple[int, int]]:
    """Kernel's path → how many columns it has, and its axis of filters.

    Of the convolutions that write a group: what is protected or fixed stays dense.
    """
    found = {}
    for group in graph.groups.values():
        for member in group.members:
            shape = graph.shapes[member.path]
            written = member.role == "writes" and member.path in group.writers
            if written and len(shape) > 2:
                found[member.path] = (math.prod(shape) // shape[member.axis], member.axis)
    return found


def kept_columns(graph: ChannelGraph, budget: Budget, columns: Mapping[str, int]) -> dict[str, int]:
    """How many columns of each kernel stay: the most, at one ratio for all, within the budget.

    Raises:
      ValueError: a budget beyond reach.
    """
    limits = budget.limits_of(graph)

    def at(ratio: float) -> dict[str, int]:
        return {path: max(1, math.floor(ratio * n + 1e-9)) for path, n in columns.items()}

    def fits(ratio: float) -> bool:
        cost = graph.cost(None, {path: kept / columns[path] for path, kept in at(ratio).items()})
        return all(within(getattr(cost, quantity), most) for quantity, most in limits.items())

    ratios = np.unique(np.concatenate([np.arange(n + 1) / n for n in columns.values()]))
    low, high = 0, len(ratios)  # the first ratio keeps one column of each
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(float(ratios[middle])) else (low, middle)
    if not fits(float(ratios[low])):
        raise ValueError(
            f"budget.targets: {budget.targets!r} is beyond reach by columns of convolutions, of "
            "which each keeps one: ask for less, or prune channels"
        )
    return at(float(ratios[low]))


def require_columns(
    graph: ChannelGraph, budget: Budget, columns: Mapping[str, tuple[int, int]]
) -> None:
    """Refuses a budget that is not one of columns.

    Raises:
      ValueError: widths and limits of channels, targets that columns are no part of or that are
        beyond their reach, and no convolutions.
    """
    plain = Budget(budget.targets)
    for name in ("widths", "limits", "round_to", "min_channels"):
        if getattr(budget, name) != getattr(plain, name):
            raise ValueError(
                f"budget.{name}: it is for methods that prune channels, and this one prunes "
                "columns of convolutions; give it unit='channels' (--method.unit channels)"
            )
    if other := [q for q in budget.factors if q not in ("params", "macs")]:
        raise ValueError(
            f"budget.targets: columns are no part of {other[0]}; ask for params, macs, or for "
            "unit='channels'"
        )
    if not columns:
        raise ValueError(
            "spp prunes columns of convolutions, and no convolution of this network writes a group "
            "of channels (see graph.explain()); unit='channels' prunes linear layers, too"
        )
    kept_columns(graph, budget, {path: count for path, (count, _) in columns.items()})


def sides_of(axes: int, filters: int) -> tuple[int, ...]:
    """The sides of a column in a kernel of so many axes, one of which has the filters."""
    return tuple(0 if axis == filters else 1 for axis in range(axes))
