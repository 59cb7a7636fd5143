import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.train.evaluate import correct, predict
from jaxprune.train.network import Network


def test_logits_are_those_of_one_evaluation_forward(tiny, split, normal):
    network, variables = tiny()
    normalised = (split.images / 255.0 - 0.5) / 0.25
    expected = network.eval(variables, jnp.asarray(normalised, jnp.float32), None).logits
    logits = predict(network, variables, split, batch_size=32, **normal)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    hits = np.mean(np.argmax(expected, -1) == split.labels)
    for size in (1, 32, 70, 100):
        found = correct(network, variables, split, batch_size=size, **normal).mean()
        assert found == pytest.approx(hits)


def test_images_on_disk_are_those_taken_into_memory(tiny, streamed, normal):
    network, variables = tiny()
    memory = streamed.take(np.arange(70))
    for function in (correct, predict):
        expected = function(network, variables, memory, batch_size=32, **normal)
        found = function(network, variables, streamed, batch_size=32, **normal)
        np.testing.assert_array_equal(found, expected)


def test_one_compilation_for_a_ragged_end_and_for_other_variables(tiny, split, normal):
    network, variables = tiny()
    _, other = tiny(seed=1)
    traces = []

    def forward(variables, images, key):
        traces.append(images.shape)
        return network.eval(variables, images, key)

    for given in (variables, other):
        predict(Network(forward, forward), given, split, batch_size=32, **normal)
    assert traces == [(32, 4, 4, 1)]


def test_bad_input_is_named(tiny, split, normal):
    network, variables = tiny()
    with pytest.raises(ValueError, match="no images"):
        predict(network, variables, split.first(0), **normal)
    kernel = variables["params"]["linear"]["kernel"]
    variables["params"]["linear"]["kernel"] = kernel.at[0, 0].set(jnp.nan)
    with pytest.raises(ValueError, match="NaN or infinity"):
        correct(network, variables, split, **normal)
