"""What a graph found, what masks would save, and what is within kernels, as data.

`jaxprune.report.found` draws it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxprune.graph import outside
from jaxprune.graph.arguments import require_binary
from jaxprune.graph.cost import QUANTITIES, Cost
from jaxprune.graph.costed import CostedGroups
from jaxprune.graph.structure import Structures


@dataclass(frozen=True)
class GroupRow:
    """One group; the costs are what the whole network has less with one unit fewer.

    Attributes:
      name: the group.
      size: its units.
      writes: `path[axis]` of the members that make its channels.
      reads: `path[axis]` of the members that sum them away.
      params: parameters of one unit.
      macs: multiply-accumulates of one unit, for the traced inputs.
      activations: elements that convolutions and matrix products write for one unit.
      kind: what a unit is, where that can be told, such as `heads`.
    """

    name: str
    size: int
    writes: tuple[str, ...]
    reads: tuple[str, ...]
    params: float
    macs: float
    activations: float
    kind: str = ""


@dataclass(frozen=True)
class Explanation:
    """What a graph found; `str()` of it is a table, and rich prints it in colour.

    Attributes:
      groups: in the order in which the network writes them.
      fixed: `path[axis]` → the primitive, the source line and why its channels are fixed.
      ordered: the groups whose units keep their order → the source line and why.
      cost: of the whole network.
    """

    groups: tuple[GroupRow, ...]
    fixed: dict[str, str]
    ordered: dict[str, str]
    cost: Cost

    def __rich__(self) -> Any:
        return outside.drawn(self)

    def __str__(self) -> str:
        return outside.text(self)


@dataclass(frozen=True)
class PreviewRow:
    """One group under masks; what it saves is counted with all other groups whole.

    Attributes:
      name: the group.
      before: its units.
      after: the units that the masks keep.
      params: parameters that its cut alone saves.
      macs: multiply-accumulates that its cut alone saves.
      activations: elements written that its cut alone saves.
    """

    name: str
    before: int
    after: int
    params: float
    macs: float
    activations: float


@dataclass(frozen=True)
class Preview:
    """What a cut costs and saves; `str()` of it is a table, and rich prints it in colour.

    What the groups save does not add up to what the cut saves: a kernel between two groups that
    both shrink is counted at each.

    Attributes:
      groups: all groups, in the order of the graph.
      before: the cost of the whole network.
      after: the cost of the network that `slice` would make.
    """

    groups: tuple[PreviewRow, ...]
    before: Cost
    after: Cost

    @property
    def saved(self) -> dict[str, int]:
        """What is saved in total: `params`, `macs`, `activations`."""
        return {q: getattr(self.before, q) - getattr(self.after, q) for q in QUANTITIES}

    def __rich__(self) -> Any:
        return outside.drawn(self)

    def __str__(self) -> str:
        return outside.text(self)


@dataclass(frozen=True)
class KernelRow:
    """A kernel with structure.

    Attributes:
      name: its path.
      shape: its shape.
      structure: in words.
      density: the fraction of its entries that there are.
      gathered: axis → how many channels are put in another order at run time: gathered before the
        kernel where it reads them, put in their places after it where it writes them.
    """

    name: str
    shape: tuple[int, ...]
    structure: str
    density: float
    gathered: dict[int, int]


@dataclass(frozen=True)
class KernelExplanation:
    """What is within the kernels of a pruned network; `str()` of it is a table.

    Attributes:
      kernels: those with structure, in the order of the variables.
      ordered: the groups on their axes whose units keep their order → the source line and why;
        None where no graph was asked.
    """

    kernels: tuple[KernelRow, ...]
    ordered: dict[str, str] | None = None

    def __rich__(self) -> Any:
        return outside.drawn(self)

    def __str__(self) -> str:
        return outside.text(self)


def explain_kernels(
    structures: Structures,
    shapes: Mapping[str, tuple[int, ...]],
    graph: CostedGroups | None = None,
) -> KernelExplanation:
    """Collects the rows, and of a graph the groups on these kernels that keep their order."""
    rows = tuple(
        KernelRow(
            path,
            tuple(shape),
            structure.words(shape),
            structure.size(shape) / math.prod(shape),
            {axis: len(order) for axis, order in sorted(structure.order.items())},
        )
        for path, shape in shapes.items()
        if (structure := structures.get(path)) is not None
    )
    if graph is None:
        return KernelExplanation(rows)
    ordered = {
        name: why
        for name, why in graph.ordered.items()
        if any(member.path in structures for member in graph.groups[name].members)
    }
    return KernelExplanation(rows, ordered)


def explain(graph: CostedGroups) -> Explanation:
    """Collects the rows; a unit's cost is the difference that one unit less would make."""
    saved = _saved(graph, graph.sizes - 1)
    rows = []
    for i, group in enumerate(graph.groups.values()):
        named = {
            role: tuple(f"{m.path}[{m.axis}]" for m in group.members if m.role == role)
            for role in ("writes", "reads")
        }
        costs = {quantity: float(values[i]) for quantity, values in saved.items()}
        members = named["writes"], named["reads"]
        rows.append(GroupRow(group.name, group.size, *members, **costs, kind=group.kind))
    return Explanation(tuple(rows), graph.fixed, graph.ordered, graph.cost())


def preview(graph: CostedGroups, masks: Mapping[str, Any]) -> Preview:
    """Counts what masks would save, without cutting anything.

    Raises:
      ValueError: masks that `slice` would not take.
    """
    require_binary(graph.groups, masks)
    widths = graph.widths(masks)
    saved = _saved(graph, np.array(list(widths.values())))
    rows = [
        PreviewRow(
            name,
            graph.groups[name].size,
            width,
            **{quantity: float(values[i]) for quantity, values in saved.items()},
        )
        for i, (name, width) in enumerate(widths.items())
    ]
    return Preview(tuple(rows), graph.cost(), graph.cost(widths))


def _saved(graph: CostedGroups, widths: np.ndarray) -> dict[str, np.ndarray]:
    """What each group's narrowing to `widths` (G,) saves by itself: quantity → float64 (G,)."""
    sizes = graph.sizes
    whole, alone = graph.costs(sizes), graph.costs(sizes - np.diag(sizes - widths))
    return {quantity: whole[quantity] - alone[quantity] for quantity in QUANTITIES}
