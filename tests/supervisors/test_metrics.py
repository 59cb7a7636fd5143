"""The seven metrics against scikit-learn, against brute force over thresholds, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc, precision_recall_curve, roc_auc_score, roc_curve

from jaxprune.supervisors import measure, sweep


@st.composite
def mixed(draw):
    """Scores with ties, outliers, and which images are predicted right."""
    count = draw(st.integers(2, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    outlier = rng.random(count) < 0.5
    outlier[:2] = False, True
    scores = np.round(
        rng.normal(size=count) + draw(st.floats(0, 2)) * outlier, draw(st.sampled_from((0, 1, 9)))
    )
    return scores, outlier, (rng.random(count) < 0.8) & ~outlier


@settings(max_examples=60, deadline=None)
@given(mixed())
def test_the_curves_and_what_is_read_off_them_are_scikit_learns(case):
    scores, outlier, right = case
    curves, found = sweep(scores, outlier, right), measure(scores, outlier, right)
    fpr, tpr, thresholds = roc_curve(outlier, scores, drop_intermediate=False)
    np.testing.assert_array_equal(curves.threshold, thresholds)
    np.testing.assert_allclose(curves.fpr, fpr)
    np.testing.assert_allclose(curves.tpr, tpr)
    assert found.auroc == pytest.approx(roc_auc_score(outlier, scores))
    assert found.tpr05 == tpr[np.argmin(np.abs(fpr - 0.05))]
    assert found.fnr95 == pytest.approx(1 - tpr[np.argmin(np.abs(fpr - 0.95))])
    precision, recall, _ = precision_recall_curve(outlier, scores)
    np.testing.assert_allclose(curves.precision, precision[::-1])
    assert found.auprc == pytest.approx(auc(recall, precision))
    falling = np.argmin(np.abs(recall[::-1] - 0.95))
    assert found.p95 == pytest.approx(precision[::-1][falling])


@settings(max_examples=60, deadline=None)
@given(mixed())
def test_coverage_and_risk_by_brute_force(case):
    scores, outlier, right = case
    curves, found = sweep(scores, outlier, right), measure(scores, outlier, right)
    level = np.mean(~right[~outlier])
    at_level, at_full = [0.0], [0.0]
    for i, threshold in enumerate(curves.threshold):
        accepted = scores < threshold
        risk = np.sum(accepted & (outlier | ~right)) / len(scores)
        assert curves.coverage[i] == pytest.approx(accepted.mean())
        assert curves.risk[i] == pytest.approx(risk)
        if risk <= level + 1e-12:
            at_level.append(accepted.mean())
        if not (accepted & outlier).any():
            at_full.append(accepted.mean())
    # Thresholds go down and coverage with them: the first that holds is the largest.
    assert found.cbpl == pytest.approx(max(at_level))
    assert found.cbfad == pytest.approx(max(at_full))


def test_by_hand():
    scores = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    outlier = np.array([0, 0, 1, 0, 0, 1, 1, 1], bool)
    right = np.array([1, 1, 0, 0, 1, 0, 0, 0], bool)
    found = measure(scores, outlier, right)
    # Of 16 pairs two are in the wrong order: the outlier at 0.2 lies below the inliers at 0.3, 0.4.
    assert found.auroc == 14 / 16
    # One inlier of four is wrong: risk may be 1/4 of 8 images, and the first three thresholds pass.
    # Accepting 6 of 8 takes in the outliers at 0.2 and 0.5 and the wrong inlier: 3/8. With 5 it is
    # the outlier at 0.2 and the wrong inlier, 2/8.
    assert found.cbpl == 5 / 8
    assert found.cbfad == 2 / 8
    # Rejecting all outliers rejects two inliers as well; 3 of 4 outliers are the nearest to 95 %
    # but for all of them.
    assert found.p95 == 4 / 6


@pytest.mark.parametrize("sign, expected", [(1, 1.0), (-1, 0.0)])
def test_the_perfect_and_the_perverse(sign, expected):
    outlier = np.arange(80) >= 40
    found = measure(sign * outlier.astype(float), outlier, ~outlier)
    assert found.auroc == expected
    if sign == 1:
        assert (found.auprc, found.p95, found.fnr95) == (1, 1, 0)
        assert found.cbfad == 0.5


def test_all_scores_alike_tell_nothing():
    outlier = np.arange(40) >= 20
    found = measure(np.ones(40), outlier, ~outlier)
    assert (found.auroc, found.tpr05, found.cbpl, found.cbfad) == (0.5, 0, 0, 0)


def test_a_permutation_and_a_monotone_map_change_nothing():
    rng = np.random.default_rng(1)
    scores, outlier = rng.normal(size=50), rng.random(50) < 0.4
    right = rng.random(50) < 0.7
    order = rng.permutation(50)
    found = measure(scores, outlier, right)
    assert measure(np.exp(3 * scores[order]), outlier[order], right[order]) == found
    assert measure(scores, outlier, right | outlier) == found  # of outliers it is not read


@pytest.mark.parametrize(
    "scores, outlier, words",
    [
        ([0.1, 0.2], [True, True], "2 outliers among 2 images"),
        ([0.1, 0.2], [False, False], "0 outliers among 2 images"),
        ([0.1, np.nan], [False, True], "1 scores are NaN"),
        ([0.1], [False, True], "one number an image"),
    ],
)
def test_what_cannot_be_measured_is_refused(scores, outlier, words):
    with pytest.raises(ValueError, match=words):
        measure(np.array(scores), np.array(outlier), np.zeros(len(outlier), bool))
