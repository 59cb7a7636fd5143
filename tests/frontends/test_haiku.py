import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

hk = pytest.importorskip("haiku")

X = jax.random.normal(jax.random.key(0), (16, 4))


def net(x, dropout=False):
    x = jax.nn.relu(hk.Linear(8, name="hidden")(x))
    return hk.Linear(2, name="out")(hk.dropout(hk.next_rng_key(), 0.5, x) if dropout else x)


def pruned():
    transformed = hk.transform(net)
    fn, variables = jp.functional(transformed, transformed.init(jax.random.key(0), X))
    graph = jp.trace(fn, variables, X)
    assert list(graph.groups) == ["params/hidden/w[1]"]
    return graph.slice(variables, graph.masks({"hidden": [1, 2, 6]})), fn


def test_a_transform_without_state_takes_keys_as_before():
    network, fn = pruned()
    small = network.module()
    assert isinstance(small, hk.Transformed)
    params = network.variables["params"]
    key = jax.random.key(1)
    np.testing.assert_allclose(
        small.apply(params, None, X), network.wrap(fn)(network.variables, X), rtol=1e-6
    )
    first = small.apply(params, key, X, dropout=True)
    np.testing.assert_array_equal(first, small.apply(params, key, X, dropout=True))
    assert not np.allclose(first, small.apply(params, None, X))


def test_init_gives_fresh_parameters_of_the_pruned_shapes():
    network, _ = pruned()
    fresh = network.module().init(jax.random.key(5), X)
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, network.variables["params"])
    assert not np.allclose(fresh["hidden"]["w"], network.variables["params"]["hidden"]["w"])


def test_without_variables():
    with pytest.raises(ValueError, match=r"functional\(transformed, params\)"):
        jp.functional(hk.transform(net))
    with pytest.raises(ValueError, match=r"\(params, state\)"):
        jp.functional(hk.transform_with_state(net))


def test_a_transform_without_key_stays_one():
    transformed = hk.without_apply_rng(
        hk.transform(lambda x: hk.Linear(3, name="b")(jax.nn.relu(hk.Linear(8, name="a")(x))))
    )
    x = jnp.ones((2, 5))
    fn, variables = jp.functional(transformed, transformed.init(jax.random.key(0), x))
    graph = jp.trace(fn, variables, x)
    pruned = graph.slice(variables, graph.masks({"a": [0, 3]}))
    out = pruned.module().apply(pruned.variables["params"], x)
    np.testing.assert_allclose(out, pruned.wrap(fn)(pruned.variables, x), rtol=1e-6)


def test_the_state_is_asked_for():
    transformed = hk.transform_with_state(lambda x: hk.BatchNorm(True, True, 0.9)(x, True))
    params, _ = transformed.init(jax.random.key(0), jnp.ones((2, 5)))
    with pytest.raises(ValueError, match=r"\(params, state\)\) needs the state"):
        jp.functional(transformed, params)
