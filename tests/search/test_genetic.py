from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evosax.algorithms.population_based.base import PopulationBasedAlgorithm
from problems import trained_gram

from jaxprune.search import genetic, layer_error
from jaxprune.search.genetic import GeneticAlgorithm

KEYS = jax.random.split(jax.random.key(0), 4)


def population(keep, individuals=64, channels=20, seed=0):
    algorithm = GeneticAlgorithm(individuals, jnp.zeros(channels), elites=0.1, swaps=1)
    key = jax.random.key(seed)
    return algorithm, algorithm.first_population(key, genetic.Params(keep))


@pytest.mark.parametrize("keep", [1, 6, 19, 20])
def test_operators_keep_the_number_of_ones(keep):
    _, mothers = population(keep)
    _, fathers = population(keep, seed=1)
    words = jax.random.bits(KEYS[0], (4, 64))
    children = genetic.crossover(mothers, fathers, words[0], words[1] % 2 == 0)
    mutants = genetic.swap_mutation(children, keep, words[2], words[3])
    for masks in (mothers, fathers, children, mutants):
        assert np.all(np.sum(masks, axis=1) == keep)
    moved = np.sum(np.asarray(children) != np.asarray(mutants), axis=1)
    assert np.all(moved == (2 if keep < 20 else 0))


def test_children_take_genes_of_both_parents_only():
    _, mothers = population(9, individuals=256)
    _, fathers = population(9, individuals=256, seed=1)
    words = jax.random.bits(KEYS[0], (256,))
    children = genetic.crossover(mothers, fathers, words, jnp.ones(256, bool))
    same = mothers == fathers
    assert np.array_equal(children[same], mothers[same])
    differ = ~np.asarray(same)
    share = np.mean(np.asarray(children == fathers)[differ])
    assert 0.45 < share < 0.55
    alone = genetic.crossover(mothers, fathers, words, jnp.zeros(256, bool))
    assert np.array_equal(alone, mothers)


def test_mutation_reaches_every_channel_alike():
    masks = jnp.broadcast_to(jnp.arange(10) < 4, (6000, 10))
    words = jax.random.bits(KEYS[1], (2, 6000))
    changed = np.sum(np.asarray(genetic.swap_mutation(masks, 4, words[0], words[1]) != masks), 0)
    np.testing.assert_allclose(changed[:4], 1500, rtol=0.1)
    np.testing.assert_allclose(changed[4:], 1000, rtol=0.1)


def test_wheel_stops_in_proportion():
    errors = jnp.array([1.0, 2.0, 4.0])
    wheel = genetic.roulette_wheel(errors, 0.5)
    stops = genetic.spin(wheel, jax.random.bits(KEYS[2], (20000,)))
    wanted = np.exp(-np.asarray(errors) / (0.5 * np.std(errors)))
    found = np.bincount(stops, minlength=3) / 20000
    np.testing.assert_allclose(found, wanted / wanted.sum(), atol=0.01)
    # A population of equals: any of them, and no division by zero.
    equal = genetic.spin(genetic.roulette_wheel(jnp.ones(4), 0.5), jax.random.bits(KEYS[2], (99,)))
    assert set(np.asarray(equal).tolist()) == {0, 1, 2, 3}


def test_first_population_is_uniform_over_masks():
    _, masks = population(5, individuals=4000)
    np.testing.assert_allclose(np.mean(masks, axis=0), 0.25, atol=0.03)


def test_it_is_an_evosax_algorithm_with_elites():
    gram = jnp.asarray(trained_gram(20))
    algorithm, masks = population(6)
    assert isinstance(algorithm, PopulationBasedAlgorithm)
    params = genetic.Params(6)
    state = algorithm.init(KEYS[0], masks, layer_error(masks, gram), params)
    for key in KEYS:
        best = np.asarray(state.population)[np.argsort(state.fitness, stable=True)]
        masks, state = algorithm.ask(key, state, params)
        assert np.array_equal(masks[: algorithm.num_elites], best[: algorithm.num_elites])
        state, _ = algorithm.tell(key, masks, layer_error(masks, gram), state, params)
    assert float(state.best_fitness) == float(jnp.min(state.fitness))
    assert float(layer_error(state.best_solution, gram)) == pytest.approx(float(state.best_fitness))


def test_patience_stops_and_history_never_rises():
    gram = jnp.asarray(trained_gram(20))
    algorithm, _ = population(6)
    calls = []

    def evaluate(masks):
        jax.debug.callback(lambda: calls.append(1))
        return layer_error(masks, gram)

    run = partial(genetic.evolve, algorithm, genetic.Params(6), evaluate, KEYS[0], generations=200)
    history = np.asarray(jax.jit(lambda: run(patience=10))().history)
    jax.effects_barrier()
    assert len(calls) < 150
    assert np.all(np.diff(history) <= 0) and history.shape == (200,)
    assert history[-1] == history[len(calls)]


def test_a_seed_is_never_lost():
    gram = jnp.asarray(trained_gram(20))
    algorithm, _ = population(6)
    seed = jnp.arange(20) < 6
    evaluate = partial(layer_error, gram=gram)
    run = partial(genetic.evolve, algorithm, genetic.Params(6), evaluate, KEYS[0], generations=1)
    assert float(evaluate(run(seeds=seed[None]).best)) <= float(evaluate(seed))
