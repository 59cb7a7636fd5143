"""Which kernels can be cut into tiles of channels, and how many of them a budget leaves.

A kernel is one of a convolution or product, between two groups of channels or more. What reads the
network's input or writes its output stays dense, as do grouped convolutions, and so does what is
protected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxprune.budget import Budget
from jaxprune.budget.targets import within
from jaxprune.graph import ChannelGraph, Cost

COUNTED = ("params", "macs", "bytes")
"""The quantities that tiles take part of."""


class Kernel(NamedTuple):
    """A kernel between channels.

    Attributes:
      path: its name.
      shape: its shape.
      reads: its axis of the channels that it reads.
      writes: its axis of the channels that it writes.
      source: the group that lies on all of `reads`, unit by unit; "" where there is none.
      target: the group that lies on all of `writes`; "" where there is none.
    """

    path: str
    shape: tuple[int, ...]
    reads: int
    writes: int
    source: str
    target: str

    @property
    def sizes(self) -> tuple[int, int]:
        """How many channels it reads and writes."""
        return self.shape[self.reads], self.shape[self.writes]

    def sides(self, tile: tuple[int, int]) -> tuple[int, ...]:
        """A tile of so many channels as the sides of a block: all taps together."""
        sides = [0] * len(self.shape)
        sides[self.reads], sides[self.writes] = tile
        return tuple(sides)

    def mass(self, kernel: Any) -> np.ndarray:
        """The sum of the magnitudes of each pair of channels, float64 [read, written]."""
        taps = tuple(a for a in range(len(self.shape)) if a not in (self.reads, self.writes))
        magnitudes = np.abs(np.asarray(kernel, np.float64)).sum(taps)
        return magnitudes if self.reads < self.writes else magnitudes.T


def kernels(graph: ChannelGraph) -> list[Kernel]:
    """The kernels that can be cut into tiles, in the order of the variables."""
    held: dict[tuple[str, int], list[tuple[str, str, np.ndarray]]] = {}
    for name, group in graph.groups.items():
        for m in group.members:
            held.setdefault((m.path, m.axis), []).append((name, m.role, m.positions))
    worked = {path for group in graph.groups.values() for path in group.writers}
    found = []
    for path, shape in graph.shapes.items():
        axes = {a: held[path, a] for a in range(len(shape)) if (path, a) in held}
        if path not in worked or len(axes) != 2:
            continue
        full = all(sum(p.size for *_, p in on) == shape[a] for a, on in axes.items())
        reading = [a for a, on in axes.items() if {role for _, role, _ in on} == {"reads"}]
        writing = [a for a, on in axes.items() if {role for _, role, _ in on} == {"writes"}]
        if full and len(reading) == len(writing) == 1:
            names = [_whole(axes[a]) for a in (reading[0], writing[0])]
            found.append(Kernel(path, shape, reading[0], writing[0], *names))
    return found


def _whole(on: list[tuple[str, str, np.ndarray]]) -> str:
    """The one group on an axis, where its units lie there once each, in their order."""
    name, _, positions = on[0]
    alone = len(on) == 1 and positions.shape[1] == 1
    return name if alone and np.array_equal(positions[:, 0], np.arange(len(positions))) else ""


Levels = Mapping[str, np.ndarray]
"""Kernel → the fractions of its entries that may be kept, ascending to 1."""


def sparsest(graph: ChannelGraph, levels: Levels) -> Cost:
    """The cost of the network with as little of each kernel as there may be."""
    return graph.cost(None, {path: float(fractions[0]) for path, fractions in levels.items()})


Measure = Callable[[Mapping[str, float]], Mapping[str, float]]
"""Kernel → the fraction of its entries that it keeps → quantity → what the network then has."""


def counts(graph: ChannelGraph) -> Measure:
    """The measure of what is counted."""

    def reached(kept: Mapping[str, float]) -> dict[str, float]:
        cost = graph.cost(None, kept)
        return {quantity: getattr(cost, quantity) for quantity in COUNTED}

    return reached


def fitting(
    measure: Measure, limits: Mapping[str, float], levels: Levels, sizes: Mapping[str, int]
) -> dict[str, int]:
    """The densest level of each kernel at one density for all of them, within the limits.

    What is left of the limits goes to the smallest kernels first, level by level.

    Args:
      measure: of what is limited.
      limits: quantity → the most that it may be; the sparsest levels keep to them.
      levels: of each kernel.
      sizes: kernel → its entries.
    """

    def at(density: float) -> dict[str, int]:
        """The densest levels up to this density."""
        ends = {p: int(np.sum(some <= density * (1 + 1e-9))) for p, some in levels.items()}
        return {path: max(0, end - 1) for path, end in ends.items()}

    densities = np.unique(np.concatenate(list(levels.values())))
    low, high = 0, len(densities)
    while high - low > 1:
        middle = (low + high) // 2
        fits = not _excess(measure, limits, levels, at(densities[middle]))
        low, high = (middle, high) if fits else (low, middle)
    smallest = sorted(levels, key=lambda path: sizes[path])
    return _grown(measure, limits, levels, at(densities[low]), smallest)


def lightest(
    measure: Measure,
    limits: Mapping[str, float],
    levels: Levels,
    lost: Mapping[str, np.ndarray],
) -> dict[str, int]:
    """The level of each kernel at which little is lost for what is saved, within the limits.

    From the dense network down it is always the step to a sparser level of one kernel that loses
    least for the part of the excess over the limits that it saves, so that some kernels may stay
    dense. What is left of the limits goes to those that then gain most.

    Args:
      measure: of what is limited.
      limits: quantity → the most that it may be; the sparsest levels keep to them.
      levels: of each kernel.
      lost: kernel → what is lost at each of its levels.
    """
    lost = {p: np.maximum.accumulate(some[::-1])[::-1] for p, some in lost.items()}
    chosen = {path: len(some) - 1 for path, some in levels.items()}

    def price(path: str, number: int) -> float:
        after = _excess(measure, limits, levels, {**chosen, path: number})
        saved = sum(1 - after.get(q, 0.0) / over for q, over in excess.items())
        return (lost[path][number] - lost[path][chosen[path]]) / saved if saved > 0 else np.inf

    while excess := _excess(measure, limits, levels, chosen):
        steps = [(path, number) for path, now in chosen.items() for number in range(now)]
        path, number = min(steps, key=lambda step: (price(*step), -step[1]))
        chosen[path] = number
    heaviest = sorted(chosen, key=lambda path: -lost[path][chosen[path]])
    return _grown(measure, limits, levels, chosen, heaviest)


def _excess(
    measure: Measure, limits: Mapping[str, float], levels: Levels, chosen: Mapping[str, int]
) -> dict[str, float]:
    """What is above the limits, by quantity; empty where all are kept."""
    reached = measure({path: float(levels[path][number]) for path, number in chosen.items()})
    return {q: reached[q] - most for q, most in limits.items() if not within(reached[q], most)}


def _grown(
    measure: Measure,
    limits: Mapping[str, float],
    levels: Levels,
    chosen: dict[str, int],
    turns: list[str],
) -> dict[str, int]:
    """Denser by one level after the other, in turn, as long as the limits are kept."""
    grown = True
    while grown:
        grown = False
        for path in turns:
            denser = {**chosen, path: chosen[path] + 1}
            if denser[path] == len(levels[path]) or _excess(measure, limits, levels, denser):
                continue
            chosen, grown = denser, True
    return chosen


def reachable(graph: ChannelGraph, budget: Budget, levels: Levels) -> bool:
    """Whether tiles can meet a budget."""
    if not levels:
        return False
    least = sparsest(graph, levels)
    return all(within(getattr(least, q), most) for q, most in budget.limits_of(graph).items())


def require_no_widths(budget: Budget, of: str) -> None:
    """Refuses what a budget says of channels, and targets that are no part of what is pruned.

    Args:
      budget: the budget.
      of: what is pruned, in words.

    Raises:
      ValueError: it does.
    """
    plain = Budget(budget.targets)
    for name in ("widths", "limits", "round_to", "min_channels"):
        if getattr(budget, name) != getattr(plain, name):
            raise ValueError(
                f"budget.{name}: it is for methods that prune channels, and this one prunes {of}; "
                "prune channels first, by another method, then what is finer"
            )
    if other := [quantity for quantity in budget.factors if quantity not in COUNTED]:
        raise ValueError(
            f"budget.targets: {of} are no part of {other[0]}; ask for {', '.join(COUNTED)}"
        )


def require_reachable(graph: ChannelGraph, budget: Budget, levels: Levels, of: str) -> None:
    """Refuses a budget that tiles cannot meet.

    Args:
      graph: of the network.
      budget: the budget.
      levels: of each kernel.
      of: what is pruned, in words: `tiles of 8 × 8 channels`.

    Raises:
      ValueError: it fixes or limits the widths of groups, names what no tile is part of, or is
        beyond reach; no kernel can be cut.
    """
    require_no_widths(budget, of)
    if not levels:
        raise ValueError(
            f"no kernel of this network can be cut into {of}: it takes one between two groups of "
            "channels that has two of them at least; see graph.explain()"
        )
    least, whole, limits = sparsest(graph, levels), graph.cost(), budget.limits_of(graph)
    if missed := [q for q, most in limits.items() if not within(getattr(least, q), most)]:
        reach = {q: np.floor(100 * getattr(whole, q) / getattr(least, q)) / 100 for q in limits}
        best = ",".join(f"{q}/{factor:g}" for q, factor in reach.items())
        raise ValueError(
            f"budget.targets: {budget.targets!r} is beyond reach for {' and '.join(missed)} by "
            f"{of}: the best, at the fewest that leave a kernel something, is {best!r}"
        )
