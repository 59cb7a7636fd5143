"""The engine: coupled channels found in the jaxpr, which runs masked, tapped, gated or sliced.

Words that mean one thing in here:

* An equation *writes* the channels that its kernel makes, and *reads* those that it sums away: a
  convolution, a product, a sum. A `Read` is the operand and the axes. What reads prunable channels
  is a *consumer*; `Consumer` is what `tap` tells of one.
* A `Program` is a function as `analyse` found it for one signature: its jaxpr as a `Block` of
  `Node`s, with the channels of every value.
* An `Interpretation` is a way to run a program.
"""

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
