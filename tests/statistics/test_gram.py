from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from jaxprune.reconstruction import Fit, refitted
from jaxprune.statistics import grams
from jaxprune.statistics.gram import layers_of
from jaxprune.statistics.moments import moments


def network(variables, x):
    """A strided and dilated convolution, a residual sum, a flattened product and a channel sum."""
    p = variables["params"]
    dims = ("NHWC", "HWIO", "NHWC")
    x = jax.nn.relu(lax.conv_general_dilated(x, p["a"], (1, 1), "SAME", dimension_numbers=dims))
    y = lax.conv_general_dilated(
        x, p["b"], (2, 1), ((1, 1), (2, 2)), rhs_dilation=(1, 2), dimension_numbers=dims
    )
    y = jax.nn.relu(y)
    z = lax.conv_general_dilated(y, p["c"], (1, 1), "SAME", dimension_numbers=dims)
    flat = jax.nn.relu(y + z).reshape(len(x), -1)
    hidden = jax.nn.relu(flat @ p["d"])
    return hidden @ p["e"] + jnp.sum(hidden, axis=-1, keepdims=True)


SHAPES = {
    "a": (3, 3, 2, 6), "b": (3, 3, 6, 5), "c": (1, 1, 5, 5), "d": (3 * 6 * 5, 7), "e": (7, 3),
}  # fmt: skip


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    params = {n: jnp.asarray(rng.normal(size=s), jnp.float32) / 3 for n, s in SHAPES.items()}
    images = jnp.asarray(rng.normal(size=(8, 6, 6, 2)), jnp.float32)
    variables = {"params": params}
    return jp.trace(network, variables, images), variables, images


def problem(case, batches=None, key=0):
    graph, variables, images = case
    batches = [images] if batches is None else batches
    return jp.Problem(graph, network, variables, batches, jp.Budget(), key=jax.random.key(key))


def output(consumer, operand, kernel):
    if consumer.primitive == "conv_general_dilated":
        p = consumer.params
        names = ("window_strides", "padding", "lhs_dilation", "rhs_dilation", "dimension_numbers")
        return lax.conv_general_dilated(operand, kernel, **{n: p[n] for n in names})
    if kernel is None:
        return operand.sum(consumer.axes)[..., None]
    return lax.dot_general(operand, kernel, consumer.params["dimension_numbers"])


@pytest.mark.parametrize("weighting", ["sum", "energy"])
def test_error_equals_an_explicit_masked_forward(case, weighting):
    graph, variables, images = case
    found = grams(problem(case), positions=None, weighting=weighting)
    assert len(found) == 3
    rng = np.random.default_rng(1)
    for name, group in graph.groups.items():
        mask = (rng.uniform(size=group.size) < 0.5).astype(np.float32)
        dropped = 1 - mask
        _, tapped = graph.tap(network, variables, images)
        expected = 0.0
        for at, consumer in tapped.consumers.items():
            if consumer.groups == (name,):
                operand, kernel = tapped.reads[at], tapped.kernels.get(at)
                dense = np.asarray(output(consumer, operand, kernel), np.float64)
                masked = _drop(graph, consumer, name, operand, mask)
                cut = np.asarray(output(consumer, masked, kernel), np.float64)
                energy = np.square(dense).sum(-1).mean() if weighting == "energy" else 1.0
                expected += np.square(dense - cut).sum(-1).mean() / energy
        assert dropped @ found[name] @ dropped == pytest.approx(expected, rel=1e-5)


def _drop(graph, consumer, name, operand, mask):
    start = int(graph.sizes[: graph.names.index(name)].sum())
    for axis, units in zip(consumer.axes, consumer.units, strict=True):
        factor = np.where(units < 0, 1.0, mask[np.maximum(units - start, 0)])
        shape = [1] * operand.ndim
        shape[axis] = len(units)
        operand = operand * jnp.asarray(factor.reshape(shape), operand.dtype)
    return operand


def test_positions_are_a_sample_of_all_of_them(case):
    graph, _, images = case
    name = graph.names[0]
    every = grams(problem(case), positions=None)[name]
    # Each batch draws positions of its own.
    some = grams(problem(case, [images] * 60), positions=3)[name]
    np.testing.assert_allclose(some, every, atol=0.05 * np.abs(every).max())
    assert not np.allclose(some, every, rtol=1e-4)


def test_batches_add_up(case):
    graph, _, images = case
    arguments = {"positions": None, "weighting": "sum"}
    whole = grams(problem(case), **arguments)
    parts = grams(problem(case, [images[:2], images[2:]]), **arguments)
    for name in graph.groups:
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-5, atol=1e-6)


def test_blocks_of_rows_give_the_same_matrix(case, monkeypatch):
    graph, *_ = case
    whole = grams(problem(case), positions=None)
    monkeypatch.setattr("jaxprune.statistics.gram._BLOCK_ELEMENTS", 2 * 6 * 9 * 9)
    blocked = grams(problem(case), positions=None)
    for name in graph.groups:
        np.testing.assert_allclose(blocked[name], whole[name], rtol=1e-5, atol=1e-7)


def test_hessian_collapses_to_the_gram(case):
    graph, *_ = case
    expected = grams(problem(case), positions=None, weighting="sum")
    for name, layers in moments(problem(case), positions=None).items():
        size = graph.groups[name].size
        total = 0.0
        for layer in layers:
            weighted = np.asarray(layer.second) * np.asarray(layer.kernel @ layer.kernel.T)
            total += weighted.reshape(size, -1, size, weighted.shape[0] // size).sum((1, 3))
        np.testing.assert_allclose(total, expected[name], rtol=1e-4, atol=1e-5)


def test_a_kernel_is_put_back_where_it_came_from(case):
    graph, variables, _ = case
    name = graph.names[1]  # read by a convolution and by a flattened product
    found = moments(problem(case), positions=None)[name]
    assert len(found) == 2
    kept = np.array([0, 2, 3])
    nothing = np.zeros(())
    for layer in found:
        rows = layer.kernel[layer.rows(kept)]
        same = refitted(graph, variables, name, layer, kept, Fit(rows, nothing, nothing))
        for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(variables), strict=True):
            np.testing.assert_array_equal(a, b)
        doubled = refitted(graph, variables, name, layer, kept, Fit(2 * rows, nothing, nothing))
        leaf = layer.consumer.name.split("/")[1]
        ratio = np.asarray(doubled["params"][leaf] / variables["params"][leaf])
        assert np.isin(ratio.round(5), (1, 2)).all() and 0 < (ratio > 1.5).mean() < 1


def test_no_batches_is_an_error(case):
    with pytest.raises(ValueError, match="batches is empty"):
        grams(problem(case, []))


def test_layers_name_their_consumers(case):
    graph, variables, images = case
    layers = layers_of(graph, network, variables, images, jax.random.key(0))
    names = {group: [layer.name for layer in found] for group, found in layers.items()}
    assert names["params/a[3]"] == ["params/b"]
    assert names["params/b[3]"] == ["params/c", "params/d"]
