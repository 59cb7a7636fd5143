"""A function of the user's on channels, where layers write or read them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.graph.analysis import Analysis
from jaxprune.graph.groups import Group
from jaxprune.graph.labels import Ids, Labels

Gate = Callable[[str, jax.Array, Sequence[str]], jax.Array]
"""(group, its channels, the kernels that write them here) → the channels."""


@dataclass(frozen=True)
class Gates:
    """Applies `gate` to the channels of each group, which it is given on the last axis.

    In the order of the units, repeats side by side. `units` are those of an id array, or -1.
    """

    groups: Mapping[str, Group]
    units: Callable[[Ids], np.ndarray]
    gate: Gate

    def __call__(
        self, value: jax.Array, labels: Labels, axes: Sequence[int], kernels: Sequence[str] = ()
    ) -> jax.Array:
        """The value with its channels along these axes gated."""
        for axis in axes:
            units = self.units(labels.tracked[(axis,)])
            start = 0
            for name, group in self.groups.items():
                inside = np.flatnonzero((units >= start) & (units < start + group.size))
                if len(inside):
                    places = _sliced(inside[np.argsort(units[inside], kind="stable")])
                    last = jnp.moveaxis(value, axis, -1)
                    gated = self.gate(name, last[..., places], kernels).astype(value.dtype)
                    value = jnp.moveaxis(last.at[..., places].set(gated), -1, axis)
                start += group.size
        return value


def _sliced(places: np.ndarray) -> np.ndarray | slice:
    """Places as a slice where they follow each other: it costs next to nothing, a gather does."""
    first, count = int(places[0]), len(places)
    follow = np.array_equal(places, np.arange(first, first + count))
    return slice(first, first + count) if follow else places


def require_gateable(
    groups: Mapping[str, Group],
    analysis: Analysis,
    units_of: Callable[[Ids], np.ndarray],
    names: Collection[str],
) -> None:
    """Holds that a gate can be put behind what writes the groups and kernels of these names.

    In a function with its own derivative rule it can only be put on what comes out.

    Args:
      groups: those of the graph.
      analysis: of the function.
      units_of: for an id array, the number of each channel's unit, or -1.
      names: groups, and kernels.

    Raises:
      ValueError: channels that such a function writes and reads, or adds to those that enter it; a
        kernel whose channels come out with those of another.
    """
    ends = np.cumsum([group.size for group in groups.values()])

    def groups_of(all_ids: Iterable[Ids]) -> set[str]:
        units = np.concatenate([np.empty(0, int), *(units_of(ids).ravel() for ids in all_ids)])
        numbers = np.unique(np.searchsorted(ends, units[units >= 0], side="right"))
        return {name for g, name in enumerate(groups) if g in numbers}

    for rule in analysis.custom_rules:
        ins, outs, made = rule.node.relation.ins, rule.node.relation.outs, rule.node.made
        outside = groups_of(outs[m.result].tracked[m.axes] for m in made)
        given = (labels for labels, fixed in zip(ins, rule.constant, strict=True) if not fixed)
        added = groups_of(ids for labels in given for ids in labels.tracked.values())
        together = {kernel for m in made if len(m.kernels) > 1 for kernel in m.kernels}
        for node in rule.node.inner[0].all_nodes(rules=False):
            for name in groups_of(node.written()):
                if name not in names and node.kernel not in names:
                    continue
                inside = "inside a function with its own derivative rule"
                if name not in outside or name in added:
                    how = "added to" if name in outside else "read"
                    raise ValueError(
                        f"group {name} is written and {how} {inside}, where no gate can be put; "
                        "use at='read', or protect it"
                    )
                if node.kernel in names and node.kernel in together:
                    raise ValueError(
                        f"{node.kernel} and others write group {name} {inside}, where each can "
                        "have no gate of its own: gate the group"
                    )
