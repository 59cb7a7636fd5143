"""The fourth law: running with blocks is the function on projected kernels, gradients included.

The projection is held against one that goes from block to block in NumPy.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from laws import compiled, fill, near, random_masks, value_and_grad
from networks import example, random_network

from jaxprune.checkpoint import load, save
from jaxprune.graph import paths, trace
from jaxprune.kernels.blocks import Blocks, grid


def random_blocks(variables, rng):
    """Blocks of every kernel: of random sides, half of them kept, some shared, some orders."""
    found = {}
    for path, leaf in paths.leaves(variables):
        if not path.endswith("kernel"):
            continue
        sides = tuple(int(rng.integers(0, n + 1)) for n in leaf.shape)
        cells = grid(leaf.shape, sides)
        axis = int(rng.integers(leaf.ndim))
        kept = rng.uniform(size=cells) < 0.5
        kept.flat[0] = True
        found[path] = Blocks(
            sides,
            kept,
            rng.uniform(size=cells) < 0.5 if rng.uniform() < 0.5 else None,
            {axis: rng.permutation(leaf.shape[axis])},
        )
    return found


def diagonal_blocks(variables, rng):
    """Two blocks on the diagonal of every kernel that has them, under random orders."""
    found = {}
    for path, leaf in paths.leaves(variables):
        if path.endswith("kernel") and leaf.ndim > 1 and not any(n % 2 for n in leaf.shape[-2:]):
            sides = (*[0] * (leaf.ndim - 2), *(n // 2 for n in leaf.shape[-2:]))
            order = {a: rng.permutation(leaf.shape[a]) for a in (leaf.ndim - 2, leaf.ndim - 1)}
            kept = np.eye(2, dtype=bool).reshape([1] * (leaf.ndim - 2) + [2, 2])
            found[path] = Blocks(sides, kept, None, {} if rng.uniform() < 0.3 else order)
    return found


def boxes(blocks, shape):
    """Block by block: its number, and its entries as an index."""
    sides = [side or n for side, n in zip(blocks.sides, shape, strict=True)]
    for cell in np.ndindex(*np.shape(blocks.kept)):
        along = []
        for axis, (at, side, n) in enumerate(zip(cell, sides, shape, strict=True)):
            order = blocks.order.get(axis, np.arange(n))
            along.append(order[at * side : (at + 1) * side])
        yield cell, np.ix_(*along)


def projected(kernel, blocks):
    out = np.zeros_like(kernel)
    for cell, box in boxes(blocks, kernel.shape):
        if blocks.kept[cell]:
            out[box] = kernel[box]
            if blocks.shared is not None and blocks.shared[cell]:
                out[box] = np.where(kernel[box] < 0, -1, 1) * np.abs(kernel[box]).mean()
    return out


def pulled_back(gradient, kernel, blocks):
    """The gradient before the projection, from that with respect to what came out of it."""
    out = np.zeros_like(gradient)
    for cell, box in boxes(blocks, kernel.shape):
        if blocks.kept[cell]:
            out[box] = gradient[box]
            if blocks.shared is not None and blocks.shared[cell]:
                signs = np.where(kernel[box] < 0, -1, 1)
                out[box] = signs * (signs * gradient[box]).mean()
    return out


def on_kernels(change, tree, blocks, *more):
    """A tree with its kernels changed: `change(kernel, *of more, blocks)`."""
    others = [dict(paths.leaves(t)) for t in more]
    leaves = [
        jnp.asarray(change(np.asarray(leaf), *(o[path] for o in others), blocks[path]))
        if path in blocks
        else leaf
        for path, leaf in paths.leaves(tree)
    ]
    return jax.tree.structure(tree).unflatten(leaves)


@pytest.mark.parametrize("seed", range(4))
def test_running_with_blocks_is_the_function_on_projected_kernels(seed):
    make = random_blocks if seed < 2 else diagonal_blocks
    for number in itertools.count(seed, 4):  # until some of its kernels have such blocks
        network = random_network(number, deepest=3)
        fn, variables, x = example(network["blocks"], network["head"], network["seed"])
        graph = trace(fn, variables, x, state=lambda out: out[1])
        masks = random_masks(graph, seed) if seed % 2 else graph.full_masks()
        plain = graph.slice(variables, masks)
        if blocks := make(plain.variables, np.random.default_rng(seed)):
            break
    pruned = graph.slice(variables, masks, blocks)
    near(pruned.variables, on_kernels(projected, plain.variables, blocks), 1e-12)

    # Also on weights that a training has moved off the structure.
    moved = fill(plain.variables, seed=seed + 100)
    number = value_and_grad(pruned.wrap(fn))
    own = value_and_grad(plain.wrap(fn))
    (_, out), grad = compiled(number, moved, x, level=1)(moved, x)
    there = on_kernels(projected, moved, blocks)
    (_, expected), above = compiled(own, there, x, level=1)(there, x)
    near(out, expected, 1e-9)
    near(grad, on_kernels(pulled_back, above, blocks, moved), 1e-9)

    # Counted, cut.
    counted = graph.cost(masks, pruned.kept())
    whole = graph.cost(masks)
    entries = {p: leaf.size for p, leaf in paths.leaves(plain.variables)}
    kept = {p: np.count_nonzero(projected(np.ones(dict(paths.leaves(plain.variables))[p].shape), b))
            for p, b in blocks.items()}  # fmt: skip
    assert counted.params == whole.params - sum(entries[p] - kept[p] for p in blocks)
    assert counted.macs < whole.macs
    assert counted.activations == whole.activations
    momentum = optax.sgd(0.1, momentum=0.9).init(jax.tree.map(jnp.ones_like, variables["params"]))
    ones = jax.tree.map(jnp.ones_like, momentum)
    for path, leaf in paths.leaves(pruned.cut(ones)[0].trace):
        if (name := f"params/{path}") in blocks:
            assert np.count_nonzero(leaf) == kept[name]


def fn(variables, x):
    h = jnp.tanh(x @ variables["a"])
    return jnp.tanh(h @ variables["b"]) @ variables["c"]


@pytest.fixture
def pruned():
    rng = np.random.default_rng(0)
    shapes = {"a": (5, 8), "b": (8, 6), "c": (6, 3)}
    variables = {n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in shapes.items()}
    x = jnp.asarray(rng.normal(size=(4, 5)), jnp.float32)
    graph = trace(fn, variables, x)
    kept = np.array([[True, False], [False, True], [True, True]])
    blocks = {"b": Blocks((2, 3), kept, ~kept | True, {0: rng.permutation(6)})}
    masks = graph.masks({"a": [2, 5]})
    return graph, variables, masks, x, graph.slice(variables, masks, blocks)


def test_blocks_are_saved_and_loaded(pruned, tmp_path):
    _, _, _, x, small = pruned
    # What a training moved is projected.
    loose = dataclasses.replace(small, variables=jax.tree.map(lambda w: w + 1, small.variables))
    save(tmp_path / "net", loose)
    back = load(tmp_path / "net")
    for field in Blocks._fields:
        jax.tree.map(
            np.testing.assert_array_equal,
            getattr(back.blocks["b"], field),
            getattr(small.blocks["b"], field),
        )
    np.testing.assert_array_equal(
        back.wrap(fn)(back.variables, x), loose.wrap(fn)(loose.variables, x)
    )
    near(back.variables["b"], small.project(loose.variables)["b"], 0)
    assert small.kept() == {"b": 4 / 6}


@pytest.mark.parametrize("kept", [True, False])
def test_blocks_without_signs_or_numbers_are_saved_and_loaded(pruned, kept, tmp_path):
    graph, variables, masks, x, _ = pruned
    blocks = {"b": Blocks((2, 3), np.eye(3, 2, dtype=bool) & kept)}
    small = graph.slice(variables, masks, blocks)
    save(tmp_path / "net", small)
    back = load(tmp_path / "net")
    near(back.variables, small.variables, 0)
    near(back.wrap(fn)(back.variables, x), small.wrap(fn)(small.variables, x), 0)


@pytest.mark.parametrize("sides", list(itertools.product([0, 2, 4], [0, 3])))
def test_the_stored_form_is_counted_in_bits(sides):
    kept = np.ones(grid((6, 5), sides), bool)
    kept.flat[-1] = False
    blocks = Blocks(sides, kept, np.ones_like(kept), {1: np.arange(5)})
    entries = np.count_nonzero(projected(np.ones((6, 5)), blocks))
    assert blocks.size((6, 5)) == entries
    bits = 16 * kept.sum() + kept.size + kept.sum() + entries + 5 * 3
    assert blocks.storage((6, 5), bits=16) == -(-bits // 8)
    alone = blocks._replace(shared=None, order={})
    assert alone.storage((6, 5)) == -(-(32 * entries + kept.size) // 8)


def test_a_network_with_blocks_is_traced_and_cut_again(pruned):
    _, _, _, x, small = pruned
    graph = trace(small.wrap(fn), small.variables, x)
    assert set(graph.names) == {"a[1]", "b[1]"}
    with pytest.raises(ValueError, match="b has blocks already: prune channels first"):
        graph.slice(small.variables, graph.masks({"a": [0]}))
    again = graph.slice(small.variables, graph.full_masks())
    near(again.wrap(fn)(again.variables, x), small.wrap(fn)(small.variables, x), 1e-6)
    assert again.blocks.keys() == {"b"}


def test_blocks_of_another_kernel_are_refused(pruned):
    graph, variables, masks, _, small = pruned
    blocks = small.blocks["b"]
    for wrong, message in (
        ({"d": blocks}, "blocks of d, which is no variable"),
        ({"b": blocks._replace(sides=(2,))}, "give one length per axis"),
        (
            {"b": blocks._replace(sides=(1, 3))},
            r"kept is bool of shape \(3, 2\), where .* has \(6, 2\)",
        ),
        ({"b": blocks._replace(shared=np.ones(3, bool))}, "shared is bool of shape"),
        ({"b": blocks._replace(order={0: np.arange(8)})}, r"order\[0\] is no permutation"),
    ):
        with pytest.raises(ValueError, match=message):
            graph.slice(variables, masks, wrong)
