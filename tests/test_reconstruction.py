"""Fits for every width from one factor, against dense normal equations in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import reconstruction
from jaxprune.reconstruction import Nested, Ranked, least_squares
from jaxprune.statistics.moments import Moments, moments
from jaxprune.statistics.outlets import Outlet

UNITS, TAPS, OUTPUTS = 9, 2, 4


def layer(path):
    """A consumer of random statistics, whose target is not what it gives itself."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, UNITS * TAPS)) @ rng.normal(size=(UNITS * TAPS,) * 2) + 1
    y = np.tanh(x @ rng.normal(size=(UNITS * TAPS, OUTPUTS)))
    kernel = rng.normal(size=(UNITS * TAPS, OUTPUTS))
    return Moments(
        None, Outlet(path), TAPS, kernel, x.mean(0), x.T @ x / 200, y.mean(0), x.T @ y / 200,
        np.square(y).mean(0), 1.0,
    )  # fmt: skip


@pytest.mark.parametrize("path", ["bias", None])
def test_one_factor_fits_every_width_of_an_order(path, monkeypatch):
    one = layer(path)
    order = np.random.default_rng(1).permutation(UNITS)
    monkeypatch.setattr(reconstruction, "DAMPING", 0.3)
    nested = Nested(one, order)
    second, cross, power = one.second, one.cross, one.second.diagonal()
    if path:
        second = second - np.outer(one.mean, one.mean)
        cross = cross - np.outer(one.mean, one.target)
        power = second.diagonal()
    for width in range(1, UNITS + 1):
        kept = np.sort(order[:width])
        rows = (kept[:, None] * TAPS + np.arange(TAPS)).ravel()
        ridge = 0.3 * power.mean() * np.eye(len(rows))
        kernel = np.linalg.solve(
            second[np.ix_(rows, rows)] + ridge, cross[rows] + ridge @ one.kernel[rows]
        )
        fit = nested(width)
        np.testing.assert_allclose(fit.kernel, kernel, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(fit.shift + fit.left, one.target - one.mean[rows] @ kernel)
        assert fit.shift.any() == (path is not None)
        for found, wanted in zip(fit, least_squares(one, kept), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-10)


def test_eigenvalues_below_zero_are_damped():
    """The rows 0 and 1 are one but for rounding, which is larger than the damping."""
    one = layer("bias")
    second = one.second.copy()
    second[1], second[:, 1] = second[0], second[:, 0]
    second[1, 1] = second[0, 0] * (1 - 1e-3)
    mean = one.mean.copy()
    mean[1] = mean[0]
    one = one._replace(second=second, mean=mean)
    covariance = second - np.outer(mean, mean)
    lowest = np.linalg.eigvalsh(covariance)[0]
    assert -lowest > reconstruction.DAMPING * np.diagonal(covariance).mean()
    whole = np.arange(UNITS)
    fit = least_squares(one, whole)
    assert np.isfinite(fit.kernel).all()
    np.testing.assert_allclose(Nested(one, whole)(UNITS).kernel, fit.kernel, rtol=1e-6)


def test_a_new_width_compiles_nothing(caplog):
    rng = np.random.default_rng(0)
    shapes = {"a": (5, 12), "b": (12, 11), "c": (11, 3)}
    variables = {n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in shapes.items()}

    def fn(v, x):
        return jax.nn.relu(jax.nn.relu(x @ v["a"]) @ v["b"]) @ v["c"]

    x = jnp.asarray(rng.normal(size=(64, 5)), jnp.float32)
    graph = jp.trace(fn, variables, x[:1])
    layers = moments(jp.Problem(graph, fn, variables, [x], jp.Budget()), positions=None)
    orders = {name: rng.permutation(graph.groups[name].size) for name in graph.names}
    network = Ranked(graph, variables, layers, orders)
    network(graph.sizes)

    with jax.log_compiles(), caplog.at_level("WARNING", "jax"):
        made = [network(np.array([width, width - 1])) for width in range(2, 12)]
    assert "Compiling" not in caplog.text

    found, masks = made[3]
    for (name, order), width in zip(orders.items(), (5, 4), strict=True):
        assert np.flatnonzero(masks[name]).tolist() == sorted(order[:width])
        kept, reader = np.sort(order[:width]), {"a[1]": "b", "b[1]": "c"}[name]
        wanted = least_squares(layers[name][0], kept).kernel
        np.testing.assert_allclose(found[reader][kept], wanted, rtol=1e-5, atol=1e-6)
        (one,) = layers[name]
        missed = one.target - one.mean[one.rows(kept)] @ wanted
        left = network.unplaced([5, 4])[name]
        assert left == pytest.approx(np.linalg.norm(missed) / np.sqrt(one.power.sum()), rel=1e-4)
    assert network.unplaced(graph.sizes) == {}
