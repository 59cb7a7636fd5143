"""Supervisors, which notice what a network does not know, and what tells how well they do.

watched = Watched(forward, variables, std)               # forward: images → logits, features
score = SUPERVISORS["odin"](watched, see(watched, images, labels), seed)
found = measure(score(see(watched, mixed, labels_of_mixed)), outlier, right)
"""

from jaxprune.supervisors.metrics import Metrics, Sweep, measure, sweep
from jaxprune.supervisors.watching import BLIND, SUPERVISORS, Score, Seen, Watched, in_batches, see

__all__ = [
    "BLIND", "SUPERVISORS", "Metrics", "Score", "Seen", "Sweep", "Watched", "in_batches", "measure",
    "see", "sweep",
]  # fmt: skip
