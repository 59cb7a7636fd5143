"""Convolutions at the machine's rate on a CPU."""

from jaxprune.graph.convolutions.accelerate import accelerate

__all__ = ["accelerate"]
