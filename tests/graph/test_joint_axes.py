"""Channels that lie along several axes together, through reshapes, repeats and transpositions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import assert_laws, fill

from jaxprune.graph import trace

X = np.random.default_rng(0).normal(size=(2, 3, 5))  # (batch, tokens, features)


def repeated(h):
    """Each of the two halves three times, side by side."""
    return jnp.repeat(h.reshape(2, 3, 2, 4), 3, axis=2)


def heads_first(h):
    """Tokens between the two axes of the channels."""
    return jnp.repeat(h.reshape(2, 3, 2, 4).swapaxes(1, 2), 3, axis=1).swapaxes(1, 2)


def tiled(h):
    return jnp.tile(h.reshape(2, 3, 2, 4), (1, 1, 3, 1))


def repeated_inside(h):
    return jnp.repeat(h.reshape(2, 3, 2, 1, 4), 3, axis=3).reshape(2, 3, -1)


def cut_again(h):
    """The two axes become three, and with tokens between them four."""
    h = h.reshape(2, 3, 2, 4).reshape(2, 3, 2, 2, 2).transpose(0, 2, 3, 1, 4)
    return jnp.cos(h).reshape(2, 4, 3, 2, 1).swapaxes(1, 2)


def cut_again_behind_tokens(h):
    h = h.reshape(2, 3, 2, 4).swapaxes(1, 2).reshape(2, 2, 3, 2, 2)
    return jnp.cos(h).transpose(0, 2, 4, 3, 1)


def alike_in_front(h):
    """The first of three axes holds the same channels all along, and tokens follow it."""
    h = jnp.broadcast_to(h.reshape(2, 3, 2, 1, 4), (2, 3, 2, 3, 4))
    h = h.reshape(2, 3, 2, 12).reshape(2, 3, 2, 3, 4).transpose(0, 3, 1, 2, 4)
    return jnp.cos(h.reshape(2, 3, 3, 8)).swapaxes(1, 2)


def two_tuples(h):
    """Two joint tuples of a product of two, each changed by a reshape."""
    g = jnp.sin(h).reshape(2, 3, 2, 4)[:, :, :, None]
    return (jnp.cos(h).reshape(2, 3, 2, 1, 4) * g).reshape(2, 3, 4, 2).reshape(2, 3, 2, 2, 2)


EXACT = {
    f.__name__: f
    for f in (repeated, heads_first, tiled, repeated_inside, cut_again, cut_again_behind_tokens,
              alike_in_front, two_tuples)
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_each_channel_stays_a_unit_of_its_own(name):
    between = EXACT[name]
    size = jax.eval_shape(between, jax.ShapeDtypeStruct((2, 3, 8), float)).size // 6

    def fn(v, x):
        return jnp.cos(between(x @ v["a"]).reshape(2, 3, -1) + 0.3) @ v["b"]

    structs = {
        "a": jax.ShapeDtypeStruct((5, 8), float),
        "b": jax.ShapeDtypeStruct((size, 3), float),
    }
    variables = fill(structs)
    graph = trace(fn, variables, jnp.asarray(X))
    assert {name: g.size for name, g in graph.groups.items()} == {"a[1]": 8}
    for seed in range(2):
        assert_laws(graph, fn, variables, jnp.asarray(X), seed=seed)


def test_tokens_that_are_merged_with_heads_part_the_channels():
    """What lies between the tokens of a row keeps its place, so whole rows of channels are left."""

    def fn(v, x):
        h = (x @ v["a"]).reshape(2, 3, 2, 4).swapaxes(1, 2)  # (n, heads, tokens, d)
        return jnp.cos(h.reshape(2, 6, 4)) @ v["b"]

    variables = fill(
        {"a": jax.ShapeDtypeStruct((5, 8), float), "b": jax.ShapeDtypeStruct((4, 3), float)}
    )
    graph = trace(fn, variables, jnp.asarray(X))
    assert {name: g.size for name, g in graph.groups.items()} == {"a[1]": 4}
    assert_laws(graph, fn, variables, jnp.asarray(X))
