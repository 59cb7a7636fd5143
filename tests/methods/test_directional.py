"""Directional pruning: gRDA against a reference, its threshold for units, what it drops."""

from __future__ import annotations

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import jaxprune as jp
from jaxprune.methods import SDprun, directional
from jaxprune.methods.directional import falls_at, grda, sdprun
from jaxprune.methods.thresholds import Threshold
from jaxprune.problem import Problem, cross_entropy
from jaxprune.statistics.curvature import curvature
from jaxprune.train.memory import MemoryRun


@pytest.fixture
def double_precision():
    with jax.enable_x64(True):
        yield


def reference(w, gradient, rates, c, mu):
    """gRDA as published, one number at a time."""
    v, tau, course = np.array(w, float), 0.0, []
    for n, rate in enumerate(rates, start=1):
        v = v - rate * gradient(w)
        tau += c * rate ** (mu + 0.5) * (n**mu - (n - 1) ** mu)
        w = np.sign(v) * np.maximum(np.abs(v) - tau, 0)
        course.append(w)
    return np.array(course)


@pytest.mark.parametrize("mu", [0.501, 0.6])
def test_grda_is_the_reference_on_a_quadratic(double_precision, mu):
    rng = np.random.default_rng(0)
    curved, goal, start = rng.uniform(0.1, 2, 7), rng.normal(size=7) / 2, rng.normal(size=7)
    schedule = optax.piecewise_constant_schedule(0.1, {30: 0.1})
    optimizer = grda(schedule, 0.4, mu)
    w, course = jnp.asarray(start), []
    state = optimizer.init(w)
    update = jax.jit(optimizer.update)
    for _ in range(60):
        updates, state = update(curved * (w - goal), state, w)
        w = optax.apply_updates(w, updates)
        course.append(np.asarray(w))
    rates = [0.1 if n < 30 else 0.01 for n in range(60)]
    expected = reference(start, lambda w: curved * (w - goal), rates, 0.4, mu)
    np.testing.assert_allclose(course, expected, atol=1e-13)
    assert 0 < np.count_nonzero(expected[-1]) < 7
    np.testing.assert_array_equal(course[-1] == 0, expected[-1] == 0)


def test_the_threshold_has_its_closed_form_after_many_steps_in_float32():
    optimizer = grda(0.1, 5e-4, 0.51)
    state = optimizer.init(jnp.ones(1))
    late = state._replace(steps=jnp.asarray(1_000_000, jnp.int32))
    growth = float(optimizer.update(jnp.zeros(1), late, jnp.ones(1))[1].tau)
    n = 1_000_001.0
    assert growth == pytest.approx(5e-4 * 0.1**1.01 * (n**0.51 - (n - 1) ** 0.51), rel=1e-4)

    def step(state, _):
        return optimizer.update(jnp.zeros(1), state, jnp.ones(1))[1], None

    state = jax.lax.scan(step, state, None, length=500)[0]
    assert float(state.tau) == pytest.approx(5e-4 * 0.1**0.5 * (500 * 0.1) ** 0.51, rel=1e-5)


def test_without_a_threshold_it_is_sgd():
    w = {"a": jnp.linspace(-1, 1, 5)}
    pairs = [(optimizer, optimizer.init(w), w) for optimizer in (grda(0.1, 0, 0.6), optax.sgd(0.1))]
    for _ in range(20):
        moved = []
        for optimizer, state, at in pairs:
            updates, state = optimizer.update(jax.tree.map(jnp.sin, at), state, at)
            moved.append((optimizer, state, optax.apply_updates(at, updates)))
        pairs = moved
    np.testing.assert_allclose(pairs[0][2]["a"], pairs[1][2]["a"], atol=1e-6)


def forward(variables, x):
    """A residual sum: `first` and `back` write its units, with a bias and a scale; `last` reads."""
    p = variables["params"]
    h = jnp.tanh((x @ p["first"]) * p["scale"] + p["bias"])
    inner = jnp.tanh(h @ p["into"])
    return (h * 0.5 + inner @ p["back"]) @ p["last"] + p["end"]


@pytest.fixture(scope="module")
def case():
    return make()


def make():
    rng = np.random.default_rng(1)
    shapes = {
        "first": (5, 6), "scale": (6,), "bias": (6,), "into": (6, 4), "back": (4, 6),
        "last": (6, 3), "end": (3,),
    }  # fmt: skip
    params = {name: jnp.asarray(rng.normal(size=shape) / 2) for name, shape in shapes.items()}
    batch = jnp.asarray(rng.normal(size=(16, 5))), jnp.asarray(rng.integers(0, 3, 16))
    graph = jp.trace(forward, {"params": params}, batch[0][:1])
    assert sorted(graph.sizes.tolist()) == [4, 6]
    return graph, params, batch


WRITERS = {6: {"first": 1, "scale": 0, "bias": 0, "back": 1}, 4: {"into": 1}}
"""Group, by its size, → what writes it, with the axis."""


def shrunk(params, tau):
    """The group soft threshold, unit by unit."""
    out = {name: np.array(p, float) for name, p in params.items()}
    for size, writers in WRITERS.items():
        for k in range(size):
            parts = {n: np.take(np.asarray(params[n]), k, axis=a) for n, a in writers.items()}
            vector = np.concatenate([np.ravel(part) for part in parts.values()])
            norm = np.linalg.norm(vector)
            left = max(1 - tau * np.sqrt(vector.size) / norm, 0)
            for name, axis in writers.items():
                out[name][(slice(None),) * axis + (k,)] *= left
    return out


def test_a_unit_shrinks_with_all_that_writes_it(double_precision):
    graph, params, _ = make()
    optimizer = sdprun(graph, 1.0, 1.0, 0.5)
    state = optimizer.init(params)
    for tau in (0.1, 0.45, 2.0):
        at = state._replace(tau=jnp.asarray(tau - 1.0), steps=jnp.zeros((), jnp.int32))
        zeros = jax.tree.map(jnp.zeros_like, params)
        updates, _ = optimizer.update(zeros, at, params)  # the first step adds c
        after = optax.apply_updates(params, updates)
        expected = shrunk(params, tau)
        for name in params:
            np.testing.assert_allclose(after[name], expected[name], atol=1e-12)
        if tau == 2.0:
            assert not after["first"].any() and (after["last"] == params["last"]).all()


def test_what_is_zero_falls_and_the_network_computes_the_same(case):
    graph, params, batch = case
    run = MemoryRun(forward, [batch], cross_entropy)
    problem = Problem(graph, forward, {"params": params}, [batch], jp.Budget("params/1"), run=run)
    selection = SDprun(epochs=400, c=0.35, learning_rate=0.05, drops=(0.5,)).prune(problem)
    pruned = graph.slice(selection.variables, selection.masks)
    assert 1 < sum(pruned.widths.values()) < 10
    for size, writers in WRITERS.items():
        (name,) = (n for n, g in graph.groups.items() if g.size == size)
        alive = np.any(
            [
                np.moveaxis(np.asarray(selection.variables["params"][n]), a, 0).reshape(size, -1)
                .any(axis=1)
                for n, a in writers.items()
            ],
            axis=0,
        )  # fmt: skip
        assert alive.sum() == pruned.widths[name] or not alive.any()
        ratios = selection.figures["threshold"][name]
        np.testing.assert_array_equal(np.asarray(ratios) > 1, alive)
    np.testing.assert_allclose(
        pruned.wrap(forward)(pruned.variables, batch[0]),
        forward(selection.variables, batch[0]),
        atol=1e-5,
    )


def test_the_curvature_is_the_dense_hessians(double_precision):
    graph, params, batch = make()
    halves = [(batch[0][:10], batch[1][:10]), (batch[0][10:], batch[1][10:])]
    problem = Problem(graph, forward, {"params": params}, halves, jp.Budget("params/1"))
    flat, unravel = ravel_pytree(params)

    def loss(flat):
        return cross_entropy(forward({"params": unravel(flat)}, batch[0]), batch)

    values, vectors = np.linalg.eigh(jax.hessian(loss)(flat))
    found = curvature(problem, 3)
    np.testing.assert_allclose(found.values, values[::-1][:3], rtol=1e-5)
    overlap = found.directions @ vectors[:, ::-1][:, :3]
    np.testing.assert_allclose(np.abs(overlap), np.eye(3), atol=1e-3)

    numbers = unravel(jnp.arange(flat.size, dtype=flat.dtype))
    taken = ravel_pytree(jax.tree.map(jnp.subtract, params, shrunk(params, 0.01)))[0] / 0.01
    kept = vectors[:, :-3] @ (vectors[:, :-3].T @ taken)
    flatness = SDprun(curvature=3).flatness(problem)
    for size, writers in WRITERS.items():
        (name,) = (n for n, g in graph.groups.items() if g.size == size)
        for k in range(size):
            at = [np.take(np.asarray(numbers[n]), k, axis=a).ravel() for n, a in writers.items()]
            at = np.concatenate(at).astype(int)
            part = taken[at] @ kept[at] / (taken[at] @ taken[at])
            assert flatness[name][k] == pytest.approx(np.clip(part, 1e-6, 1), abs=1e-3)
    thresholds = falls_at(graph, params, flatness)
    plain = falls_at(graph, params, {})
    assert all((thresholds[n] >= plain[n]).all() for n in plain)


def test_the_paper_decides_unless_the_threshold_may_move(case):
    graph, params, batch = case
    for budget, what in (
        (jp.Budget("params/2,macs/3"), "asks for params/2,macs/3: budgeted=True"),
        (jp.Budget(widths=dict.fromkeys(graph.names, 2)), "fixed widths"),
        (jp.Budget("params/1", limits={graph.names[0]: (0.0, 0.5)}), "largest widths"),
    ):
        with pytest.raises(ValueError, match=what):
            SDprun().require(graph, budget)
        SDprun(budgeted=True).require(graph, budget)
    limits = {graph.names[0]: (0.6, 1.0)}
    least = jp.Budget("params/1", limits=limits, round_to=2)
    SDprun().require(graph, least)
    problem = Problem(graph, forward, {"params": params}, [batch], least)
    ratios = {name: np.linspace(0.1, 1.2, g.size) for name, g in graph.groups.items()}
    kept = graph.widths(Threshold().keep(problem, ratios))
    assert kept == {graph.names[0]: 4, graph.names[1]: 2}  # of 1 and 1 above the threshold


def test_the_loop_in_the_docstring_runs():
    failed, run = doctest.testmod(directional)
    assert run > 0 and not failed


def test_what_cannot_be_is_refused(case):
    graph, params, batch = case
    for options, message in (
        ({"c": -1}, "c has to be at least 0"),
        ({"mu": 1.0}, "mu has to be between 0 and 1"),
        ({"drops": (1.5,)}, "drops has to be fractions"),
        ({"epochs": 0}, "epochs has to be above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            SDprun(**options)
    problem = Problem(graph, forward, {"params": params}, [batch], jp.Budget("params/1"))
    with pytest.raises(ValueError, match="nothing to train with: prune it in a run"):
        SDprun().prune(problem)
    with pytest.raises(ValueError, match="ask for 1 up to less"):
        curvature(problem, 1000)
