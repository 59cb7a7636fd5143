"""From the ties of an analysis to coupled groups: units, members, names, fixed axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from jaxprune.graph import paths
from jaxprune.graph.analysis import Analysis
from jaxprune.graph.cost import Term
from jaxprune.graph.kinds import find_kinds
from jaxprune.graph.labels import Ids


@dataclass(frozen=True, eq=False)
class Member:
    """One axis of one variable along which a group's channels lie.

    Attributes:
      path: the variable, e.g. `params/conv1/kernel`.
      axis: its axis.
      role: `writes` where the axis makes the channels, `reads` where they are summed away.
      positions: int (size, repeats): where along the axis each unit lies.
    """

    path: str
    axis: int
    role: str
    positions: np.ndarray = field(repr=False)


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that have the same members; unit i of each member stays or falls together.

    Attributes:
      name: the first variable axis that writes it.
      size: its units.
      members: where its channels lie.
      kind: what a unit is, where that can be told: `heads`, `head width`, `key-value heads, …`.
      summed: whether a unit is a sum of several layers' outputs, as in a residual stage.
      writers: the kernels of the convolutions and products that write it, in their order.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    kind: str = ""
    summed: bool = False
    writers: tuple[str, ...] = ()


Units = dict[str, list[np.ndarray | None]]
"""Per variable path and axis each position's unit, numbered through all groups, or -1."""


@dataclass(frozen=True)
class Grouping:
    """The groups of a graph, and what was fixed.

    Attributes:
      groups: by name, in the order in which the network writes them.
      fixed: `path[axis]` → why some or all of its channels are fixed.
      units: per variable path and axis, each position's unit (numbered through all groups), -1
        where it is fixed; None for an axis without prunable channels.
    """

    groups: dict[str, Group]
    fixed: dict[str, str]
    units: Units


Names = Mapping[str, list[np.ndarray | None]]
"""Per variable path and axis the name of each position's group, "" in none; None for no groups."""


def group_channels(analysis: Analysis, names: Names | None = None) -> Grouping:
    """Finds the groups of a finished analysis; `names` are those that they had before."""
    roots = analysis.channels.roots()
    reasons = analysis.channels.fixed_classes(roots)
    axes = [
        (p, a, ids) for p, all_ids in analysis.variables.items() for a, ids in enumerate(all_ids)
    ]
    axes = [(p, a, ids) for p, a, ids in axes if ids is not None]

    stuck = np.zeros(analysis.channels.count, bool)
    stuck[list(reasons)] = True
    order = _writing_order(analysis, axes)
    reads = _read_axes(analysis, axes)
    kinds = find_kinds(analysis, roots, axes)
    added = np.zeros(analysis.channels.count, bool)
    added[roots[np.concatenate(analysis.added)] if analysis.added else []] = True
    found = []
    alone: dict[int, str] = {}
    for places in _alike(axes, roots, stuck):
        numbers = sorted(places, key=lambda n: order[n])
        if len(places[numbers[0]]) == 1:
            alone.update(dict.fromkeys(numbers, "a single unit of channels, which has to stay"))
            continue
        members = tuple(
            Member(
                path=axes[n][0],
                axis=axes[n][1],
                role="reads" if n in reads else "writes",
                positions=places[n],
            )
            for n in numbers
        )
        first = members[0].positions[:, 0]
        written = {n: m.positions for n, m in zip(numbers, members, strict=True) if n not in reads}
        units = roots[axes[numbers[0]][2][first]]
        kernels = {axes[n][0] for n in written if len(analysis.shapes[axes[n][0]]) > 1}
        summed = len(kernels) > 1 and bool(added[units].any())
        found.append((order[numbers[0]], members, (kinds.of(units, written), summed)))

    groups: dict[str, Group] = {}
    for _, members, told in sorted(found, key=lambda f: f[0]):
        writer = next((m for m in members if m.role == "writes"), members[0])
        base = name = _known(writer, names) or f"{writer.path}[{writer.axis}]"
        while name in groups:
            name = f"{base}#{sum(g.startswith(base) for g in groups) + 1}"
        groups[name] = Group(name, len(members[0].positions), members, *told)

    fixed, own = {}, analysis.channels.own_reasons()
    for number, (path, axis, ids) in enumerate(axes):
        held = ids[stuck[roots[ids]]].tolist()
        if held:
            # What fixes these very channels says more than what fixes others that are tied to them.
            said = own[held[0]] or reasons[int(roots[held[0]])]
            part = "" if len(held) == len(ids) else f" ({len(held)} of {len(ids)} positions)"
            fixed[f"{path}[{axis}]"] = f"{said}{part}"
        elif number in alone and not any(
            m.path == path and m.axis == axis for g in groups.values() for m in g.members
        ):
            fixed[f"{path}[{axis}]"] = alone[number]
    units = _number_units(analysis, groups)
    return Grouping(_with_writers(analysis, roots, groups, units), fixed, units)


def _with_writers(
    analysis: Analysis, roots: np.ndarray, groups: dict[str, Group], units: Units
) -> dict[str, Group]:
    unit_of, _ = units_of_classes(analysis, roots, units)
    ends = np.cumsum([group.size for group in groups.values()])
    writers: list[list[str]] = [[] for _ in groups]
    for node in analysis.block.all_nodes(rules=False) if analysis.block else ():
        for ids in node.written():
            written = unit_of[roots[ids]]
            for g in np.unique(np.searchsorted(ends, written[written >= 0], side="right")):
                writers[g].append(node.kernel or "")
    kernels = (tuple(dict.fromkeys(found)) for found in writers)
    return {g.name: replace(g, writers=k) for g, k in zip(groups.values(), kernels, strict=True)}


def _known(member: Member, names: Names | None) -> str | None:
    along = None if names is None else names[member.path][member.axis]
    return None if along is None else str(along[member.positions[0, 0]])


Axis = tuple[str, int, Ids]


def _alike(
    axes: Sequence[Axis], roots: np.ndarray, stuck: np.ndarray
) -> list[dict[int, np.ndarray]]:
    """Puts classes of tied channels together that lie on the same axes, as often on each.

    Returns for each such set of classes, by the number of an axis, where along it each of them
    lies, int (classes, repeats); classes and sets are in the order in which the axes hold them.

    Args:
      axes: those of the variables.
      roots: the class of each channel.
      stuck: per class, whether it is fixed.
    """
    if not axes:
        return []
    classes = np.concatenate([roots[ids] for _, _, ids in axes])
    numbers = np.concatenate([np.full(len(ids), n) for n, (_, _, ids) in enumerate(axes)])
    positions = np.concatenate([np.arange(len(ids)) for _, _, ids in axes])
    free = ~stuck[classes]
    _, first, classes = np.unique(classes[free], return_index=True, return_inverse=True)
    classes = np.argsort(np.argsort(first))[classes]  # numbered as they come
    order = np.argsort(classes, kind="stable")
    numbers, positions = numbers[free][order], positions[free][order]
    lengths = np.bincount(classes)
    starts = np.cumsum(lengths) - lengths

    found: list[tuple[int, dict[int, np.ndarray]]] = []
    for length in np.unique(lengths):
        some = np.flatnonzero(lengths == length)
        entries = starts[some][:, None] + np.arange(length)
        kinds, kind_of = np.unique(numbers[entries], axis=0, return_inverse=True)
        for i, kind in enumerate(kinds):
            chosen = kind_of.ravel() == i
            where = positions[entries[chosen]]
            found.append(
                (int(some[chosen][0]), {int(n): where[:, kind == n] for n in np.unique(kind)})
            )
    return [places for _, places in sorted(found, key=lambda f: f[0])]


def _writing_order(analysis: Analysis, axes: Sequence[Axis]) -> list[float]:
    """Axes in the order in which contractions first write with them, then all others."""
    late = len(analysis.written)
    first = np.full(analysis.channels.count, late)
    for time, ids in reversed([*enumerate(analysis.written)]):
        first[ids] = time
    times = [int(first[ids].min()) for _, _, ids in axes]
    return [late + number if time == late else time for number, time in enumerate(times)]


def _read_axes(analysis: Analysis, axes: Sequence[Axis]) -> set[int]:
    read = np.zeros(analysis.channels.count, bool)
    for ids in analysis.read:
        read[ids] = True
    return {number for number, (_, _, ids) in enumerate(axes) if read[ids].any()}


def _number_units(analysis: Analysis, groups: dict[str, Group]) -> Units:
    units: Units = {path: [None] * len(ids) for path, ids in analysis.variables.items()}
    start = 0
    for group in groups.values():
        for m in group.members:
            ids = analysis.variables[m.path][m.axis]
            assert ids is not None
            along = units[m.path][m.axis]
            if along is None:
                along = units[m.path][m.axis] = np.full(len(ids), -1)
            along[m.positions] = start + np.arange(group.size)[:, None]
        start += group.size
    return units


def units_of_classes(
    analysis: Analysis, roots: np.ndarray, units: Units
) -> tuple[np.ndarray, str | None]:
    """Carries the numbering of units over to another function's analysis.

    Returns int (classes,), the unit of each class or -1, and the path of a variable at which the
    function ties channels that the numbering holds apart, if there is one.
    """
    count = int(roots.max(initial=-1)) + 1
    low, high = np.full(count, np.iinfo(int).max), np.full(count, -1)
    for path, all_ids in analysis.variables.items():
        for ids, along in zip(all_ids, units[path], strict=True):
            if ids is not None:
                numbers = along if along is not None else np.full(len(ids), -1)
                np.minimum.at(low, roots[ids], numbers)
                np.maximum.at(high, roots[ids], numbers)
    clash = (low < high) & (high >= 0)
    where = None
    if clash.any():
        where = next(
            f"{path}[{axis}]"
            for path, all_ids in analysis.variables.items()
            for axis, ids in enumerate(all_ids)
            if ids is not None and clash[roots[ids]].any()
        )
    return high, where


def cost_terms(analysis: Analysis, grouping: Grouping) -> list[Term]:
    """Parameters of every variable and work of every contraction, as terms of the widths."""
    roots = analysis.channels.roots()
    unit_of, _ = units_of_classes(analysis, roots, grouping.units)
    sizes = [g.size for g in grouping.groups.values()]
    group_of_unit = np.repeat(np.arange(len(sizes)), sizes)

    def factor(size: int | Ids) -> np.ndarray:
        row = np.zeros(len(sizes) + 1)
        if isinstance(size, np.ndarray):
            units = unit_of[roots[size]]
            row[0] = (units < 0).sum()
            held = np.bincount(group_of_unit[units[units >= 0]], minlength=len(sizes))
            row[1:] = held / np.maximum(sizes, 1)
        else:
            row[0] = size
        return row

    terms = []
    has_params = any(path.startswith("params/") for path in analysis.variables)
    for path, shape in analysis.shapes.items():
        if not has_params or path.startswith("params/"):
            axes = zip(analysis.variables[path], shape, strict=True)
            factors = [factor(n if ids is None else ids) for ids, n in axes]
            factors = factors or [factor(1)]
            terms.append(Term(_layer(path), path, "params", np.array(factors)))
    for work in analysis.work:
        layer = _layer(work.name)
        for quantity, sizes_of in (("macs", work.macs), ("activations", work.elements)):
            factors = np.array([factor(f) for f in sizes_of])
            terms.append(Term(layer, work.name, quantity, factors))
    return terms


def _layer(path: str) -> str:
    """The module that holds a variable: its path less collection and leaf."""
    parts = paths.bare(path).rpartition("/")
    return parts[0] or parts[2]
