"""What tells how well anomaly scores separate outliers from inliers."""

from jaxprune.supervisors.metrics import Metrics, Sweep, measure, sweep

__all__ = ["Metrics", "Sweep", "measure", "sweep"]
