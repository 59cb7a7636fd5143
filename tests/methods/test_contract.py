"""The one contract that every method has to keep."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import models
from jaxprune.problem import cross_entropy
from jaxprune.search import SearchConfig
from jaxprune.train.memory import MemoryRun

PROTECTED = "params/conv2_1/kernel"
FIXED = "params/classifier/kernel"


@pytest.fixture(scope="module")
def case():
    widths = {
        "conv1_1": 8,
        "conv1_2": 8,
        "conv2_1": 12,
        "conv2_2": 12,
        "conv3_1": 16,
        "conv3_2": 16,
    }
    module = models.build("vgg_small", num_classes=4, input_shape=(8, 8, 1), widths=widths)
    fn, variables = jp.functional(module, models.init(module, (8, 8, 1), jax.random.key(0)))
    rng = np.random.default_rng(0)
    batches = [
        (
            jnp.asarray(rng.normal(size=(16, 8, 8, 1)), jnp.float32),
            jnp.asarray(rng.integers(0, 4, 16)),
        )
        for _ in range(2)
    ]
    # Scales of one BatchNorm are all 1 before training: nothing could be ranked by them.
    variables = jax.tree_util.tree_map_with_path(
        lambda path, x: (
            jnp.asarray(rng.uniform(0.5, 1.5, x.shape), x.dtype) if path[-1].key == "scale" else x
        ),
        variables,
    )
    graph = jp.trace(fn, variables, batches[0][0][:1], protect=[PROTECTED])
    return graph, fn, variables, batches


def run(case, name, budget, seed=0):
    graph, fn, variables, batches = case
    options = {}
    if name == "genetic":
        options["search"] = SearchConfig(population=16, generations=10)
    if name == "group_fisher":
        options["interval"] = 1
    method = jp.methods[name](**options)
    key = jax.random.key(seed)
    run = MemoryRun(fn, batches, cross_entropy)
    return method.prune(jp.Problem(graph, fn, variables, batches, budget, key=key, run=run))


@pytest.mark.parametrize("name", list(jp.methods))
def test_contract(case, name):
    graph, fn, variables, batches = case
    budget = jp.Budget("params/3,macs/2")
    selection = run(case, name, budget)

    # The budget is kept, and at least one target nearly met.
    whole, left = graph.cost(), graph.cost(selection.masks)
    factors = {"params": whole.params / left.params, "macs": whole.macs / left.macs}
    assert factors["params"] >= 3 and factors["macs"] >= 2
    one_unit = max(
        1
        - graph.costs(graph.sizes - np.eye(len(graph.sizes), dtype=int)[g])[q]
        / graph.costs(graph.sizes)[q]
        for g in range(len(graph.sizes))
        for q in ("params", "macs")
    )
    assert min(factors["params"] / 3, factors["macs"] / 2) < 1 + max(0.02, 6 * one_unit)

    # The masks are masks, and they slice; what is protected or fixed is not touched.
    assert selection.masks.keys() == graph.groups.keys()
    pruned = graph.slice(selection.variables, selection.masks)
    for path in (PROTECTED, FIXED):
        collection, *rest = path.split("/")
        before, after = variables[collection], pruned.variables[collection]
        for key in rest:
            before, after = before[key], after[key]
        assert before.shape[-1] == after.shape[-1]
    assert PROTECTED + "[3]" not in pruned.indices and PROTECTED + "[2]" not in pruned.indices
    images = batches[0][0]
    np.testing.assert_allclose(
        pruned.wrap(fn)(pruned.variables, images),
        graph.masked(fn)(selection.variables, selection.masks, images),
        atol=1e-4,
    )

    # The same key gives the same masks.
    again = run(case, name, budget)
    for group in graph.groups:
        np.testing.assert_array_equal(selection.masks[group], again.masks[group])


@pytest.mark.parametrize("name", list(jp.methods))
def test_given_widths_are_kept_to_the_unit(case, name):
    graph = case[0]
    widths = {group: 1 + i for i, group in enumerate(graph.groups)}
    selection = run(case, name, jp.Budget(widths=widths))
    assert graph.widths(selection.masks) == widths


def test_random_follows_its_key(case):
    masks = [run(case, "random", jp.Budget("params/2"), seed).masks for seed in (0, 1)]
    assert any(not np.array_equal(masks[0][g], masks[1][g]) for g in masks[0])


def test_a_target_beyond_reach_is_refused(case):
    for name in jp.methods:
        with pytest.raises(ValueError, match="beyond reach"):
            run(case, name, jp.Budget("params/100000"))
