"""Reordered units: the network computes the same, or the group says why it keeps its order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from laws import assert_reordered_alike, near, random_orders, value_and_grad
from networks import DIMENSIONS, example

from jaxprune.graph import paths, trace
from jaxprune.graph.orders import COMMUTES, MADE, PICKED, POINTED
from jaxprune.graph.permute import permute
from jaxprune.graph.rules import RULES

IMAGES = np.random.default_rng(1).normal(size=(2, 4, 4, 3))
ROWS = np.random.default_rng(2).normal(size=(2, 6, 5))
STEPS = np.arange(1, 9) / 8.0
TWICE = np.tile([0.5, 1.5], 4)
PERMUTATION = np.array([2, 0, 3, 1, 5, 4, 7, 6])


def conv(h, kernel, groups=1):
    return lax.conv_general_dilated(
        h, kernel, (1, 1), "SAME", dimension_numbers=DIMENSIONS, feature_group_count=groups
    )


def grouped(v, x):  # a unit is a block of two inputs and three outputs
    return conv(jnp.tanh(conv(x, v["a"])), v["g"], 4).mean((1, 2)) @ v["b"]


def depthwise(v, x):
    h = conv(jnp.tanh(conv(x, v["a"])), v["g"], 8)
    return jnp.tanh(h).reshape(len(x), -1) @ v["b"]


def flattened_channels_first(v, x):
    h = jnp.tanh(conv(x, v["a"])).transpose(0, 3, 1, 2)
    return h.reshape(len(x), -1) @ v["b"]


def residual(v, x):
    h = x @ v["a"]
    return (h + jnp.tanh(h @ v["c"])) @ v["b"]


def attention(v, x):  # heads of a fused kernel: 3 parts, 4 heads, width 2
    q, k, u = (h.reshape(2, 6, 4, 2) for h in jnp.split(x @ v["a"], 3, -1))
    weights = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k))
    return jnp.einsum("bhts,bshd->bthd", weights, u).reshape(2, 6, 8) @ v["b"]


def linear_unit(v, x):
    h, gate = jnp.split(x @ v["a"], 2, -1)
    return (h * jax.nn.sigmoid(gate)) @ v["b"]


def shuffled(v, x):
    h = (x @ v["a"]).reshape(2, 6, 2, 4).swapaxes(2, 3).reshape(2, 6, 8)
    return jnp.tanh(h)[..., PERMUTATION][..., ::-1] @ v["b"]


def joined(v, x):
    h = jnp.tanh(x @ v["a"])
    return jnp.concatenate([h, x @ v["c"], jnp.sin(h)], -1) @ v["b"]


def alike_constant(v, x):  # has the same for each unit: 4 pairs of channels
    h = (x @ v["a"] * TWICE).reshape(2, 6, 4, 2)
    return jnp.sum(h, 3) @ v["b"] + np.ones(3)


def looped(v, x):
    def step(h, row):
        h = jnp.tanh(row @ v["a"] + h @ v["c"])
        return h, h

    return lax.scan(step, jnp.zeros((2, 8)), x.swapaxes(0, 1))[1] @ v["b"]


SHAPES = {
    grouped: ({"a": (3, 3, 3, 8), "g": (3, 3, 2, 12), "b": (12, 3)}, IMAGES),
    depthwise: ({"a": (3, 3, 3, 8), "g": (3, 3, 1, 8), "b": (128, 3)}, IMAGES),
    flattened_channels_first: ({"a": (3, 3, 3, 8), "b": (128, 3)}, IMAGES),
    residual: ({"a": (5, 8), "c": (8, 8), "b": (8, 3)}, ROWS),
    attention: ({"a": (5, 24), "b": (8, 3)}, ROWS),
    linear_unit: ({"a": (5, 16), "b": (8, 3)}, ROWS),
    shuffled: ({"a": (5, 8), "b": (8, 3)}, ROWS),
    joined: ({"a": (5, 8), "c": (5, 4), "b": (20, 3)}, ROWS),
    alike_constant: ({"a": (5, 8), "b": (4, 3)}, ROWS),
    looped: ({"a": (5, 8), "c": (8, 8), "b": (8, 3)}, ROWS),
}


def drawn(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape) / 2) for name, shape in shapes.items()}


def hold(fn, variables, x):
    graph = trace(fn, variables, x)
    own = jax.jit(value_and_grad(fn))
    assert_reordered_alike(graph, fn, own, variables, (x,), own(variables, x), seed=3)
    return graph


@pytest.mark.parametrize("fn", SHAPES, ids=lambda fn: fn.__name__)
def test_every_order_of_every_group_computes_the_same(fn):
    shapes, x = SHAPES[fn]
    graph = hold(fn, drawn(shapes), x)
    assert not graph.ordered
    assert any((order != np.arange(len(order))).any() for order in random_orders(graph, 3).values())


def under(middle, width=8):
    """A product, something in between, and a product that reads `width` channels."""

    def fn(v, x):
        return middle(x @ v["a"], v) @ v["b"]

    return fn, {"a": (5, 8), "c": (8,), "b": (width, 3)}


def mirrored(h):
    return jnp.tanh(h) * jnp.cos(h)[..., ::-1]  # ties the positions u and 7 - u


KEEP = {
    "an array for each channel": (lambda h, v: h * STEPS, "meets an array that is no variable"),
    "an array inside a call": (jax.jit(lambda h, v: h * STEPS), "meets an array"),
    "counted": (lambda h, v: h * jnp.arange(8.0), "each channel has a number of its own"),
    "counted in a loop": (
        lambda h, v: lax.fori_loop(0, 2, lambda i, g: g * (1 + jnp.arange(8.0)), h),
        "each channel has a number of its own",
    ),
    "drawn": (
        lambda h, v: h * jax.random.normal(jax.random.key(0), (8,)),
        "each channel has a number of its own",
    ),
    "a part of the channels": (
        lambda h, v: jnp.concatenate([jnp.sin(h[..., :4]), h[..., 4:]], -1),
        "takes some of its units",
    ),
    # Of the unit on the positions u and 7 - u the first is read, or the second.
    "picked": (lambda h, v: mirrored(h)[..., np.array([0, 6, 2, 4])], "picks by constants", 4),
    "picked with another axis": (
        lambda h, v: h[:, np.r_[np.arange(6), 0, 1], PERMUTATION][:, None],
        "along the channels and another axis together",
    ),
    "cut": (
        lambda h, v: lax.slice_in_dim(mirrored(h), 0, 8, 2, axis=2),
        "takes other channels of one unit than of another",
        4,
    ),
    "a branch": (
        lambda h, v: lax.cond(h.sum() > 1e9, jnp.sin, lambda h: h * STEPS, h),
        "meets an array",
    ),
}


@pytest.mark.parametrize("name", KEEP)
def test_a_group_whose_order_matters_says_why(name):
    middle, why, *width = KEEP[name]
    fn, shapes = under(middle, *width)
    variables = drawn(shapes)
    graph = trace(fn, variables, ROWS)
    (group,) = graph.groups
    assert why in graph.ordered[group] and "test_permute.py" in graph.ordered[group]
    size = graph.groups[group].size
    order = np.arange(size)[::-1]
    with pytest.raises(ValueError, match=r"group a\[1\] cannot be reordered: .* leave it out"):
        graph.permute(variables, {group: order})
    near(graph.permute(variables, {group: np.arange(size)}), variables, 0)
    shapes = {path: leaf.shape for path, leaf in paths.leaves(variables)}
    moved = permute(graph.groups, {}, shapes, variables, {group: order})
    assert not np.allclose(fn(moved, ROWS), fn(variables, ROWS))


@pytest.mark.parametrize(
    "blocks", [("batch_norm_train", "relu", "residual"), ("depthwise", "shuffle", "dense_block")]
)
def test_state_moves_with_its_channels(blocks):
    fn, variables, x = example(blocks)
    graph = trace(fn, variables, x, state=lambda out: out[1])
    own = jax.jit(value_and_grad(fn))
    assert_reordered_alike(graph, fn, own, variables, (x,), own(variables, x))
    assert len(graph.ordered) < len(graph.groups)


def test_orders_compose_and_the_inverse_brings_the_variables_back():
    shapes, _ = SHAPES[grouped]
    variables = drawn(shapes)
    graph = trace(grouped, variables, IMAGES)
    first, second = random_orders(graph, 1), random_orders(graph, 2)
    once = graph.permute(graph.permute(variables, first), second)
    near(once, graph.permute(variables, {n: first[n][second[n]] for n in first}), 0)
    inverse = {name: np.argsort(order) for name, order in first.items()}
    near(graph.permute(graph.permute(variables, first), inverse), variables, 0)


def test_unit_i_is_unit_order_i_of_the_given_on_host_device_and_in_a_trace():
    shapes, x = SHAPES[residual]
    variables = drawn(shapes)
    graph = trace(residual, variables, x)
    order = np.random.default_rng(0).permutation(8)
    by_hand = {
        "a": variables["a"][:, order],
        "c": variables["c"][order][:, order],
        "b": variables["b"][order],
    }
    (group,) = graph.groups
    near(graph.permute(variables, {group: order}), by_hand, 0)
    near(graph.permute(variables, {"a": list(order)}), by_hand, 0)
    near(jax.jit(lambda v: graph.permute(v, {group: order}))(variables), by_hand, 0)
    host = graph.permute(jax.tree.map(np.asarray, variables), {group: order})
    assert all(isinstance(leaf, np.ndarray) for leaf in host.values())


def test_what_is_no_order_is_told():
    shapes, x = SHAPES[residual]
    variables = drawn(shapes)
    graph = trace(residual, variables, x)
    (group,) = graph.groups
    for odd in ([0, 1], [0] * 8, np.arange(8.0) + 0.5, [[0, 1], [2, 3], [4, 5], [6, 7]], 3):
        with pytest.raises(
            ValueError, match=r"order of a\[1\] is no permutation of its units 0 to"
        ):
            graph.permute(variables, {group: odd})
    with pytest.raises(ValueError, match="has to be concrete: make it outside jit"):
        jax.jit(lambda order: graph.permute(variables, {group: order}))(jnp.arange(8))
    with pytest.raises(ValueError, match="matches nothing; the nearest names are"):
        graph.permute(variables, {"aa[1]": np.arange(8)})
    with pytest.raises(ValueError, match="not the variables of the network that was traced"):
        graph.permute({**variables, "b": jnp.zeros((7, 3))}, {group: np.arange(8)})


def test_a_pruned_network_is_reordered_too():
    shapes, x = SHAPES[attention]
    variables = drawn(shapes)
    graph = trace(attention, variables, x)
    masks = {n: np.arange(g.size) != 1 for n, g in graph.groups.items()}
    pruned = graph.slice(variables, masks)
    hold(pruned.wrap(attention), pruned.variables, x)


def test_every_rule_says_whether_it_commutes_with_an_order():
    kinds = (COMMUTES, MADE, PICKED, POINTED)
    assert all(sum(name in kind for kind in kinds) == 1 for name in RULES)
    assert frozenset().union(*kinds) == frozenset(RULES)
