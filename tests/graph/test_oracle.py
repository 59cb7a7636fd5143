"""An oracle that knows nothing of the engine: channels taken away by zeros in the variables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from laws import compiled, fill, near, random_masks
from networks import DIMENSIONS, example

from jaxprune.graph import paths, trace

NETWORK = ("batch_norm_eval", "relu", "residual", "depthwise", "dense_block", "relu")
IMAGES = np.random.default_rng(1).normal(size=(2, 4, 4, 2))
TOKENS = np.random.default_rng(2).normal(size=(2, 6, 5))
ORDER = np.array([2, 0, 3, 1])


def zeroed(graph, variables, masks, role):
    """The variables with every dropped unit's entries zero, at the members of one role."""
    leaves = {path: np.array(leaf) for path, leaf in paths.leaves(variables)}
    for name, group in graph.groups.items():
        for m in group.members:
            if m.role == role:
                gone = m.positions[masks[name] == 0].ravel()
                np.moveaxis(leaves[m.path], m.axis, 0)[gone] = 0
    return jax.tree.structure(variables).unflatten(leaves.values())


@pytest.mark.parametrize("role", ["reads", "writes"])
@pytest.mark.parametrize("head", ["flatten", "mean"])
def test_a_mask_is_the_same_as_zeros_in_the_variables(role, head):
    fn, variables, x = example(NETWORK, head)

    def logits(variables, x):
        return fn(variables, x)[0]

    graph = trace(logits, variables, x)
    masks = random_masks(graph)
    assert any((m == 0).any() for m in masks.values())
    expected = logits(zeroed(graph, variables, masks, role), x)
    near(graph.masked(logits)(variables, masks, x), expected, 1e-12)
    assert np.abs(expected - logits(variables, x)).max() > 1e-3


# By hand: for each group, where unit u lies in each variable.


def flattened(v, x):
    h = lax.conv_general_dilated(x, v["k"], (1, 1), "SAME", dimension_numbers=DIMENSIONS)
    return jnp.cos(h + v["bias"]).reshape(len(x), -1) @ v["b"]


def joined(v, x):
    h = jnp.concatenate([jnp.cos(x @ v["a"]), x @ v["c"]], -1)
    return h @ v["b"]


def shuffled(v, x):
    h = (x @ v["a"]).reshape(2, 6, 2, 3).swapaxes(2, 3).reshape(2, 6, 6)
    return jnp.cos(h) @ v["b"]


def headed(v, x):
    q, k, w = (part.reshape(2, 6, 2, 4) for part in jnp.split(x @ v["a"], 3, -1))
    weights = jax.nn.softmax(jnp.einsum("nqhd,nkhd->nhqk", q, k))
    return jnp.einsum("nhqk,nkhd->nqhd", weights, w).reshape(2, 6, 8) @ v["b"]


def grouped(v, x):
    q, k, w = ((x @ v[name]).reshape(2, 6, -1, 2) for name in "qkw")
    k, w = jnp.repeat(k, 2, 2), jnp.repeat(w, 2, 2)
    weights = jax.nn.softmax(jnp.einsum("nqhd,nkhd->nhqk", q, k))
    return jnp.einsum("nhqk,nkhd->nqhd", weights, w).reshape(2, 6, 8) @ v["b"]


def single(v, x):
    q, k, w = (x @ v["q"]).reshape(2, 6, 4, 2), x @ v["k"], x @ v["w"]
    weights = jax.nn.softmax(jnp.einsum("nqhd,nkd->nhqk", q, k))
    weights = jnp.einsum("...hqk,h->...hqk", weights, jnp.ones(4))
    return jnp.einsum("nhqk,nkd->nqhd", weights, w).reshape(2, 6, 8) @ v["b"]


def blurred(v, x):
    kernel = jnp.repeat(jnp.ones((2, 2, 1, 1)) / 4, 4, -1)
    h = lax.conv_general_dilated(
        jnp.cos(x @ v["a"]), kernel, (1, 1), "SAME",
        dimension_numbers=DIMENSIONS, feature_group_count=4,
    )  # fmt: skip
    return jnp.cos(h) @ v["b"]


def summed(v, x):
    return jnp.tanh(x @ v["a"]) @ jnp.ones((4, 3))


def pixels(v, x):
    h = (x @ v["a"]).reshape(2, 4, 4, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5)
    return jnp.cos(h.reshape(2, 8, 8, 3)) @ v["b"]


def layered(v, x):
    def layer(h, w):
        return h + jnp.cos(h @ w["up"]) @ w["down"], None

    return lax.scan(layer, x @ v["a"], {"up": v["up"], "down": v["down"]})[0] @ v["b"]


def recurrent(v, x):
    def cell(h, y):
        return jnp.cos(y @ v["a"] + h @ v["w"]), None

    return lax.scan(cell, jnp.zeros((2, 4)), x.swapaxes(0, 1))[0] @ v["b"]


def reordered(v, x):
    return jnp.cos(x @ v["a"])[..., ORDER] @ v["b"]


def placed(v, x):
    even = jnp.ones((2, 6, 8)).at[..., ::2].set(jnp.cos(x @ v["a"]))
    return even.at[..., 1::2].multiply(jnp.cos(x @ v["c"])) @ v["b"]


def transformed(v, x):
    return jnp.abs(jnp.fft.fft(x @ v["a"] + 1, axis=1)) @ v["b"]


def along(v, x):
    h = x @ v["a"]
    return jnp.cos(jnp.take_along_axis(h, jnp.argsort(h * v["s"], 1)[:, :2], 1)) @ v["b"]


def modulated(v, x):
    """A kernel per sample, as StyleGAN writes it: samples side by side as groups."""
    style = 1 + jnp.cos(x.mean((1, 2)) @ v["a"])
    kernels = v["k"] * style[:, None, None, :, None]
    h = jnp.sin(x @ v["f"]).transpose(1, 2, 0, 3).reshape(1, 4, 4, 6)
    kernels = kernels.transpose(1, 2, 3, 0, 4).reshape(3, 3, 3, 8)
    h = lax.conv_general_dilated(
        h, kernels, (1, 1), "SAME", dimension_numbers=DIMENSIONS, feature_group_count=2
    )
    return jnp.cos(h.reshape(4, 4, 2, 4).transpose(2, 0, 1, 3)) @ v["b"]


def experts(v, x):
    """Four rows go to the first expert, eight to the second."""
    sizes = jnp.array([4, 8])
    h = lax.ragged_dot(x.reshape(12, 5), v["up"], sizes)
    return lax.ragged_dot(jnp.cos(h), v["down"], sizes)


HAND = {
    "flattened": (
        flattened, IMAGES, {"k": (3, 3, 2, 4), "bias": (4,), "b": (64, 3)},
        {"k[3]": lambda u: {("k", 3): u, ("bias", 0): u, ("b", 0): [4 * i + u for i in range(16)]}},
    ),
    "joined": (
        joined, TOKENS, {"a": (5, 4), "c": (5, 3), "b": (7, 2)},
        {"a[1]": lambda u: {("a", 1): u, ("b", 0): u},
         "c[1]": lambda u: {("c", 1): u, ("b", 0): 4 + u}},
    ),
    "shuffled": (
        shuffled, TOKENS, {"a": (5, 6), "b": (6, 2)},
        {"a[1]": lambda u: {("a", 1): u, ("b", 0): 2 * (u % 3) + u // 3}},
    ),
    "headed": (
        headed, TOKENS, {"a": (5, 24), "b": (8, 2)},
        {"a[1]": lambda u: {("a", 1): [8 * p + 4 * u + d for p in range(3) for d in range(4)],
                            ("b", 0): [4 * u + d for d in range(4)]}},
    ),
    "grouped": (
        grouped, TOKENS, {"q": (5, 8), "k": (5, 4), "w": (5, 4), "b": (8, 2)},
        {"q[1]": lambda u: {("q", 1): [4 * u + d for d in range(4)],
                            ("k", 1): [2 * u, 2 * u + 1], ("w", 1): [2 * u, 2 * u + 1],
                            ("b", 0): [4 * u + d for d in range(4)]}},
    ),
    "single": (
        single, TOKENS, {"q": (5, 8), "k": (5, 2), "w": (5, 2), "b": (8, 2)},
        {"q[1]": lambda u: {("q", 1): [2 * u, 2 * u + 1], ("b", 0): [2 * u, 2 * u + 1]}},
    ),
    "blurred": (
        blurred, IMAGES, {"a": (2, 4), "b": (4, 3)},
        {"a[1]": lambda u: {("a", 1): u, ("b", 0): u}},
    ),
    "summed": (summed, TOKENS, {"a": (5, 4)}, {"a[1]": lambda u: {("a", 1): u}}),
    "pixels": (
        pixels, IMAGES, {"a": (2, 12), "b": (3, 2)},
        {"a[1]": lambda u: {("a", 1): [3 * p + u for p in range(4)], ("b", 0): u}},
    ),
    "layered": (
        layered, TOKENS, {"a": (5, 4), "up": (2, 4, 6), "down": (2, 6, 4), "b": (4, 2)},
        {"a[1]": lambda u: {("a", 1): u, ("up", 1): u, ("down", 2): u, ("b", 0): u},
         "up[2]": lambda u: {("up", 2): u, ("down", 1): u}},
    ),
    "reordered": (
        reordered, TOKENS, {"a": (5, 4), "b": (4, 2)},
        {"a[1]": lambda u: {("a", 1): u, ("b", 0): [2, 0, 3, 1].index(u)}},
    ),
    "placed": (
        placed, TOKENS, {"a": (5, 4), "c": (5, 4), "b": (8, 2)},
        {"a[1]": lambda u: {("a", 1): u, ("b", 0): 2 * u},
         "c[1]": lambda u: {("c", 1): u, ("b", 0): 2 * u + 1}},
    ),
    "transformed": (
        transformed, TOKENS, {"a": (5, 4), "b": (4, 2)},
        {"a[1]": lambda u: {("a", 1): u, ("b", 0): u}},
    ),
    "along": (
        along, TOKENS, {"a": (5, 4), "s": (4,), "b": (4, 2)},
        {"a[1]": lambda u: {("a", 1): u, ("s", 0): u, ("b", 0): u}},
    ),
    "modulated": (
        modulated, IMAGES, {"a": (2, 3), "f": (2, 3), "k": (3, 3, 3, 4), "b": (4, 3)},
        {"a[1]": lambda u: {("a", 1): u, ("f", 1): u, ("k", 2): u},
         "k[3]": lambda u: {("k", 3): u, ("b", 0): u}},
    ),
    "experts": (
        experts, TOKENS, {"up": (2, 5, 4), "down": (2, 4, 3)},
        {"up[2]": lambda u: {("up", 2): u, ("down", 1): u}},
    ),
    "recurrent": (
        recurrent, TOKENS, {"a": (5, 4), "w": (4, 4), "b": (4, 2)},
        {"a[1]": lambda u: {("a", 1): u, ("w", 0): u, ("w", 1): u, ("b", 0): u}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HAND)
def test_dropping_a_unit_is_the_same_as_zeros_at_the_places_found_by_hand(name):
    fn, x, shapes, groups = HAND[name]
    variables = fill({n: jax.ShapeDtypeStruct(s, float) for n, s in shapes.items()})
    graph = trace(fn, variables, x)
    assert list(graph.groups) == list(groups)
    own = compiled(fn, variables, x)
    masks = {n: np.ones(g.size) for n, g in graph.groups.items()}
    masked = compiled(lambda v, m, x: graph.masked(fn)(v, m, x), variables, masks, x)
    whole = own(variables, x)
    for group, places in groups.items():
        for unit in range(graph.groups[group].size):
            zeros = {n: np.array(leaf) for n, leaf in variables.items()}
            for (path, axis), positions in places(unit).items():
                np.moveaxis(zeros[path], axis, 0)[positions] = 0
            out = own(zeros, x)
            dropped = masks[group].copy()
            dropped[unit] = 0
            near(masked(variables, masks | {group: dropped}, x), out, 1e-12)
            assert np.abs(out - whole).max() > 1e-3
