"""Attention as it is written in published code: the groups found by hand, and the laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from laws import assert_laws, fill

from jaxprune.graph import trace

X = np.random.default_rng(0).normal(size=(2, 3, 5))  # (batch, tokens, features)
D = 6  # the width of a head


def split(h, heads):
    return h.reshape(*h.shape[:2], heads, -1)


def merge(h):
    return h.reshape(*h.shape[:2], -1)


def attend(q, k, v):
    """(n, t, heads, d) of all three."""
    scores = jnp.einsum("...qhd,...khd->...hqk", q / 2, k)
    return jnp.einsum("...hqk,...khd->...qhd", jax.nn.softmax(scores), v)


def rotated(h):
    """RoPE in the form of Llama: the halves of a head are rotated against each other."""
    angles = np.arange(3)[:, None] * np.linspace(1, 0.1, D // 2)
    angles = np.concatenate([angles, angles], -1)[:, None]
    left, right = h[..., : D // 2], h[..., D // 2 :]
    return h * np.cos(angles) + jnp.concatenate([-right, left], -1) * np.sin(angles)


def normalised(h, scale):
    return h * lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-5) * scale


def flat(body, heads=4, keys=2):
    """q, k, v by flat kernels, cut into heads; `body(q, k, v, variables)` is read by `o`."""

    def fn(v, x):
        q, k, w = split(x @ v["q"], heads), split(x @ v["k"], keys), split(x @ v["w"], keys)
        return merge(body(q, k, w, v)) @ v["o"]

    shapes = {"q": (5, heads * D), "k": (5, keys * D), "w": (5, keys * D), "o": (heads * D, 3)}
    return fn, shapes


def by_repeat(q, k, w, v):
    return attend(q, jnp.repeat(k, 2, axis=2), jnp.repeat(w, 2, axis=2))


def by_rotated_repeat(q, k, w, v):
    return by_repeat(rotated(q), rotated(k), w, v)


def by_tile(q, k, w, v):
    """Query head i reads key head i % 2."""
    return attend(q, jnp.tile(k, (1, 1, 2, 1)), jnp.tile(w, (1, 1, 2, 1)))


def by_broadcast(q, k, w, v):
    k, w = (jnp.broadcast_to(y[:, :, :, None], (2, 3, 2, 2, D)).reshape(2, 3, 4, D) for y in (k, w))
    return attend(q, k, w)


def by_broadcast_heads_first(q, k, w, v):
    """As of PyTorch: heads before tokens, `repeat_kv` between."""
    q, k, w = (y.swapaxes(1, 2) for y in (q, k, w))
    k, w = (jnp.broadcast_to(y[:, :, None], (2, 2, 2, 3, D)).reshape(2, 4, 3, D) for y in (k, w))
    return (jax.nn.softmax(q @ k.swapaxes(2, 3)) @ w).swapaxes(1, 2)


def by_grouped_einsum(q, k, w, v):
    q = q.reshape(2, 3, 2, 2, D)
    scores = jnp.einsum("btkgd,bskd->bkgts", q, k)
    return jnp.einsum("bkgts,bskd->btkgd", jax.nn.softmax(scores), w)


def by_jax(q, k, w, v):
    return jax.nn.dot_product_attention(q, k, w)


def by_normalised(q, k, w, v):
    return by_repeat(normalised(q, v["qs"]), normalised(k, v["ks"]), w, v)


def by_vmap(q, k, w, v):
    """One key head and its query heads at a time."""
    q = q.reshape(2, 3, 2, 2, D)

    def head(q, k, w):
        return jnp.einsum("ntgs,nsd->ntgd", jax.nn.softmax(jnp.einsum("ntgd,nsd->ntgs", q, k)), w)

    return jax.vmap(head, in_axes=2, out_axes=2)(q, k, w)


def by_product_and_sum(q, k, w, v):
    k, w = jnp.repeat(k, 2, 2), jnp.repeat(w, 2, 2)
    scores = jax.nn.softmax((q[:, :, None] * k[:, None]).sum(-1), axis=2)
    return (scores[..., None] * w[:, None]).sum(2)


GROUPED = {
    f.__name__: f
    for f in (by_repeat, by_rotated_repeat, by_tile, by_broadcast, by_broadcast_heads_first,
              by_grouped_einsum, by_jax, by_vmap, by_product_and_sum)
}  # fmt: skip


def holds(fn, shapes, units, laws=True, **options):
    variables = fill({name: jax.ShapeDtypeStruct(s, float) for name, s in shapes.items()})
    x = jnp.asarray(X)
    graph = trace(fn, variables, x)
    assert {name: g.size for name, g in graph.groups.items()} == units
    if laws:
        assert_laws(graph, fn, variables, x, **options)
    return graph


@pytest.mark.parametrize("name", GROUPED)
def test_a_key_head_goes_with_its_query_heads(name):
    fn, shapes = flat(GROUPED[name])
    graph = holds(fn, shapes, {"q[1]": 2}, tolerance=1e-6 if name == "by_jax" else 1e-9)
    heads = np.arange(4 * D).reshape(2, 2, D)  # (key head, query head, d)
    if name == "by_tile":
        heads = heads.swapaxes(0, 1)
    keys = np.arange(2 * D).reshape(2, D)
    places = {(m.path, m.axis): np.sort(m.positions) for m in graph.groups["q[1]"].members}
    expected = {("q", 1): heads, ("o", 0): heads, ("k", 1): keys, ("w", 1): keys}
    assert places.keys() == expected.keys()
    for where, positions in expected.items():
        np.testing.assert_array_equal(places[where], np.sort(positions.reshape(2, -1)))


def test_normalised_queries_and_keys_keep_their_width():
    fn, shapes = flat(by_normalised)
    holds(fn, shapes | {"qs": (D,), "ks": (D,)}, {"q[1]": 2})


def test_kernels_that_are_cut_into_heads_open_the_width_too():
    """RoPE ties entry d of a head to its partner d + D / 2; values are not rotated."""

    def fn(v, x):
        q, k, w = (jnp.einsum("nte,ehd->nthd", x, v[name]) for name in "qkw")
        return jnp.einsum("nthd,hde->nte", by_rotated_repeat(q, k, w, v), v["o"])

    shapes = {"q": (5, 4, D), "k": (5, 2, D), "w": (5, 2, D), "o": (4, D, 3)}
    holds(fn, shapes, {"q[1]": 2, "q[2]": D // 2, "w[2]": D})


# One kernel for queries, keys and values.


def three_first(h):
    return jnp.moveaxis(h.reshape(2, 3, 3, 4, D), 2, 0)


def heads_before_three(h):
    return jnp.moveaxis(h.reshape(2, 3, 4, 3, D), 3, 0)


def three_last(h):
    return jnp.moveaxis(h.reshape(2, 3, 4, D, 3), 4, 0)


def each_head_split(h):
    return jnp.split(h.reshape(2, 3, 4, 3 * D), 3, -1)


@pytest.mark.parametrize("order", [three_first, heads_before_three, three_last, each_head_split])
def test_one_kernel_for_all_goes_by_heads(order):
    def fn(v, x):
        return merge(attend(*order(x @ v["a"]))) @ v["o"]

    graph = holds(fn, {"a": (5, 12 * D), "o": (4 * D, 3)}, {"a[1]": 4}, laws=order is three_last)
    places = {m.path: m.positions.shape for m in graph.groups["a[1]"].members}
    assert places == {"a": (4, 3 * D), "o": (4, D)}


@pytest.mark.parametrize("together", [True, False])
def test_one_kernel_for_grouped_heads(together):
    """Key heads with their query heads side by side (as Falcon's), or queries, keys, values."""

    def fn(v, x):
        h = x @ v["a"]
        if together:
            h = h.reshape(2, 3, 2, 4, D)
            parts = h[:, :, :, :-2], h[:, :, :, [-2]], h[:, :, :, [-1]]
            q, k, w = (jnp.broadcast_to(y, (2, 3, 2, 2, D)).reshape(2, 3, 4, D) for y in parts)
            return merge(attend(q, k, w)) @ v["o"]
        q, k, w = jnp.split(h, [4 * D, 6 * D], -1)
        return merge(by_repeat(split(q, 4), split(k, 2), split(w, 2), v)) @ v["o"]

    holds(fn, {"a": (5, 8 * D), "o": (4 * D, 3)}, {"a[1]": 2})


def test_keys_and_values_in_a_cache():
    def cached(q, k, w, v):
        k = lax.dynamic_update_slice(v["cache"], k, (0, 2, 0, 0))
        w = lax.dynamic_update_slice(jnp.zeros((2, 8, 2, D)), w, (0, 2, 0, 0))
        return by_repeat(q, k, w, v)

    fn, shapes = flat(cached)
    holds(fn, shapes | {"cache": (2, 8, 2, D)}, {"q[1]": 2})


def test_attention_without_a_softmax():
    def linear(q, k, w, v):
        q, k = jax.nn.elu(q) + 1, jax.nn.elu(k) + 1
        total = jnp.einsum("nlhd,nhd->nlh", q, k.sum(1))
        return jnp.einsum("nlhd,nhmd,nlh->nlhm", q, jnp.einsum("nshd,nshm->nhmd", k, w), 1 / total)

    fn, shapes = flat(linear, keys=4)
    holds(fn, shapes, {"q[1]": 4})


# One key head for all: each query head alone.


def one_key_head(q, k, w, v):
    scores = jnp.einsum("nqhd,nkd->nhqk", q, k[:, :, 0])
    return jnp.einsum("nhqk,nkd->nqhd", jax.nn.softmax(scores), w[:, :, 0])


def one_key_head_repeated(q, k, w, v):
    return attend(q, jnp.repeat(k, 4, 2), jnp.repeat(w, 4, 2))


def one_key_head_rotated(q, k, w, v):
    return one_key_head_repeated(rotated(q), rotated(k), w, v)


def one_key_head_grouped(q, k, w, v):
    q = q.reshape(2, 3, 1, 4, D)
    scores = jax.nn.softmax(jnp.einsum("btkgd,bskd->bkgts", q, k))
    return jnp.einsum("bkgts,bskd->btkgd", scores, w)


SINGLE = {
    f.__name__: f
    for f in (one_key_head, one_key_head_repeated, one_key_head_rotated, one_key_head_grouped,
              by_jax)
}  # fmt: skip


@pytest.mark.parametrize("name", SINGLE)
def test_with_one_key_head_each_query_head_is_a_unit(name):
    fn, shapes = flat(SINGLE[name], keys=1)
    graph = holds(fn, shapes, {"q[1]": 4}, tolerance=1e-6 if name == "by_jax" else 1e-9)
    assert {m.path for m in graph.groups["q[1]"].members} == {"q", "o"}


# Scores of heads, also by a contraction whose other side is a broadcast.


def with_scores(scale):
    """As many key heads as query heads; `scale` makes scores of scores."""

    def body(q, k, w, v):
        scores = jax.nn.softmax(jnp.einsum("nqhd,nkhd->nhqk", q, k))
        return jnp.einsum("nhqk,nkhd->nqhd", scale(scores, v), w)

    return flat(body, keys=4)


SCORES = {
    "ones": lambda s, v: jnp.einsum("...hqk,h->...hqk", s, jnp.ones(4)),
    "head_mask": lambda s, v: jnp.einsum("...hqk,h->...hqk", s, jnp.ones((3, 4))[1]),
    "learned": lambda s, v: jnp.einsum("...hqk,h->...hqk", s, v["scale"]),
    "mixed": lambda s, v: s + jnp.einsum("nhqk,hg->ngqk", s, 0.1 * jnp.ones((4, 4))),
    "alibi": lambda s, v: s + 2.0 ** -np.arange(1, 5)[:, None, None] * np.eye(3),
    "alibi_iota": lambda s, v: s + 2.0 ** -jnp.arange(1.0, 5)[:, None, None] * jnp.eye(3),
    "relative": lambda s, v: (
        s + v["table"][jnp.abs(np.arange(3)[:, None] - np.arange(3))].transpose(2, 0, 1)
    ),
    "causal": lambda s, v: jnp.where(jnp.tril(jnp.ones((3, 3), bool)), s, -1e9),
}


@pytest.mark.parametrize("name", SCORES)
def test_scores_of_heads(name):
    fn, shapes = with_scores(SCORES[name])
    more = {"learned": {"scale": (4,)}, "relative": {"table": (3, 4)}}.get(name, {})
    holds(fn, shapes | more, {"q[1]": 4})


def test_talking_heads_are_read_and_written():
    """Queries' heads, those between, and those of the values, each on their own."""

    def talking(q, k, w, v):
        scores = jnp.einsum("nqhd,nkhd,hg->ngqk", q, k, v["before"])
        scores = jnp.einsum("nhqk,hg->ngqk", jax.nn.softmax(scores), v["after"])
        return jnp.einsum("nhqk,nkhd->nqhd", scores, w)

    fn, shapes = flat(talking, keys=4)
    units = {"q[1]": 4, "w[1]": 4, "before[1]": 4}
    holds(fn, shapes | {"before": (4, 4), "after": (4, 4)}, units, laws=False)


def test_a_sum_of_channels_by_a_product_with_ones():
    def fn(v, x):
        sums = jnp.cos(x @ v["a"]) @ jnp.broadcast_to(v["w"][:, None], (6, 4))
        return jnp.cos(sums + x @ v["c"]) @ v["b"]

    holds(fn, {"a": (5, 6), "w": (6,), "c": (5, 4), "b": (4, 3)}, {"a[1]": 6, "c[1]": 4})
