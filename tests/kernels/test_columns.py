"""Kernels of kept columns run as a smaller product: the numbers and gradients of the dense ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from jaxprune.kernels.blocks import Blocks

CASES = {
    "channels last": (("NHWC", "HWIO", "NHWC"), {"padding": "SAME"}),
    "first, strided": (("NCHW", "OIHW", "NCHW"), {"window_strides": (2, 1), "padding": "SAME"}),
    "dilated, cut off": (
        ("NHWC", "HWIO", "NCHW"),
        {"rhs_dilation": (2, 1), "padding": ((2, 1), (-1, 0))},
    ),
}


def problem(case, kept):
    """A convolution of 6 channels to 5, its blocks and images of 9 × 8 pixels."""
    numbers, options = CASES[case]
    rng = np.random.default_rng(0)
    axes = "HWIO", "NHWC"
    kernel, x = rng.normal(size=(3, 3, 6, 5)), rng.normal(size=(2, 9, 8, 6))
    if kept == "channels":
        mask = np.broadcast_to((rng.permutation(6) < 3)[:, None], (3, 3, 6, 1))
    else:
        mask = (rng.permutation(54) < kept).reshape(3, 3, 6, 1)
    order = [axes[0].index(a) for a in numbers[1]]
    blocks = Blocks(tuple(0 if a == "O" else 1 for a in numbers[1]), mask.transpose(order))
    variables = {
        "kernel": jnp.asarray(kernel.transpose(order)),
        "last": jnp.asarray(rng.normal(size=(5, 3))),
    }

    def fn(v, x):
        strides = options.get("window_strides", (1, 1))
        rest = {n: o for n, o in options.items() if n != "window_strides"}
        y = lax.conv_general_dilated(x, v["kernel"], strides, dimension_numbers=numbers, **rest)
        where = numbers[2].index("C")
        return jnp.moveaxis(jnp.sin(y), where, -1) @ v["last"]

    return (
        fn,
        variables,
        {"kernel": blocks},
        jnp.asarray(x.transpose([axes[1].index(a) for a in numbers[0]])),
    )


def wrapped(fn, variables, blocks, x):
    graph = jp.trace(fn, variables, x)
    return graph, graph.slice(variables, graph.full_masks(), blocks)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kept", [1, 13, "channels"])
def test_it_computes_differentiates_and_counts_as_its_columns(case, kept):
    fn, variables, blocks, x = problem(case, kept)
    graph, pruned = wrapped(fn, variables, blocks, x)
    small = pruned.wrap(fn)

    def number(network, v, x):
        return jnp.sum(jnp.square(network(v, x)))

    def dense(v, x):
        return fn(pruned.project(v), x)

    np.testing.assert_allclose(small(variables, x), dense(variables, x), rtol=1e-9, atol=1e-12)
    for wanted in (
        lambda network: jax.grad(lambda v, x: number(network, v, x), (0, 1))(variables, x),
        lambda network: jax.jvp(network, (variables, x), (variables, x))[1],
        lambda network: jax.hessian(lambda s: number(network, variables, s * x))(1.0),
    ):
        found, expected = map(jax.tree.leaves, (wanted(small), wanted(dense)))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)
    part = 1 / 2 if kept == "channels" else kept / 54
    assert jp.cost(small, variables, x).macs == graph.cost(None, {"kernel": part}).macs
    many = jax.vmap(small, (None, 0))(variables, jnp.stack([x, 2 * x]))
    np.testing.assert_allclose(many[1], dense(variables, 2 * x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kept", [0, 14, 54])
def test_dense_kernels_and_empty_ones_stay_convolutions(kept):
    fn, variables, blocks, x = problem("channels last", kept)
    _, pruned = wrapped(fn, variables, blocks, x)
    jaxpr = str(jax.make_jaxpr(pruned.wrap(fn))(variables, x))
    assert "conv_general_dilated" in jaxpr and "custom_jvp" not in jaxpr
    np.testing.assert_allclose(
        pruned.wrap(fn)(variables, x), fn(pruned.project(variables), x), rtol=1e-9
    )


def test_columns_after_channels_were_cut():
    rng = np.random.default_rng(1)
    shapes = {"a": (3, 3, 2, 8), "b": (3, 3, 8, 8), "c": (3, 3, 8, 3)}
    variables = {n: jnp.asarray(rng.normal(size=s)) for n, s in shapes.items()}

    def fn(v, x):
        for name in shapes:
            x = jnp.tanh(
                lax.conv_general_dilated(
                    x, v[name], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
            )
        return x

    x = jnp.asarray(rng.normal(size=(2, 5, 5, 2)))
    graph = jp.trace(fn, variables, x)
    masks = graph.masks({name: [0, 2, 3, 6, 7] for name in graph.groups})
    kept = rng.permutation(27) < 6  # of the kernel as the masks leave it
    blocks = {"b": Blocks((1, 1, 1, 0), kept.reshape(3, 3, 3, 1))}
    pruned = graph.slice(variables, masks, blocks)
    small = pruned.wrap(fn)
    assert "custom_jvp" in str(jax.make_jaxpr(small)(pruned.variables, x))
    np.testing.assert_allclose(small(pruned.variables, x), fn(pruned.variables, x), rtol=1e-9)
