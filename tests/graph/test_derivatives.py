"""Contractions inside functions with derivative rules of their own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from laws import assert_laws, compiled, fill, near
from own_rules import flash, mlp, quantised, with_rule

from jaxprune.graph import trace

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 6, 5))


def laws(fn, sizes, x=X, **shapes):
    """Holds the laws on `fn(v, x)`, and the sizes of the groups that are expected."""
    variables = fill({n: jax.ShapeDtypeStruct(s, float) for n, s in shapes.items()})
    graph = trace(fn, variables, x)
    assert {n: g.size for n, g in graph.groups.items()} == sizes, graph.fixed
    assert_laws(graph, fn, variables, jnp.asarray(x))
    return graph, variables


def attention(v, x):
    q, k, w = (jnp.einsum("ntc,chd->nthd", x, v[name]) for name in ("q", "k", "v"))
    return jnp.einsum("nthd,hdo->nto", flash(q, k, w), v["o"])


def test_attention_in_blocks():
    groups = {"q[1]": 2, "q[2]": 4, "v[2]": 3}
    laws(attention, groups, q=(5, 2, 4), k=(5, 2, 4), v=(5, 2, 3), o=(2, 3, 5))


def test_a_quantised_product():
    def fn(v, x):
        return quantised(jnp.tanh(quantised(x, v["a"], v["c"])), v["b"], v["d"])

    laws(fn, {"a[1]": 6}, a=(5, 6), c=(6,), b=(6, 3), d=(3,))


def test_the_gradient_in_a_mask_is_that_of_the_same_function_without_a_rule():
    def plain(v, x):
        q, k, w = (jnp.einsum("ntc,chd->nthd", x, v[name]) for name in ("q", "k", "v"))
        p = jax.nn.softmax(jnp.einsum("nqhd,nkhd->nhqk", q, k) / np.sqrt(4))
        return jnp.einsum("nqhd,hdo->nqo", jnp.einsum("nhqk,nkhd->nqhd", p, w), v["o"])

    shapes = {"q": (5, 2, 4), "k": (5, 2, 4), "v": (5, 2, 3), "o": (2, 3, 5)}
    variables = fill({n: jax.ShapeDtypeStruct(s, float) for n, s in shapes.items()})
    graph = trace(attention, variables, X)
    rng = np.random.default_rng(0)
    soft = {n: rng.uniform(0, 2, (2, g.size)) for n, g in graph.groups.items()}
    for masks in ({n: m[0] for n, m in soft.items()}, soft):

        def loss(v, m, fn):
            return jnp.sum(jnp.sin(graph.masked(fn)(v, m, X)))

        grads = compiled(jax.grad(functools.partial(loss, fn=attention), (0, 1)), variables, masks)
        same = compiled(jax.grad(functools.partial(loss, fn=plain), (0, 1)), variables, masks)
        near(grads(variables, masks), same(variables, masks), 1e-9)


# Layers that compute their inside anew in the backward pass.


def deep(v, x):
    h = jnp.tanh(x @ v["a"])
    for i in range(2):
        h = mlp(h, v["up"][i], v["bias"][i], v["down"][i])
    return h @ v["b"]


def test_what_is_written_and_read_inside():
    shapes = {"a": (5, 4), "up": (2, 4, 6), "bias": (2, 6), "down": (2, 6, 4), "b": (4, 3)}
    graph, variables = laws(deep, {"a[1]": 4, "up[2]": 6}, **shapes)
    assert {m.path: m.role for m in graph.groups["up[2]"].members} == {
        "up": "writes", "bias": "writes", "down": "reads",
    }  # fmt: skip
    assert graph.cost().macs == 12 * (5 * 4 + 2 * 2 * 4 * 6 + 4 * 3)
    rows = {n: np.ones((2, g.size)) for n, g in graph.groups.items()}
    with pytest.raises(ValueError, match="masks per sample"):
        graph.masked(deep)(variables, rows, X)


def scanned(v, x):
    @jax.checkpoint
    def layer(h, w):
        inner = jax.vmap(lambda h: mlp(h, *w))
        return lax.cond(h.sum() > -1e9, inner, jnp.tanh, h), None

    h, _ = lax.scan(layer, jnp.tanh(x @ v["a"]), (v["up"], v["bias"], v["down"]))
    return h @ v["b"]


def test_inside_loops_branches_checkpoints_and_vmap():
    shapes = {"a": (5, 4), "up": (2, 4, 6), "bias": (2, 6), "down": (2, 6, 4), "b": (4, 3)}
    laws(scanned, {"a[1]": 4, "up[2]": 6}, **shapes)


# All ways to write a rule.


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def product(x, w, act):
    return act(x @ w)


@product.defjvp
def _(act, primals, tangents):
    (x, w), (dx, dw) = primals, tangents
    y, dy = jax.jvp(act, (x @ w,), (2 * (dx @ w + x @ dw),))
    return y, dy


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def linear(scale, x, w):
    return scale * x @ w


linear.defvjp(
    lambda scale, x, w: (linear(scale, x, w), (x, w)),
    lambda scale, kept, g: (g @ kept[1].T, jnp.einsum("nti,nto->io", kept[0], g)),
)


@jax.custom_gradient
def graded(x, w):
    y = jnp.sin(x @ w)
    return y, lambda g: ((g * jnp.cos(y)) @ w.T, jnp.einsum("nti,nto->io", x, 3 * g))


@jax.custom_vjp
def symbolic(x, w):
    return x @ w


def _symbolic_fwd(x, w):
    return x.value @ w.value, (x.value if w.perturbed else None, w.value)


def _symbolic_bwd(kept, g):
    x, w = kept
    if isinstance(g, jax.custom_derivatives.SymbolicZero):
        return None, None
    return g @ w.T, None if x is None else 2 * jnp.einsum("nti,nto->io", x, g)


symbolic.defvjp(_symbolic_fwd, _symbolic_bwd, symbolic_zeros=True)


@jax.custom_vjp
def optimised(x, w):
    return x @ w


optimised.defvjp(
    lambda x, w: (x @ w, (x, w)),
    lambda kept, g: (g @ kept[1].T, 2 * jnp.einsum("nti,nto->io", kept[0], g)),
    optimize_remat=True,
)


def converted(x, w):
    """A function that closes over what is differentiated, as `closure_convert` hands it out."""
    fn, consts = jax.closure_convert(lambda x: jnp.tanh(x @ w), x)
    return with_rule(lambda x, *consts: fn(x, *consts))(x, *consts)


@jax.custom_jvp
def nested(x, w):
    return linear(2.0, jnp.tanh(x), w)


@nested.defjvp
def _(primals, tangents):
    (x, w), (dx, dw) = primals, tangents
    t = jnp.tanh(x)
    return linear(2.0, t, w), 3 * (dx * (1 - t * t)) @ w + t @ dw


WAYS = {
    "nondiff jvp": lambda x, w: product(x, w, jnp.sin),
    "nondiff vjp": functools.partial(linear, 2.0),
    "custom gradient": graded,
    "symbolic zeros": symbolic,
    "optimised": optimised,
    "closure converted": converted,
    "nested": nested,
    "jitted": jax.jit(with_rule(lambda x, w: jax.nn.silu(x) @ w)),
    "two results": lambda x, w: sum(with_rule(lambda x, w: (x @ w, jnp.cos(x) @ w))(x, w)),
    "one operand": lambda x, w: (
        x @ w * with_rule(lambda x: jnp.sum(x * jnp.tanh(x), -1))(x)[..., None]
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_write_a_rule(way):
    def fn(v, x):
        h = WAYS[way](jnp.cos(x @ v["a"]), v["w"])
        return jnp.tanh(h) @ v["b"]

    laws(fn, {"a[1]": 6, "w[1]": 4}, a=(5, 6), w=(6, 4), b=(4, 3))


# Functions that close over arrays.

ORDER, SCALE = np.array([2, 0, 1, 5, 4, 3]), np.linspace(0.5, 2, 6)


def _ordered(x):
    return jnp.sin((x * SCALE)[..., ORDER])


def _slope(x):
    return 3 * jnp.cos((x * SCALE)[..., ORDER])


@jax.custom_jvp
def ordered_jvp(x):
    return _ordered(x)


@ordered_jvp.defjvp
def _(primals, tangents):
    (x,), (dx,) = primals, tangents
    return ordered_jvp(x), _slope(x) * (dx * SCALE)[..., ORDER]


@jax.custom_vjp
def ordered_vjp(x):
    return _ordered(x)


ordered_vjp.defvjp(
    lambda x: (ordered_vjp(x), x),
    lambda x, g: (SCALE * jnp.zeros_like(x).at[..., ORDER].add(g * _slope(x)),),
)


@jax.custom_jvp
def ordered_product(x, w):
    return _ordered(x) @ w


@ordered_product.defjvp
def _(primals, tangents):
    (x, w), (dx, dw) = primals, tangents
    _, moved = jax.jvp(ordered_jvp, (x,), (dx,))
    return ordered_product(x, w), moved @ w + 2 * _ordered(x) @ dw


def test_what_a_function_closes_over_is_an_operand_that_its_rule_does_not_get():
    def fn(v, x):
        h = jax.jit(ordered_jvp)(x @ v["a"])
        h = ordered_vjp(h @ v["b"])
        return ordered_product(h @ v["c"], v["w"]) @ v["d"]

    groups = {"a[1]": 6, "b[1]": 6, "w[1]": 4}  # SCALE is one array: c[1] is in b[1]
    laws(fn, groups, a=(5, 6), b=(6, 6), c=(6, 6), w=(6, 4), d=(4, 3))


def test_a_function_that_closes_over_a_variable_has_no_derivative_but_is_pruned():
    def fn(v, x):
        @jax.custom_jvp
        def scaled(x):
            return jnp.sin(x * v["s"])

        @scaled.defjvp
        def _(primals, tangents):
            return scaled(*primals), jnp.cos(primals[0] * v["s"]) * v["s"] * tangents[0]

        return scaled(x @ v["a"]) @ v["b"]

    shapes = {"s": (6,), "a": (5, 6), "b": (6, 3)}
    variables = fill({n: jax.ShapeDtypeStruct(s, float) for n, s in shapes.items()})
    graph = trace(fn, variables, X)
    masks = graph.masks({"a[1]": [1, 4]})
    pruned = graph.slice(variables, masks)
    dense = graph.masked(fn)(variables, masks, X)
    near(dense, pruned.wrap(fn)(pruned.variables, X), 1e-12)


# What no mask on the operands drops is kept whole.


def _divided_by_its_norm(x, w):
    return (x / jnp.linalg.norm(x, axis=1, keepdims=True)) @ w


@jax.custom_vjp
def odd_rule(x, w):
    return x @ w


odd_rule.defvjp(
    lambda x, w: (x @ w, (x, w)),
    lambda kept, g: (
        (g @ kept[1].T) * jnp.cos(kept[0]).sum(-1, keepdims=True),
        jnp.einsum("nti,nto->io", kept[0], g),
    ),
)


@jax.custom_jvp
def exponentials(x):
    return jnp.exp(x).sum(-1)


@exponentials.defjvp
def _(primals, tangents):
    return exponentials(*primals), 2 * (jnp.exp(primals[0]) * tangents[0]).sum(-1)


@with_rule
def over_heads(x, w):
    return jnp.einsum("nthd,hdo->nto", jnp.tanh(x), w.reshape(2, 3, 4))


KEPT = {
    "exp is one at zero": lambda x, w: exponentials(x)[..., None] * w.max(0),
    "a constant inside": with_rule(lambda x, w: jnp.sum(x + 0.1, -1, keepdims=True) + w[0]),
    "read and passed on": with_rule(lambda x, w: (x * jnp.tanh(x.sum(-1, keepdims=True))) @ w),
    "its rule counts": odd_rule,
    "sorted": with_rule(lambda x, w: jnp.sort(x, -1) @ w),
}
OPEN = {
    "zero over zero": with_rule(_divided_by_its_norm),
    "clipped": with_rule(lambda x, w: jnp.clip(x, -0.5, 0.5) @ jnp.round(4 * w)),
    "two axes": lambda x, w: over_heads(x.reshape(2, 6, 2, 3), w),
}


def hidden(read):
    def fn(v, x):
        return jnp.tanh(read(jnp.cos(x @ v["a"]), v["w"])) @ v["b"]

    return fn


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_whole(name):
    def fn(v, x):
        return hidden(KEPT[name])(v, x) + jnp.tanh(x @ v["c"]) @ v["d"]

    shapes = {"a": (5, 6), "w": (6, 4), "b": (4, 3), "c": (5, 4), "d": (4, 3)}
    graph, _ = laws(fn, {"w[1]": 4, "c[1]": 4}, **shapes)
    reasons = ("own derivative", "a normalisation", "sorts")
    assert any(reason in graph.fixed["a[1]"] for reason in reasons)


@pytest.mark.parametrize("name", OPEN)
def test_what_is_opened(name):
    fn = hidden(OPEN[name])
    variables = fill(
        {
            n: jax.ShapeDtypeStruct(s, float)
            for n, s in {"a": (5, 6), "w": (6, 4), "b": (4, 3)}.items()
        }
    )
    graph = trace(fn, variables, X)
    assert "a[1]" in graph.groups
    assert_laws(graph, fn, variables, jnp.asarray(X))


def test_pruned_twice():
    shapes = {"q": (5, 2, 4), "k": (5, 2, 4), "v": (5, 2, 3), "o": (2, 3, 5)}
    variables = fill({n: jax.ShapeDtypeStruct(s, float) for n, s in shapes.items()})
    graph = trace(attention, variables, X)
    pruned = graph.slice(variables, graph.masks({"q[2]": [1], "v[2]": [0]}))
    again = trace(pruned.wrap(attention), pruned.variables, X)
    assert {n: g.size for n, g in again.groups.items()} == {"q[1]": 2, "q[2]": 3, "v[2]": 2}
    assert_laws(again, pruned.wrap(attention), pruned.variables, jnp.asarray(X))


def test_masks_per_sample_equal_a_loop_over_the_samples():
    def fn(v, x):
        h = quantised(jnp.tanh(x @ v["a"]), v["w"], v["bias"])
        return product(jnp.cos(h), v["u"], jnp.sin) @ v["b"]

    shapes = {"a": (5, 6), "w": (6, 4), "bias": (4,), "u": (4, 3), "b": (3, 2)}
    variables = fill({n: jax.ShapeDtypeStruct(s, float) for n, s in shapes.items()})
    graph = trace(fn, variables, X)
    rng = np.random.default_rng(1)
    masks = {n: rng.integers(0, 2, (2, g.size)).astype(float) for n, g in graph.groups.items()}
    assert list(masks) == ["a[1]", "w[1]", "u[1]"]

    def loss(v, m, x):
        return jnp.sum(jnp.sin(graph.masked(fn)(v, m, x)))

    grads = jax.grad(loss, (0, 1))(variables, masks, X)
    ones = [
        jax.grad(loss, (0, 1))(variables, {n: m[i] for n, m in masks.items()}, X[i : i + 1])
        for i in range(2)
    ]
    near(grads[0], jax.tree.map(jnp.add, ones[0][0], ones[1][0]), 1e-12)
    near({n: g[1] for n, g in grads[1].items()}, ones[1][1], 1e-12)


def test_a_rule_that_sums_what_samples_have_dropped_takes_no_masks_per_sample():
    @jax.custom_vjp
    def odd(x, w):
        return x @ w

    odd.defvjp(
        lambda x, w: (x @ w, (x, w)),
        lambda kept, g: (g @ kept[1].T, jnp.einsum("nti,nto->io", jnp.cos(kept[0]), g)),
    )
    fn = hidden(odd)
    graph, variables = laws(fn, {"a[1]": 6, "w[1]": 4}, a=(5, 6), w=(6, 4), b=(4, 3))
    rows = {n: np.ones((2, g.size)) for n, g in graph.groups.items()}
    with pytest.raises(ValueError, match="masks per sample"):
        graph.masked(fn)(variables, rows, X)


def test_second_derivatives():
    def fn(v, x):
        return jnp.sum(product(jnp.cos(x @ v["a"]), v["w"], jnp.sin) @ v["b"])

    shapes = {"a": (5, 6), "w": (6, 4), "b": (4, 3)}
    variables = fill({n: jax.ShapeDtypeStruct(s, float) for n, s in shapes.items()})
    graph = trace(fn, variables, X)
    masks = graph.masks({"a[1]": [1, 4], "w[1]": [0]})
    pruned = graph.slice(variables, masks)
    x = jnp.asarray(X[:1, :2])
    dense = jax.hessian(lambda x: graph.masked(fn)(variables, masks, x))(x)
    sliced = jax.hessian(lambda x: pruned.wrap(fn)(pruned.variables, x))(x)
    near(dense, sliced, 1e-12)
    assert np.abs(dense).max() > 1e-3


def test_a_gate_acts_where_masks_do():
    graph, variables = laws(
        attention,
        {"q[1]": 2, "q[2]": 4, "v[2]": 3},
        q=(5, 2, 4),
        k=(5, 2, 4),
        v=(5, 2, 3),
        o=(2, 3, 5),
    )
    masks = graph.masks({"q[2]": [1], "v[2]": [0]})
    gated = graph.intercept(attention, lambda group, values: values * masks[group], at="read")
    near(gated(variables, X), graph.masked(attention)(variables, masks, X), 1e-12)

    def fn(v, x):
        return quantised(quantised(x, v["a"], v["c"]), v["b"], v["d"])

    graph, variables = laws(fn, {"a[1]": 6}, a=(5, 6), c=(6,), b=(6, 3), d=(3,))
    masks = graph.masks({"a[1]": [1, 2]})
    gated = graph.intercept(fn, lambda group, values: values * masks[group], at="write")
    near(gated(variables, X), graph.masked(fn)(variables, masks, X), 1e-12)

    shapes = {"a": (5, 4), "up": (2, 4, 6), "bias": (2, 6), "down": (2, 6, 4), "b": (4, 3)}
    variables = fill({n: jax.ShapeDtypeStruct(s, float) for n, s in shapes.items()})
    graph = trace(deep, variables, X)
    with pytest.raises(ValueError, match=r"group up\[2\] is written and read inside"):
        graph.intercept(deep, lambda group, values: values, at="write")(variables, X)


def test_a_derivative_rule_is_not_given_the_arrays_that_its_function_captures():
    table = np.arange(1.0, 21.0).reshape(5, 4)

    @jax.custom_jvp
    def scaled(h):
        return h * jnp.asarray(table)[jnp.array([1])]

    @scaled.defjvp
    def _(primals, tangents):
        return scaled(*primals), 2 * tangents[0]

    def fn(variables, x):
        return scaled(jnp.tanh(x @ variables["a"])) @ variables["b"]

    shapes = {"a": (3, 4), "b": (4, 2)}
    variables = fill({n: jax.ShapeDtypeStruct(s, float) for n, s in shapes.items()})
    x = jnp.cos(jnp.arange(6.0)).reshape(2, 3)
    graph = trace(fn, variables, x)
    assert list(graph.groups) == ["a[1]"]
    assert_laws(graph, fn, variables, x)
