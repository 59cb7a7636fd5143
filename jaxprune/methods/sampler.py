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
      axis: of the kernel, on which it reads.
      filters: the axis on which its filters lie.
      shape: of the kernel.
    """

    kernel: str
    reads: str
    writes: str
    axis: int
    filters: int
    shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        """How many channels it reads."""
        return self.shape[self.axis]

    def sides(self, kind: Sampler) -> tuple[int, ...]:
        """Of its blocks."""
        taps, filters = (1, 0) if kind == "channels" else (0, 1)
        own = {self.axis: 1, self.filters: filters}
        return tuple(own.get(axis, taps) for axis in range(len(self.shape)))

    def grid(self, kind: Sampler) -> tuple[int, ...]:
        """How many blocks there are along each axis."""
        sides = self.sides(kind)
        return tuple(n if side else 1 for n, side in zip(self.shape, sides, strict=True))


def branches(graph: ChannelGraph, budget: Budget) -> list[Branch]:
    """The layers from a sum that the budget leaves whole to a group that is no sum, in order.

    Raises:
      ValueError: there are none.
    """
    narrowed = set(budget.prunable(graph))
    whole = [n for n, group in graph.groups.items() if group.summed and n not in narrowed]
    found = []
    for writes, group in graph.groups.items():
        written = {m.path: m.axis for m in group.members if m.role == "writes"}
        for kernel in () if group.summed else group.writers:
            read = [(n, m) for n in graph.groups for m in graph.groups[n].members
                    if m.path == kernel and m.role == "reads"]  # fmt: skip
            if len(read) != 1 or read[0][0] not in whole or kernel not in written:
                continue
            (reads, member), shape = read[0], graph.shapes[kernel]
            if member.positions.size == shape[member.axis] and member.axis != written[kernel]:
                found.append(
                    Branch(kernel, reads, writes, member.axis, written[kernel], tuple(shape))
                )
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
    """The variables with a branch's kernel refitted over what it reads, and which blocks these are.

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
    shift, left = (np.concatenate([getattr(f, name) for f in fits]) for name in ("shift", "left"))
    units = np.arange(len(kernel) // layer.taps)
    place = problem.graph, problem.variables, branch.reads, layer, units
    nothing = np.zeros(outputs)
    marked = refitted(*place, Fit(mask, nothing, nothing))
    kept = np.asarray(dict(paths.leaves(marked))[branch.kernel]) != 0
    kind: Sampler = "channels" if len(fits) == 1 else "filters"
    whole = tuple(a for a, n in enumerate(branch.grid(kind)) if n == 1)
    return refitted(*place, Fit(kernel, shift, left)), kept.any(whole, keepdims=True)


def blocks(
    branch: Branch, kind: Sampler, kept: Any, masks: Mapping[str, Any], graph: ChannelGraph
) -> Blocks:
    """Those of a branch's kernel, as the masks leave it."""
    kept = np.asarray(kept) > 0
    if kind == "filters":
        members = graph.groups[branch.writes].members
        (member,) = (m for m in members if m.path == branch.kernel and m.role == "writes")
        stays = np.sort(member.positions[np.asarray(masks[branch.writes]) > 0].ravel())
        kept = np.take(kept, stays, branch.filters)
    return Blocks(branch.sides(kind), kept)


def ones(found: list[Branch], kind: Sampler) -> dict[str, Any]:
    """By kernel the blocks of what reads all."""
    return {branch.kernel: jnp.ones(branch.grid(kind), jnp.float32) for branch in found}
