import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.problem import cross_entropy

eqx = pytest.importorskip("equinox")

X = jax.random.normal(jax.random.key(0), (16, 4))


def mlp():
    return eqx.nn.MLP(4, 2, width_size=8, depth=2, key=jax.random.key(1))


def pruned():
    fn, variables = jp.functional(mlp())
    graph = jp.trace(fn, variables, X[0])
    assert list(graph.groups) == ["params/layers/0/weight[0]", "params/layers/1/weight[0]"]
    return graph.slice(variables, graph.masks({"layers/0": [1, 2, 6], "layers/1": [0]}))


def test_the_smaller_module_is_a_pytree_that_trains():
    small = pruned().module()
    assert isinstance(small, eqx.Module)
    assert small.module.layers[1].weight.shape == (7, 5)
    optimizer = optax.adam(0.05)
    opt_state = optimizer.init(eqx.filter(small, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(small, opt_state):
        loss, gradients = eqx.filter_value_and_grad(
            lambda net: jnp.mean(jnp.square(jax.vmap(net)(X) - 1))
        )(small)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return eqx.apply_updates(small, updates), opt_state, loss

    losses = []
    for _ in range(30):
        small, opt_state, loss = step(small, opt_state)
        losses.append(loss)
    assert losses[-1] < losses[0] / 4


def test_calls_trace_once_whatever_the_weights():
    traces = []

    def activation(x):
        traces.append(x.shape)
        return jax.nn.relu(x)

    module = eqx.nn.MLP(4, 2, 8, 1, activation, key=jax.random.key(1))
    fn, variables = jp.functional(module)
    graph = jp.trace(fn, variables, X[0])
    small = graph.slice(variables, graph.full_masks()).module()
    small(X[0])
    before = len(traces)
    small(X[1])
    jax.tree.map(lambda leaf: leaf, small)(X[2])
    assert len(traces) == before


def test_prune_over_batches_of_a_module_for_one_example():
    module = mlp()
    fn, variables = jp.functional(module)
    network = jp.prune(
        jax.vmap(fn, (None, 0)), variables, [(X, jnp.arange(16) % 2)], budget="params/2",
        method="l1", loss=cross_entropy, key=jax.random.key(0),
    )  # fmt: skip
    small = network.module(fn)
    np.testing.assert_allclose(
        jax.vmap(small)(X), network.wrap(jax.vmap(fn, (None, 0)))(network.variables, X), atol=1e-6
    )


def test_inference_mode_and_keys_reach_the_layers():
    layers = [eqx.nn.Linear(4, 8, key=jax.random.key(0)), eqx.nn.Dropout(0.5),
              eqx.nn.Linear(8, 2, key=jax.random.key(1))]  # fmt: skip
    fn, variables = jp.functional(eqx.nn.Sequential(layers))
    graph = jp.trace(fn, variables, X[0])
    small = graph.slice(variables, graph.masks({"layers/0": [1]})).module()
    once, twice = (small(X[0], key=jax.random.key(k)) for k in (0, 1))
    assert not np.allclose(once, twice)
    quiet = eqx.nn.inference_mode(small)
    np.testing.assert_allclose(quiet(X[0]), quiet(X[0], key=jax.random.key(0)))


def test_what_cannot_be_called_and_what_is_no_state():
    class Data(eqx.Module):
        x: jax.Array

    with pytest.raises(TypeError, match=r"Data has no __call__.*eqx\.partition"):
        jp.functional(Data(X))
    with pytest.raises(TypeError, match=r"eqx\.nn\.State"):
        jp.functional(mlp(), {"a": X})
