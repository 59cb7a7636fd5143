import importlib.util
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

if not importlib.util.find_spec("keras"):
    pytest.skip("keras is not installed", allow_module_level=True)
os.environ["KERAS_BACKEND"] = "jax"
import keras

layers = keras.layers
X = np.random.default_rng(0).normal(size=(16, 6, 6, 3)).astype(np.float32)


def pruned():
    keras.utils.clear_session()
    model = keras.Sequential([
        layers.Input((6, 6, 3)), layers.Conv2D(8, 3, name="conv"),
        layers.BatchNormalization(momentum=0.5, name="norm"), layers.ReLU(),
        layers.GlobalAveragePooling2D(), layers.Dropout(0.2), layers.Dense(2, name="out"),
    ], name="net")  # fmt: skip
    fn, variables = jp.functional(model)
    graph = jp.trace(fn, variables, X)
    return graph.slice(variables, graph.masks({"net/conv": [1, 2, 6]}))


def test_the_smaller_model_fits_predicts_and_keeps_its_weights(tmp_path):
    network = pruned()
    small = network.module()
    assert isinstance(small, keras.Model)
    assert small.count_params() == sum(leaf.size for leaf in jax.tree.leaves(network.variables))
    before = small.predict(X, verbose=0)
    np.testing.assert_allclose(before, small(X), atol=1e-6)

    small.compile(keras.optimizers.Adam(0.05), "mse")
    losses = small.fit(X, np.ones((16, 2)), epochs=20, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 2
    moving = next(v for v in small.non_trainable_variables if "moving_mean" in v.path)
    assert np.abs(moving.value).max() > 1e-3

    small.save_weights(tmp_path / "small.weights.h5")
    other = network.module()
    np.testing.assert_allclose(other.predict(X, verbose=0), before, atol=1e-6)
    other.load_weights(tmp_path / "small.weights.h5")
    np.testing.assert_allclose(other(X), small(X), atol=1e-6)


def test_several_inputs_and_outputs_by_name():
    a, b = layers.Input((4,), name="a"), layers.Input((4,), name="b")
    shared = layers.Dense(8, activation="relu", name="shared")
    both = layers.Concatenate()([shared(a), shared(b)])
    outs = {"y": layers.Dense(2, name="y")(both), "z": layers.Dense(3, name="z")(both)}
    fn, variables = jp.functional(keras.Model({"a": a, "b": b}, outs, name="two"))
    inputs = {"a": jnp.ones((5, 4)), "b": jnp.zeros((5, 4))}
    graph = jp.trace(fn, variables, inputs)
    assert {n: g.size for n, g in graph.groups.items()} == {"params/shared/kernel[1]": 8}
    masks = graph.masks({"shared": [0, 1, 2]})
    out = graph.slice(variables, masks).module()(inputs)
    expected = graph.masked(fn)(variables, masks, inputs)
    for name in ("y", "z"):
        np.testing.assert_allclose(out[name], expected[name], atol=1e-6)


def test_a_model_that_is_not_built_and_one_with_variables():
    with pytest.raises(ValueError, match="not built: call it"):
        jp.functional(keras.Sequential([layers.Dense(3)]))
    with pytest.raises(ValueError, match="holds its own variables"):
        jp.functional(keras.Sequential([layers.Input((2,)), layers.Dense(3)]), {})


def test_another_backend(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ValueError, match="runs on torch: set KERAS_BACKEND=jax"):
        jp.functional(keras.Sequential([layers.Input((2,)), layers.Dense(3)]))
