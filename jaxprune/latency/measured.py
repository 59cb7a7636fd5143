"""A channel graph with what was measured of it on a device: a latency beside its other costs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jaxprune.graph import ChannelGraph
from jaxprune.graph.explain import Explanation, GroupRow
from jaxprune.latency.table import LatencyTable, Rounding


@dataclass(frozen=True)
class MeasuredRow(GroupRow):
    """`latency`: seconds of one unit, the mean over half of the group; None where not measured."""

    latency: float | None = None


@dataclass(frozen=True)
class MeasuredExplanation(Explanation):
    """What a graph found, and what was measured of it; see `MeasuredGraph`."""

    latency: LatencyTable | None = None
    rounding: Rounding | None = None


@dataclass(frozen=True, eq=False)
class MeasuredGraph(ChannelGraph):
    """A channel graph whose `costs` have a `latency` too.

    Attributes:
      latency: of the network over its widths, where it was measured.
      rounding: which widths suit the device, where it was measured.
    """

    latency: LatencyTable | None = field(repr=False, default=None)
    rounding: Rounding | None = field(repr=False, default=None)

    def costs(self, widths: Any) -> dict[str, Any]:
        """As those of the graph; widths on the device give no latency."""
        totals = super().costs(widths)
        if self.latency is None or isinstance(widths, jax.Array):
            return totals
        return {**totals, "latency": self.latency(widths)}

    def explain(self) -> MeasuredExplanation:
        """As that of the graph, with the latency of a unit."""
        found = super().explain()
        seconds: list[float | None] = [None] * len(found.groups)
        if self.latency is not None:  # of half a group: one unit fewer is within the noise
            cut = self.sizes // 2
            alone = self.sizes - np.diag(cut)
            seconds = ((self.latency(self.sizes) - self.latency(alone)) / cut).tolist()
        rows = (
            MeasuredRow(**vars(row), latency=each)
            for row, each in zip(found.groups, seconds, strict=True)
        )
        measured = {"latency": self.latency, "rounding": self.rounding}
        return MeasuredExplanation(**{**vars(found), "groups": tuple(rows), **measured})


def measured(graph: ChannelGraph, **found: Any) -> MeasuredGraph:
    """The graph with a `latency` or a `rounding`, and what it had of them before."""
    fields = {f.name: getattr(graph, f.name) for f in dataclasses.fields(graph) if f.init}
    return MeasuredGraph(**{**fields, **found})


def latency_of(graph: ChannelGraph) -> LatencyTable | None:
    """The latencies of a graph, where they were measured."""
    return graph.latency if isinstance(graph, MeasuredGraph) else None
