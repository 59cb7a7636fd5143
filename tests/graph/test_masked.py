"""The masked interpretation and its relatives, against oracles that know nothing of the engine."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import near, random_masks
from networks import example

from jaxprune.graph import paths, trace


def test_masks_per_sample_equal_a_loop_over_the_samples():
    fn, variables, x = example(("residual", "shuffle", "depthwise"), batch=3)
    graph = trace(fn, variables, x, state=lambda out: out[1])
    masked = graph.masked(fn)
    rng = np.random.default_rng(0)
    masks = {name: rng.uniform(size=(3, g.size)) for name, g in graph.groups.items()}

    def loss(masks, x):
        return jnp.sum(jnp.sin(masked(variables, masks, x)[0]))

    grads = jax.grad(loss)(masks, x)
    for i in range(3):
        one = {name: m[i] for name, m in masks.items()}
        near(masked(variables, masks, x)[0][i], masked(variables, one, x[i : i + 1])[0][0], 1e-12)
        single = jax.grad(loss)(one, x[i : i + 1])
        near({name: g[i] for name, g in grads.items()}, single, 1e-12)


def test_masks_per_sample_in_training_mode_act_on_their_sample_alone():
    fn, variables, x = example(("batch_norm_train", "relu"), batch=3)
    graph = trace(fn, variables, x, state=lambda out: out[1])
    masked = graph.masked(fn)
    name = graph.names[-1]
    masks = {n: np.ones((3, g.size)) for n, g in graph.groups.items()}
    masks[name][1, :2] = 0
    whole, _ = fn(variables, x)
    out, _ = masked(variables, masks, x)
    changed = np.abs(out - whole).max(-1) > 1e-6
    assert changed.tolist() == [False, True, False]
    # A mixed batch of shapes: a mask of all samples beside masks per sample.
    mixed = {n: m if n == name else m[0] for n, m in masks.items()}
    near(masked(variables, mixed, x)[0], out, 1e-12)


def test_a_population_of_masks_under_vmap_and_map():
    fn, variables, x = example(("residual",))
    graph = trace(fn, variables, x, state=lambda out: out[1])
    members = [random_masks(graph, seed) for seed in range(4)]
    population = jax.tree.map(lambda *m: jnp.stack(m), *members)

    def evaluate(masks):
        return graph.masked(fn)(variables, masks, x)[0]

    expected = jnp.stack([evaluate(masks) for masks in members])
    near(jax.vmap(evaluate)(population), expected, 1e-12)
    near(jax.lax.map(evaluate, population, batch_size=2), expected, 1e-12)


def test_the_gradient_with_respect_to_a_mask_is_a_finite_difference():
    fn, variables, x = example(("batch_norm_train", "relu", "grouped_gate", "remat"))
    graph = trace(fn, variables, x, state=lambda out: out[1])

    def loss(masks):
        return jnp.sum(jnp.sin(graph.masked(fn)(variables, masks, x)[0]))

    masks = {n: jnp.full(g.size, 0.7) for n, g in graph.groups.items()}
    grads = jax.grad(loss)(masks)
    for name, group in graph.groups.items():
        step = 1e-6 * jnp.eye(group.size)[0]
        up, down = (
            loss(masks | {name: masks[name] + step}),
            loss(masks | {name: masks[name] - step}),
        )
        np.testing.assert_allclose(grads[name][0], (up - down) / 2e-6, rtol=1e-5, atol=1e-8)


def test_masks_keep_the_dtype_of_the_network():
    fn, variables, x = example(("relu",))
    variables = jax.tree.map(lambda v: v.astype(jnp.bfloat16), variables)
    x = x.astype(jnp.bfloat16)
    graph = trace(fn, variables, x)
    out, _ = graph.masked(fn)(variables, graph.full_masks(), x)
    assert out.dtype == jnp.bfloat16
    booleans = jax.tree.map(lambda m: m == 1, graph.full_masks())
    near(graph.masked(fn)(variables, booleans, x)[0], out, 0)


def test_tapped_reads_are_what_the_consumers_contract():
    fn, variables, x = example((), "mean")
    graph = trace(fn, variables, x)
    out, reads = graph.tapped(fn)(variables, x)
    near(out, fn(variables, x), 1e-12)
    middle, last = variables["params"]["block2"], variables["params"]["block3"]
    near(reads["params/block3/kernel"] @ last["kernel"] + last["bias"], out[0], 1e-12)

    written = {}

    def look(group, values):
        written[group] = values
        return values

    with jax.disable_jit():
        graph.intercept(fn, look, at="write")(variables, x)
    before_bias = reads["params/block2/kernel"] @ middle["kernel"][0, 0]
    near(written["params/block2/kernel[3]"], before_bias, 1e-12)


@pytest.mark.parametrize("at", ["read", "write"])
def test_a_gate_of_ones_changes_nothing_and_one_of_zeros_drops_the_group(at):
    fn, variables, x = example(("relu", "residual", "remat"))

    def logits(variables, x):
        return fn(variables, x)[0]

    graph = trace(logits, variables, x)
    near(graph.intercept(logits, lambda g, v: v, at=at)(variables, x), logits(variables, x), 1e-12)
    name = graph.names[-1]
    gated = graph.intercept(logits, lambda g, v: v * (g != name), at=at)(variables, x)
    bias = next(m.path for m in graph.groups[name].members if m.path.endswith("bias"))
    if at == "write":  # before the bias, so that without one nothing is left of the channels
        leaves = {p: v * (p != bias) for p, v in paths.leaves(variables)}
        without_bias = jax.tree.structure(variables).unflatten(leaves.values())
        gated = graph.intercept(logits, lambda g, v: v * (g != name))(without_bias, x)
    masks = graph.full_masks() | {name: jnp.zeros(graph.groups[name].size)}
    near(gated, graph.masked(logits)(variables, masks, x), 1e-12)


def test_a_gate_sees_units_in_order_and_can_be_differentiated():
    fn, variables, x = example(("shuffle",))
    graph = trace(fn, variables, x)
    sizes = {name: g.size for name, g in graph.groups.items()}

    def loss(gates):
        def gate(group, values):
            repeats = values.shape[-1] // sizes[group]
            return values * jnp.repeat(gates[group], repeats)

        return jnp.sum(graph.intercept(fn, gate, at="read")(variables, x)[0])

    ones = {name: jnp.ones(size) for name, size in sizes.items()}
    expected = jax.grad(lambda m: jnp.sum(graph.masked(fn)(variables, m, x)[0]))(ones)
    near(jax.grad(loss)(ones), expected, 1e-12)


def test_one_compilation_for_all_masks_and_for_every_call_of_masked():
    traces = []
    fn, variables, x = example(("relu",))

    def counted(variables, x):
        traces.append(1)
        return fn(variables, x)

    graph = trace(counted, variables, x)
    traces.clear()
    for seed in range(3):
        graph.masked(counted)(variables, random_masks(graph, seed), x)
    assert len(traces) == 1


def test_keyword_arguments_are_static():
    fn, variables, x = example(("relu",))

    def scaled(variables, x, *, scale=1, names=()):
        assert isinstance(scale, (int, bool))
        return fn(variables, x)[0] * (scale + (scale is True)) + len(names)

    graph = trace(scaled, variables, x)
    masked, masks = graph.masked(scaled), graph.full_masks()
    whole = masked(variables, masks, x)
    near(masked(variables, masks, x, scale=True), 2 * whole, 1e-12)
    near(masked(variables, masks, x, scale=1), whole, 1e-12)
    near(masked(variables, masks, x, names=["a", "b"]), whole + 2, 1e-12)
    with pytest.raises(TypeError, match="positional"):
        masked(variables, masks, x, scale=np.ones(3))


def test_masks_that_do_not_fit():
    fn, variables, x = example(("relu",))
    graph = trace(fn, variables, x)
    masked = graph.masked(fn)
    masks = graph.full_masks()
    first = graph.names[0]
    with pytest.raises(ValueError, match=r"unknown groups \['odd'\]"):
        masked(variables, masks | {"odd": jnp.ones(3)}, x)
    with pytest.raises(ValueError, match="missing"):
        masked(variables, {first: masks[first]}, x)
    with pytest.raises(ValueError, match=r"has shape \(3,\)"):
        masked(variables, masks | {first: jnp.ones(3)}, x)
    per_sample = {n: jnp.ones((5, g.size)) for n, g in graph.groups.items()}
    with pytest.raises(ValueError, match="masks for 5 samples, but inputs for 2"):
        masked(variables, per_sample, x)
    with pytest.raises(ValueError, match=r"unequal batch sizes \[2, 5\]"):
        masked(variables, per_sample | {first: jnp.ones((2, len(masks[first])))}, x)
    with pytest.raises(ValueError, match="not the variables of the network"):
        masked({"params": {}, "stats": {}}, masks, x)
    with pytest.raises(ValueError, match="'write' or 'read'"):
        graph.intercept(fn, lambda g, v: v, at="wrote")
    with pytest.raises(ValueError, match="matches nothing; the names are params/block"):
        graph.masks({"nowhere": [0]})
    with pytest.raises(ValueError, match="units 0 to"):
        graph.masks({first: [1000]})
    dropped = graph.masks({first: [0, 2]})
    assert np.flatnonzero(dropped[first] == 0).tolist() == [0, 2]


def test_one_sample_takes_masks_with_a_batch_axis():
    fn, variables, x = example(("relu",), batch=1)
    graph = trace(fn, variables, x)
    masks = random_masks(graph)
    rows = {name: m[None] for name, m in masks.items()}
    near(graph.masked(fn)(variables, rows, x), graph.masked(fn)(variables, masks, x), 0)
