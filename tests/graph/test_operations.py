"""What real networks are made of: the groups that are found, and the laws on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from laws import assert_laws, compiled, fill, near

from jaxprune.graph import trace

X = np.random.default_rng(0).normal(size=(2, 6, 5))
IMAGES = np.random.default_rng(1).normal(size=(2, 4, 4, 2))


def holds(fn, units, x=X, laws=True, tolerance=1e-9, **shapes):
    """The sizes of the groups of `fn(variables, x)`, and the laws."""
    structs = {name: jax.ShapeDtypeStruct(shape, float) for name, shape in shapes.items()}
    variables = fill(structs)
    x = jnp.asarray(x)
    graph = trace(fn, variables, x)
    assert {name: g.size for name, g in graph.groups.items()} == units
    if laws:
        assert_laws(graph, fn, variables, x, tolerance=tolerance)
    return graph


def mlp(between):
    """Channels `a[1]` written, passed through `between`, and read by `b`."""
    return lambda v, x: between(x @ v["a"]) @ v["b"]


def kept(between, x=X, **options):
    """All 6 channels are prunable on both sides of `between`, which keeps the last axis."""
    return holds(mlp(between), {"a[1]": 6}, x, a=(x.shape[-1], 6), b=(6, 3), **options)


# Activations.

ACTIVATIONS = (
    "relu relu6 sigmoid softplus sparse_plus soft_sign silu log_sigmoid leaky_relu hard_sigmoid "
    "hard_silu hard_tanh elu celu selu gelu squareplus mish sparse_sigmoid identity"
).split()


def test_activations_also_where_zero_does_not_stay_zero():
    def chain(h):
        for name in ACTIVATIONS:
            h = getattr(jax.nn, name)(0.9 * h + 0.1)
        return h + jnp.cos(h) + jnp.exp(-h)

    kept(chain)


# Access along other axes than the channels'.

INDEXING = {
    "token": lambda h: jnp.tanh(h[:, 0]),
    "rows": lambda h: h[:, jnp.array([3, 0, 0])],
    "take": lambda h: jnp.take(h, jnp.array([1, 2]), axis=1),
    "take_along": lambda h: jnp.take_along_axis(h, jnp.argsort(X.sum(-1), 1)[..., None], 1),
    "dynamic": lambda h: lax.dynamic_slice_in_dim(h, jnp.int32(1) * 2, 3, 1),
    "update": lambda h: lax.dynamic_update_slice_in_dim(h, jnp.sin(h[:, :2]), 1, 1),
    "at_set": lambda h: h.at[:, 0].set(0.5).at[:, 1].add(jnp.sin(h[:, 2])),
    "at_rows": lambda h: h.at[:, jnp.array([0, 2])].multiply(2.0).at[:, 1].max(h[:, 3]),
    "flip": lambda h: jnp.flip(h, 1),
    "sort": lambda h: jnp.sort(h, 1),
    "top": lambda h: lax.top_k(h.swapaxes(1, 2), 2)[0].swapaxes(1, 2),
    "argmax": lambda h: h * (1 + jnp.argmax(h, 1, keepdims=True)),
    "cumsum": lambda h: jnp.cumsum(h, 1),
    "median": lambda h: jnp.median(h, 1),
    "softmax": lambda h: jax.nn.softmax(h, 1),
    "strided": lambda h: h[:, 1::2],
    "roll": lambda h: jnp.roll(h, 2, 1),
    "per_sample": lambda h: jax.vmap(lambda y, i: y[i])(h, jnp.array([1, 4])),
    "pad": lambda h: jnp.pad(h, ((0, 0), (1, 2), (0, 0)), mode="reflect"),
    "windows": lambda h: h.reshape(2, 3, 2, 6).swapaxes(1, 2).reshape(4, 3, 6),
    "stack": lambda h: jnp.stack([h, jnp.sin(h)], 1).max(1),
    "unstack": lambda h: sum(jnp.unstack(h * jnp.arange(1.0, 7)[:, None], axis=1)),
    "tile": lambda h: jnp.tile(h, (1, 2, 1)) + jnp.tile(jnp.ones((2, 1, 1)), (1, 12, 6)),
    "logsumexp": lambda h: jax.nn.logsumexp(h, 1),
    "device": lambda h: jax.device_put(h),
    "turned_channels": lambda h: h * jnp.flip(jnp.flip(jnp.tanh(h), -1), -1),
}


@pytest.mark.parametrize("name", INDEXING)
def test_access_along_other_axes_passes_the_channels(name):
    kept(INDEXING[name])


def test_all_reads_by_index_together_keep_the_laws():
    def fn(v, x):
        tokens = (jnp.abs(x[..., 0]) * 2).astype(int)
        h = v["table"][tokens] + v["positions"]
        h = jnp.concatenate([jnp.broadcast_to(v["class"], (2, 1, 6)), h], 1)
        return jnp.tanh(h)[:, 0] @ v["b"]

    shapes = {"table": (9, 6), "positions": (6, 6), "class": (1, 1, 6), "b": (6, 3)}
    holds(fn, {"class[2]": 6}, **shapes)


# Convolutions, also of one and three dimensions.


def conv(x, kernel, numbers, **options):
    options = {"window_strides": (1,) * (x.ndim - 2), "padding": "SAME"} | options
    return lax.conv_general_dilated(x, kernel, dimension_numbers=numbers, **options)


def test_convolutions_of_one_and_three_dimensions():
    def fn(v, x):
        h = jnp.tanh(conv(x, v["a"], ("NWC", "WIO", "NWC"), rhs_dilation=(2,)))
        h = jnp.tanh(lax.conv_transpose(h, v["t"], (2,), "SAME"))
        h = h.reshape(2, 3, 2, 2, 8)
        h = conv(h, v["d"], ("NDHWC", "DHWIO", "NDHWC"), window_strides=(1, 2, 1))
        return jnp.tanh(h).mean((1, 2, 3)) @ v["o"]

    units = {"a[2]": 4, "t[2]": 8, "d[4]": 6}
    holds(fn, units, a=(3, 5, 4), t=(2, 4, 8), d=(1, 2, 2, 8, 6), o=(6, 3))


def test_pooling_of_every_kind():
    def fn(v, x):
        h = jnp.tanh(x @ v["a"])
        window = ((1, 2, 2, 1), (1, 2, 2, 1), "SAME")
        parts = [
            lax.reduce_window(h, -jnp.inf, lax.max, *window),
            lax.reduce_window(h, jnp.inf, lax.min, *window),
            jnp.sqrt(1 + lax.reduce_window(h * h, 0.0, lax.add, *window)),
            h.reshape(2, 2, 2, 2, 2, 6).max((2, 4)),
        ]
        h = sum(parts)
        h = h + h.mean((1, 2), keepdims=True) + h.max((1, 2), keepdims=True)
        return h.sum((1, 2)) @ v["b"]

    holds(fn, {"a[1]": 6}, IMAGES, a=(2, 6), b=(6, 3))


@pytest.mark.parametrize("method", ["nearest", "linear", "cubic"])
def test_resize(method):
    def fn(v, x):
        h = jax.image.resize(jnp.tanh(x @ v["a"]), (2, 7, 8, 6), method)
        return h.max((1, 2)) @ v["b"]

    holds(fn, {"a[1]": 6}, IMAGES, laws=method == "linear", a=(2, 6), b=(6, 3))


def test_pixel_shuffle_ties_the_channels_of_one_pixel():
    def fn(v, x):
        h = jnp.tanh(x @ v["a"]).reshape(2, 4, 4, 2, 2, 3)
        h = h.transpose(0, 1, 3, 2, 4, 5).reshape(2, 8, 8, 3)
        return jnp.tanh(h @ v["b"]).mean((1, 2)) @ v["c"]

    holds(fn, {"a[1]": 3, "b[1]": 4}, IMAGES, a=(2, 12), b=(3, 4), c=(4, 2))


def test_instance_and_group_normalisation():
    def normalised(h, axes):
        return (h - h.mean(axes, keepdims=True)) / jnp.sqrt(h.var(axes, keepdims=True) + 1e-5)

    def fn(v, x):
        h = normalised(x @ v["a"], (1, 2))
        h = normalised((h @ v["g"]).reshape(2, 4, 4, 3, 2), (1, 2, 4)).reshape(2, 4, 4, 6)
        return (h * v["scale"]).max((1, 2)) @ v["b"]

    holds(fn, {"a[1]": 4, "g[1]": 3}, IMAGES, a=(2, 4), g=(4, 6), scale=(6,), b=(6, 3))


# Attention.


def attend(q, k, v):
    scores = jnp.einsum("nqhd,nkhd->nhqk", q, k) / 2
    return jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores), v)


def test_attention_with_separate_projections():
    """Heads, the dimension of queries and keys, and that of values, each on its own."""

    def fn(v, x):
        q, k, w = (jnp.einsum("ntc,chd->nthd", x, v[name]) for name in "qkw")
        return jnp.einsum("nthd,hdo->nto", attend(q, k, w), v["o"]).mean(1) @ v["z"]

    units = {"q[1]": 3, "q[2]": 4, "w[2]": 2, "o[2]": 6}
    holds(fn, units, q=(5, 3, 4), k=(5, 3, 4), w=(5, 3, 2), o=(3, 2, 6), z=(6, 3))


def test_attention_with_one_fused_projection_goes_by_heads():
    def fn(v, x):
        qkv = (x @ v["a"] + v["bias"]).reshape(2, 6, 3, 2, 4)
        out = attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]).reshape(2, 6, 8)
        return jnp.tanh(out @ v["o"]) @ v["z"]

    holds(fn, {"a[1]": 2, "o[1]": 6}, a=(5, 24), bias=(24,), o=(8, 6), z=(6, 3))


def test_attention_with_one_projection_split_into_three():
    def fn(v, x):
        q, k, w = (p.reshape(2, 6, 2, 4) for p in jnp.split(x @ v["a"], 3, -1))
        return jax.nn.dot_product_attention(q, k, w).reshape(2, 6, 8) @ v["o"]

    # JAX's own attention takes its softmax in float32.
    holds(fn, {"a[1]": 2}, tolerance=1e-6, a=(5, 24), o=(8, 3))


# Control flow.


def stacked_layers(v, x):
    def layer(h, w):
        inner = jax.nn.relu(h @ w["up"] + w["bias"])
        return h + inner @ w["down"], inner.mean((1, 2))

    layers = {name: v[name] for name in ("up", "bias", "down")}
    h, energy = lax.scan(layer, jnp.tanh(x @ v["a"]), layers)
    return h @ v["b"] + energy.sum()


STACKED = {"a": (5, 4), "up": (3, 4, 6), "bias": (3, 6), "down": (3, 6, 4), "b": (4, 3)}


def test_scan_over_stacked_layers():
    graph = holds(stacked_layers, {"a[1]": 4, "up[2]": 6}, **STACKED)
    assert "scan at" in graph.fixed["up[0]"] and "a loop runs along" in graph.fixed["up[0]"]
    # Three layers of 12 rows (two samples of six tokens): up and down, and the ends.
    assert graph.cost().macs == 12 * (5 * 4 + 3 * 2 * 4 * 6 + 4 * 3)
    assert graph.cost({"a[1]": 2, "up[2]": 3}).macs == 12 * (5 * 2 + 3 * 2 * 2 * 3 + 2 * 3)


def test_taps_in_a_scan_see_each_step():
    variables = fill({n: jax.ShapeDtypeStruct(s, float) for n, s in STACKED.items()})
    graph = trace(stacked_layers, variables, X)
    out, reads = graph.tapped(stacked_layers)(variables, X)
    np.testing.assert_allclose(out, stacked_layers(variables, X), rtol=1e-12)
    h = np.tanh(X @ variables["a"])
    np.testing.assert_allclose(reads["up"], h, rtol=1e-12)
    for i, name in enumerate(["down", "down#2", "down#3"]):
        inner = np.maximum(h @ variables["up"][i] + variables["bias"][i], 0)
        np.testing.assert_allclose(reads[name], inner, rtol=1e-10, atol=1e-12)
        h = h + inner @ variables["down"][i]


def test_a_recurrent_network():
    """The carry starts as zeros, which are free, and is tied to what the body gives."""

    def fn(v, x):
        def cell(carry, y):
            h, c = carry
            gates = y @ v["a"] + h @ v["w"] + v["bias"]
            i, f, o, g = jnp.split(gates, 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zeros = jnp.zeros((2, 4))
        (h, _), hs = lax.scan(cell, (zeros, zeros), x.swapaxes(0, 1), reverse=True)
        return h @ v["b"] + jnp.tanh(hs).mean(0) @ v["b"]

    holds(fn, {"a[1]": 4}, a=(5, 16), w=(4, 16), bias=(16,), b=(4, 3))


def test_loops_whose_carries_change_places():
    """Labels go round: the second carry gets those of the first only in the second walk."""

    def fn(v, x):
        def body(i, carry):
            first, second, third = carry
            return jnp.tanh(third), first, second * 0.5

        h = x @ v["a"]
        first, second, _ = lax.fori_loop(0, 4, body, (h, jnp.zeros_like(h), jnp.ones_like(h)))
        return first @ v["b"] + second @ v["b"]

    holds(fn, {"a[1]": 6}, a=(5, 6), b=(6, 3))


def test_a_loop_that_mixes_channels_fixes_them():
    def fn(v, x):
        h, _ = lax.scan(lambda h, _: (jnp.sort(h, -1), None), x @ v["a"], length=2)
        return h @ v["b"] + jnp.tanh(x @ v["c"]) @ v["d"]

    graph = holds(fn, {"c[1]": 4}, a=(5, 6), b=(6, 3), c=(5, 4), d=(4, 3))
    assert "sort" in graph.fixed["a[1]"]

    def turned(v, x):  # each step moves every channel by one, which ties them all
        h, _ = lax.scan(lambda h, _: (jnp.roll(h, 1, -1), None), x @ v["a"], length=2)
        return h @ v["b"] + jnp.tanh(x @ v["c"]) @ v["d"]

    holds(turned, {"c[1]": 4}, a=(5, 6), b=(6, 3), c=(5, 4), d=(4, 3))


def test_while_loops_and_conditions():
    def fn(v, x):
        h = x @ v["a"]
        h = lax.while_loop(
            lambda c: (c[1] < 3) & (jnp.abs(c[0]).sum() < 1e6),
            lambda c: (jnp.tanh(c[0] @ v["w"]) + v["bias"], c[1] + 1),
            (h, 0),
        )[0]
        h = lax.cond(
            x.sum() > 0, lambda h: h @ v["w"], lambda h: jnp.broadcast_to(v["bias"], h.shape), h
        )
        h = lax.switch(jnp.int32(x[0, 0, 0] > 9) + 1, [jnp.sin, jnp.cos, lambda h: h + 1], h)
        return h @ v["b"]

    # A while loop has no gradient of its own: outputs only.
    variables = fill(
        {n: jax.ShapeDtypeStruct(s, float)
         for n, s in {"a": (5, 6), "w": (6, 6), "bias": (6,), "b": (6, 3)}.items()}
    )  # fmt: skip
    graph = trace(fn, variables, X)
    assert {n: g.size for n, g in graph.groups.items()} == {"a[1]": 6}
    masks = graph.masks({"a[1]": [0, 3, 4]})
    pruned = graph.slice(variables, masks)
    sliced = pruned.wrap(fn)(pruned.variables, X)
    np.testing.assert_allclose(graph.masked(fn)(variables, masks, X), sliced, rtol=1e-10)
    full = graph.masked(fn)(variables, graph.full_masks(), X)
    np.testing.assert_allclose(full, fn(variables, X), rtol=1e-12)

    def tangent_of(fn, variables, tangents):
        moved = compiled(lambda v, t: jax.jvp(fn, (v,), (t,))[1], variables, tangents)
        return moved(variables, tangents)

    tangent = tangent_of(lambda v: pruned.wrap(fn)(v, X), pruned.variables, pruned.variables)
    dense = jax.tree.map(jnp.zeros_like, variables)
    dense = {n: dense[n].at[np.ix_(*_kept(pruned, n, dense[n]))].set(pruned.variables[n])
             for n in dense}  # fmt: skip
    moved = tangent_of(lambda v: graph.masked(fn)(v, masks, X), variables, dense)
    np.testing.assert_allclose(moved, tangent, rtol=1e-9)
    _, reads = graph.tapped(fn)(variables, X)  # what cannot leave a loop is not tapped
    assert set(reads) == {"w", "b"}


def _kept(pruned, name, leaf):
    return [pruned.indices.get(f"{name}[{a}]", np.arange(n)) for a, n in enumerate(leaf.shape)]


def test_everything_nested():
    def fn(v, x):
        @jax.checkpoint
        def layer(h, w):
            def inner(i, h):
                return lax.cond(i > 0, lambda h: jax.nn.gelu(h @ w), jax.jit(jax.nn.relu), h)

            return lax.fori_loop(0, 2, inner, h) + h, None

        def each(sample):
            return lax.scan(layer, sample @ v["a"], v["w"])[0]

        return jax.vmap(each)(x) @ v["b"]

    holds(fn, {"a[1]": 4}, a=(5, 4), w=(2, 4, 4), b=(4, 3))


def test_vmap_over_layers_and_over_parameters():
    def fn(v, x):
        branches = jax.vmap(lambda w, c: jnp.tanh(x @ w) @ c)(v["a"], v["c"])
        return branches.sum(0) @ v["b"]

    # The branches that are summed can be pruned, too.
    units = {"a[2]": 4, "c[2]": 6, "a[0]": 3}
    holds(fn, units, a=(3, 5, 4), c=(3, 4, 6), b=(6, 3))


# Derivative rules of the user's own.


@jax.custom_vjp
def clipped(x, scale):
    return x * scale


def _clipped_forward(x, scale):
    return clipped(x, scale), (x > 0, scale)


def _clipped_backward(residuals, g):
    positive, scale = residuals
    return 2 * jnp.where(positive, jnp.clip(g, -0.1, 0.1), 0) + 0 * scale, None


clipped.defvjp(_clipped_forward, _clipped_backward)


def test_a_backward_rule_of_the_users_survives():
    def fn(v, x):
        h = clipped(x @ v["a"], jnp.float64(0.5))
        return clipped(h, np.linspace(0.5, 1, 6)) @ v["b"]

    holds(fn, {"a[1]": 6}, a=(5, 6), b=(6, 3))

    # It is a rule, not the derivative: the gradient is not that of x * scale.
    variables = {"a": jnp.ones((5, 6)), "b": jnp.ones((6, 3))}
    graph = trace(fn, variables, X)
    pruned = graph.slice(variables, graph.masks({"a[1]": [0]}))
    small = jax.grad(lambda v: pruned.wrap(fn)(v, X).sum())(pruned.variables)["a"]
    np.testing.assert_allclose(
        small, jax.grad(lambda v: fn(v, X).sum())(variables)["a"][:, 1:], rtol=1e-12
    )


def test_a_backward_rule_under_a_scan_and_with_constants_of_its_own():
    scales = np.linspace(0.5, 1, 6)

    @jax.custom_vjp
    def scaled(x):
        return x * scales

    scaled.defvjp(lambda x: (scaled(x), None), lambda _, g: (g * scales**2,))

    def fn(v, x):
        h, _ = lax.scan(lambda h, w: (scaled(h) + w, None), x @ v["a"], v["w"])
        return h @ v["b"]

    holds(fn, {"a[1]": 6}, a=(5, 6), w=(2, 6), b=(6, 3))


@jax.custom_vjp
def penalised(x):
    return jnp.cos(x)


penalised.defvjp(lambda x: (penalised(x), x), lambda x, g: (g + 0.1 * jnp.sign(x) + 1,))


def test_a_backward_rule_that_gives_a_gradient_where_nothing_is_read():
    """The gradient that it gives for dropped channels must not reach the layers before."""

    def fn(v, x):
        h = penalised((jnp.tanh(x @ v["z"]) @ v["a"]).reshape(2, 6, 2, 3))
        return penalised(h.swapaxes(2, 3).reshape(2, 6, 6)) @ v["b"]

    graph = holds(fn, {"z[1]": 4, "a[1]": 6}, z=(5, 4), a=(4, 6), b=(6, 3))
    variables = fill({"z": jax.ShapeDtypeStruct((5, 4), float),
                      "a": jax.ShapeDtypeStruct((4, 6), float),
                      "b": jax.ShapeDtypeStruct((6, 3), float)})  # fmt: skip

    def loss(v, masks):
        return jnp.sum(graph.masked(fn)(v, masks, jnp.asarray(X))[1])

    rows = {n: np.ones((2, g.size)) for n, g in graph.groups.items()}
    rows["a[1]"][1, :3] = 0
    one = {n: m[1] for n, m in rows.items()}
    per_sample = compiled(jax.grad(loss), variables, rows)(variables, rows)
    alone = compiled(jax.grad(loss), variables, one)(variables, one)
    near(per_sample["b"], alone["b"], 1e-12)
