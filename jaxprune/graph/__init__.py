"""The engine: coupled channels found in the jaxpr, and its masked, tapped and sliced readings."""

from jaxprune.graph.channel_graph import ChannelGraph
from jaxprune.graph.check import Report
from jaxprune.graph.consumers import Consumer, Tapped
from jaxprune.graph.cost import Cost
from jaxprune.graph.groups import Group, Member
from jaxprune.graph.pruned import Pruned
from jaxprune.graph.trace import cost, trace

__all__ = [
    "ChannelGraph", "Consumer", "Cost", "Group", "Member", "Pruned", "Report", "Tapped",
    "cost", "trace",
]  # fmt: skip
