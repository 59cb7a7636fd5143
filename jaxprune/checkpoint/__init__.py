"""Saving and loading: arrays through orbax, and a readable `spec.json` beside a pruned network.

Nothing is pickled. Orbax casts to the dtype that it is asked for and says nothing; so every load
compares names, shapes, dtypes and a hash of each array, and one error lists all that differs.
"""

from jaxprune.checkpoint.arrays import HASHES, restore_tree, save_tree
from jaxprune.checkpoint.networks import load, save
from jaxprune.checkpoint.steps import Checkpoints

__all__ = ["HASHES", "Checkpoints", "load", "restore_tree", "save", "save_tree"]
