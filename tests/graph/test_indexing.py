"""Access by index: constants that permute, pick and repeat channels, and indices beside them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from laws import assert_laws, fill

from jaxprune.graph import trace

X = np.random.default_rng(0).normal(size=(2, 6, 5))
ORDER = np.array([4, 0, 5, 1, 3, 2])
ORDERS = np.stack([ORDER, ORDER[::-1]])


def found(fn, x=X, **shapes):
    """The graph of `fn(variables, x)` and the variables."""
    variables = fill({n: jax.ShapeDtypeStruct(s, float) for n, s in shapes.items()})
    return trace(fn, variables, x), variables


def between(part, out=6):
    """Channels `a[1]` written, passed through `part`, and read by `b`."""

    def fn(v, x):
        return part(jnp.sin(x @ v["a"]), v) @ v["b"] + jnp.tanh(x @ v["c"]) @ v["d"]

    return fn, {"a": (5, 6), "b": (out, 3), "c": (5, 2), "d": (2, 3)}


# Name → (what happens to the channels, how many come out, the units of `a`).
CONSTANT = {
    "permuted": (lambda h, v: h[..., ORDER], 6, 6),
    "permuted_in_jax": (lambda h, v: h[..., jnp.array([4, 0, -1, 1, 3, 2])], 6, 6),
    "taken": (lambda h, v: jnp.take(h, ORDER, axis=-1), 6, 6),
    "taken_clipped": (lambda h, v: jnp.take(h, ORDER + 1, axis=-1, mode="clip"), 6, 4),
    "taken_in_jit": (jax.jit(lambda h, v: h[..., jnp.array([4, 0, 5])] * h[..., [1, 3, 2]]), 3, 3),
    "repeated": (lambda h, v: h[..., [0, 0, 1, 5, 4, 2, 3]], 7, 5),
    "repeat": (lambda h, v: jnp.repeat(h, 2, axis=-1), 12, 6),
    "repeat_unevenly": (lambda h, v: jnp.repeat(h, np.array([1, 1, 1, 2, 2, 3]), -1), 10, 5),
    "inverted": (lambda h, v: h[..., jnp.argsort(ORDER)], 6, 6),
    "at_random": (lambda h, v: h[..., jax.random.permutation(jax.random.key(3), 6)], 6, 6),
    "turned": (lambda h, v: h[..., jnp.arange(6)[::-1]], 6, 6),
    "by_truth": (lambda h, v: h[..., ORDER < 4] * h[..., np.array([1, 3, 4, 5])], 4, 6),
    "along_and_taken": (lambda h, v: h[:, np.arange(6)[::-1, None], ORDER], 6, 6),
    "together": (lambda h, v: h[:, np.arange(6), ORDER][:, None], 6, 6),
    "take_along": (lambda h, v: jnp.take_along_axis(h, ORDER[None, None], -1), 6, 6),
    "interleaved": (lambda h, v: jnp.concatenate([h[..., ::2], h[..., 1::2]], -1), 6, 6),
    "rolled": (lambda h, v: jnp.roll(h, 2, -1), 6, 6),
    "sliced": (lambda h, v: lax.dynamic_slice_in_dim(h, 1, 4, -1), 4, 6),
    "under_vmap": (lambda h, v: jax.vmap(jax.vmap(lambda y: y[ORDER]))(h), 6, 6),
    "windows_under_vmap": (
        lambda h, v: jax.vmap(lambda i: lax.dynamic_slice_in_dim(h, i, 1, -1), out_axes=-1)(
            jnp.asarray(ORDER)
        )[..., 0, :], 6, 6,
    ),
    "in_a_scan": (
        lambda h, v: lax.scan(lambda c, y: (c, jnp.cos(y)[..., ORDER]), 0.0, h)[1], 6, 6,
    ),
    "in_a_checkpoint": (lambda h, v: jax.checkpoint(lambda y: jnp.cos(y)[..., ORDER])(h), 6, 6),
    "one_array_joined": (
        lambda h, v: jnp.concatenate(jnp.moveaxis(h.reshape(2, 6, 3, 2), -1, 0), -1), 6, 6,
    ),
    "split_and_stacked": (
        lambda h, v: jnp.hstack(jnp.split(h, 3, -1)[::-1]).reshape(2, 6, 6), 6, 2,
    ),
    "set_to_zero": (lambda h, v: h.at[..., jnp.array([1, 4])].set(0.0), 6, 6),
    "scattered": (lambda h, v: jnp.zeros_like(h).at[..., ORDER].set(h), 6, 6),
    "into_wider": (lambda h, v: jnp.ones((2, 6, 12)).at[..., 2 * ORDER].add(h), 12, 12),
    "every_second": (
        lambda h, v: jnp.zeros((2, 6, 12)).at[..., ::2].set(h).at[..., 1::2].set(jnp.cos(h)), 12, 6,
    ),
    "halves_set": (
        lambda h, v: jnp.zeros((2, 6, 6)).at[..., 3:].set(h[..., :3]).at[..., :3].set(h[..., 3:]),
        6, 6,
    ),
    "set_to_halves": (lambda h, v: h.at[..., :3].multiply(h[..., 3:]), 6, 3),
    "updated": (lambda h, v: lax.dynamic_update_slice_in_dim(h, h[..., :2] + 1, 3, -1), 6, 4),
    "added_twice": (lambda h, v: h.at[..., [0, 0, 1, 1]].add(h[..., 2:]), 6, 2),
    "gradient": (
        lambda h, v: jax.grad(lambda y: jnp.sum(jnp.sin(y[..., ORDER[:4]]) ** 3))(h), 6, 8,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONSTANT)
def test_constants_move_channels(name):
    part, out, units = CONSTANT[name]
    fn, shapes = between(part, out)
    graph, variables = found(fn, **shapes)
    sizes = {g: group.size for g, group in graph.groups.items()}
    assert sizes.pop("c[1]") == 2
    assert sum(sizes.values()) == units, (sizes, graph.fixed)
    for seed in range(2):
        assert_laws(graph, fn, variables, X, seed=seed)


# Indices that go along with the channels, on axes that are not theirs.

STEPS = np.random.default_rng(1).integers(0, 6, (2, 4, 1))
BESIDE = {
    "one_for_all": lambda h: jnp.take_along_axis(h, jnp.broadcast_to(STEPS, (2, 4, 6)), 1),
    "each_its_own": lambda h: jnp.take_along_axis(h, jnp.argsort(h, 1)[:, ::2], 1),
    "largest": lambda h: jnp.take_along_axis(h, jnp.argmax(h, 1, keepdims=True), 1),
    "under_vmap": lambda h: jax.vmap(lambda y: y[(y > 0).astype(int).sum(0)], 2, 2)(h),
    "index_from_channels": lambda h: jnp.linspace(0, 1, 7)[(h > 0).astype(int).cumsum(1)] * h,
    "added": lambda h: h.at[np.arange(2)[:, None], STEPS[..., 0]].add(jnp.cos(h[:, 2:])),
    "added_per_channel": lambda h: jax.vmap(jax.vmap(lambda y, i: y.at[i].add(y[::-1])), 2, 2)(
        h, jnp.argsort(h, 1)
    ),
    "put_per_channel": lambda h: jnp.put_along_axis(
        h, jnp.argsort(h, 1)[:, :2], 0.5, axis=1, inplace=False
    ),
    "by_all_indices": lambda h: h[
        np.arange(2)[:, None, None], jnp.argsort(h, 1)[:, :3], np.arange(6)
    ],
    "set_in_free": lambda h: jax.vmap(lambda y, i: y.at[i].set(0.0), 2, 2)(
        h, jnp.argsort(h, 1)[:, :2]
    ),
    "added_by_all_indices": lambda h: h.at[
        np.arange(2)[:, None, None], jnp.argsort(h, 1)[:, :3], np.arange(6)
    ].add(jnp.cos(h[:, 3:])),
    "fft": lambda h: jnp.abs(jnp.fft.fft(h, axis=1)),
    "rfft": lambda h: jnp.fft.irfft(jnp.fft.rfft(h, axis=1) * jnp.arange(4)[:, None], axis=1),
    "fft2": lambda h: jnp.fft.ifft2(jnp.sin(jnp.fft.fft2(h, axes=(0, 1))), axes=(0, 1)).real,
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_is_indexed_beside_the_channels_passes_them(name):
    def fn(v, x):
        return (BESIDE[name](jnp.sin(x @ v["a"])) @ v["b"]).sum(1)

    graph, variables = found(fn, a=(5, 6), b=(6, 3))
    assert {g: group.size for g, group in graph.groups.items()} == {"a[1]": 6}, graph.fixed
    assert_laws(graph, fn, variables, X)


@jax.custom_vjp
def placed(y):
    return jnp.sin(y)[..., ORDER]


placed.defvjp(
    lambda y: (placed(y), jnp.cos(y)),
    lambda kept, g: (jnp.zeros_like(g).at[..., ORDER].set(2 * g) * kept,),
)

# Constants inside of what holds functions, and what is no constant though it looks like one.
NESTED = {
    "backward_rule": (placed, 6),
    "branches": (
        lambda h: lax.switch(
            jnp.int32(h[0, 0, 0] > 0), [lambda y: y[..., ::-1], lambda y: y[..., jnp.arange(6)]], h
        ),
        2,
    ),
    "closed_over": (
        lambda h: lax.scan(lambda c, _: (jnp.tanh(c)[..., ::-1], None), h, length=2)[0], 3,
    ),
    "carried": (lambda h: lax.fori_loop(0, 2, lambda i, y: y[..., (ORDER + i) % 6], h), 0),
    "scanned": (
        lambda h: lax.scan(lambda c, p: (c[..., p], None), h, ORDERS)[0], 0,
    ),
    "one_a_sample": (lambda h: jax.vmap(lambda y, p: y[:, p])(h, ORDERS), 0),
    "fill": (lambda h: jnp.take(h, ORDER + 2, axis=-1, fill_value=0.5), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", NESTED)
def test_constants_inside_of_calls(name):
    part, units = NESTED[name]
    fn, shapes = between(lambda h, v: part(h))
    graph, variables = found(fn, **shapes)
    sizes = {g: group.size for g, group in graph.groups.items()}
    assert sizes.pop("c[1]") == 2
    assert sum(sizes.values()) == units, (sizes, graph.fixed)
    assert_laws(graph, fn, variables, X)


def test_an_order_that_is_a_variable_is_no_constant():
    def fn(v, x):
        return jnp.sin(x @ v["a"])[..., v["order"]] @ v["b"] + jnp.tanh(x @ v["c"]) @ v["d"]

    shapes = {"a": (5, 6), "b": (6, 3), "c": (5, 2), "d": (2, 3)}
    variables = fill({n: jax.ShapeDtypeStruct(s, float) for n, s in shapes.items()})
    variables["order"] = jnp.asarray(ORDER)
    graph = trace(fn, variables, X)
    assert list(graph.groups) == ["c[1]"]
    assert "gather at" in graph.fixed["a[1]"] and "no constant" in graph.fixed["a[1]"]
    assert "test_indexing.py" in graph.fixed["a[1]"]
