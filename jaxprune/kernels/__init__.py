"""Forms of a convolution: at the machine's rate on a CPU."""

from jaxprune.kernels.accelerate import accelerate

__all__ = ["accelerate"]
