"""Short functions that were written to break the engine, subject by subject, in one chain each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from laws import assert_laws, fill

from jaxprune.graph import trace

X = np.random.default_rng(0).normal(size=(2, 6, 5))


def heads(h):
    """Two heads of width 3, each four times."""
    return jnp.broadcast_to(h.reshape(2, 6, 2, 1, 3), (2, 6, 2, 4, 3))


# Each takes h (2, 6, 6) to an array of that shape, and leaves its channels prunable one by one.

REORDERED = {
    "fortran": lambda h: h.reshape((6, 12), order="F").reshape((2, 6, 6), order="F"),
    "fortran_ravel": lambda h: jnp.ravel(h, order="F").reshape((2, 6, 6), order="F"),
    "as_it_was": lambda h: lax.reshape(h, (2, 6, 2, 3), (0, 1, 2)).reshape(2, 6, 6),
    "joint": lambda h: lax.reshape(h.reshape(2, 6, 2, 3), (2, 6, 6), (0, 1, 3, 2)),
    "joint_twice": lambda h: lax.reshape(
        h.reshape(2, 6, 2, 3).swapaxes(2, 3), (2, 6, 6), (0, 1, 3, 2)
    ),
    "joint_and_rows": lambda h: lax.reshape(
        h.reshape(2, 6, 2, 3), (6, 2, 6), (1, 0, 3, 2)
    ).swapaxes(0, 1),
    "broadcast": lambda h: (
        h + lax.reshape(jnp.broadcast_to(h[:1, :1], (2, 6, 6)), (6, 2, 6), (1, 0, 2)).swapaxes(0, 1)
    ),
    "size_one": lambda h: lax.reshape(h[:, :, None], (12, 6), (2, 0, 1, 3)).reshape(2, 6, 6),
    "no_entries": lambda h: h + jnp.zeros((0, 3)).reshape((3, 0), order="F").sum(),
    "one_concatenated": lambda h: jnp.concatenate(h.reshape(2, 6, 3, 2).transpose(2, 0, 1, 3), -1),
    "rows_concatenated": lambda h: jnp.concatenate(h, -1).reshape(6, 2, 6).swapaxes(0, 1),
    "bytes": lambda h: h * (1 + (lax.bitcast_convert_type(h, jnp.uint8)[..., -1] >> 7)),
    "bytes_and_back": lambda h: (
        h
        + lax.bitcast_convert_type(
            lax.bitcast_convert_type(lax.stop_gradient(h), jnp.uint16), jnp.float64
        )
    ),
    "bytes_of_a_broadcast": lambda h: (
        h + (lax.bitcast_convert_type(jnp.full((6, 6), 0.3), jnp.uint32)[..., 1] > 3)
    ),
}

# The mean over the repeats makes whole heads of them.
REPEATED = {
    "heads_repeated": lambda h: (
        lax.reshape(heads(h), (6, 2, 24), (1, 0, 2, 3, 4))
        .swapaxes(0, 1)
        .reshape(2, 6, 2, 4, 3)
        .mean(3)
        .reshape(2, 6, 6)
    ),
    "repeats_first": lambda h: (
        lax.reshape(heads(h), (6, 2, 24), (1, 0, 3, 2, 4))
        .swapaxes(0, 1)
        .reshape(2, 6, 4, 2, 3)
        .mean(2)
        .reshape(2, 6, 6)
    ),
}


@jax.custom_jvp
def scaled(x, by):
    return x * by, 0.3


@scaled.defjvp
def _(primals, tangents):
    (x, by), (dx, dby) = primals, tangents
    return scaled(x, by), (dx * by + x * dby, 0.0)


@jax.custom_vjp
def halved(x, by):
    return x * by


halved.defvjp(lambda x, by: (x * by, by), lambda by, g: (g * by, 0.0))


def product(pair):
    return pair[0] * pair[1]


NUMBERS = {
    "full": lambda h: h + jnp.full(h.shape, 0.3),
    "full_like": lambda h: h * jnp.full_like(h, 2) + jnp.zeros_like(h, dtype=bool),
    "where": lambda h: jnp.where(h > 0, 0.3, 0.7) * h + jnp.where(jnp.arange(6) > 2, 0.0, -1e-2),
    "where_true": lambda h: jnp.where(True, h, 0.5),
    "select": lambda h: h * jnp.select([h > 1, h > 0], [0.1, 0.2], 0.3),
    "piecewise": lambda h: jnp.piecewise(h, [h < 0, h >= 0], [0.5, lambda y: y * 2]),
    "numpy": lambda h: h * np.float64(0.5) + np.float32(0.25) + np.int64(2) + np.bool_(True),
    "clip": lambda h: lax.clamp(-0.5, h, 0.5) + jnp.clip(h, None, 0.3),
    "pad": lambda h: lax.pad(h, 0.3, ((0, 0, 0), (1, 1, 0), (0, 0, 0)))[:, 1:-1],
    "half": lambda h: h + h.astype(jnp.float16) * jnp.full((6,), 0.5, jnp.float16),
    "reduce": lambda h: lax.reduce(h, 0.5, lax.add, (1,))[:, None] + h,
    "barrier": lambda h: sum(lax.optimization_barrier((h, 0.3))),
    "activation": lambda h: h * jax.nn.relu(0.5) + jax.nn.gelu(0.2),
    "update": lambda h: lax.dynamic_update_slice_in_dim(h, jnp.full((2, 1, 6), 0.3), 2, 1),
    "at": lambda h: h.at[:, jnp.array([1, 3])].set(0.5) + jnp.zeros((6, 6)).at[2].add(0.3),
    "jit": lambda h: product(jax.jit(lambda y, c: (y * c, 0.3))(h, 0.5)),
    "checkpoint": lambda h: product(jax.checkpoint(lambda y, c: (y * c, 0.5))(h, 0.5)),
    "cond": lambda h: h * lax.cond(h.sum(1)[0, 0] > 0, lambda: 0.3, lambda: 0.3),
    "cond_true": lambda h: product(
        lax.cond(True, lambda y: (y, 1.0), lambda y: (jnp.sin(y), y.shape[0] * 2.0), h)
    ),
    "switch": lambda h: h * lax.switch(1, [lambda c: c, lambda c: c * 2], 0.4),
    "scan": lambda h: product(
        lax.scan(lambda c, _: ((c[0] * 0.5, 2.0), 1.0), (h, 0.5), length=2)[0]
    ),
    "loop": lambda h: product(lax.fori_loop(0, 2, lambda i, c: (jnp.sin(c[0]), 2.0), (h, 0.5))),
    "custom_jvp": lambda h: product(scaled(h, 0.5)),
    "vmap": lambda h: jax.vmap(lambda y, c: y * c, in_axes=(0, None))(h, 0.3),
}  # "cond" reads one channel, which fixes it

ACCESS = {
    "no_channels": lambda h: jnp.concatenate([h, h[..., :0]], -1),
    "no_rows": lambda h: h + h[:, :0].sum(1, keepdims=True),
    "no_rows_of_a_broadcast": lambda h: h + jnp.full((2, 6, 6), 0.3)[:, :0].sum(1, keepdims=True),
    "empty_part": lambda h: jnp.concatenate(jnp.split(h, [0, 3], -1)[::-1], -1),
    "tile": lambda h: jnp.tile(h, (1, 1, 2))[..., 3:9],
    "negative": lambda h: h[:, -1:] + h[:, ::-1],
    "dynamic": lambda h: h
    + lax.dynamic_slice_in_dim(jnp.broadcast_to(jnp.arange(6.0), (8, 6)), jnp.int32(9), 6, 0),
    "update_of_a_broadcast": lambda h: lax.dynamic_update_slice_in_dim(
        jnp.full((2, 6, 6), 0.5), h[:, :2], jnp.int32(9), 1
    ) + h,
    "gather_from_a_broadcast": lambda h: h + jnp.full((9, 6), 0.3)[jnp.array([0, 3, 4, 1, 2, 8])],
    "scatter_into_a_broadcast": lambda h: h + jnp.zeros((6, 6)).at[3].set(h[0, 0]),
    "filled": lambda h: h + jnp.take(
        h, jnp.array([0, 9, 1, 2, 3, 4]), axis=1, mode="fill", fill_value=0.3
    ),
    "sort": lambda h: h + lax.sort(
        (h, jnp.broadcast_to(jnp.arange(6.0)[:, None], h.shape), jnp.full(h.shape, 0.3)), 1
    )[1],
    "reduced_broadcasts": lambda h: h + jnp.full((6, 6), 0.3).max(0),
    "one_hot": lambda h: h + jax.nn.one_hot(jnp.array([1, 2, 3, 0, 1, 5]), 6),
    "outer": lambda h: h + jnp.einsum("nti,ntj->nti", h, 0.1 * jnp.sin(h)),
    "complex": lambda h: (jnp.exp(1j * h) * jnp.exp(-0.5j)).real + jnp.abs(lax.complex(h, h)),
    "masked_mean": lambda h: h + jnp.mean(h, 1, keepdims=True, where=jnp.arange(6)[:, None] < 4),
    "stack": lambda h: jnp.stack([h, jnp.full_like(h, 0.3), jnp.zeros((2, 6, 6))], 0).sum(0),
    "unstack": lambda h: sum(jnp.unstack(jnp.stack([h, h * 2], -1), axis=-1)),
    "tangent": lambda h: jax.jvp(lambda y: jnp.sin(y) * 0.5, (h,), (jnp.ones_like(h),))[1],
    "gradient": lambda h: jax.grad(lambda y: jnp.sum(jnp.where(y > 0, 0.3, y**2)))(h),
}  # fmt: skip


@pytest.mark.parametrize(
    ("chain", "units"),
    [(REORDERED, 6), (REPEATED, 2), (NUMBERS, 5), (ACCESS, 6)],
    ids=["reordered", "repeated", "numbers", "access"],
)
def test_the_laws_on_a_chain(chain, units):
    def fn(v, x):
        h = jnp.tanh(x @ v["a"])
        for step in chain.values():
            h = jnp.tanh(step(h))
        return h @ v["b"]

    shapes = {"a": (5, 6), "b": (6, 3)}
    variables = fill({n: jax.ShapeDtypeStruct(s, float) for n, s in shapes.items()})
    graph = trace(fn, variables, X)
    assert {n: g.size for n, g in graph.groups.items()} == {"a[1]": units}
    assert_laws(graph, fn, variables, X, seed=3)


def test_a_backward_pass_of_the_users_with_a_number():
    def fn(v, x):
        return halved(x @ v["a"], 0.5) @ v["b"]

    variables = fill(
        {n: jax.ShapeDtypeStruct(s, float) for n, s in {"a": (5, 6), "b": (6, 3)}.items()}
    )
    assert_laws(trace(fn, variables, X), fn, variables, X, seed=3)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_bias_of_a_mask_keeps_its_type(dtype):
    def fn(v, x):
        h = x.astype(dtype) @ v["a"]
        seen = jnp.arange(6)[:, None] >= jnp.arange(6)
        bias = jnp.where(seen, 0.0, -1e9)  # a Python number's type gives way
        scores = jnp.einsum("nqc,nkc->nqk", h, h) + bias.astype(dtype)
        h = jnp.einsum("nqk,nkc->nqc", jax.nn.softmax(scores), h + jnp.where(h > 0, 0.5, 0.25))
        return (h + jnp.full((6,), 0.5)) @ v["b"]

    variables = {"a": jnp.ones((5, 6), dtype), "b": jnp.ones((6, 3), dtype)}
    graph = trace(fn, variables, X)
    pruned = graph.slice(variables, graph.masks({"a[1]": [0, 4]}))
    out = pruned.wrap(fn)(pruned.variables, X)
    masked = graph.masked(fn)(variables, graph.masks({"a[1]": [0, 4]}), X)
    assert out.dtype == masked.dtype == fn(variables, X).dtype
    np.testing.assert_allclose(
        out.astype(float), masked.astype(float), rtol=float(jnp.finfo(dtype).eps) * 8
    )


@jax.custom_jvp
def with_counts(x):
    return jnp.sin(x), 3, jnp.zeros(x.shape[-1:], int)


@with_counts.defjvp
def _(primals, tangents):
    (x,), (dx,) = primals, tangents
    none = [np.zeros(shape, jax.dtypes.float0) for shape in ((), x.shape[-1:])]
    return with_counts(x), (dx * jnp.cos(x), *none)


def test_a_rule_of_the_users_with_whole_numbers():
    def fn(v, x):
        h, times, more = with_counts(x @ v["a"])
        return (h * times + more) @ v["b"]

    shapes = {"a": (5, 6), "b": (6, 3)}
    variables = fill({n: jax.ShapeDtypeStruct(s, float) for n, s in shapes.items()})
    assert_laws(trace(fn, variables, X), fn, variables, X, seed=3)
