"""What a graph found and what masks would save, for people (tables) and programs (as data)."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from jaxprune.graph.arguments import require_binary
from jaxprune.graph.cost import QUANTITIES, Cost
from jaxprune.graph.latency import LatencyTable, Rounding

if TYPE_CHECKING:
    from jaxprune.graph.channel_graph import ChannelGraph


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
      latency: seconds of one unit, the mean over half of the group; None where not measured.
      kind: what a unit is, where that can be told, such as `heads`.
    """

    name: str
    size: int
    writes: tuple[str, ...]
    reads: tuple[str, ...]
    params: float
    macs: float
    activations: float
    latency: float | None = None
    kind: str = ""


@dataclass(frozen=True)
class Explanation:
    """What a graph found; `str()` of it is a table, and rich prints it in colour.

    Attributes:
      groups: in the order in which the network writes them.
      fixed: `path[axis]` → the primitive, the source line and why its channels are fixed.
      cost: of the whole network.
      latency: what was measured of it on a device, if anything.
      rounding: which widths suit that device, where it was measured.
    """

    groups: tuple[GroupRow, ...]
    fixed: dict[str, str]
    cost: Cost
    latency: LatencyTable | None = None
    rounding: Rounding | None = None

    def __rich__(self) -> RenderableType:
        """Costs a unit, then where each group lies, then what is fixed, the same reasons as one."""
        quantities = ["params", "MACs", "activations", *(["µs"] if self.latency else [])]
        table = _columns("group, and what a unit costs", "units", *quantities)
        places: list[RenderableType] = []
        for row in self.groups:
            counts = _counts(row.size, row.params, row.macs, row.activations)
            if row.latency is not None:
                counts.append(f"{1e6 * row.latency:,.2f}")
            table.add_row(Text(row.name), *counts)
            named = Text(row.name, style="bold")
            places.append(named.append(f" · {row.kind}", style="not bold") if row.kind else named)
            for arrow, members in (("→", row.writes), ("←", row.reads)):
                if members:
                    places.append(_below(f"{arrow} {', '.join(_folded(members))}"))
        whole = _counts(self.cost.params, self.cost.macs, self.cost.activations)
        total = "the whole network: {} parameters, {} MACs, {} activations".format(*whole)
        reasons: dict[str, list[str]] = {}
        for axis, reason in self.fixed.items():
            reasons.setdefault(reason, []).append(axis)
        fixed: list[RenderableType] = []
        for reason, axes in reasons.items():
            fixed += [Text(", ".join(_folded(axes)), style="bold"), _below(reason)]
        parts = [Text(total), *self._measured(), "", table, ""]
        parts += [Text("written at →, read at ←", style="cyan"), *places]
        if fixed:
            parts += ["", Text("fixed", style="cyan"), *fixed]
        return Group(*parts)

    def _measured(self) -> list[RenderableType]:
        """What the device that it was measured on has to do with it."""
        lines: list[RenderableType] = []
        if self.latency is not None:
            whole = float(self.latency(np.array(list(self.latency.groups.values()))))
            batch = f"for {self.latency.inputs} on {self.latency.device}"
            lines.append(Text(f"latency: {1e3 * whole:,.3g} ms {batch}"))
        if self.rounding is not None:
            chosen = f"round_to {self.rounding.multiple} on {self.rounding.device}"
            lines.append(Text(f"{chosen}: {self.rounding.reason}"))
        return lines

    def __str__(self) -> str:
        return _text(self)


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

    def __rich__(self) -> RenderableType:
        """The totals, and the groups that lose units."""
        saved = self.saved
        totals = _columns("cost", "before", "after", "saved", "")
        for quantity, label in zip(QUANTITIES, ("parameters", "MACs", "activations"), strict=True):
            before, after = getattr(self.before, quantity), getattr(self.after, quantity)
            share = f"{saved[quantity] / before:.1%}" if before else ""
            totals.add_row(label, *_counts(before, after, saved[quantity]), share)
        groups = _columns(
            "saved by a group alone", "units", "left", "params", "MACs", "activations"
        )
        narrowed = [row for row in self.groups if row.after < row.before]
        for row in narrowed:
            counts = _counts(row.before, row.after, row.params, row.macs, row.activations)
            groups.add_row(Text(row.name), *counts)
        whole = f"{len(self.groups) - len(narrowed)} of {len(self.groups)} groups stay whole"
        return Group(totals, "", *([groups, ""] if narrowed else []), Text(whole))

    def __str__(self) -> str:
        return _text(self)


def explain(graph: ChannelGraph) -> Explanation:
    """Collects the rows; a unit's cost is the difference that one unit less would make."""
    saved = _saved(graph, graph.sizes - 1)
    latency = None
    if graph.latency is not None:  # of half a group: one unit fewer is within the noise
        cut = graph.sizes // 2
        alone = graph.sizes - np.diag(cut)
        latency = (graph.latency(graph.sizes) - graph.latency(alone)) / cut
    rows = []
    for i, group in enumerate(graph.groups.values()):
        named = {
            role: tuple(f"{m.path}[{m.axis}]" for m in group.members if m.role == role)
            for role in ("writes", "reads")
        }
        costs = {quantity: float(values[i]) for quantity, values in saved.items()}
        seconds = None if latency is None else float(latency[i])
        members = named["writes"], named["reads"]
        rows.append(
            GroupRow(group.name, group.size, *members, **costs, latency=seconds, kind=group.kind)
        )
    return Explanation(tuple(rows), graph.fixed, graph.cost(), graph.latency, graph.rounding)


def preview(graph: ChannelGraph, masks: Mapping[str, Any]) -> Preview:
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


def _saved(graph: ChannelGraph, widths: np.ndarray) -> dict[str, np.ndarray]:
    """What each group's narrowing to `widths` (G,) saves by itself: quantity → float64 (G,)."""
    sizes = graph.sizes
    whole, alone = graph.costs(sizes), graph.costs(sizes - np.diag(sizes - widths))
    return {quantity: whole[quantity] - alone[quantity] for quantity in QUANTITIES}


def _folded(places: Iterable[str]) -> list[str]:
    """`path[axis]`s with those of one module as one: `bn1/{mean,var}[0]`, `conv1/kernel[0,1]`."""
    axes: dict[str, list[str]] = {}
    for place in places:
        path, _, axis = place.removesuffix("]").rpartition("[")
        axes.setdefault(path, []).append(axis)
    leaves: dict[tuple[str, str], list[str]] = {}
    for path, along in axes.items():
        module, slash, leaf = path.rpartition("/")
        leaves.setdefault((module + slash, ",".join(along)), []).append(leaf)
    return [
        f"{module}{names[0] if len(names) == 1 else '{' + ','.join(names) + '}'}[{along}]"
        for (module, along), names in leaves.items()
    ]


def _columns(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="cyan")
    table.pad_edge = table.show_edge = False
    table.add_column(first, overflow="fold")
    for column in others:
        table.add_column(column, justify="right")
    return table


def _counts(*values: float) -> list[str]:
    return [f"{value:,.0f}" for value in values]


def _below(text: str) -> Padding:
    return Padding(Text(text, overflow="fold"), (0, 0, 0, 2), expand=False)


def _text(renderable: RenderableType) -> str:
    """As plain text, 100 columns wide, whatever the terminal."""
    output = io.StringIO()
    Console(file=output, width=100, color_system=None).print(renderable)
    return output.getvalue()
