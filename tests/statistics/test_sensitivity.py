from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import masks as mask_ops
from jaxprune.problem import accuracy, cross_entropy
from jaxprune.statistics import evaluate_masks, sensitivity


def network(variables, x):
    p = variables["params"]
    return jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["b"]) @ p["c"]


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    shapes = {"a": (5, 10), "b": (10, 6), "c": (6, 3)}
    params = {n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in shapes.items()}
    batches = [
        (jnp.asarray(rng.normal(size=(8, 5)), jnp.float32), jnp.asarray(rng.integers(0, 3, 8)))
        for _ in range(3)
    ]
    variables = {"params": params}
    return jp.trace(network, variables, batches[0][0]), variables, batches


def problem(case, fn=network, **changes):
    graph, variables, batches = case
    return jp.Problem(
        graph, fn, variables, **{"batches": batches, "budget": jp.Budget(), **changes}
    )


def keep_first(graph):
    def choose(widths):
        return {
            name: (jnp.arange(group.size) < widths[name]).astype(jnp.float32)
            for name, group in graph.groups.items()
        }

    return choose


def test_curves_equal_a_loop(case):
    graph, variables, batches = case
    kept = (0.2, 0.5)
    curves = sensitivity(problem(case), keep_first(graph), kept)
    np.testing.assert_array_equal(curves.grid, [0.2, 0.5, 1.0])
    masked = graph.masked(network)
    for name, group in graph.groups.items():
        for i, fraction in enumerate(curves.grid):
            mask = (jnp.arange(group.size) < round(fraction * group.size)).astype(jnp.float32)
            masks = {**graph.full_masks(), name: mask}
            outputs = [(masked(variables, masks, b[0]), b) for b in batches]
            assert curves.loss[name][i] == pytest.approx(
                np.mean([cross_entropy(*o) for o in outputs]), rel=1e-5
            )
            assert curves.accuracy[name][i] == pytest.approx(
                np.mean([accuracy(*o) for o in outputs])
            )


def test_groups_that_are_not_measured_are_flat(case):
    graph, *_ = case
    first, second = graph.groups
    curves = sensitivity(problem(case), keep_first(graph), (0.2,), groups=[first])
    assert np.ptp(curves.loss[second]) == 0
    assert np.ptp(curves.loss[first]) > 0


def test_a_population_compiles_once(case):
    graph, *_ = case
    traces = []

    def counted(variables, x):
        traces.append(x.shape)
        return network(variables, x)

    def population(seed):
        rng = np.random.default_rng(seed)
        one = [
            {
                n: jnp.asarray(rng.integers(0, 2, g.size), jnp.float32)
                for n, g in graph.groups.items()
            }
            for _ in range(6)
        ]
        return mask_ops.stack(one)

    evaluate_masks(problem(case, counted), population(0))
    assert len(traces) == 1


def test_sums_over_batches_of_unequal_size(case):
    graph, _, batches = case
    whole = (jnp.concatenate([b[0] for b in batches]), jnp.concatenate([b[1] for b in batches]))
    uneven = [(whole[0][:4], whole[1][:4]), (whole[0][4:], whole[1][4:])]
    population = mask_ops.stack([graph.full_masks()] * 2)
    a = evaluate_masks(problem(case, batches=[whole]), population)
    b = evaluate_masks(problem(case, batches=uneven), population)
    for name in ("loss", "score"):
        np.testing.assert_allclose(a[name], b[name], rtol=1e-5)
