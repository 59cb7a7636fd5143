"""Calibration passes: what a network reads, how its loss moves with its masks."""

from jaxprune.batches import Batches, inputs_of, labels_of
from jaxprune.statistics.gradients import MaskGradients, mask_gradients
from jaxprune.statistics.gram import Weighting, grams
from jaxprune.statistics.moments import Moments, moments, responses
from jaxprune.statistics.outlets import Outlet, outlets
from jaxprune.statistics.population import evaluate_masks
from jaxprune.statistics.sensitivity import sensitivity

__all__ = [
    "Batches", "MaskGradients", "Moments", "Outlet", "Weighting", "evaluate_masks", "grams",
    "inputs_of", "labels_of", "mask_gradients", "moments", "outlets", "responses", "sensitivity",
]  # fmt: skip
