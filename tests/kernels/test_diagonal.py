"""Block-diagonal kernels run as smaller ones: the same numbers, fewer multiply-accumulates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from jaxprune.kernels.blocks import Blocks
from jaxprune.kernels.diagonal import diagonal_of

LAYOUTS = {"channels last": ("NHWC", "HWIO", "NHWC"), "first": ("NCHW", "OIHW", "NCHW")}


def blocks_of(shape, groups, reads, writes, order):
    sides, grid = [0] * len(shape), [1] * len(shape)
    for axis in (reads, writes):
        sides[axis], grid[axis] = shape[axis] // groups, groups
    kept = np.eye(groups, dtype=bool).reshape(grid)
    return Blocks(tuple(sides), kept, None, order)


def pruned_and_plain(fn, variables, blocks, x):
    graph = jp.trace(fn, variables, x)
    return graph, graph.slice(variables, graph.full_masks(), blocks)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("groups", "apart"), [(2, 2), (8, 2)])  # of 8 channels four run together
def test_a_convolution_computes_and_counts_as_its_blocks(layout, groups, apart):
    rng, numbers = np.random.default_rng(groups), LAYOUTS[layout]
    last = layout == "channels last"

    def fn(variables, x):
        for name, stride in (("a", 1), ("b", 2), ("c", 1)):
            x = jnp.tanh(
                lax.conv_general_dilated(
                    x, variables[name], (stride, stride), "SAME", dimension_numbers=numbers
                )
            )
        return x

    shapes = {"a": (64, 3, 1, 1), "b": (64, 64, 3, 3), "c": (5, 64, 1, 1)}
    axes = (2, 3, 1, 0) if last else (0, 1, 2, 3)
    variables = {
        n: jnp.asarray(rng.normal(size=s).transpose(axes) / s[1] ** 0.5) for n, s in shapes.items()
    }
    x = jnp.asarray(rng.normal(size=(2, 5, 5, 3) if last else (2, 3, 5, 5)))
    reads, writes = (2, 3) if last else (1, 0)
    order = {reads: rng.permutation(64), writes: rng.permutation(64)} if groups == 2 else {}
    blocks = {"b": blocks_of(variables["b"].shape, groups, reads, writes, order)}
    graph, pruned = pruned_and_plain(fn, variables, blocks, x)

    def number(network, v):
        return jnp.sum(jnp.sin(network(v, x)))

    small = pruned.wrap(fn)
    for a, b in (
        (small(pruned.variables, x), fn(pruned.variables, x)),
        (
            jax.grad(lambda v: number(small, v))(variables)["b"],
            jax.grad(lambda v: number(fn, pruned.project(v)))(variables)["b"],
        ),
    ):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    assert pruned.kept() == {"b": 1 / groups}
    assert jp.cost(small, pruned.variables, x).macs == graph.cost(None, {"b": 1 / apart}).macs


def test_a_product_computes_and_counts_as_its_blocks():
    rng = np.random.default_rng(0)
    shapes = {"a": (4, 12), "b": (12, 8), "c": (8, 3)}
    variables = {n: jnp.asarray(rng.normal(size=s)) for n, s in shapes.items()}

    def fn(v, x):
        return jnp.tanh(jnp.tanh(x @ v["a"]) @ v["b"]) @ v["c"]

    x = jnp.asarray(rng.normal(size=(2, 7, 4)))
    order = {0: rng.permutation(12), 1: rng.permutation(8)}
    graph, pruned = pruned_and_plain(fn, variables, {"b": blocks_of((12, 8), 4, 0, 1, order)}, x)
    small = pruned.wrap(fn)
    np.testing.assert_allclose(small(pruned.variables, x), fn(pruned.variables, x), rtol=1e-12)
    assert jp.cost(small, pruned.variables, x).macs == graph.cost(None, pruned.kept()).macs


def test_a_kernel_that_is_changed_before_it_is_used_is_not_taken_for_its_blocks():
    rng = np.random.default_rng(0)
    shapes = {"a": (4, 8), "b": (8, 8), "c": (8, 3)}
    variables = {n: jnp.asarray(rng.normal(size=s)) for n, s in shapes.items()}

    def fn(v, x):
        standardised = (v["b"] - v["b"].mean(0)) / v["b"].std(0)
        return jnp.tanh(jnp.tanh(x @ v["a"]) @ standardised) @ v["c"]

    x = jnp.asarray(rng.normal(size=(2, 4)))
    _, pruned = pruned_and_plain(fn, variables, {"b": blocks_of((8, 8), 2, 0, 1, {})}, x)
    np.testing.assert_allclose(
        pruned.wrap(fn)(pruned.variables, x), fn(pruned.variables, x), rtol=1e-9
    )


@pytest.mark.parametrize(
    ("kept", "shape"),
    [
        (np.ones((2, 2), bool), (8, 8)),
        (np.eye(3, dtype=bool), (8, 9)),
        (np.eye(2, 4, dtype=bool), (8, 8)),
        (np.ones((1, 1), bool), (8, 8)),
    ],
)
def test_what_is_on_no_diagonal_is_left(kept, shape):
    assert diagonal_of(kept, {}, shape, 0, 1) is None
    assert diagonal_of(np.eye(2, dtype=bool), {}, (8, 8), 0, 1) == (2, 0, 1, None, None)
