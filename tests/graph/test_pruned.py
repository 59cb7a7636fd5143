"""Slicing, what follows the weights, pruning again, and functions on the smaller network."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from laws import assert_laws, near, random_masks
from networks import CONVOLUTIONS, build, example

from jaxprune.checkpoint import load, save
from jaxprune.graph import paths, trace

NETWORK = ("batch_norm_eval", "relu", "residual", "depthwise")
IN_TRAINING = ("batch_norm_train", *NETWORK[1:])


def state_of(out):
    return out[1]


def example_graph(names=NETWORK, **options):
    fn, variables, x = example(names)
    return fn, variables, x, trace(fn, variables, x, state=state_of, **options)


def test_kept_entries_are_those_of_the_first_network():
    _, variables, _, graph = example_graph()
    masks = random_masks(graph, 1)
    pruned = graph.slice(variables, masks)
    assert pruned.widths == {name: int(m.sum()) for name, m in masks.items()}
    dense = dict(paths.leaves(variables))
    for path, leaf in paths.leaves(pruned.variables):
        at = [
            pruned.indices.get(f"{path}[{a}]", np.arange(n))
            for a, n in enumerate(dense[path].shape)
        ]
        near(leaf, dense[path][np.ix_(*at)], 0)
    assert jax.tree.structure(pruned.variables) == jax.tree.structure(variables)


def test_donating_the_pruned_variables_leaves_the_first_network_whole():
    fn, variables, x, graph = example_graph()
    pruned = graph.slice(variables, graph.full_masks())
    doubled = jax.jit(lambda v: jax.tree.map(lambda a: 2 * a, v), donate_argnums=0)
    doubled(pruned.variables)
    assert np.isfinite(fn(variables, x)[0]).all()


def test_wrap_at_another_batch_size_and_in_training_mode():
    fn, variables, x, graph = example_graph()
    train, _ = build([CONVOLUTIONS[name] for name in IN_TRAINING])
    pruned = graph.slice(variables, random_masks(graph, 2))
    more = jnp.concatenate([x, x[::-1], x])
    near(
        pruned.wrap(fn)(pruned.variables, more)[0][:2],
        pruned.wrap(fn)(pruned.variables, x)[0],
        1e-12,
    )
    logits, state = pruned.wrap(train)(pruned.variables, more)
    shapes = jax.tree.map(jnp.shape, pruned.variables["stats"])
    assert jax.tree.map(jnp.shape, state["stats"]) == shapes
    expected = graph.masked(train)(variables, random_masks(graph, 2), more)
    near((logits, state), pruned.cut_state(expected), 1e-12)


def test_a_loss_can_be_wrapped_and_trained():
    fn, variables, x, graph = example_graph()
    pruned = graph.slice(variables, random_masks(graph, 3))

    def loss(variables, x, y):
        return jnp.mean((fn(variables, x)[0] - y) ** 2)

    small, y = pruned.wrap(loss), jnp.ones((2, 3))
    before = small(pruned.variables, x, y)
    gradient = jax.grad(small)(pruned.variables, x, y)
    after = jax.tree.map(lambda v, g: v - 1e-3 * g, pruned.variables, gradient)
    assert small(after, x, y) < before


def test_calling_wrap_again_compiles_nothing():
    traces = []
    fn, variables, x, graph = example_graph(("relu",))

    def counted(variables, x):
        traces.append(1)
        return fn(variables, x)

    pruned = graph.slice(variables, random_masks(graph))
    for _ in range(3):
        pruned.wrap(counted)(pruned.variables, x)
    assert len(traces) == 1
    pruned.wrap(counted)(pruned.variables, jnp.concatenate([x, x]))
    assert len(traces) == 2


def test_wrap_refuses_a_function_that_fixes_what_was_cut():
    fn, variables, x, graph = example_graph(("relu",))
    pruned = graph.slice(variables, graph.masks({"block1": [0]}))

    def features(variables, x):
        return x @ variables["params"]["block1"]["kernel"][0, 0]

    with pytest.raises(ValueError, match=r"fixes channels of params/block1/kernel\[3\].*output"):
        pruned.wrap(features)(pruned.variables, x)
    near(pruned.wrap(lambda v, x: features(v, x).sum())(pruned.variables, x), jnp.sum(
        x @ pruned.variables["params"]["block1"]["kernel"][0, 0]), 1e-12)  # fmt: skip

    def tying(variables, x):
        first = variables["params"]["block1"]
        return jnp.sum(first["bias"] * jnp.sort(first["bias"])) + jnp.sum(first["bias"][:2])

    with pytest.raises(ValueError, match=r"sort at .*test_pruned.*sorts the channels"):
        pruned.wrap(tying)(pruned.variables, x)
    with pytest.raises(ValueError, match="not the variables of this pruned network"):
        pruned.wrap(fn)(variables, x)


def test_a_function_that_ties_separate_channels_is_refused():
    variables = {
        "a": jnp.ones((3, 4)),
        "b": jnp.ones((3, 4)),
        "c": jnp.ones((4, 2)),
        "d": jnp.ones((4, 2)),
    }
    x = jnp.ones((2, 3))
    graph = trace(lambda v, x: x @ v["a"] @ v["c"] + x @ v["b"] @ v["d"], variables, x)
    assert list(graph.groups) == ["a[1]", "b[1]"]

    def added(v, x):
        return (x @ v["a"] + x @ v["b"]) @ v["c"]

    with pytest.raises(ValueError, match="ties channels of a"):
        graph.masked(added)(variables, graph.full_masks(), x)
    pruned = graph.slice(variables, graph.masks({"a": [0]}))
    with pytest.raises(ValueError, match="ties channels of a"):
        pruned.wrap(added)(pruned.variables, x)


def test_an_output_at_the_position_of_a_variable_is_no_state():
    variables, x = (jnp.ones((2, 6)), jnp.ones((6, 3))), jnp.ones((2, 2))
    graph = trace(lambda v, x: x @ v[0] @ v[1], variables, x)
    pruned = graph.slice(variables, graph.masks({"0[1]": [0]}))
    with pytest.raises(ValueError, match="an output of the function: 0"):
        pruned.wrap(lambda v, x: (x @ v[0],))(pruned.variables, x)


def test_new_state_of_variables_in_tuples_is_found_by_the_state_that_was_given():
    def fn(variables, x):
        (kernel, last), (mean,) = variables
        x = x @ kernel
        return (x - mean) @ last, ((0.9 * mean + 0.1 * x.mean(0)),)

    variables = ((jnp.ones((2, 6)), jnp.ones((6, 3))), (jnp.zeros(6),))
    x = jnp.arange(8.0).reshape(4, 2)
    graph = trace(fn, variables, x, state=lambda out: {"1": out[1]})
    pruned = graph.slice(variables, graph.masks({"0/0": [0, 1]}))
    _, (mean,) = pruned.wrap(fn)(pruned.variables, x)
    assert mean.shape == (4,)
    # Another function, whose output has no such place.
    logits = pruned.wrap(lambda v, x: fn(v, x)[0])(pruned.variables, x)
    assert logits.shape == (4, 3)


@pytest.mark.parametrize("whole", [True, False], ids=["variables", "params"])
def test_cut_follows_the_weights_into_an_optimizer_state(whole):
    fn, variables, x, graph = example_graph()
    masks = random_masks(graph, 4)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))

    @functools.partial(jax.jit, static_argnames="apply")
    def step(tree, state, apply):
        def loss(tree):
            full = tree if whole else {"params": tree, "stats": variables["stats"]}
            return jnp.sum(apply(full, x)[0] ** 2)

        updates, state = optimizer.update(jax.grad(loss)(tree), state, tree)
        return optax.apply_updates(tree, updates), state

    tree = variables if whole else variables["params"]
    tree, state = step(tree, optimizer.init(tree), apply=fn)
    pruned = graph.slice(tree if whole else variables | {"params": tree}, masks)
    small = pruned.cut(state)
    kept = pruned.variables if whole else pruned.variables["params"]
    assert jax.tree.map(jnp.shape, small[1][0].mu) == jax.tree.map(jnp.shape, kept)
    assert small[1][0].count == 1
    near(pruned.cut(tree), kept, 0)
    if whole:
        step(kept, small, apply=pruned.wrap(fn))  # and it goes on training

    broken = jax.tree.map(lambda a: jnp.ones((7, *a.shape)) if a.ndim else a, state)
    with pytest.raises(ValueError, match=r"block1.*has shape"):
        pruned.cut(broken)
    with pytest.raises(ValueError, match="only a tree of the unpruned network"):
        pruned.cut(small)


def test_cut_lets_the_rest_pass():
    _, variables, _, graph = example_graph(("relu",))
    pruned = graph.slice(variables, random_masks(graph))
    rest = {"step": 3, "key": jax.random.key(0), "none": None, "mask": np.ones(5)}
    out = pruned.cut(rest | {"ema": {"params": jax.tree.map(np.asarray, variables["params"])}})
    assert out["step"] == 3 and out["none"] is None and out["mask"].shape == (5,)
    assert jax.tree.map(np.shape, out["ema"]["params"]) == jax.tree.map(
        np.shape, pruned.variables["params"]
    )
    assert isinstance(out["ema"]["params"]["block1"]["kernel"], np.ndarray)


def test_pruning_again_composes_the_indices():
    fn, variables, x, graph = example_graph()
    masks = random_masks(graph, 5, least=3)
    first = graph.slice(variables, masks)
    again = trace(first.wrap(fn), first.variables, x)
    assert again.names == graph.names
    assert again.sizes.tolist() == list(first.widths.values())
    assert_laws(again, first.wrap(fn), first.variables, x, seed=6)

    second_masks = random_masks(again, 6)
    second = again.slice(first.variables, second_masks)
    both = {}
    for name, mask in masks.items():
        both[name] = np.zeros_like(mask)
        both[name][np.flatnonzero(mask)[second_masks[name] == 1]] = 1
    direct = graph.slice(variables, both)
    assert {n: i.tolist() for n, i in second.indices.items() if len(i)} == {
        n: i.tolist() for n, i in direct.indices.items()
    }
    near(second.variables, direct.variables, 0)
    near(second.wrap(fn)(second.variables, x), direct.wrap(fn)(direct.variables, x), 1e-12)
    near(
        second.wrap(first.wrap(fn))(second.variables, x),
        direct.wrap(fn)(direct.variables, x),
        1e-12,
    )
    near(second.cut(variables), second.variables, 0)
    near(second.cut(first.variables), second.variables, 0)
    near(again.masked(fn)(first.variables, second_masks, x)[0],
         second.wrap(fn)(second.variables, x)[0], 1e-12)  # fmt: skip


def grouped_convolution(v, x):
    h = jax.lax.conv_general_dilated(
        jnp.tanh(x @ v["a"]), v["k"], (1, 1), "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=4,
    )  # fmt: skip
    return jnp.tanh(h @ v["b"]) @ v["c"]


def grouped_queries(v, x):
    n, t = x.shape[:2]
    q = (x @ v["q"]).reshape(n, t, 3, 2, 2)
    k, value = ((x @ v[name]).reshape(n, t, 3, 2) for name in ("k", "v"))
    weights = jax.nn.softmax(jnp.einsum("ntkgd,nskd->nkgts", q, k))
    out = jnp.einsum("nkgts,nskd->ntkgd", weights, value).reshape(n, t, -1)
    return jnp.tanh(out @ v["o"]) @ v["c"]


@pytest.mark.parametrize("fn", [grouped_convolution, grouped_queries])
def test_what_is_tied_to_the_last_unit_of_a_group_stays_as_it_is_pruned_again(fn, tmp_path):
    shapes = {"a": (3, 8), "k": (3, 3, 2, 12), "b": (12, 5), "c": (5, 2)}
    image = (2, 4, 4, 3)
    if fn is grouped_queries:
        shapes = {"q": (4, 12), "k": (4, 6), "v": (4, 6), "o": (12, 5), "c": (5, 2)}
        image = (2, 3, 4)
    rng = np.random.default_rng(0)
    variables = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    x = jnp.asarray(rng.normal(size=image))
    graph = trace(fn, variables, x)
    tied, free = graph.names
    for kept in (2, 1):  # two are still a group; to one of them no other may come
        masks = graph.full_masks() | {tied: np.arange(graph.groups[tied].size) < kept}
        first = graph.slice(variables, masks)
        again = trace(first.wrap(fn), first.variables, x)
        assert again.names == ((tied, free) if kept == 2 else (free,))
        second = assert_laws(again, first.wrap(fn), first.variables, x, seed=kept)
    near(second.cut(variables), second.variables, 0)

    # A third time, and from a file.
    second = again.slice(first.variables, again.masks({free: [1, 3]}))
    save(tmp_path / "twice", second)
    for pruned in (second, load(tmp_path / "twice")):
        third = trace(pruned.wrap(fn), pruned.variables, x)
        assert third.names == (free,)
    assert_laws(third, pruned.wrap(fn), pruned.variables, x, seed=3)


def test_pruned_again_without_the_normalisation_that_was_opened_at_first():
    def fn(v, x):
        h = x @ v["a"]
        h = h / jnp.sqrt(jnp.mean(h * h, -1, keepdims=True))
        return jnp.tanh(h @ v["b"]) @ v["c"]

    variables = {"a": jnp.ones((3, 6)), "b": jnp.ones((6, 4)), "c": jnp.ones((4, 2))}
    variables = jax.tree.map(lambda v: v + 0.1 * jnp.arange(v.size).reshape(v.shape), variables)
    x = jnp.ones((2, 3))
    first = trace(fn, variables, x, allow_inexact=True)
    pruned = first.slice(variables, first.masks({"a": [0, 1]}))
    again = trace(pruned.wrap(fn), pruned.variables, x)
    assert again.names == ("b[1]",)
    assert_laws(again, pruned.wrap(fn), pruned.variables, x)


def test_slices_that_are_refused():
    _, variables, _, graph = example_graph(("relu",))
    masks = graph.full_masks()
    name = graph.names[0]
    size = graph.groups[name].size
    for mask, message in [
        (np.zeros(size), "keeps nothing"),
        (np.full(size, 0.5), "other than 0 and 1"),
        (np.full(size, np.nan), "other than 0 and 1"),
        (np.ones((2, size)), "has shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            graph.slice(variables, masks | {name: mask})
    with pytest.raises(ValueError, match="unknown groups"):
        graph.slice(variables, {"other": np.ones(3)})
    with pytest.raises(ValueError, match="outside jit"):
        jax.jit(lambda m: graph.slice(variables, m).variables)(masks)
    with pytest.raises(ValueError, match="not the variables of the network"):
        graph.slice(jax.tree.map(lambda v: v[..., :1], variables), masks)


def test_every_mask_that_leaves_one_unit_slices():
    fn, variables, x, graph = example_graph(("shuffle", "multiplier", "swapped_halves", "halves"))
    for kept in (0, -1):
        masks = {n: np.eye(g.size)[kept] for n, g in graph.groups.items()}
        pruned = graph.slice(variables, masks)
        near(
            pruned.wrap(fn)(pruned.variables, x)[0], graph.masked(fn)(variables, masks, x)[0], 1e-12
        )


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from jaxprune.graph import trace

mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
variables = {"a": jnp.ones((3, 8)), "b": jnp.ones((8, 4))}
specs = {"a": P(None, "d"), "b": P(None, "d")}
placed = {k: jax.device_put(v, NamedSharding(mesh, specs[k])) for k, v in variables.items()}
fn = lambda v, x: jnp.tanh(x @ v["a"]) @ v["b"]
x = jnp.ones((2, 3))
graph = trace(fn, placed, x)
even = graph.slice(placed, graph.masks({"a": [0, 1, 2, 3]})).variables
assert all(even[k].sharding == placed[k].sharding for k in even), even["a"].sharding
odd = graph.slice(placed, graph.masks({"a": [0]}))
assert odd.variables["a"].shape == (3, 7) and odd.variables["b"].sharding == placed["b"].sharding
np.testing.assert_allclose(odd.wrap(fn)(odd.variables, x), 7 * np.tanh(3), rtol=1e-6)
"""


def test_slicing_keeps_shardings():
    options = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", SHARDED], env=os.environ | options, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
