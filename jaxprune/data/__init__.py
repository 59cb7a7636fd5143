"""Data sets in memory, their augmentation on the device, and the order in which they are read."""

from jaxprune.data.augment import augment, normalize
from jaxprune.data.batches import (
    EvalBatch,
    batch_indices,
    epoch_indices,
    eval_batches,
    steps_per_epoch,
)
from jaxprune.data.dataset import Dataset, Split
from jaxprune.data.registry import NAMES, load

__all__ = [
    "NAMES",
    "Dataset",
    "EvalBatch",
    "Split",
    "augment",
    "batch_indices",
    "epoch_indices",
    "eval_batches",
    "load",
    "normalize",
    "steps_per_epoch",
]
