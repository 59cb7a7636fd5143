"""A network in pieces is the network: run one after the other they give what the whole gives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import example

from jaxprune.graph import trace
from jaxprune.latency.pieces import pieces_of
from jaxprune.masks import keep_top


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def run_pieces(split, variables, args, widths):
    env = dict(zip(split.ins, [*jax.tree.leaves(variables), *args], strict=True))
    for piece in split.pieces:
        run, structs = piece.at(widths)
        values = [env[slot] for slot in piece.ins]
        assert [jnp.shape(v) for v in values] == [s.shape for s in structs]
        env.update(zip(piece.outs, run(*values), strict=True))
    return [env[slot] for slot in split.outs]


@pytest.mark.parametrize(
    "layers",
    [
        ("conv", "batch_norm_eval", "residual"),
        ("conv", "depthwise", "max_pool"),
        ("dense_block", "shuffle", "positions"),
        ("jit", "remat", "grouped", "channels_first"),
    ],
)
def test_the_pieces_one_after_the_other_are_the_sliced_network(layers):
    fn, variables, x = example(layers)
    graph = trace(fn, variables, x, state=lambda out: out[1])
    split = pieces_of(graph, fn, variables, x)
    assert len(split.pieces) > 1
    for widths in (graph.sizes, np.maximum(graph.sizes // 2, 1)):
        kept = dict(zip(graph.names, widths.tolist(), strict=True))
        first = {n: -np.arange(g.size) for n, g in graph.groups.items()}
        pruned = graph.slice(variables, keep_top(first, kept))
        expected = jax.tree.leaves(pruned.wrap(fn)(pruned.variables, x))
        found = run_pieces(split, pruned.variables, [x], widths)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_bodies_of_jit_are_dissolved_and_loops_are_not():
    @jax.jit
    def inner(variables, x):
        return jnp.tanh(x @ variables["a"]) @ variables["b"]

    def fn(variables, x):
        h = inner(variables, x)
        h = jax.lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h @ variables["c"]), h)
        return h @ variables["d"]

    variables = {"a": (3, 8), "b": (8, 6), "c": (6, 6), "d": (6, 2)}
    variables = {name: jnp.ones(shape) for name, shape in variables.items()}
    graph = trace(fn, variables, jnp.ones((4, 3)))
    pieces = pieces_of(graph, fn, variables, jnp.ones((4, 3))).pieces
    assert [p.name for p in pieces] == ["a", "b", "c", "d"]
    assert [(p.reads, p.writes) for p in pieces] == [
        ((), (0,)),
        ((0,), (1,)),
        ((1,), ()),
        ((1,), ()),
    ]
    assert [p.macs for p in pieces] == [4 * 3 * 8, 4 * 8 * 6, 4 * 6 * 6, 4 * 6 * 2]
