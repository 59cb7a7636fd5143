from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxprune.search import block_diagonal, layer_error


def layer(seed=0, channels=12, taps=4, outputs=7, samples=300):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(samples, channels, taps)) + rng.normal(size=(channels, taps))
    kernel = rng.normal(size=(outputs, channels, taps))
    hessian = np.einsum("nci,ndj->cidj", inputs, inputs) / samples
    gram = np.einsum("oci,cidj,odj->cd", kernel, hessian, kernel)
    return inputs, kernel, gram


def test_error_equals_the_explicit_masked_layer():
    inputs, kernel, gram = layer()
    masks = np.random.default_rng(1).random((50, 12)) < 0.5
    whole = np.einsum("nci,oci->no", inputs, kernel)
    explicit = [
        np.mean(np.sum((whole - np.einsum("nci,oci,c->no", inputs, kernel, m)) ** 2, axis=1))
        for m in masks
    ]
    found = layer_error(jnp.asarray(masks), jnp.asarray(gram, jnp.float32))
    np.testing.assert_allclose(found, explicit, rtol=1e-5)


def test_block_diagonal_adds_the_channels_own_errors():
    _, _, gram = layer()
    mask = np.arange(12) % 3 == 0
    found = layer_error(jnp.asarray(mask), block_diagonal(jnp.asarray(gram, jnp.float32)))
    np.testing.assert_allclose(found, np.sum(np.diag(gram)[~mask]), rtol=1e-5)
