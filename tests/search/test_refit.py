from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import reconstruction
from jaxprune.search import Regression, SearchConfig, refit, refit_error, search_groups
from jaxprune.statistics.moments import Moments
from jaxprune.statistics.outlets import Outlet


def layer(seed=0, channels=10, taps=3, outputs=6, samples=400):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(channels * taps, channels * taps)) / np.sqrt(channels * taps)
    inputs = rng.normal(size=(samples, channels * taps)) @ (np.eye(channels * taps) + mixing)
    kernel = rng.normal(size=(outputs, channels * taps))
    hessian = inputs.T @ inputs / samples
    return inputs, Regression(jnp.asarray(hessian, jnp.float32), jnp.asarray(kernel, jnp.float32))


def refit_kernel(mask, consumer, keep):
    """The kernel (O, K k) of the reconstruction, from the Hessian alone."""
    hessian, kernel = (np.asarray(a, np.float64) for a in consumer[:2])
    zeros = np.zeros(len(kernel))
    layer = Moments(
        None, Outlet(), len(hessian) // mask.size, kernel.T, np.zeros(len(hessian)), hessian,
        zeros, hessian @ kernel.T, zeros, 1.0,
    )  # fmt: skip
    assert int(mask.sum()) == keep
    return reconstruction.least_squares(layer, np.flatnonzero(mask)).kernel.T


def least_squares(inputs, kernel, mask, taps):
    """Mean squared error of the output with the best kernel on the kept channels, by NumPy."""
    columns = inputs[:, np.repeat(mask, taps)]
    target = inputs @ np.asarray(kernel, np.float64).T
    best = np.linalg.lstsq(columns, target, rcond=None)[0]
    return np.mean(np.sum((target - columns @ best) ** 2, axis=1))


@pytest.mark.parametrize("keep", [1, 4, 9, 10])
def test_error_and_kernel_equal_least_squares(keep):
    inputs, consumer = layer(keep)
    mask = np.random.default_rng(keep).permutation(10) < keep
    error = least_squares(inputs, consumer.kernel, mask, 3)
    found = refit_error(jnp.asarray(mask), consumer, keep)
    np.testing.assert_allclose(found, error, rtol=1e-3, atol=1e-4)
    # Many kernels are nearly as good as the best: what counts is what this one reaches.
    refitted = np.zeros(consumer.kernel.shape)
    refitted[:, np.repeat(mask, 3)] = refit_kernel(jnp.asarray(mask), consumer, keep)
    lost = inputs @ (np.asarray(consumer.kernel) - refitted).T
    np.testing.assert_allclose(np.mean(np.sum(lost**2, axis=1)), error, rtol=1e-3, atol=1e-4)


def test_a_singular_hessian_stays_finite():
    _, consumer = layer(samples=12)
    dead = consumer.hessian.at[:6].set(0).at[:, :6].set(0)
    mask = jnp.arange(10) < 5
    for hessian in (consumer.hessian, dead):
        assert np.isfinite(refit_error(mask, Regression(hessian, consumer.kernel), 5))
        assert np.isfinite(refit_kernel(mask, Regression(hessian, consumer.kernel), 5)).all()


def test_block_formulas_equal_differences_of_the_error(monkeypatch):
    monkeypatch.setattr(refit, "DAMPING", 0.0)
    _, consumer = layer()
    mask = np.arange(10) % 2 == 0
    here = float(refit_error(jnp.asarray(mask), consumer, 5))
    gains = refit._gains(jnp.asarray(mask), consumer, 5)
    losses = refit._losses(jnp.asarray(mask), consumer, 5)
    for channel in range(10):
        other = mask.copy()
        other[channel] = not mask[channel]
        change = float(refit_error(jnp.asarray(other), consumer, int(other.sum()))) - here
        predicted = losses[channel // 2] if mask[channel] else -gains[channel]
        assert float(predicted) == pytest.approx(change, rel=1e-3)


def test_swaps_lower_the_error_to_near_the_optimum():
    ratios = []
    for seed in range(5):
        _, consumer = layer(seed)
        every = [np.isin(np.arange(10), c) for c in itertools.combinations(range(10), 4)]
        errors = jax.lax.map(
            lambda m, c=consumer: refit_error(m, c, 4), jnp.asarray(np.array(every))
        )
        start = jnp.arange(10) < 4
        mask, error = refit.refit_swaps(start, [consumer], 4, 16)
        assert int(mask.sum()) == 4
        assert float(error) <= float(refit_error(start, consumer, 4))
        assert float(error) == pytest.approx(float(refit_error(mask, consumer, 4)), rel=1e-4)
        unmoved, _ = refit.refit_swaps(start, [consumer], 4, 0)
        assert np.array_equal(unmoved, start)
        ratios.append(float(error) / float(errors.min()))
    assert max(ratios) < 1.2 and sum(r < 1.0001 for r in ratios) >= 4


def test_search_with_reconstruction_reports_both_errors():
    consumers = {f"g{i}": [layer(i)[1], layer(i + 9)[1]._replace(weight=0.5)] for i in range(2)}
    grams = {
        name: sum(
            c.weight
            * jnp.einsum(
                "oci,cidj,odj->cd",
                c.kernel.reshape(6, 10, 3),
                c.hessian.reshape(10, 3, 10, 3),
                c.kernel.reshape(6, 10, 3),
            )
            for c in group
        )
        for name, group in consumers.items()
    }
    keep = {"g0": 4, "g1": 10}
    config = SearchConfig(reconstruction=True, population=32, generations=20)
    found = search_groups(grams, keep, jax.random.key(0), config, consumers)
    for name, group in consumers.items():
        mask = found.masks[name].astype(bool)
        assert int(mask.sum()) == keep[name]
        total = float(sum(c.weight * refit_error(mask, c, keep[name]) for c in group))
        assert found.refit_errors[name] == pytest.approx(total, rel=1e-3, abs=1e-4)
        assert found.refit_errors[name] <= found.refit_errors_before[name] + 1e-6
        # Free kernels explain more than the old ones.
        assert found.refit_errors[name] <= found.errors[name] + 1e-6
    with pytest.raises(ValueError, match="no consumers given for g1"):
        search_groups(grams, keep, jax.random.key(0), config, {"g0": consumers["g0"]})
