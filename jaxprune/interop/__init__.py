"""Weights of other libraries in, pruned networks out."""

from jaxprune.interop.files import read, write
from jaxprune.interop.pytorch import from_torch, to_torch, unpruned

__all__ = ["from_torch", "read", "to_torch", "unpruned", "write"]
