"""Data sets in memory or on disk, their augmentation on the device, and the order of reading."""

from jaxprune.data.augment import augment, normalize
from jaxprune.data.batches import (
    EvalBatch,
    batch_indices,
    epoch_indices,
    eval_batches,
    steps_per_epoch,
)
from jaxprune.data.dataset import Dataset
from jaxprune.data.registry import NAMES, load
from jaxprune.data.split import Split
from jaxprune.data.streamed import Streamed

__all__ = [
    "NAMES",
    "Dataset",
    "EvalBatch",
    "Split",
    "Streamed",
    "augment",
    "batch_indices",
    "epoch_indices",
    "eval_batches",
    "load",
    "normalize",
    "steps_per_epoch",
]
