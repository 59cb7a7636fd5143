"""`allow_inexact`: a normalisation over channels is that of the same code on the narrow weights."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from laws import assert_laws, compiled, fill, near, value_and_grad

from jaxprune.graph import trace

X = np.random.default_rng(0).normal(size=(2, 4, 5))


def layer_norm(h, axes=-1, **options):
    mean = h.mean(axes, keepdims=True)
    return (h - mean) / jnp.sqrt(h.var(axes, keepdims=True, **options) + 1e-5)


def means_of_means(h):
    mean = h.mean(-1, keepdims=True).mean(-2, keepdims=True)
    power = (h * h).sum(-1).sum(-1) / (h.shape[-1] * h.shape[-2])
    return (h - mean) * lax.rsqrt(power + 1e-5)[..., None, None]


def mean_of_sums(h):
    """A mean along one axis, but a sum along the other."""
    return h / (1 + (h * h).sum(-1).mean(-1)[..., None, None])


@jax.jit
def divided(total, n):
    return total / n


def apart(h):
    """The division in a function of its own."""
    return h * lax.rsqrt(divided((h * h).sum(-1, keepdims=True), float(h.shape[-1])) + 1e-5)


@jax.custom_jvp
def eighth(total):
    return total / 8


@eighth.defjvp
def _(primals, tangents):
    return eighth(*primals), tangents[0] / 8


def beside_another(h):
    """What goes with a sum through one equation is not that sum."""
    total, other = lax.optimization_barrier((jnp.sum(h * h, -1)[..., None], jnp.sin(h)))
    return other / 8 / (1 + total / h.shape[-1])


# One axis of 8 channels, or two of 3 and 4; whatever is a size comes from the array's shape.
ONE = {
    "layer_norm": layer_norm,
    "of_a_module": lambda h: nn.LayerNorm(use_bias=False, use_scale=False).apply({}, h),
    "rms_of_a_module": lambda h: nn.RMSNorm(use_scale=False).apply({}, h),
    "standardize": lambda h: jax.nn.standardize(h, -1),
    "unbiased": lambda h: layer_norm(h, ddof=1),
    "by_multiplication": lambda h: h * lax.rsqrt(jnp.sum(h * h, -1)[..., None] * (1 / h.shape[-1])),
    "half_precision": lambda h: layer_norm(h.astype(jnp.bfloat16)).astype(float),
    "apart": apart,
    "length": lambda h: h / jnp.linalg.norm(h, axis=-1, keepdims=True),
    "beside_another": beside_another,
    "all": lambda h: layer_norm(h.reshape(2, -1)).reshape(h.shape),
    "tokens_and_channels": lambda h: layer_norm(h, (-2, -1)),
    "joint": lambda h: layer_norm(h.reshape(2, 4, -1, 2), (2, 3)).reshape(h.shape),
    "parts": lambda h: layer_norm(jnp.concatenate([h, jnp.sin(h)], -1))[..., : h.shape[-1]],
}  # fmt: skip
TWO = {
    "both": lambda h: layer_norm(h, (-2, -1)),
    "last": lambda h: layer_norm(h),
    "means_of_means": means_of_means,
    "mean_of_sums": mean_of_sums,
    "length": lambda h: h / jnp.linalg.norm(h, axis=(-2, -1), keepdims=True),
}


def network(names_of_one, names_of_two):
    """The cases side by side, each with weights of its own; the sum of all, and each alone."""

    def fn(v, x):
        outs = {n: ONE[n](x @ v[n]["a"]) @ v[n]["b"] for n in names_of_one}
        for n in names_of_two:
            h = TWO[n](jnp.einsum("ntc,chd->nthd", x, v[n]["c"]))
            outs[n] = jnp.einsum("nthd,hdo->nto", h, v[n]["d"])
        return sum(outs.values()), outs

    shapes = {n: {"a": (5, 8), "b": (8, 3)} for n in names_of_one}
    shapes |= {n: {"c": (5, 3, 4), "d": (3, 4, 3)} for n in names_of_two}
    structs = {
        n: {k: jax.ShapeDtypeStruct(s, float) for k, s in each.items()}
        for n, each in shapes.items()
    }
    return fn, fill(structs)


@pytest.mark.parametrize("half", [0, 1])
def test_it_is_that_of_the_same_code_on_the_narrow_weights(half):
    fn, variables = network(list(ONE)[half::2], list(TWO) if half else [])
    graph = trace(fn, variables, X, allow_inexact=True)
    sizes = {n: g.size for n, g in graph.groups.items()}
    assert sizes == {
        **{f"{n}/a[1]": 4 if n == "joint" else 8 for n in list(ONE)[half::2]},
        **({f"{n}/c[{axis}]": 2 + axis for n in TWO for axis in (1, 2)} if half else {}),
    }
    pruned = assert_laws(graph, fn, variables, X, seed=3)
    narrower = [n for n, width in pruned.widths.items() if width < sizes[n]]
    assert len(narrower) > len(sizes) / 2
    narrow = compiled(value_and_grad(fn), pruned.variables, X, level=1)
    sliced = compiled(value_and_grad(pruned.wrap(fn)), pruned.variables, X, level=1)
    (_, outs), gradient = narrow(pruned.variables, X)
    (_, wrapped_outs), wrapped_gradient = sliced(pruned.variables, X)
    near(wrapped_outs, outs, 1e-12)
    near(wrapped_gradient, gradient, 1e-9)


def test_a_number_that_stands_for_the_channels_in_a_rule_of_the_users():
    def fn(v, x):
        h = x @ v["a"]
        h = h * lax.rsqrt(eighth((h * h).sum(-1, keepdims=True)) + 1e-5)
        return h @ v["b"] + jnp.tanh(x @ v["c"]) @ v["d"]

    shapes = {"a": (5, 8), "b": (8, 3), "c": (5, 4), "d": (4, 3)}
    variables = fill({n: jax.ShapeDtypeStruct(s, float) for n, s in shapes.items()})
    graph = trace(fn, variables, X, allow_inexact=True)
    assert "normalisation" in graph.fixed["a[1]"]  # no mask can come into that rule
    assert_laws(graph, fn, variables, X, seed=3)


def test_no_normalisation_no_change():
    """What is divided by the number of channels, but meets them nowhere, stays as it is."""

    def fn(v, x):
        return jnp.tanh((x @ v["a"]).mean(-1, keepdims=True)) @ v["b"]

    variables = fill(
        {"a": jax.ShapeDtypeStruct((5, 8), float), "b": jax.ShapeDtypeStruct((1, 3), float)}
    )
    graph = trace(fn, variables, X, allow_inexact=True)
    pruned = graph.slice(variables, graph.masks({"a": [0, 3]}))
    exact = trace(fn, variables, X).slice(variables, graph.masks({"a": [0, 3]}))
    out = pruned.wrap(fn)(pruned.variables, X)
    near(out, exact.wrap(fn)(exact.variables, X), 0)
