"""What a graph found, what masks would save, and what is within kernels, as tables.

In colour, or as plain text.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from jaxprune.graph.cost import QUANTITIES
from jaxprune.graph.explain import Explanation, KernelExplanation, Preview
from jaxprune.latency.measured import MeasuredExplanation, MeasuredRow

Found = Explanation | Preview | KernelExplanation


def drawn(found: Found) -> RenderableType:
    """For rich to print."""
    if isinstance(found, KernelExplanation):
        return _kernels(found)
    return _preview(found) if isinstance(found, Preview) else _explanation(found)


def text(found: Found) -> str:
    """As plain text, 100 columns wide, whatever the terminal."""
    output = io.StringIO()
    Console(file=output, width=100, color_system=None).print(drawn(found))
    return output.getvalue()


def _explanation(found: Explanation) -> RenderableType:
    """Costs a unit, then where each group lies, then what is fixed or keeps its order, and why."""
    timed = isinstance(found, MeasuredExplanation)
    quantities = ["params", "MACs", "activations", *(["µs"] if timed and found.latency else [])]
    table = _columns("group, and what a unit costs", "units", *quantities)
    places: list[RenderableType] = []
    for row in found.groups:
        counts = _counts(row.size, row.params, row.macs, row.activations)
        if isinstance(row, MeasuredRow) and row.latency is not None:
            counts.append(f"{1e6 * row.latency:,.2f}")
        table.add_row(Text(row.name), *counts)
        named = Text(row.name, style="bold")
        places.append(named.append(f" · {row.kind}", style="not bold") if row.kind else named)
        for arrow, members in (("→", row.writes), ("←", row.reads)):
            if members:
                places.append(_below(f"{arrow} {', '.join(_folded(members))}"))
    whole = _counts(found.cost.params, found.cost.macs, found.cost.activations)
    total = "the whole network: {} parameters, {} MACs, {} activations".format(*whole)
    parts = [Text(total), *(_measured(found) if timed else []), "", table, ""]
    parts += [Text("written at →, read at ←", style="cyan"), *places]
    parts += _reasons("fixed", found.fixed, _folded)
    parts += _reasons("units keep their order", found.ordered, list)
    return Group(*parts)


def _kernels(found: KernelExplanation) -> RenderableType:
    """A row a kernel, then the gathers that are left and the groups that keep their order."""
    table = _columns("kernel", "density", "gathered")
    table.add_column("structure", overflow="fold")
    for row in found.kernels:
        moved = ", ".join(f"{n} on axis {axis}" for axis, n in row.gathered.items())
        table.add_row(Text(row.name), f"{row.density:.1%}", moved, Text(row.structure))
    some = [row for row in found.kernels if row.gathered]
    channels = sum(sum(row.gathered.values()) for row in some)
    lines = f"kernels with structure: {len(found.kernels)}; no channels are gathered at run time"
    if some:
        lines = (
            f"{channels:,} channels are gathered at run time, at {len(some)} of "
            f"{len(found.kernels)} kernels: there the blocks take them in another order than the "
            "layer beside it has. Blocks on the diagonal need that: with one order for what writes "
            "and what reads them, the network would fall apart into as many separate ones."
        )
    parts: list[RenderableType] = [table, "", Text(lines)]
    return Group(*parts, *_reasons("units keep their order", found.ordered or {}, list))


def _reasons(
    title: str, reason_of: Mapping[str, str], fold: Callable[[Iterable[str]], list[str]]
) -> list[RenderableType]:
    """The names under each reason."""
    reasons: dict[str, list[str]] = {}
    for name, reason in reason_of.items():
        reasons.setdefault(reason, []).append(name)
    parts: list[RenderableType] = ["", Text(title, style="cyan")] if reasons else []
    for reason, names in reasons.items():
        parts += [Text(", ".join(fold(names)), style="bold"), _below(reason)]
    return parts


def _measured(found: MeasuredExplanation) -> list[RenderableType]:
    """What the device that it was measured on has to do with it."""
    lines: list[RenderableType] = []
    if found.latency is not None:
        whole = float(found.latency(np.array(list(found.latency.groups.values()))))
        batch = f"for {found.latency.inputs} on {found.latency.device}"
        lines.append(Text(f"latency: {1e3 * whole:,.3g} ms {batch}"))
    if found.rounding is not None:
        chosen = f"round_to {found.rounding.multiple} on {found.rounding.device}"
        lines.append(Text(f"{chosen}: {found.rounding.reason}"))
    return lines


def _preview(found: Preview) -> RenderableType:
    """The totals, and the groups that lose units."""
    saved = found.saved
    totals = _columns("cost", "before", "after", "saved", "")
    for quantity, label in zip(QUANTITIES, ("parameters", "MACs", "activations"), strict=True):
        before, after = getattr(found.before, quantity), getattr(found.after, quantity)
        share = f"{saved[quantity] / before:.1%}" if before else ""
        totals.add_row(label, *_counts(before, after, saved[quantity]), share)
    groups = _columns("saved by a group alone", "units", "left", "params", "MACs", "activations")
    narrowed = [row for row in found.groups if row.after < row.before]
    for row in narrowed:
        counts = _counts(row.before, row.after, row.params, row.macs, row.activations)
        groups.add_row(Text(row.name), *counts)
    whole = f"{len(found.groups) - len(narrowed)} of {len(found.groups)} groups stay whole"
    return Group(totals, "", *([groups, ""] if narrowed else []), Text(whole))


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
