"""What a network takes on the device at hand: measured tables, and the widths that suit it.

graph, budget = latency.prepare(graph, "latency/2", fn, variables, images)
"""

from jaxprune.latency.measure import (
    KEPT,
    Call,
    Timer,
    call_of,
    check,
    device,
    measure,
    measure_rounding,
    network_of,
    prepare,
    time_in_turn,
)
from jaxprune.latency.measured import MeasuredGraph, latency_of, measured
from jaxprune.latency.table import LatencyCheck, LatencyTable, Rounding

__all__ = [
    "KEPT", "Call", "LatencyCheck", "LatencyTable", "MeasuredGraph", "Rounding", "Timer", "call_of",
    "check", "device", "latency_of", "measure", "measure_rounding", "measured", "network_of",
    "prepare", "time_in_turn",
]  # fmt: skip
