"""What a graph found, for people (a table) and for programs (the same as data)."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from jaxprune.graph.channel_graph import ChannelGraph


@dataclass(frozen=True)
class GroupRow:
    """One group.

    Attributes:
      name: the group.
      size: its units.
      writes: `path[axis]` of the members that make its channels.
      reads: `path[axis]` of the members that sum them away.
      params: parameters that one unit of the whole network costs.
      macs: multiply-accumulates that one unit of the whole network costs.
    """

    name: str
    size: int
    writes: tuple[str, ...]
    reads: tuple[str, ...]
    params: float
    macs: float


@dataclass(frozen=True)
class Explanation:
    """The groups, and per fixed `path[axis]` what fixed it."""

    groups: tuple[GroupRow, ...]
    fixed: dict[str, str]

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=100)
        table = Table("group", "units", "params/unit", "MACs/unit", "written at, read at")
        for row in self.groups:
            places = [f"→ {w}" for w in row.writes] + [f"← {r}" for r in row.reads]
            table.add_row(
                row.name, str(row.size), f"{row.params:,.0f}", f"{row.macs:,.0f}", "\n".join(places)
            )
        console.print(table)
        fixed = Table("fixed", "by")
        for axis, reason in self.fixed.items():
            fixed.add_row(axis, reason)
        console.print(fixed)
        output = console.file
        assert isinstance(output, io.StringIO)
        return output.getvalue()


def explain(graph: ChannelGraph) -> Explanation:
    """Collects the rows; a unit's cost is the difference that one unit less would make."""
    sizes = graph.sizes
    whole = graph.costs(sizes)
    less = graph.costs(sizes - np.eye(len(sizes), dtype=int))
    rows = []
    for i, group in enumerate(graph.groups.values()):
        named = {
            role: tuple(f"{m.path}[{m.axis}]" for m in group.members if m.role == role)
            for role in ("writes", "reads")
        }
        rows.append(
            GroupRow(
                group.name,
                group.size,
                named["writes"],
                named["reads"],
                params=float(whole["params"] - less["params"][i]),
                macs=float(whole["macs"] - less["macs"][i]),
            )
        )
    return Explanation(tuple(rows), graph.fixed)
