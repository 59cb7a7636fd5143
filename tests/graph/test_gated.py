"""Gates on channels: arguments of the network, which may look at what they gate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import fill, near, random_masks, value_and_grad
from networks import example
from own_rules import mlp, quantised

from jaxprune.graph import paths, trace


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
    factor = lambda group, values, number: number  # noqa: E731
    with pytest.raises(ValueError, match=r"'conv', which is neither a group .* names are"):
        graph.gated(fn, factor)(variables, {"conv": 1.0}, x)
    kernel = graph.groups[graph.names[0]].writers[0]
    with pytest.raises(ValueError, match=f"{kernel} has a gate of its own where it writes"):
        graph.gated(fn, factor, at="read")(variables, {kernel: 1.0}, x)


def test_a_gate_per_sample_at_reads_is_a_mask_per_sample(case):
    graph, fn, variables, x = case
    sizes = dict(zip(graph.names, graph.sizes, strict=True))

    def per_sample(group, values, mask):
        mask = jnp.repeat(mask, values.shape[-1] // sizes[group], axis=-1)
        return mask.reshape(len(x), *[1] * (values.ndim - 2), -1)

    masks = [random_masks(graph, seed) for seed in range(len(x))]
    masks = {name: jnp.stack([m[name] for m in masks]) for name in graph.names}

    def grads(run):
        return jax.jit(jax.grad(lambda m: jnp.sum(run(variables, m, x) ** 2)))(masks)

    gated = graph.gated(fn, per_sample, at="read")
    near(gated(variables, masks, x), graph.masked(fn)(variables, masks, x), 1e-9)
    near(grads(gated), grads(graph.masked(fn)), 1e-9)


def test_a_gate_of_a_kernel_scales_what_this_layer_writes(case):
    """The oracle has the factors on the filters; of zeros and of a residual group's layers too."""
    graph, fn, variables, x = case
    writers = {kernel: g for g in graph.groups.values() for kernel in g.writers}
    shared = [g for g in graph.groups.values() if len(g.writers) > 1]
    assert shared and all(g.summed for g in shared)
    rng = np.random.default_rng(0)
    gates = {kernel: rng.normal(size=g.size) for kernel, g in writers.items()}
    gates |= {shared[0].writers[-1]: np.zeros(shared[0].size)}

    def factors(values, own, size):
        return jnp.repeat(own, values.shape[-1] // size)

    def scaled(gates):
        leaves = {
            path: leaf * factors(leaf, gates[path], writers[path].size) if path in gates else leaf
            for path, leaf in paths.leaves(variables)
        }
        return fn(jax.tree.structure(variables).unflatten(leaves.values()), x)

    def gated(gates):
        sizes = {name: g.size for name, g in graph.groups.items()}
        gate = lambda group, values, own: factors(values, own, sizes[group])  # noqa: E731
        return graph.gated(fn, gate)(variables, gates, x)

    for given in (gates, dict(list(gates.items())[:2])):
        both = [jax.value_and_grad(lambda g, f=f: jnp.sum(f(g) ** 2)) for f in (gated, scaled)]
        near(*(jax.jit(run)(given) for run in both), 1e-9)
    whole = {g.name: gates[g.writers[0]] for g in graph.groups.values()}
    near(gated(whole), scaled({k: whole[g.name] for k, g in writers.items()}), 1e-9)


@jax.custom_jvp
def two(x, a, b):
    return x @ a + jnp.tanh(x) @ b


two.defjvp(lambda primals, tangents: jax.jvp(two.fun, primals, tangents))


def test_only_what_cannot_be_gated_is_refused():
    def fn(v, x, factor=1.0):
        h = v["alone"][x] @ v["last"] + v["table"][x] + v["stream"][x] @ v["first"]
        h = jnp.tanh(two(mlp(h, v["up"], v["bias"], v["down"]), v["a"], v["b"]))
        return factor * quantised(h, v["head"], v["shift"]) @ v["end"]

    shapes = {
        "alone": (7, 4), "last": (4, 5), "table": (7, 5), "stream": (7, 3), "first": (3, 5),
        "up": (5, 6), "bias": (6,), "down": (6, 5), "a": (5, 4), "b": (5, 4), "head": (4, 3),
        "shift": (3,), "end": (3, 2),
    }  # fmt: skip
    variables = fill({n: jax.ShapeDtypeStruct(s, float) for n, s in shapes.items()})
    tokens = jnp.array([0, 3, 3, 6])
    graph = trace(fn, variables, tokens)
    assert graph.groups["last[1]"].writers == ("last", "first", "down")
    gated = graph.gated(fn, lambda group, values, number: number)
    own = dict.fromkeys(("last", "first", "a[1]", "head", "head[1]"), 1.0)
    near(gated(variables, own, tokens), fn(variables, tokens), 1e-12)
    scaled = variables | {name: 2 * variables[name] for name in ("a", "b")}
    near(gated(variables, {"head": 3.0, "a[1]": 2.0}, tokens), fn(scaled, tokens, 3.0), 1e-12)

    def refused(name, why):
        with pytest.raises(ValueError, match=why):
            gated(variables, {name: 1.0}, tokens)

    for name in ("up", "up[1]"):
        refused(name, r"group up\[1\] is written and read inside a function with its own deriv")
    for name in ("down", "last[1]"):
        refused(name, r"group last\[1\] is written and added to inside a function with its own")
    refused("b", r"b and others write group a\[1\] inside a function with its own .* the group")
    refused("alone[1]", r"alone\[1\] is written by no convolution or product")
