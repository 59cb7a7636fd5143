"""What consumers read inside branches, loops and functions with their own derivative rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from laws import fill
from own_rules import quantised

import jaxprune as jp
from jaxprune.graph import trace
from jaxprune.statistics.gram import grams

X = np.random.default_rng(0).normal(size=(4, 5))


def variables_of(**shapes):
    return fill({n: jax.ShapeDtypeStruct(s, float) for n, s in shapes.items()})


def branched(v, x):
    """The one of two layers that a number chooses; inside the first, a loop of two steps."""

    def first(h):
        kernel = v["w"].astype(float) * 2
        return lax.fori_loop(0, 2, lambda i, h: jnp.sin(h @ kernel), h)

    def second(h):
        return lax.cond(x.sum() > 1e9, jnp.cos, lambda h: jnp.cos(h) @ v["u"], h)

    h = lax.cond(x[0, 0] > 0, first, second, jnp.tanh(x @ v["a"]))
    return h @ v["b"]


SHAPES = {"a": (5, 6), "w": (6, 6), "u": (6, 6), "b": (6, 3)}


def test_branches_hand_out_what_they_read_and_zeros_where_they_do_not_run():
    variables = variables_of(**SHAPES)
    graph = trace(branched, variables, X)
    for sign in (1, -1):
        x = X.copy()
        x[0, 0] = sign
        out, tapped = jax.jit(lambda v, x: _tap(graph, branched, v, x))(variables, x)
        np.testing.assert_allclose(out, branched(variables, x), rtol=1e-12)
        reads, kernels = tapped
        h = np.tanh(x @ variables["a"])
        step = np.sin(h @ (2 * variables["w"]))
        runs = sign > 0
        expected = {"w": h * runs, "w#2": step * runs, "u": np.cos(h) * (not runs)}
        assert set(reads) == {*expected, "b"}
        for name, read in expected.items():
            np.testing.assert_allclose(reads[name], read, rtol=1e-12, atol=1e-15)
        # Kernels are there whichever branch runs: statistics over batches take their mean.
        np.testing.assert_allclose(kernels["w"], 2 * variables["w"], rtol=1e-12)
        np.testing.assert_allclose(kernels["u"], variables["u"], rtol=1e-12)


def _tap(graph, fn, variables, x, masks=None):
    out, tapped = graph.tap(fn, variables, x, masks=masks)
    return out, (tapped.reads, tapped.kernels)


def test_the_error_of_a_branch_is_that_of_the_samples_for_which_it_runs():
    variables = variables_of(**SHAPES)
    graph = trace(branched, variables, X)
    batches = []
    for sign in (1, -1):
        x = X.copy()
        x[0, 0] = sign
        batches.append(x)
    problem = jp.Problem(graph, branched, variables, batches, jp.Budget())
    found = grams(problem, positions=None, weighting="sum")
    group = graph.names[0]
    expected = 0
    for x in batches:
        _, (reads, kernels) = _tap(graph, branched, variables, x)
        for name, read in reads.items():
            expected += (read.T @ read) * (kernels[name] @ kernels[name].T) / len(x) / 2
    np.testing.assert_allclose(found[group], expected, rtol=1e-5)


def test_masks_are_seen_inside_branches():
    variables = variables_of(**SHAPES)
    graph = trace(branched, variables, X)
    masks = graph.masks({graph.names[0]: [1, 4]})
    out, (reads, _) = _tap(graph, branched, variables, X, masks)
    np.testing.assert_allclose(out, graph.masked(branched)(variables, masks, X), rtol=1e-12)
    for read in reads.values():
        assert not np.any(read[:, [1, 4]])


def test_what_is_read_in_a_loop_of_unknown_length_is_told():
    def fn(v, x):
        def body(carry):
            h, i = carry
            return jnp.tanh(h @ v["w"]), i + 1

        def loop(h):
            return lax.while_loop(lambda c: (c[1] < 3) & (x.sum() < 1e6), body, (h, 0))[0]

        h = lax.cond(x.sum() < 1e6, loop, jnp.cos, x @ v["a"])
        return jnp.cos(h @ v["b"]) @ v["c"]

    variables = variables_of(a=(5, 6), w=(6, 6), b=(6, 4), c=(4, 3))
    graph = trace(fn, variables, X)
    _, tapped = graph.tap(fn, variables, X)
    assert set(tapped.reads) == {"b", "c"}
    assert {name: c.groups for name, c in tapped.missed.items()} == {"w": ("a[1]",)}
    problem = jp.Problem(graph, fn, variables, [X], jp.Budget())
    assert set(grams(problem, groups=["b[1]"])) == {"b[1]"}
    with pytest.raises(ValueError, match="loop of unknown length"):
        grams(problem)


def test_reads_inside_a_function_with_its_own_rule():
    def fn(v, x):
        return quantised(jnp.tanh(x @ v["a"]), v["b"], v["c"])

    variables = variables_of(a=(5, 6), b=(6, 3), c=(3,))
    graph = trace(fn, variables, X)
    out, (reads, _) = _tap(graph, fn, variables, X)
    np.testing.assert_allclose(out, fn(variables, X), rtol=1e-12)
    rounded = np.round(8 * np.tanh(X @ variables["a"])) / 8
    np.testing.assert_allclose(reads["b"], rounded, rtol=1e-12)
    masks = graph.masks({"a[1]": [2]})
    out, (reads, _) = _tap(graph, fn, variables, X, masks)
    np.testing.assert_allclose(out, graph.masked(fn)(variables, masks, X), rtol=1e-12)
    assert not np.any(reads["b"][:, 2])


def test_loops_side_by_side_that_end_at_different_times():
    """Under `vmap` a while loop has a condition for each sample."""

    def fn(v, x):
        def each(h):
            step = lambda h: jnp.sin(h @ v["w"]) + 0.1  # noqa: E731
            return lax.while_loop(lambda h: jnp.abs(h).max() > 0.8, step, h)

        return jax.vmap(each)(x @ v["a"]) @ v["b"]

    variables = variables_of(a=(5, 6), w=(6, 6), b=(6, 3))
    variables["a"] = 2 * variables["a"]

    def summed(v, x):  # the maximum over the channels would keep them
        def each(h):
            step = lambda h: jnp.sin(h @ v["w"])  # noqa: E731
            return lax.while_loop(lambda h: (h * h).sum() > 0.5, step, h)

        return jax.vmap(each)(x @ v["a"]) @ v["b"]

    with pytest.raises(ValueError, match="nothing in this function is prunable"):
        trace(fn, variables, X)
    graph = trace(summed, variables, X)
    assert {n: g.size for n, g in graph.groups.items()} == {"a[1]": 6}
    masks = graph.masks({"a[1]": [0, 3]})
    pruned = graph.slice(variables, masks)
    masked = graph.masked(summed)
    np.testing.assert_allclose(
        masked(variables, masks, X), pruned.wrap(summed)(pruned.variables, X), rtol=1e-10
    )
    whole = summed(variables, X)
    np.testing.assert_allclose(masked(variables, graph.full_masks(), X), whole, rtol=1e-12)
    alone = np.stack([summed(variables, x[None])[0] for x in X])
    np.testing.assert_allclose(whole, alone, rtol=1e-12)
    rows = {"a[1]": jnp.tile(masks["a[1]"], (len(X), 1))}
    np.testing.assert_allclose(masked(variables, rows, X), masked(variables, masks, X), rtol=1e-12)
