"""Random numbers that are drawn inside the function: those of the unpruned network, cut."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from laws import assert_laws, fill

from jaxprune.graph import trace

X = np.random.default_rng(0).normal(size=(2, 6, 5))
KEY = jax.random.key(3)
RAW = jax.random.PRNGKey(3)


def holds(fn, units, *inputs, **shapes):
    variables = fill({name: jax.ShapeDtypeStruct(shape, float) for name, shape in shapes.items()})
    graph = trace(fn, variables, X, *inputs)
    assert {name: g.size for name, g in graph.groups.items()} == units
    return assert_laws(graph, fn, variables, X, *inputs, seed=3)


def dropped(key, h):
    return jnp.where(jax.random.bernoulli(key, 0.5, h.shape), h / 0.5, 0)


@pytest.mark.parametrize("partitionable", [True, False])
def test_dropout_and_random_features_and_signs(partitionable):
    def fn(v, x, key, raw):
        h = dropped(key, jnp.tanh(x @ v["a"]))
        h = dropped(raw, dropped(jax.random.fold_in(RAW, 1), h))
        h = jnp.cos(h @ jax.random.normal(KEY, (6, 9)))
        h = h * jax.random.rademacher(RAW, (9,), float)
        return h @ v["b"]

    with jax.threefry_partitionable(partitionable):
        holds(fn, {"a[1]": 6, "b[0]": 9}, KEY, RAW, a=(5, 6), b=(9, 3))


# Each keeps the 6 channels, and all of them prunable.
PASS = {
    "key_per_row": lambda h: h
    + jax.vmap(lambda k: jax.random.normal(k, (6,)))(jax.random.split(KEY, 6)),
    "key_per_channel": lambda h: h * jax.vmap(jax.random.normal)(jax.random.split(KEY, 6)),
    "key_folded": lambda h: h
    + jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(RAW, i)))(jnp.arange(6)),
    "key_data": lambda h: h
    + jax.vmap(jax.random.normal)(jax.random.wrap_key_data(jnp.ones((6, 2), "u4"))),
    "gamma": lambda h: h * jax.random.gamma(KEY, 2.0, (6,)),
    "rows": lambda h: h[:, jax.random.permutation(KEY, 6)],
    "shuffled": lambda h: jax.random.permutation(RAW, h, axis=1),
    "categorical": lambda h: h + jax.random.categorical(KEY, jnp.zeros((6, 3)), axis=-1),
    "gumbel": lambda h: jax.nn.softmax(h + jax.random.gumbel(KEY, h.shape), 1),
    "truncated": lambda h: h + jax.random.truncated_normal(KEY, -1.0, 1.0, h.shape),
    "integers": lambda h: h * jax.random.randint(KEY, (6, 6), 1, 5),
    "bytes": lambda h: h * (0.5 + (jax.random.bits(KEY, (6,), jnp.uint8) > 100)),
    "complex": lambda h: h * jnp.abs(jax.random.normal(KEY, (6,), jnp.complex128)),
    "generator": lambda h: h
    * (1 + (lax.rng_bit_generator(jnp.arange(4, dtype="u4"), (6, 6))[1] > 2**30)),
    "other_generator": lambda h: h * jax.random.uniform(jax.random.key(0, impl="rbg"), (6,)),
    # Of which a batch of keys draws with the first one alone.
    "batch_of_others": lambda h: h
    * jax.vmap(jax.random.uniform)(jax.random.split(jax.random.key(0, impl="unsafe_rbg"), 6)),
    "scan_over_keys": lambda h: lax.scan(
        lambda c, k: (dropped(k, c), None), h, jax.random.split(KEY, 2)
    )[0],
    "carried_key": lambda h: lax.fori_loop(
        0, 2, lambda i, c: (jax.random.split(c[0])[0], c[1] * jax.random.uniform(c[0], (6,))),
        (KEY, h),
    )[1],
}  # fmt: skip


@pytest.mark.parametrize("half", [0, 1])
def test_all_that_can_be_drawn(half):
    def fn(v, x):
        h = jnp.tanh(x @ v["a"])
        for draw in list(PASS.values())[half::2]:
            h = jnp.tanh(draw(h))
        return h @ v["b"]

    holds(fn, {"a[1]": 6}, a=(5, 6), b=(6, 3))


def test_what_is_drawn_with_channels_is_fixed():
    def fn(v, x):
        h = jnp.exp(x @ v["a"])
        return h * jax.random.gamma(KEY, h) @ v["b"] + jnp.tanh(x @ v["c"]) @ v["d"]

    holds(fn, {"c[1]": 4}, a=(5, 6), b=(6, 3), c=(5, 4), d=(4, 3))


def test_dropout_of_a_module_in_training():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dropout(0.5, deterministic=False)(nn.relu(nn.Dense(6)(x)))
            x = nn.Dropout(0.5, broadcast_dims=(1,), deterministic=False)(nn.tanh(nn.Dense(4)(x)))
            return nn.Dense(2)(x)

    module = Net()
    variables = module.init({"params": KEY, "dropout": KEY}, jnp.asarray(X))
    variables = jax.tree.map(lambda leaf: leaf.astype(float), variables)

    def fn(variables, x, key):
        return module.apply(variables, x, rngs={"dropout": key})

    graph = trace(fn, variables, X, KEY)
    assert list(graph.sizes) == [6, 4]
    assert_laws(graph, fn, variables, X, KEY, seed=1)
