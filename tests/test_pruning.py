"""`jp.prune` and the public names, on a plain function of a user's own."""

from __future__ import annotations

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.methods import Genetic
from jaxprune.search import SearchConfig


def network(variables, x):
    p = variables["params"]
    h = jax.nn.relu(x @ p["a"]["kernel"] + p["a"]["bias"])
    return jax.nn.relu(h @ p["b"]["kernel"]) @ p["c"]["kernel"]


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)

    def array(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    params = {
        "a": {"kernel": array(6, 16), "bias": array(16)},
        "b": {"kernel": array(16, 12)},
        "c": {"kernel": array(12, 3)},
    }
    batches = [(array(20, 6), jnp.asarray(rng.integers(0, 3, 20))) for _ in range(2)]
    return {"params": params}, batches


def prune(case, **changes):
    variables, batches = case
    options = {"budget": "params/2", "method": "greedy", "key": jax.random.key(0)}
    return jp.prune(network, variables, batches, **{**options, **changes})


def size(variables):
    return sum(x.size for x in jax.tree.leaves(variables["params"]))


def test_one_call(case):
    variables, batches = case
    pruned = prune(case)
    assert size(variables) / size(pruned.variables) >= 2
    logits = pruned.wrap(network)(pruned.variables, batches[0][0])
    assert logits.shape == (20, 3)
    assert jp.cost(pruned.wrap(network), pruned.variables, batches[0][0]).params == size(
        pruned.variables
    )


def test_the_default_is_the_genetic_search(case):
    variables, batches = case
    default = jp.prune(network, variables, batches, budget="params/2", key=jax.random.key(1))
    named = prune(case, method="genetic", key=jax.random.key(1))
    for a, b in zip(
        jax.tree.leaves(default.variables), jax.tree.leaves(named.variables), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_a_method_of_ones_own(case):
    def drop_last(problem):
        return jp.Selection(problem.graph.masks({"a": [15], "b": [11]}), problem.variables)

    pruned = prune(case, method=drop_last)
    assert pruned.widths == {"params/a/kernel[1]": 15, "params/b/kernel[1]": 11}


def test_loss_and_score_of_ones_own(case):
    variables, batches = case
    seen = []

    def loss(outputs, batch):
        seen.append("loss")
        return jnp.mean(jnp.square(outputs - jax.nn.one_hot(batch["label"], 3)))

    def score(outputs, batch):
        seen.append("score")
        return -loss(outputs, batch)

    mappings = [{"image": x, "label": y} for x, y in batches]
    pruned = jp.prune(
        network, variables, mappings, budget="params/2", method="fisher", loss=loss, score=score,
        key=jax.random.key(0),
    )  # fmt: skip
    assert size(variables) / size(pruned.variables) >= 2 and "loss" in seen


def test_saved_and_loaded_in_another_process(case, tmp_path):
    _, batches = case
    pruned = prune(case)
    jp.save(tmp_path / "small", pruned)
    np.save(tmp_path / "x.npy", batches[0][0])
    code = """
import jax, numpy as np, jaxprune as jp

def network(variables, x):
    p = variables["params"]
    h = jax.nn.relu(x @ p["a"]["kernel"] + p["a"]["bias"])
    return jax.nn.relu(h @ p["b"]["kernel"]) @ p["c"]["kernel"]

pruned = jp.load("small")
np.save("y.npy", pruned.wrap(network)(pruned.variables, np.load("x.npy")))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=tmp_path)
    expected = pruned.wrap(network)(pruned.variables, batches[0][0])
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-5, atol=1e-5)
    spec = json.loads((tmp_path / "small" / "spec.json").read_text())
    assert any("params/a/kernel[1]" in str(value) for value in spec.values())


def test_reconstruction_lowers_the_error_of_the_layer(case):
    variables, batches = case
    graph = jp.trace(network, variables, batches[0][0][:1])
    widths = {"params/a/kernel[1]": 8, "params/b/kernel[1]": 12}

    def error(**options):
        method = Genetic(SearchConfig(population=32, generations=30, **options))
        budget = jp.Budget(widths=widths)
        found = method.prune(jp.Problem(graph, network, variables, batches, budget))
        pruned = graph.slice(found.variables, found.masks)
        x = jnp.concatenate([b[0] for b in batches])

        def read_by_b(variables, x):
            p = variables["params"]
            return jax.nn.relu(x @ p["a"]["kernel"] + p["a"]["bias"]) @ p["b"]["kernel"]

        return float(jnp.mean(jnp.square(read_by_b(pruned.variables, x) - read_by_b(variables, x))))

    assert error(reconstruction=True) < 0.9 * error()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "magic"}, "unknown method 'magic'; there are genetic"),
        ({"budget": "params/0.5"}, "at least 1"),
        ({"budget": "params/10000"}, "beyond reach"),
        ({"budget": "weights/2"}, "unknown quantity 'weights'"),
        ({"protect": ["d"]}, "pattern 'd' matches nothing; "),
        ({"budget": {"params/a/kernel[1]": 4}}, r"params/b/kernel\[1\]"),
        ({"budget": {"params/a/kernel[1]": 4, "params/b/kernel[1]": 0}}, r"params/b/kernel\[1\]"),
    ],
)
def test_bad_input_is_named(case, changes, message):
    with pytest.raises(ValueError, match=message):
        prune(case, **changes)


def test_empty_or_single_use_batches(case):
    variables, batches = case
    options = {"budget": "params/2", "key": jax.random.key(0)}
    with pytest.raises(ValueError, match="batches is empty"):
        jp.prune(network, variables, [], **options)
    with pytest.raises(ValueError, match="pass a list, not an iterator"):
        jp.prune(network, variables, iter(batches), **options)


def test_broken_weights_are_named(case):
    variables, batches = case
    broken = {"params": {**variables["params"], "b": {"kernel": jnp.full((16, 12), jnp.nan)}}}
    with pytest.raises(ValueError, match="params/b/kernel holds NaN"):
        jp.prune(network, broken, batches, budget="params/2", key=jax.random.key(0))


def test_labels_are_asked_for_where_they_are_needed(case):
    variables, batches = case
    with pytest.raises(ValueError, match="labelled batches"):
        jp.prune(
            network, variables, [b[0] for b in batches], budget="params/2", method="taylor",
            key=jax.random.key(0),
        )  # fmt: skip
