"""A pruned network that is pruned again: it keeps the ties and the names of the first network.

An axis that shrank to one position carries no ids, so the smaller network alone does not show what
is tied to it: of grouped-query attention with one key head left, each query head would seem free.
The first network shows it, and whatever is cut is cut from the first network in the end.
"""

from __future__ import annotations

import numpy as np

from jaxprune.graph.groups import Names, group_channels
from jaxprune.graph.program import Program
from jaxprune.graph.pruned import Pruned
from jaxprune.graph.source import Reason


def inherit(program: Program, first: Program, pruned: Pruned) -> Names:
    """Ties and fixes in the smaller network's analysis what is tied and fixed in the first one.

    Args:
      program: of the smaller network; its channels are written to.
      first: of the same function at the first network's shapes.
      pruned: how one came from the other.

    Returns:
      The first network's groups at the smaller network's positions.
    """
    channels, roots = program.analysis.channels, first.roots
    reasons = first.analysis.channels.fixed_classes(roots)
    ids, classes = [np.empty(0, int)], [np.empty(0, int)]
    for path, along_axes in program.analysis.variables.items():
        kept = pruned.positions(path)
        for axis, before in enumerate(first.analysis.variables[path]):
            if before is None:
                continue
            stayed = roots[before[kept.get(axis, slice(None))]]
            now = along_axes[axis]
            if now is not None:
                ids.append(now)
                classes.append(stayed)
            else:
                reasons.setdefault(int(stayed[0]), _last(f"{path}[{axis}]"))
    held, of = np.concatenate(ids), np.concatenate(classes)
    order = np.argsort(of, kind="stable")
    held, of = held[order], of[order]
    tied = of[1:] == of[:-1]
    channels.tie(held[1:][tied], held[:-1][tied])

    alike: dict[int, tuple[Reason, list[int]]] = {}
    for root, reason in reasons.items():
        alike.setdefault(id(reason), (reason, []))[1].append(root)
    for reason, stuck in alike.values():
        channels.fix(held[np.isin(of, stuck)], reason)
    return _names(first, pruned)


def _last(axis: str) -> Reason:
    return Reason(f"tied to the last channel on {axis}, which has to stay")


def _names(first: Program, pruned: Pruned) -> Names:
    grouping = group_channels(first.analysis)
    of_unit = np.array([n for n, g in grouping.groups.items() for _ in range(g.size)] + [""])
    found: dict[str, list[np.ndarray | None]] = {}
    for path, along_axes in grouping.units.items():
        kept = pruned.positions(path)
        found[path] = [
            None if units is None else of_unit[units[kept.get(axis, slice(None))]]
            for axis, units in enumerate(along_axes)
        ]
    return found
