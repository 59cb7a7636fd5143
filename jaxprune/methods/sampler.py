"""Samplers in front of residual branches (He et al. 2017, arXiv 1707.06168, section 3.3).

The sum that a branch reads also goes on along the shortcut and stays whole; what the first layer of
the branch reads of it need not. `channels` is the paper's sampler: the layer reads some channels of
the sum, which the others still get along the shortcut. `filters` is its filter-wise alternative:
each filter reads channels of its own, an irregular kernel, which runs dense with zeros.

Both are structure of one kernel: blocks that span all filters, or one filter each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxprune.budget import Budget
from jaxprune.graph import ChannelGraph, paths
from jaxprune.graph.groups import Group, Member
from jaxprune.kernels.blocks import Blocks
from jaxprune.problem import Problem
from jaxprune.reconstruction import Fit, refitted
from jaxprune.statistics.moments import Moments

Sampler = Literal["none", "channels", "filters"]


class Branch(NamedTuple):
    """The first layer of a residual branch.

    Attributes:
      kernel: its path.
      reads: the group of sums that it reads.
      writes: the group of its own filters.
      filters: the axis of the kernel on which its filters lie.
      shape: of the kernel.
    """

    kernel: str
    reads: str
    writes: str
    filters: int
    shape: tuple[int, ...]


def branches(graph: ChannelGraph, budget: Budget) -> list[Branch]:
    """The layers from a sum that the budget leaves whole to a group that is no sum, in order.

    Raises:
      ValueError: there are none.
    """
    narrowed = set(budget.prunable(graph))
    members: dict[tuple[str, str], list[tuple[Group, Member]]] = {}
    for group in graph.groups.values():
        for member in group.members:
            members.setdefault((member.path, member.role), []).append((group, member))
    found = []
    for group in graph.groups.values():
        for kernel in group.writers:
            written, read = (members.get((kernel, role), []) for role in ("writes", "reads"))
            if len(written) != 1 or len(read) != 1 or group.summed:
                continue  # attention's projections write two groups, of heads and of their width
            own, (source, member), shape = written[0][1], read[0], graph.shapes[kernel]
            whole = source.summed and source.name not in narrowed
            if whole and member.positions.size == shape[member.axis] and member.axis != own.axis:
                found.append(Branch(kernel, source.name, group.name, own.axis, tuple(shape)))
    if not found:
        raise ValueError(
            "sampler: no layer of this network reads a residual sum that stays whole; give "
            "Budget(groups='inner') (--budget.groups inner), or leave the sampler out"
        )
    return found


def beside(
    graph: ChannelGraph, budget: Budget, kept: Mapping[str, float]
) -> tuple[ChannelGraph, Budget]:
    """The graph whose kernels have so many of their entries, and the same limits asked of it."""
    thin = graph.thinned(kept)
    if budget.widths:
        return thin, budget
    limits, whole = budget.limits_of(graph), thin.costs(thin.sizes)
    factors = {q: max(1.0, float(whole[q]) / most) for q, most in limits.items()}
    return thin, dataclasses.replace(
        budget, targets=",".join(f"{quantity}/{factor!r}" for quantity, factor in factors.items())
    )


def filters_of(layer: Moments) -> list[Moments]:
    """The moments of each filter by itself."""
    found = []
    for o in range(layer.kernel.shape[1]):
        one = layer._replace(
            kernel=layer.kernel[:, o : o + 1], target=layer.target[o : o + 1],
            cross=layer.cross[:, o : o + 1], power=layer.power[o : o + 1],
        )  # fmt: skip
        found.append(one)
    return found


def fitted(
    problem: Problem,
    branch: Branch,
    layer: Moments,
    choices: Sequence[np.ndarray],
    fits: Sequence[Fit],
) -> tuple[Any, np.ndarray]:
    """The variables with a branch's kernel refitted over what it reads, and where: of its shape.

    Args:
      problem: with the variables as they are.
      branch: whose kernel.
      layer: its moments.
      choices: the channels that all filters read, or those of each filter.
      fits: over them, of all filters or of each.
    """
    outputs = layer.kernel.shape[1]
    columns = [slice(None)] if len(fits) == 1 else [slice(o, o + 1) for o in range(outputs)]
    kernel, mask = np.zeros_like(layer.kernel), np.zeros_like(layer.kernel)
    for column, chosen, fit in zip(columns, choices, fits, strict=True):
        kernel[layer.rows(chosen), column] = fit.kernel
        mask[layer.rows(chosen), column] = 1
    units, nothing = np.arange(len(kernel) // layer.taps), np.zeros(outputs)
    place = problem.graph, problem.variables, branch.reads, layer, units
    marked = dict(paths.leaves(refitted(*place, Fit(mask, nothing, nothing))))[branch.kernel]
    shift = np.concatenate([fit.shift for fit in fits])
    return refitted(*place, Fit(kernel, shift, nothing)), np.asarray(marked) != 0


def blocks(
    branch: Branch, kind: Sampler, read: Any, masks: Mapping[str, Any], graph: ChannelGraph
) -> Blocks:
    """Those of a branch's kernel, as the masks leave it.

    Args:
      branch: whose kernel.
      kind: of the sampler.
      read: which entries it reads with, of its shape.
      masks: of the groups.
      graph: of the network.
    """
    kept = np.asarray(read, bool)
    if kind == "channels":
        sides = tuple(0 if axis == branch.filters else 1 for axis in range(kept.ndim))
        return Blocks(sides, np.any(kept, axis=branch.filters, keepdims=True))
    members = graph.groups[branch.writes].members
    (member,) = (m for m in members if m.path == branch.kernel and m.role == "writes")
    stays = np.sort(member.positions[np.asarray(masks[branch.writes]) > 0].ravel())
    return Blocks((1,) * kept.ndim, np.take(kept, stays, branch.filters))


def ones(found: list[Branch]) -> dict[str, Any]:
    """By kernel that all of its entries read."""
    return {branch.kernel: jnp.ones(branch.shape, jnp.float32) for branch in found}
