from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from problems import error, trained_gram

from jaxprune.search import diagonal_ranking, greedy_elimination, swap_descent, tabu_search


def plain_elimination(gram, keep):
    mask = np.ones(len(gram), bool)
    while mask.sum() > keep:
        trials = [
            (error(np.where(np.arange(len(gram)) == c, False, mask), gram), c)
            for c in np.flatnonzero(mask)
        ]
        mask[min(trials)[1]] = False
    return mask


@pytest.mark.parametrize("keep", [1, 7, 23, 24])
def test_elimination_equals_trying_every_channel(keep):
    gram = trained_gram(24, keep)
    mask = greedy_elimination(jnp.asarray(gram), keep)
    assert np.asarray(mask).tolist() == plain_elimination(gram, keep).tolist()


def test_elimination_does_not_compile_per_keep():
    gram = jnp.asarray(trained_gram(24))
    greedy_elimination(gram, 3)
    before = greedy_elimination._cache_size()
    assert [int(greedy_elimination(gram, k).sum()) for k in (1, 5, 24)] == [1, 5, 24]
    assert greedy_elimination._cache_size() == before


def test_ranking_keeps_the_largest_with_ties_to_the_first():
    gram = jnp.diag(jnp.array([1.0, 3.0, 2.0, 3.0, 1.0]))
    assert diagonal_ranking(gram, 4).tolist() == [True, True, True, True, False]


@pytest.mark.parametrize("keep", [1, 8, 20, 31])
def test_descent_ends_where_no_exchange_helps(keep):
    gram = trained_gram(32, keep)
    start = np.arange(32) < keep
    mask = np.array(swap_descent(jnp.asarray(gram), jnp.asarray(start)))
    reached = error(mask, gram)
    assert mask.sum() == keep and reached <= error(start, gram)
    for i in np.flatnonzero(~mask):
        for j in np.flatnonzero(mask):
            other = mask.copy()
            other[i], other[j] = True, False
            assert error(other, gram) >= reached * (1 - 1e-5)


@pytest.mark.parametrize("keep", [1, 2, 12, 31, 32])
def test_tabu_never_loses_and_keeps_the_number(keep):
    gram = trained_gram(32, 5)
    start = np.arange(32) < keep
    mask = np.asarray(tabu_search(jnp.asarray(gram), jnp.asarray(start), 60))
    assert mask.sum() == keep
    assert error(mask, gram) <= error(start, gram)


def test_tabu_leaves_local_optima():
    lower = 0
    for seed in range(8):
        gram = jnp.asarray(trained_gram(48, seed))
        descended = swap_descent(gram, greedy_elimination(gram, 24))
        further = tabu_search(gram, descended, 200)
        assert error(further, gram) <= error(descended, gram) * (1 + 1e-6)
        lower += error(further, gram) < error(descended, gram) * (1 - 1e-5)
    assert lower >= 1
