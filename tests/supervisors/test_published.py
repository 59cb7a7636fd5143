"""Rows that the follow-up of arXiv 1903.01263 printed, where their numbers determine each other.

DenseNet-121, 4.70 % error on CIFAR-10, against as many images of Tiny ImageNet. A coverage
break-point at performance level bounds the point of the ROC at which it was read, and the printed
false positives at 95 % true ones have to fit that. If risk were of the accepted alone they do not.
"""

from __future__ import annotations

import numpy as np
import pytest

from jaxprune.supervisors import measure, sweep

ERROR = 0.0470
ROWS = {"odin": (0.5575, 0.4334), "openmax": (0.6707, 0.3252), "baseline": (0.5722, 0.3798)}
"""False positives at 95 % true ones, and CBPL."""


def bounds(cbpl: float, accepted_only: bool) -> tuple[float, float]:
    """Least true and most false positives at a coverage whose risk is no more than the error."""
    wrong = ERROR * (cbpl if accepted_only else 1)  # most outliers accepted, as a part of all
    return 1 - 2 * wrong, 1 - 2 * (cbpl - wrong)


@pytest.mark.parametrize("fpr95, cbpl", ROWS.values(), ids=ROWS)
def test_the_rows_agree_with_risk_over_the_whole_set_alone(fpr95, cbpl):
    tpr, fpr = bounds(cbpl, accepted_only=True)
    # Impossible: with more than 95 % true ones at so few false ones, 95 % have no more than these.
    assert tpr > 0.95 and fpr < fpr95
    tpr, fpr = bounds(cbpl, accepted_only=False)
    assert tpr < 0.95 and fpr < fpr95


@pytest.mark.parametrize("fpr95, cbpl", ROWS.values(), ids=ROWS)
def test_scores_that_have_the_printed_row_are_measured_so(fpr95, cbpl):
    """Images are accepted in five waves: what is rejected first has the highest scores."""
    n = 10_000
    tpr, fpr = bounds(cbpl, accepted_only=False)
    waves = [  # outliers and right inliers that are rejected by the end of each wave
        (round(n * tpr), round(n * fpr)),
        (round(0.95 * n), round(n * fpr95)),
        (n, n),
    ]
    scores, outlier, right = [], [], []
    before = (0, 0)
    rng = np.random.default_rng(0)
    wrong = round(n * ERROR)
    for level, (out, inl) in zip((3.0, 2.0, 1.0), waves, strict=True):
        for count, is_outlier in ((out - before[0], True), (inl - before[1], False)):
            scores.append(level - np.sort(rng.random(count)))
            outlier.append(np.full(count, is_outlier))
            right.append(np.full(count, not is_outlier))
        before = (out, inl)
    scores, outlier, right = map(np.concatenate, (scores, outlier, right))
    right[np.flatnonzero(~outlier)[:wrong]] = False  # the wrong inliers are rejected first of all
    found, curves = measure(scores, outlier, right), sweep(scores, outlier, right)
    assert found.cbpl == pytest.approx(cbpl, abs=2e-3)
    assert curves.fpr[np.argmax(curves.tpr >= 0.95)] == pytest.approx(fpr95, abs=2e-3)
