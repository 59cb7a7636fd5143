"""CaP's closed forms against dense NumPy in float64, and its search for widths."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import reconstruction
from jaxprune.methods.compensation import Compensation, compensated, explained, ranking
from jaxprune.methods.widths import adjusted
from jaxprune.statistics.moments import Moments
from jaxprune.statistics.outlets import Outlet

UNITS, TAPS, OUTPUTS = 8, 3, 5


def layer(seed=0):
    """A consumer of random statistics, whose target is what it gives itself."""
    rng = np.random.default_rng(seed)
    size = UNITS * TAPS
    mixed = rng.normal(size=(size, size)) * np.repeat(rng.uniform(0.2, 2, UNITS), TAPS)
    mean, kernel = rng.normal(size=size), rng.normal(size=(size, OUTPUTS))
    second = mixed.T @ mixed / size + np.outer(mean, mean)
    return Moments(
        None, Outlet("bias"), TAPS, kernel, mean, second, mean @ kernel, second @ kernel,
        np.sum(kernel * (second @ kernel), axis=0), 1.0,
    )  # fmt: skip


def dense(one, kept):
    """`W Σ_{:,s} Σ_ss⁻¹` and the part of the variance that it explains, straight from the paper."""
    sigma = one.second - np.outer(one.mean, one.mean)
    rows = one.rows(np.asarray(kept))
    inside = sigma[np.ix_(rows, rows)]
    kernel = np.linalg.inv(inside) @ sigma[rows] @ one.kernel
    whole = np.trace(one.kernel.T @ sigma @ one.kernel)
    return rows, kernel, sigma, np.trace(kernel.T @ inside @ kernel) / whole


@pytest.fixture
def undamped(monkeypatch):
    monkeypatch.setattr(reconstruction, "DAMPING", 0.0)


@pytest.mark.parametrize("kept", [[0, 3], [1, 2, 5, 7]])
def test_the_compensation_is_the_closed_form(undamped, kept):
    one = layer()
    rows, kernel, sigma, part = dense(one, kept)
    fit = compensated(one, np.array(kept), "none")
    np.testing.assert_allclose(fit.kernel, kernel, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(fit.shift, one.mean @ one.kernel - one.mean[rows] @ kernel)
    assert explained(one, np.array(kept)) == pytest.approx(part, rel=1e-6)

    before = np.diagonal(one.kernel.T @ sigma @ one.kernel)
    inside = sigma[np.ix_(rows, rows)]
    full = compensated(one, np.array(kept), "full")
    np.testing.assert_allclose(np.diagonal(full.kernel.T @ inside @ full.kernel), before)
    given = one.mean[rows] @ full.kernel + full.shift
    np.testing.assert_allclose(given, one.mean @ one.kernel)
    # The shrunk factor lies between none and the full one.
    ratios = [
        np.linalg.norm(compensated(one, np.array(kept), how).kernel, axis=0)
        for how in ("none", "shrunk", "full")
    ]
    assert (ratios[0] < ratios[1]).all() and (ratios[1] < ratios[2]).all()


@pytest.mark.parametrize("layers", [[layer(1)], [layer(2), layer(3)]])
def test_the_ranking_is_greedy_by_explained_variance(undamped, layers):
    order = ranking(layers).tolist()
    assert sorted(order) == list(range(UNITS))
    chosen: list[int] = []
    for unit in order:
        scores = {
            u: sum(dense(one, sorted([*chosen, u]))[3] for one in layers)
            for u in range(UNITS) if u not in chosen
        }  # fmt: skip
        assert unit == max(scores, key=scores.get)
        chosen.append(unit)


def test_a_constant_unit_comes_last():
    one = layer()
    rows = one.rows([4])
    second = one.second.copy()
    second[rows] = np.outer(one.mean[rows], one.mean)
    second[:, rows] = second[rows].T
    one = one._replace(second=second, cross=second @ one.kernel)
    assert ranking([one])[-1] == 4


@pytest.fixture(scope="module")
def problem():
    """A linear layer of ten hidden units that are mixtures of four, and one that reads them."""
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(6, 4))
    variables = {
        "hidden": jnp.asarray(basis @ rng.normal(size=(4, 10)), jnp.float32),
        "next": jnp.asarray(rng.normal(size=(10, 9)) / 3, jnp.float32),
        "next_bias": jnp.zeros(9),
        "out": jnp.asarray(rng.normal(size=(9, 3)), jnp.float32),
    }

    def fn(v, x):
        return jnp.tanh(x @ v["hidden"] @ v["next"] + v["next_bias"][None]) @ v["out"]

    images = jnp.asarray(rng.normal(size=(256, 6)), jnp.float32)
    labels = jnp.argmax(fn(variables, images), axis=-1)
    batches = [(images[i : i + 64], labels[i : i + 64]) for i in range(0, 256, 64)]
    graph = jp.trace(fn, variables, images[:1])
    return jp.Problem(graph, fn, variables, batches, jp.Budget("params/1.4"))


def test_four_units_carry_what_ten_of_rank_four_did(problem):
    widths = {"hidden[1]": 4, "next[1]": 9}
    fixed = jp.Problem(**{**vars(problem), "budget": jp.Budget(widths=widths)})
    found = Compensation(rescale="none").prune(fixed)
    x = problem.batches[0][0]
    now = problem.graph.masked(problem.fn)(found.variables, found.masks, x)
    np.testing.assert_allclose(now, problem.fn(problem.variables, x), atol=1e-2)
    assert found.figures["explained"]["hidden[1]"] == pytest.approx([1.0], abs=1e-3)


def test_the_search_meets_the_budget_under_a_floor_that_falls(problem):
    found = Compensation().prune(problem)
    graph = problem.graph
    widths = np.array(list(graph.widths(found.masks).values()))
    assert problem.budget.fits(graph, widths)
    assert graph.widths(found.masks)["hidden[1]"] < 10
    floors = list(found.figures["floor"].values())
    assert floors == sorted(floors, reverse=True)


def test_widths_are_moved_to_the_budget(problem):
    graph, budget = problem.graph, problem.budget
    for start in (graph.sizes, np.array([1, 1]), np.array([10, 1])):
        widths = adjusted(graph, budget, start)
        assert budget.fits(graph, widths)
        for unit in np.eye(2, dtype=int):
            if (widths + unit <= graph.sizes).all():
                assert not budget.fits(graph, widths + unit)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="rescale is one of full, shrunk, none"):
        Compensation(rescale="half")
    with pytest.raises(ValueError, match="steps must be at least 1"):
        Compensation(steps=0)
