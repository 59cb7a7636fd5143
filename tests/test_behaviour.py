"""Calibration, classes and the bound on disagreement, each against another way to get there."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from scipy.stats import binom, binomtest

from jaxprune import behaviour

RNG = np.random.default_rng(0)


def test_class_accuracies_are_the_diagonal_of_the_confusion():
    logits, labels = RNG.normal(size=(200, 4)), RNG.integers(0, 3, 200)
    found = behaviour.class_accuracies(logits, labels)
    for k in range(3):
        assert found[k] == np.mean(logits[labels == k].argmax(1) == k)
    assert np.isnan(found[3])


def test_the_calibration_error_is_that_of_the_bins_one_by_one():
    logits, labels = 3 * RNG.normal(size=(500, 5)), RNG.integers(0, 5, 500)
    for temperature in (1.0, 2.5):
        confidence = softmax(logits / temperature, axis=1).max(1)
        right = logits.argmax(1) == labels
        error = 0.0
        for low in np.arange(15) / 15:
            inside = (confidence > low) & (confidence <= low + 1 / 15 + 1e-12)
            if inside.any():
                error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
        found = behaviour.calibration_error(logits, labels, temperature)
        assert found == pytest.approx(error, abs=1e-9)


def test_the_temperature_is_where_the_cross_entropy_is_least():
    logits = RNG.normal(size=(4000, 6))
    labels = np.array([RNG.choice(6, p=p) for p in softmax(logits / 2.0, axis=1)])
    found = behaviour.fitted_temperature(logits, labels)
    assert found == pytest.approx(2.0, rel=0.15)

    def loss(temperature):
        return -np.mean(log_softmax(logits / temperature, axis=1)[np.arange(4000), labels])

    assert all(loss(found) <= loss(found * by) for by in (0.9, 0.99, 1.01, 1.1))
    assert behaviour.calibration_error(logits, labels, found) < 0.5 * behaviour.calibration_error(
        logits, labels
    )


@pytest.mark.parametrize("count, of", [(0, 200), (3, 200), (40, 100), (199, 200), (200, 200)])
def test_the_bound_is_scipys_and_what_it_says(count, of):
    found = behaviour.most(count, of)
    interval = binomtest(count, of, alternative="less").proportion_ci(0.95, method="exact")
    assert found == pytest.approx(interval.high)
    if count < of:  # at the bound so few are seen with a probability of 5 %
        assert binom.cdf(count, of, found) == pytest.approx(0.05)
