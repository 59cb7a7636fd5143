from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import brute_force, error, trained_gram

from jaxprune.search import (
    SearchConfig,
    bound,
    greedy_elimination,
    lower_bounds,
    search_groups,
    swap_descent,
)


def problems(channels):
    """Gram matrices with and without structure: of full and low rank, dead and twin channels."""
    rng = np.random.default_rng(channels)
    free = rng.normal(size=(channels, channels))
    low = rng.normal(size=(channels, 3))
    dead = trained_gram(channels, 1)
    dead[:2] = dead[:, :2] = 0
    twins = np.repeat(rng.normal(size=(channels, channels // 2)), 1, axis=1)
    twins[1] = twins[0]
    matrices = [trained_gram(channels), free @ free.T, low @ low.T, dead, twins @ twins.T]
    return {str(i): 10.0 ** (4 * i - 6) * matrix for i, matrix in enumerate(matrices)}


@pytest.mark.parametrize(("channels", "keep"), [(2, 1), (9, 1), (9, 4), (12, 7), (14, 3), (14, 13)])
def test_no_mask_falls_below(channels, keep):
    grams = problems(channels)
    bounds = lower_bounds(grams, dict.fromkeys(grams, keep))
    for name, gram in grams.items():
        optimum = brute_force(gram, keep)
        assert 0 <= bounds[name] <= optimum + 1e-12 * np.trace(gram)
    # Of two channels the constraints depend on each other, and the steps end at once.
    assert channels == 2 or bounds["0"] > 0.8 * brute_force(grams["0"], keep)


@pytest.mark.parametrize("keep", [1, 5, 9, 11])
def test_separable_problems_have_no_gap(keep):
    gram = np.diag(np.random.default_rng(keep).exponential(size=12) ** 2)
    found = lower_bounds({"g": gram}, {"g": keep})["g"]
    assert found == pytest.approx(np.sort(np.diagonal(gram))[: 12 - keep].sum(), rel=2e-3)


def test_any_multipliers_give_a_bound():
    gram = trained_gram(10)
    rng = np.random.default_rng(0)
    for scale in (0.0, 1e-3, 1.0, 1e3):
        for _ in range(5):
            assert bound.certified(gram, 4, scale * rng.normal(size=11)) <= brute_force(gram, 6)


def test_few_steps_are_valid_and_more_are_tighter():
    gram = trained_gram(14)
    found = [lower_bounds({"g": gram}, {"g": 7}, steps=steps)["g"] for steps in (3, 6, 20)]
    assert sorted(found) == found and found[0] < found[2] <= brute_force(gram, 7)


def test_beside_others_as_alone_and_one_compilation_per_width():
    grams = {f"{c}/{i}": trained_gram(c, i) for c in (10, 13) for i in range(3)}
    keep = {name: 3 + i for i, name in enumerate(grams)}
    before = bound._multipliers._cache_size()
    together = lower_bounds(grams, keep)
    again = lower_bounds(grams, dict.fromkeys(grams, 4))
    assert bound._multipliers._cache_size() == before + 2
    assert together != again
    for name in grams:
        alone = lower_bounds({name: grams[name]}, keep)[name]
        assert alone == pytest.approx(together[name], rel=1e-5)


def test_single_and_double_precision_agree():
    gram = trained_gram(24)
    single = lower_bounds({"g": gram}, {"g": 12})["g"]
    with jax.enable_x64(True):
        assert jnp.zeros(()).dtype == np.float64
        double = lower_bounds({"g": gram}, {"g": 12})["g"]
    assert single == pytest.approx(double, rel=2e-3)
    assert single > 0.8 * error(swap_descent(gram, greedy_elimination(gram, 12)), gram)


def test_search_carries_the_gap():
    gram = trained_gram(14)
    keep = {"a": 7, "whole": 14}
    config = SearchConfig(population=32, generations=20, polish_steps=20)
    found = search_groups(dict.fromkeys(keep, gram), keep, jax.random.key(0), config)
    assert found.bounds["a"] <= brute_force(gram, 7) <= found.errors["a"]
    assert found.gaps["a"] == pytest.approx(1 - found.bounds["a"] / found.errors["a"])
    assert found.bounds["whole"] == found.errors["whole"] == found.gaps["whole"] == 0


def test_search_without_a_bound():
    config = SearchConfig(population=8, generations=1, polish=False, bound=False)
    found = search_groups({"a": trained_gram(9)}, {"a": 4}, jax.random.key(0), config)
    assert found.bounds == found.gaps == {}
