"""How well anomaly scores tell outliers from inliers: seven numbers and the curves under them.

Henriksson et al. 2019, "Towards structured evaluation of deep neural network supervisors", arXiv
1903.01263. Outliers are the positives: one that is rejected is a true positive, an inlier that is
rejected a false one. A threshold accepts what scores below it. It goes down over all scores, from
above the largest, where everything is accepted. Then, with N = inliers and outliers together,

    coverage = accepted / N,    risk = (accepted and wrongly predicted) / N,

where an accepted outlier is always wrong. The risk is of the *whole* set, not of what is accepted:
so the first author's later evaluation computes it, and the other reading contradicts the tables of
the follow-up, whose rows `tests/supervisors/test_published.py` checks.

>>> import numpy as np
>>> scores = np.array([0.1, 0.2, 0.6, 0.8, 0.9])
>>> outlier = np.array([False, False, False, True, True])
>>> right = np.array([True, True, False, False, False])
>>> found = measure(scores, outlier, right)
>>> found.auroc, round(found.cbpl, 3), round(found.cbfad, 3)
(1.0, 0.6, 0.6)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Sweep(NamedTuple):
    """What every threshold gives, from accepting all to accepting nothing; arrays [T].

    Attributes:
      threshold: what scores below it is accepted; the first is infinite, then every score once.
      tpr: the rejected part of the outliers, which is the recall.
      fpr: the rejected part of the inliers.
      precision: outliers among what is rejected; 1 where nothing is.
      coverage: the accepted part of all.
      risk: what is accepted and wrongly predicted, as a part of all.
    """

    threshold: np.ndarray
    tpr: np.ndarray
    fpr: np.ndarray
    precision: np.ndarray
    coverage: np.ndarray
    risk: np.ndarray


class Metrics(NamedTuple):
    """The seven numbers, each in [0, 1].

    "Nearest" is the first such threshold on the way down.

    Attributes:
      auroc: area under true against false positives, by the trapezoid rule.
      auprc: area under precision against recall, by the trapezoid rule.
      tpr05: true positives where the false ones are nearest to 5 %.
      p95: precision where the recall is nearest to 95 %.
      fnr95: outliers missed where the false positives are nearest to 95 %; lower is better.
      cbpl: coverage break-point at performance level: the largest coverage whose risk is no more
        than the error on the inliers alone.
      cbfad: coverage break-point at full anomaly detection: the largest coverage that accepts no
        outlier.
    """

    auroc: float
    auprc: float
    tpr05: float
    p95: float
    fnr95: float
    cbpl: float
    cbfad: float


def sweep(scores: np.ndarray, outlier: np.ndarray, right: np.ndarray) -> Sweep:
    """The curves over all thresholds.

    Args:
      scores: [N], higher is more anomalous.
      outlier: bool [N].
      right: bool [N], whether the network predicts it as labelled; of outliers it is not read.

    Raises:
      ValueError: no outlier or no inlier, arrays of other lengths, or scores that are NaN.
    """
    counts = _counts(scores, outlier, right)
    total, outliers = len(outlier), int(np.sum(outlier))
    rejected = counts.positives + counts.negatives
    return Sweep(
        threshold=counts.threshold,
        tpr=counts.positives / outliers,
        fpr=counts.negatives / (total - outliers),
        precision=np.where(rejected > 0, counts.positives / np.maximum(rejected, 1), 1.0),
        coverage=1 - rejected / total,
        risk=counts.wrong / total,
    )


def measure(scores: np.ndarray, outlier: np.ndarray, right: np.ndarray) -> Metrics:
    """The seven numbers; arguments and errors as for `sweep`."""
    curves, counts = sweep(scores, outlier, right), _counts(scores, outlier, right)
    # In whole numbers: wrong / N <= inliers wrong / inliers.
    inliers = np.asarray(right, bool)[~np.asarray(outlier, bool)]
    level = counts.wrong * len(inliers) <= np.sum(~inliers) * len(np.asarray(outlier))
    return Metrics(
        auroc=float(np.trapezoid(curves.tpr, curves.fpr)),
        auprc=float(np.trapezoid(curves.precision, curves.tpr)),
        tpr05=float(curves.tpr[_nearest(curves.fpr, 0.05)]),
        p95=float(curves.precision[_nearest(curves.tpr, 0.95)]),
        fnr95=float(1 - curves.tpr[_nearest(curves.fpr, 0.95)]),
        cbpl=_first(curves.coverage, level),
        cbfad=_first(curves.coverage, counts.positives == np.sum(outlier)),
    )


class _Counts(NamedTuple):
    """Per threshold [T]: rejected outliers and inliers, and what is accepted and wrong."""

    threshold: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray
    wrong: np.ndarray


def _counts(scores: np.ndarray, outlier: np.ndarray, right: np.ndarray) -> _Counts:
    scores = np.asarray(scores, np.float64)
    outlier, right = np.asarray(outlier, bool), np.asarray(right, bool)
    if not scores.shape == outlier.shape == right.shape or scores.ndim != 1:
        raise ValueError(
            f"scores, outlier and right are one number an image, not of shapes {scores.shape}, "
            f"{outlier.shape} and {right.shape}"
        )
    if not 0 < outlier.sum() < len(outlier):
        raise ValueError(
            f"{outlier.sum()} outliers among {len(outlier)} images: it takes outliers and inliers"
        )
    if np.isnan(scores).any():
        raise ValueError(f"{np.isnan(scores).sum()} scores are NaN")
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    wrong = outlier | ~right

    def before(of: np.ndarray) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(of[order])[ends]])

    return _Counts(
        np.concatenate([[np.inf], ranked[ends]]),
        before(outlier),
        before(~outlier),
        wrong.sum() - before(wrong),
    )


def _nearest(values: np.ndarray, to: float) -> int:
    return int(np.argmin(np.abs(values - to)))


def _first(coverage: np.ndarray, holds: np.ndarray) -> float:
    """The coverage at the first threshold for which it holds; 0 where there is none."""
    return float(coverage[np.argmax(holds)]) if holds.any() else 0.0
