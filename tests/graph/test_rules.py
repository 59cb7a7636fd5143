"""Operations that are easy to get wrong, one small network each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from laws import assert_laws
from own_rules import product

from jaxprune.graph import trace

RNG = np.random.default_rng(0)


def laws(fn, *, units, x=None, **shapes):
    """Holds the laws on `fn(variables, x)`, and the number of units of the groups it finds."""
    variables = {name: jnp.asarray(RNG.normal(size=shape)) for name, shape in shapes.items()}
    x = jnp.asarray(RNG.normal(size=(2, 5))) if x is None else x
    graph = trace(fn, variables, x)
    assert {name: g.size for name, g in graph.groups.items()} == units
    for seed in range(2):
        assert_laws(graph, fn, variables, x, seed=seed)
    return graph


def test_joint_axes_meet_an_axis_that_broadcasts():
    def fn(v, x):
        hidden = (x @ v["a"]).reshape(2, 3, 4) * jnp.tanh(x[:, :1, None])
        return hidden.reshape(2, 12) @ v["b"]

    laws(fn, a=(5, 12), b=(12, 3), units={"a[1]": 12})


def test_joint_axes_pass_a_reshape_of_the_others():
    def fn(v, x):
        hidden = jnp.tanh(x[..., None] @ v["a"]).reshape(2, 6, 3, 4)
        hidden = hidden.reshape(2, 2, 3, 3, 4).swapaxes(3, 4)  # a shuffle
        return hidden.reshape(2, -1) @ v["b"]

    x = jnp.asarray(RNG.normal(size=(2, 6)))
    laws(fn, x=x, a=(1, 12), b=(72, 3), units={"a[1]": 12})


def test_joint_axes_with_another_axis_between():
    def fn(v, x):
        hidden = jnp.tanh(x @ v["a"]).reshape(2, 2, 3)[:, :, None, :] * v["c"]
        return jnp.einsum("bgnc,cgno->bo", hidden, v["b"])

    laws(fn, a=(5, 6), c=(4, 1), b=(3, 2, 4, 3), units={"a[1]": 2, "c[0]": 4})


def test_a_convolution_as_patches_and_one_product():
    def fn(v, x):
        hidden = jnp.tanh(x @ v["a"])
        return jnp.concatenate([hidden, jnp.cos(hidden)], -1) @ v["k"].reshape(12, 3)

    laws(fn, a=(5, 6), k=(2, 6, 3), units={"a[1]": 6})


def test_a_variable_that_is_used_in_parts():
    def fn(v, x):
        hidden = jnp.tanh(x @ v["a"])
        return hidden[:, :2] @ v["b"][:2] + jnp.cos(hidden[:, 2:]) @ v["b"][2:]

    laws(fn, a=(5, 6), b=(6, 3), units={"a[1]": 6})


def test_a_kernel_that_is_used_twice():
    def fn(v, x):
        hidden = x @ v["a"]
        return jnp.tanh(hidden + jnp.tanh(hidden @ v["w"]) @ v["w"]) @ v["b"]

    laws(fn, a=(5, 6), w=(6, 6), b=(6, 3), units={"a[1]": 6})


def test_a_low_rank_kernel_is_masked_on_its_smaller_side():
    def fn(v, x):
        return jnp.tanh(x @ (v["a"] @ v["b"])) @ v["c"]

    laws(fn, a=(5, 4), b=(4, 6), c=(6, 3), units={"a[1]": 4, "b[1]": 6})


def test_queries_and_keys():
    def fn(v, x):
        q, k = x @ v["q"], x @ v["k"]
        return jax.nn.softmax(q @ k.T) @ (x @ v["v"]) @ v["o"]

    laws(fn, q=(5, 4), k=(5, 4), v=(5, 6), o=(6, 3), units={"q[1]": 4, "v[1]": 6})


def test_a_mean_over_channels_counts_all_of_them():
    def fn(v, x):
        return jnp.tanh((x @ v["a"]).mean(-1, keepdims=True)) @ v["b"]

    laws(fn, a=(5, 6), b=(1, 3), units={"a[1]": 6})


def test_positions_along_the_channels():
    def fn(v, x):
        hidden = x @ v["a"]
        even = lax.broadcasted_iota(int, hidden.shape, 1) % 2 == 0
        return jnp.where(even, hidden, jnp.sin(hidden)) @ v["b"]

    laws(fn, a=(5, 6), b=(6, 3), units={"a[1]": 6})


def test_an_array_without_entries():
    def fn(v, x):
        return jnp.tanh(x @ v["a"]) @ v["b"] + jnp.zeros((0, 4)).reshape(4, 0).sum()

    laws(fn, a=(5, 6), b=(6, 3), units={"a[1]": 6})


def test_callbacks_and_barriers_pass():
    seen = []

    def fn(v, x):
        hidden = lax.optimization_barrier(jnp.tanh(x @ v["a"]))
        jax.debug.callback(lambda h: seen.append(h.shape), hidden)
        return hidden @ v["b"]

    graph = trace(fn, {"a": jnp.ones((5, 6)), "b": jnp.ones((6, 3))}, jnp.ones((2, 5)))
    pruned = graph.slice({"a": jnp.ones((5, 6)), "b": jnp.ones((6, 3))}, graph.masks({"a": [0]}))
    out = pruned.wrap(fn)(pruned.variables, jnp.ones((2, 5)))
    jax.block_until_ready(out)
    jax.effects_barrier()
    assert seen[-1] == (2, 5) and float(out[0, 0]) == pytest.approx(5 * np.tanh(5))


@jax.custom_vjp
def straight_through(x):
    return jnp.round(4 * x) / 4


straight_through.defvjp(lambda x: (straight_through(x), None), lambda _, g: (g,))


def test_the_gradient_in_a_mask_follows_the_rule_of_a_function():
    def fn(v, x):
        return product(x @ v["a"], v["b"]) + jnp.tanh(x @ v["c"]) @ v["d"]

    graph = laws(fn, a=(5, 6), b=(6, 3), c=(5, 4), d=(4, 3), units={"a[1]": 6, "c[1]": 4})
    variables = {
        k: jnp.ones(s) for k, s in (("a", (5, 6)), ("b", (6, 3)), ("c", (5, 4)), ("d", (4, 3)))
    }
    x = jnp.ones((2, 5))
    gradient = jax.grad(lambda m: graph.masked(fn)(variables, m, x).sum())(graph.full_masks())
    np.testing.assert_allclose(gradient["a[1]"], np.full(6, 2 * 6 * 5), rtol=1e-6)
    np.testing.assert_allclose(gradient["c[1]"], np.full(4, 6 * np.tanh(5)), rtol=1e-6)


def test_a_gradient_that_goes_straight_through():
    def fn(v, x):
        return straight_through(x @ v["a"]) @ v["b"]

    graph = laws(fn, a=(5, 6), b=(6, 3), units={"a[1]": 6})
    variables = {"a": jnp.asarray(RNG.normal(size=(5, 6))), "b": jnp.ones((6, 3))}
    pruned = graph.slice(variables, graph.masks({"a[1]": [0, 1]}))
    x = jnp.asarray(RNG.normal(size=(2, 5)))
    small = jax.grad(lambda x: pruned.wrap(fn)(pruned.variables, x).sum())(x)
    np.testing.assert_allclose(small, np.tile(3 * variables["a"][:, 2:].sum(1), (2, 1)))
    first = jax.grad(lambda x: (pruned.wrap(fn)(pruned.variables, x) ** 2).sum())
    second = jax.jacrev(first)(x)
    assert np.abs(second).max() > 0.1  # the rule holds in the second derivative too


def test_the_gradient_at_the_zero_of_relu_is_that_of_the_function():
    def fn(v, x):
        return jax.nn.relu(x @ v["a"] * 0) @ v["b"]

    laws(fn, a=(5, 6), b=(6, 3), units={"a[1]": 6})


@jax.custom_jvp
def shifted(x):
    return x + jnp.arange(6.0)


@shifted.defjvp
def _(primals, tangents):
    return shifted(*primals), tangents[0] * (1 + np.arange(6.0)) * jnp.cos(np.linspace(0, 1, 6))


def test_a_derivative_rule_with_arrays_of_its_own():
    laws(lambda v, x: shifted(x @ v["a"]) @ v["b"], a=(5, 6), b=(6, 3), units={"a[1]": 6})


def test_second_derivatives_of_a_sliced_network():
    def fn(v, x):
        return jnp.sum(jax.nn.silu(jax.nn.relu(x @ v["a"])) @ v["b"])

    variables = {
        "a": jnp.asarray(RNG.normal(size=(5, 6))),
        "b": jnp.asarray(RNG.normal(size=(6, 3))),
    }
    x = jnp.asarray(RNG.normal(size=(2, 5)))
    graph = trace(fn, variables, x)
    masks = graph.masks({"a": [1, 4]})
    pruned = graph.slice(variables, masks)
    dense = jax.hessian(lambda x: graph.masked(fn)(variables, masks, x))(x)
    sliced = jax.hessian(lambda x: pruned.wrap(fn)(pruned.variables, x))(x)
    np.testing.assert_allclose(dense, sliced, atol=1e-12)


def test_sharding_constraints_pass():
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "d"))

    def fn(v, x):
        return lax.with_sharding_constraint(jnp.tanh(x @ v["a"]), sharding) @ v["b"]

    laws(fn, a=(5, 6), b=(6, 3), units={"a[1]": 6})
