"""Gates on channels: arguments of the network, which may look at what they gate."""

import jax
import jax.numpy as jnp
import pytest
from laws import near, random_masks, value_and_grad
from networks import example

from jaxprune.graph import trace


@pytest.fixture
def case():
    network, variables, x = example(("batch_norm_eval", "residual", "shuffle"))

    def fn(variables, x):
        return network(variables, x)[0]

    return trace(fn, variables, x), fn, variables, x


def constant(sizes):
    def gate(group, values, mask):
        return jnp.repeat(mask, values.shape[-1] // sizes[group])

    return gate


def test_a_gate_of_zeros_and_ones_at_reads_is_a_mask(case):
    graph, fn, variables, x = case
    gated = graph.gated(fn, constant(dict(zip(graph.names, graph.sizes, strict=True))), at="read")
    masks = random_masks(graph, 1)

    def under(run):
        return jax.jit(lambda v, m, x: value_and_grad(lambda v, x: run(v, m, x))(v, x))

    near(under(gated)(variables, masks, x), under(graph.masked(fn))(variables, masks, x), 1e-9)


@pytest.mark.parametrize("at", ["read", "write"])
def test_gates_of_ones_and_no_gates_are_the_function(case, at):
    graph, fn, variables, x = case
    gated = graph.gated(fn, lambda group, values, number: number, at=at)
    near(gated(variables, dict.fromkeys(graph.names, 1.0), x), fn(variables, x), 1e-9)
    near(gated(variables, {}, x), fn(variables, x), 1e-9)


def test_gates_may_look_at_the_channels_and_are_compiled_once(case):
    graph, fn, variables, x = case
    seen = []

    def gate(group, values, dense):
        seen.append(group)
        squeezed = values.mean(tuple(range(1, values.ndim - 1)), keepdims=True)
        return jax.nn.sigmoid(squeezed * dense["in"] + dense["out"])

    gated = graph.gated(fn, gate)
    first = {name: {"in": 1.0, "out": 0.5} for name in graph.names}
    second = {name: {"in": -1.0, "out": 1e3} for name in graph.names}
    out = gated(variables, first, x)
    times = len(seen)
    assert set(seen) == set(graph.names)
    near(gated(variables, second, x), fn(variables, x), 1e-9)  # wide open
    assert len(seen) == times and not jnp.allclose(out, fn(variables, x))
    grads = jax.grad(lambda g: jnp.sum(gated(variables, g, x) ** 2))(first)
    assert all(abs(leaf) > 0 for leaf in jax.tree.leaves(grads))


def test_gates_of_no_group_are_told(case):
    graph, fn, variables, x = case
    with pytest.raises(ValueError, match=r"gates of 'conv', which is no group; the groups are "):
        graph.gated(fn, lambda group, values, number: number)(variables, {"conv": 1.0}, x)
