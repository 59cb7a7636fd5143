"""Structured probabilistic pruning: its curve, exact probabilities, and what it drops."""

from __future__ import annotations

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.methods import SPP, probabilistic
from jaxprune.methods.columns import Columns, columns_of, kept_columns
from jaxprune.methods.probabilistic import delta, drawn, moved, reached
from jaxprune.problem import Problem, cross_entropy
from jaxprune.train.memory import MemoryRun
from jaxprune.train.network import Network
from jaxprune.wrappers import MASKS, WEIGHTS

A, U = 0.05, 0.25


def published(rank, left):
    """Δ(r) as the paper has it, one number at a time."""
    alpha = np.log(2 / U) / left
    turn = -np.log(U) / alpha
    if rank <= turn:
        return A * np.exp(-alpha * rank)
    return 2 * U * A - A * np.exp(-alpha * (2 * turn - rank))


@pytest.mark.parametrize("left", [1, 5, 400])
def test_the_curve_has_its_published_form_and_points(left):
    ranks = np.arange(3 * left)
    found = np.asarray(delta(jnp.asarray(ranks), jnp.asarray(left), A, U))
    np.testing.assert_allclose(found, [published(r, left) for r in ranks], rtol=1e-4, atol=1e-7)
    assert (np.diff(found) < 0).all()
    turn = left * np.log(1 / U) / np.log(2 / U)
    points = np.asarray(delta(jnp.asarray([0.0, turn, float(left)]), jnp.asarray(left), A, U))
    np.testing.assert_allclose(points, [A, U * A, 0.0], atol=1e-7)
    # symmetric about (N, uA)
    ahead = np.linspace(0, turn, 7)
    mirror = [np.asarray(delta(jnp.asarray(turn + s * ahead), left, A, U)) for s in (-1, 1)]
    np.testing.assert_allclose(mirror[0] + mirror[1], 2 * U * A, atol=1e-6)


def test_four_columns_move_by_the_curve_and_the_wrong_one_recovers():
    norms = jnp.asarray([[3.0, 1.0], [2.0, 4.0]])
    p = jnp.asarray([[0.0, 0.96], [0.5, 0.1]])
    after = moved(p, norms, 2, A, U)
    # The ranks are 2, 0, 1, 3; two are to be pruned.
    changes = [published(r, 2) for r in (2, 0, 1, 3)]
    expected = np.clip(np.ravel(p) + changes, 0, 1).reshape(2, 2)
    np.testing.assert_allclose(after, expected, atol=1e-6)
    assert after[0, 1] == 1.0 and after[1, 1] < p[1, 1] and after[0, 0] == 0.0

    # One is gone: it is not ranked, and one is left to be pruned.
    small = norms.at[0, 1].set(0.0)
    again = moved(after, small, 2, A, U)
    expected = [np.ravel(after)[i] + published(r, 1) for i, r in ((0, 1), (2, 0), (3, 2))]
    np.testing.assert_allclose(np.ravel(again)[[0, 2, 3]], np.clip(expected, 0, 1), atol=1e-6)
    assert again[0, 1] == 1.0
    done = moved(jnp.asarray([[1.0, 1.0], [0.3, 0.2]]), norms, 2, A, U)
    np.testing.assert_allclose(done, [[1.0, 1.0], [0.3, 0.2]])


def test_masks_are_drawn_with_their_probabilities():
    p = {"params/k": jnp.asarray([0.0, 0.25, 0.7, 1.0]).reshape(1, 1, 4, 1)}
    key = jax.random.bits(jax.random.key(5), (2,), jnp.uint32)
    masks = jax.jit(jax.vmap(lambda s: drawn(p, key, s)))(jnp.arange(4000))["params/k"]
    share = np.asarray(masks).reshape(4000, 4).mean(0)
    assert share[0] == 1.0 and share[3] == 0.0
    np.testing.assert_allclose(share[1:3], [0.75, 0.3], atol=4 * 0.5 / 4000**0.5)
    assert not np.array_equal(masks[0], masks[1]) or not np.array_equal(masks[1], masks[2])


def conv(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def forward(variables, x, key=None):
    p = variables["params"]
    x = jnp.tanh(conv(x, p["a"]["kernel"]) + p["a"]["bias"])
    return jnp.tanh(conv(x, p["b"]["kernel"])).mean((1, 2)) @ p["out"]


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    params = {
        "a": {"kernel": rng.normal(size=(2, 2, 1, 6)) / 2, "bias": rng.normal(size=6) / 4},
        "b": {"kernel": rng.normal(size=(1, 1, 6, 5)) / 2},
        "out": rng.normal(size=(5, 3)),
    }
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)
    x = jnp.asarray(rng.normal(size=(12, 4, 4, 1)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 3, 12))
    return jp.trace(forward, {"params": params}, x[:1]), params, (x, labels)


COLUMNS = {"params/a/kernel": (4, 3), "params/b/kernel": (6, 3)}


def test_a_step_masks_forwards_and_backwards_and_brings_the_weights_back(case):
    """Against a loop in NumPy's terms, by SGD with momentum and decay."""
    graph, params, batch = case
    assert columns_of(graph) == COLUMNS
    spp = SPP(interval=3)
    columns, asked = spp.units(graph), {"params/a/kernel": 2, "params/b/kernel": 3}
    sgd = optax.chain(optax.add_decayed_weights(1e-2), optax.sgd(0.2, momentum=0.9))
    optimizer = spp.optimizer(columns, asked, jax.random.key(1))(sgd)
    network = spp.network(columns)(Network(forward, forward))
    traces = []

    @jax.jit
    def step(params, state):
        traces.append(None)

        def loss(params):
            return cross_entropy(network.train({"params": params}, batch[0], None), batch)

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init({WEIGHTS: params})
    now = {WEIGHTS: params, MASKS: drawn(state.probabilities, state.key, state.steps)}
    p = {n: np.asarray(state.probabilities[n]) for n in asked}
    for name in asked:  # the first update comes before the first step
        norms = np.abs(np.asarray(params[name.split("/")[1]]["kernel"])).sum(-1)
        rank = np.argsort(np.argsort(norms.ravel())).reshape(norms.shape)
        expected = [max(published(r, asked[name]), 0) for r in rank.ravel()]
        np.testing.assert_allclose(p[name].ravel(), expected, atol=1e-6)

    velocity = jax.tree.map(jnp.zeros_like, params)
    weights = params
    for i in range(90):
        masks = {n: np.asarray(m) for n, m in now[MASKS].items()}
        assert all(np.isin(m, (0, 1)).all() for m in masks.values())

        def loss(weights, masks=masks):
            held = jax.tree.map(lambda w: w, weights)
            for name, mask in masks.items():
                layer = name.split("/")[1]
                held[layer] = {**held[layer], "kernel": held[layer]["kernel"] * mask}
            return cross_entropy(forward({"params": held}, batch[0]), batch)

        gradient = jax.tree.map(lambda g, w: g + 1e-2 * w, jax.grad(loss)(weights), weights)
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, gradient)
        change = jax.tree.map(lambda v: -0.2 * v, velocity)
        for name, mask in masks.items():
            layer = name.split("/")[1]
            change[layer] = {**change[layer], "kernel": change[layer]["kernel"] * mask}
        weights = jax.tree.map(jnp.add, weights, change)
        now, state = step(now, state)
        for name in asked:
            gone = np.asarray(state.probabilities[name]) >= 1
            layer = name.split("/")[1]
            kernel = jnp.where(gone, 0.0, weights[layer]["kernel"])
            weights = {**weights, layer: {**weights[layer], "kernel": kernel}}
            assert (np.asarray(now[MASKS][name])[gone] == 0).all()
            assert (i + 1) % 3 == 0 or np.array_equal(state.probabilities[name], p[name])
            p[name] = np.asarray(state.probabilities[name])
        for a, b in zip(jax.tree.leaves(now[WEIGHTS]), jax.tree.leaves(weights), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
            assert ((np.asarray(a) == 0) == (np.asarray(b) == 0)).all()
        # Not to drift apart by rounding.
        weights = now[WEIGHTS]
        velocity = optax.tree.get(state, "trace")
    assert len(traces) == 1
    assert sum((q >= 1).sum() for q in p.values()) > 0
    evaluated = network.eval({"params": now}, batch[0], None)
    np.testing.assert_array_equal(evaluated, forward({"params": now[WEIGHTS]}, batch[0]))


@pytest.mark.parametrize("unit", ["columns", "channels"])
def test_every_layer_loses_what_is_asked_for(case, unit):
    graph, params, batch = case
    method = SPP(unit=unit, interval=2, learning_rate=0.05, amplitude=0.2)
    budget = jp.Budget("params/1.6" if unit == "columns" else "params/2", floor=0)
    asked = method.asked(graph, budget)
    run = MemoryRun(forward, [batch], cross_entropy)
    problem = Problem(graph, forward, {"params": params}, [batch], budget, run=run)
    selection = method.prune(problem)
    assert not any(selection.figures["undecided"].values())
    pruned = graph.slice(selection.variables, selection.masks, selection.blocks)
    assert graph.cost(selection.masks, pruned.kept()).params <= graph.cost().params / 1.6
    if unit == "columns":
        for path, (count, axis) in COLUMNS.items():
            kernel = np.asarray(selection.variables["params"][path.split("/")[1]]["kernel"])
            zero = ~kernel.any(axis=axis, keepdims=True)
            np.testing.assert_array_equal(zero, ~selection.blocks[path].kept)
            assert zero.sum() == asked[path] > 0 and zero.size == count
    else:
        assert {n: graph.groups[n].size - w for n, w in pruned.widths.items()} == asked
    np.testing.assert_allclose(
        pruned.wrap(forward)(pruned.variables, batch[0]),
        graph.masked(forward)(selection.variables, selection.masks, batch[0]),
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip

    # Where the training ends before, the rest falls by probability.
    short = SPP(unit=unit, interval=2, updates=1).prune(problem)
    assert any(short.figures["undecided"].values())
    kept = graph.slice(short.variables, short.masks, short.blocks)
    assert graph.cost(short.masks, kept.kept()).params <= graph.cost().params / 1.6


def test_one_ratio_serves_all_kernels_and_meets_the_budget_closely(case):
    graph, _, _ = case
    columns = {path: n for path, (n, _) in COLUMNS.items()}
    kept = kept_columns(graph, jp.Budget("macs/2", floor=0), columns)
    ratios = [kept[path] / n for path, n in columns.items()]

    def macs(kept):
        return graph.cost(None, {path: kept[path] / n for path, n in columns.items()}).macs

    assert macs(kept) <= graph.cost().macs / 2
    best = max(
        macs(other)
        for r in np.arange(1, 61) / 60
        if macs(other := {p: max(1, int(r * n + 1e-9)) for p, n in columns.items()})
        <= graph.cost().macs / 2
    )
    assert macs(kept) == best and min(ratios) > 0


def test_reached_asks_every_layer():
    p = {"a": np.array([1.0, 0.2]), "b": np.array([1.0, 1.0])}
    assert reached({"a": 1, "b": 2}, p) and not reached({"a": 2, "b": 1}, p)


def test_the_loop_in_the_docstring_runs():
    failed, run = doctest.testmod(probabilistic)
    assert run > 0 and not failed


def test_what_cannot_be_is_refused(case):
    graph, *_ = case
    for options, message in (
        ({"unit": "rows"}, "unit has to be columns or channels"),
        ({"u": 1.5}, "u has to be between 0 and 1"),
        ({"interval": 0}, "interval has to be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            SPP(**options)
    for budget, message in (
        (jp.Budget("params/4"), "beyond reach by columns of convolutions"),
        (jp.Budget("activations/2"), "columns are no part of activations"),
        (jp.Budget("params/1.2", round_to=2), r"budget\.round_to: it is for methods that prune"),
    ):
        with pytest.raises(ValueError, match=message):
            SPP().require(graph, budget)
    SPP(unit="channels").require(graph, jp.Budget("activations/2", round_to=2))
    linear = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 2))}
    plain = jp.trace(lambda v, x: jnp.tanh(x @ v["a"]) @ v["b"], linear, jnp.ones((1, 3)))
    with pytest.raises(ValueError, match="no convolution of this network"):
        SPP().require(plain, jp.Budget("params/1.1"))
    assert isinstance(SPP().units(graph), Columns)
