from __future__ import annotations

import jax
import numpy as np
import pytest
from problems import brute_force, error, trained_gram

from jaxprune.search import SearchConfig, greedy_elimination, run, search_groups
from jaxprune.search.decoder import algorithm_names

QUICK = SearchConfig(population=32, generations=15, polish_steps=20)


@pytest.mark.parametrize(("channels", "keep"), [(9, 4), (16, 5), (16, 8), (16, 12)])
def test_plain_search_finds_the_optimum(channels, keep):
    gram = trained_gram(channels, keep)
    seeds = [f"seed{i}" for i in range(100)]
    found = search_groups(
        dict.fromkeys(seeds, gram),
        dict.fromkeys(seeds, keep),
        jax.random.key(1),
        SearchConfig(polish=False),
    )
    best = brute_force(gram, keep)
    assert sum(found.errors[s] <= best * (1 + 1e-6) for s in seeds) >= 95


def test_default_is_at_least_as_good_as_greedy_elimination():
    grams = {f"{c}/{seed}": trained_gram(c, seed) for c in (32, 96) for seed in range(6)}
    kept = [0.1, 0.25, 0.5, 0.8] * 3
    keep = {n: int(len(g) * f) for (n, g), f in zip(grams.items(), kept, strict=True)}
    found = search_groups(grams, keep, jax.random.key(0))
    for name, gram in grams.items():
        greedy = error(greedy_elimination(gram, keep[name]), gram)
        assert found.errors[name] <= greedy * (1 + 1e-6)
        assert found.errors[name] == found.errors_polished[name] <= found.errors_plain[name]


def test_errors_and_history_agree_with_the_masks():
    gram = 1e-6 * trained_gram(40)
    found = search_groups({"g": gram}, {"g": 10}, jax.random.key(0), QUICK)
    mask = np.asarray(found.masks["g"])
    assert set(np.unique(mask)) == {0.0, 1.0} and mask.sum() == 10
    assert found.errors["g"] == pytest.approx(error(mask, gram), rel=1e-9)
    assert found.history["g"].shape == (15,)
    assert np.all(np.diff(found.history["g"]) <= 0)
    assert found.history["g"][-1] == pytest.approx(found.errors_plain["g"], rel=1e-4)


def test_result_depends_on_key_name_and_gram_alone():
    grams = {name: trained_gram(24, i) for i, name in enumerate("abc")}
    keep = {"a": 5, "b": 12, "c": 23}
    first = search_groups(grams, keep, jax.random.key(3), QUICK)
    again = search_groups(grams, keep, jax.random.key(3), QUICK)
    alone = search_groups({"b": grams["b"]}, keep, jax.random.key(3), QUICK)
    other = search_groups(grams, keep, jax.random.key(4), QUICK)
    for name in grams:
        assert np.array_equal(first.masks[name], again.masks[name])
        assert np.array_equal(first.history[name], again.history[name])
    assert np.array_equal(first.masks["b"], alone.masks["b"])
    assert any(not np.array_equal(first.history[n], other.history[n]) for n in grams)


def test_compiles_once_per_width():
    def grams(seed):
        return {f"{c}/{i}": trained_gram(c, seed + i) for c in (11, 13) for i in range(3)}

    config = SearchConfig(population=16, generations=3, polish_steps=3)
    before = run._search._cache_size()
    search_groups(grams(0), dict.fromkeys(grams(0), 4), jax.random.key(0), config)
    assert run._search._cache_size() == before + 2
    search_groups(grams(9), {n: 1 + i for i, n in enumerate(grams(0))}, jax.random.key(1), config)
    assert run._search._cache_size() == before + 2


def test_fitness_is_traced_as_often_for_many_generations(monkeypatch):
    counts = []

    def counting(masks, gram):
        counts.append(1)
        return layer_error(masks, gram)

    layer_error = run.layer_error
    monkeypatch.setattr(run, "layer_error", counting)
    traced = []
    for generations in (2, 40):
        counts.clear()
        config = SearchConfig(population=16, generations=generations, polish_steps=3)
        search_groups({"g": trained_gram(17)}, {"g": 4}, jax.random.key(0), config)
        traced.append(len(counts))
    assert traced[0] == traced[1] <= 4


@pytest.mark.parametrize("keep", [1, 9, 10])
def test_the_narrowest_and_the_widest_group(keep):
    gram = trained_gram(10)
    found = search_groups({"g": gram}, {"g": keep}, jax.random.key(0), QUICK)
    assert float(found.masks["g"].sum()) == keep
    assert found.errors["g"] == pytest.approx(brute_force(gram, keep), rel=1e-5, abs=1e-9)


def test_options_reach_the_search():
    gram = trained_gram(30, 1)

    def errors(**options):
        config = SearchConfig(population=16, generations=4, polish=False, **options)
        return search_groups({"g": gram}, {"g": 9}, jax.random.key(0), config).errors["g"]

    greedy = error(greedy_elimination(gram, 9), gram)
    assert errors(seeds="heuristic") <= greedy * (1 + 1e-6) < errors()
    top = np.isin(np.arange(30), np.argsort(-np.diagonal(gram))[:9])
    blockwise = SearchConfig(hessian="block_diagonal")
    found = search_groups({"g": gram}, {"g": 9}, jax.random.key(0), blockwise)
    assert np.array_equal(np.asarray(found.masks["g"]) > 0, top)


@pytest.mark.parametrize("name", ["SimpleGA", "CMA_ES", "LM_MA_ES"])
def test_any_evosax_algorithm_runs_through_the_decoder(name):
    gram = trained_gram(10)
    config = SearchConfig(algorithm=name, population=16, generations=30, polish=False)
    found = search_groups({"a": gram, "b": gram}, {"a": 4, "b": 7}, jax.random.key(0), config)
    for group, keep in (("a", 4), ("b", 7)):
        assert float(found.masks[group].sum()) == keep
        assert found.history[group][-1] == pytest.approx(found.errors[group], rel=1e-4)
        assert found.errors[group] <= 1.3 * brute_force(gram, keep)
    assert name in algorithm_names()


@pytest.mark.parametrize(
    ("gram", "keep", "message"),
    [
        (np.full((4, 4), np.nan), {"conv1": 2}, "conv1 holds NaN or infinity"),
        (np.diag([1, 2, np.inf]), {"conv1": 2}, "conv1 holds NaN or infinity"),
        (np.ones((4, 3)), {"conv1": 2}, r"conv1: shape \(4, 3\)"),
        (np.eye(4), {"conv1": 5}, "conv1: cannot keep 5 of 4"),
        (np.eye(4), {"conv1": 0}, "conv1: cannot keep 0 of 4"),
        (np.eye(4), {}, "given for conv1"),
    ],
)
def test_bad_groups_are_named(gram, keep, message):
    with pytest.raises(ValueError, match=message):
        search_groups({"conv1": gram}, keep, jax.random.key(0))


@pytest.mark.parametrize(
    "field",
    [
        {"algorithm": "Genetic"}, {"population": 1}, {"generations": 0}, {"elites": 1.0},
        {"crossover": 1.5}, {"swaps": -1}, {"temperature": 0.0}, {"patience": 0},
        {"hessian": "none"}, {"seeds": "l1"}, {"polish_steps": 0}, {"reconstruction_swaps": -1},
    ],
)  # fmt: skip
def test_bad_fields_are_named(field):
    with pytest.raises(ValueError, match=rf"search\.{next(iter(field))}: "):
        SearchConfig(**field)
