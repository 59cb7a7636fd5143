"""Unification: ADMM against its own equations, the pattern that it ends in, its size on disk."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.graph import paths
from jaxprune.kernels.blocks import Blocks
from jaxprune.methods import Unification
from jaxprune.methods.admm import admm, keep_pattern, with_pattern
from jaxprune.problem import Problem, cross_entropy
from jaxprune.train.memory import MemoryRun

SHAPES = {"a": (6, 16), "b": (16, 16), "c": (16, 3)}
TRAINING = jp.Retraining(steps=4, learning_rate=0.02)


def fn(variables, x):
    p = variables["params"]
    return jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["c"]


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    params = {n: jnp.asarray(rng.normal(size=s) / 4, jnp.float32) for n, s in SHAPES.items()}
    batches = [
        (jnp.asarray(rng.normal(size=(16, 6)), jnp.float32), jnp.asarray(rng.integers(0, 3, 16)))
    ]
    graph = jp.trace(fn, {"params": params}, batches[0][0][:1])
    run = MemoryRun(fn, batches, cross_entropy)
    budget = jp.Budget("bytes/14")
    return Problem(graph, fn, {"params": params}, batches, budget, run=run)


@pytest.fixture(scope="module")
def found(problem):
    return Unification(rounds=2, interval=2, training=TRAINING).prune(problem)


def test_kernels_end_in_zero_blocks_and_blocks_of_one_magnitude(problem, found):
    for path, blocks in found.blocks.items():
        kernel = np.asarray(dict(paths.leaves(found.variables))[path])
        assert blocks.shared is not None
        np.testing.assert_array_equal(blocks.shared, blocks.kept)
        for (i, j), kept in np.ndenumerate(blocks.kept):
            block = np.abs(kernel[4 * i : 4 * i + 4, 4 * j : 4 * j + 4])
            assert np.ptp(block) == 0
            assert (block > 0).all() == kept
    assert 0 < min(found.figures["density"].values()) < 1
    moved = (v["params"]["b"] for v in (found.variables, problem.variables))
    signs = [np.sign(np.asarray(w)) for w in moved]
    assert not np.array_equal(*signs)


def test_the_budget_is_met_on_paper_and_on_disk(problem, found, tmp_path):
    pruned = problem.graph.slice(found.variables, found.masks, found.blocks)
    dense = 4 * sum(np.prod(shape) for shape in SHAPES.values())
    assert pruned.bytes() <= dense / 14
    jp.save(tmp_path / "small", pruned)
    back = jp.load(tmp_path / "small")
    jax.tree.map(np.testing.assert_array_equal, back.variables, pruned.variables)
    x = problem.batches[0][0]
    np.testing.assert_array_equal(
        back.wrap(fn)(back.variables, x), pruned.wrap(fn)(pruned.variables, x)
    )
    # A step of training keeps one magnitude a block.
    gradient = jax.grad(lambda v: back.wrap(fn)(v, x).sum())(back.variables)
    stepped = np.asarray(back.variables["params"]["b"] - 0.1 * gradient["params"]["b"])
    blocks = back.blocks["params/b"]
    np.testing.assert_allclose(stepped, blocks.project(jnp.asarray(stepped)), rtol=1e-5, atol=1e-7)


def test_unified_alone_is_a_part_of_the_blocks_that_stay(problem):
    half = Unification(unified=0.5, rounds=1, interval=2, training=TRAINING)
    found = half.prune(dataclasses.replace(problem, budget=jp.Budget("params/2")))
    for blocks in found.blocks.values():
        assert blocks.shared is not None
        assert blocks.shared.sum() == blocks.kept.sum() // 2
        assert not (blocks.shared & ~blocks.kept).any()
    cost = problem.graph.cost(
        found.masks, problem.graph.slice(found.variables, found.masks, found.blocks).kept()
    )
    assert cost.params <= problem.graph.cost().params / 2


def test_admm_takes_the_steps_of_its_equations():
    """In NumPy: gradient descent on a quadratic, towards kernels without half of themselves."""
    target = np.array([[1.0, 2.0], [3.0, 4.0]])
    mask = np.array([[1.0, 0.0], [0.0, 1.0]])
    wrapper = admm(["w"], lambda path, kernel: kernel * mask, interval=2, rho=0.5, growth=2.0)
    optimizer = wrapper(optax.sgd(0.1))
    params = {"w": jnp.zeros((2, 2)), "free": jnp.ones(3)}
    state = optimizer.init(params)
    w, z, u, rho = np.zeros((2, 2)), np.zeros((2, 2)), np.zeros((2, 2)), 0.5
    for i in range(1, 7):
        gradient = {"w": params["w"] - target, "free": jnp.ones(3)}
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        if i % 2 == 0:
            z, rho = (w + u) * mask, min(1.0, 2 * rho)
            u = u + w - z
        w = w - 0.1 * (w - target + rho * (w - z + u))
        np.testing.assert_allclose(params["w"], w, rtol=1e-5)
    np.testing.assert_allclose(params["free"], 1 - 0.6 * np.ones(3), rtol=1e-6)


def test_a_pattern_holds_and_may_grow_without_compiling():
    blocks = Blocks((2, 0), np.array([[True], [False], [True]]), np.zeros((3, 1), bool))
    optimizer = keep_pattern({"params/w": blocks})(optax.adam(0.1))
    params = {"w": blocks.project(jnp.arange(1.0, 13.0).reshape(6, 2)), "b": jnp.zeros(2)}
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        gradient = jax.tree.map(
            lambda w: jnp.arange(w.size, dtype=w.dtype).reshape(w.shape), params
        )
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    params, state = step(params, state)
    assert not params["w"][2:4].any()
    assert params["b"].any()
    shared = blocks._replace(shared=np.array([[True], [False], [False]]))
    state = with_pattern(state, {"params/w": shared})
    params = {**params, "w": shared.project(params["w"])}
    for _ in range(3):
        params, state = step(params, state)
        assert np.ptp(np.abs(params["w"][:2])) < 1e-6 < np.ptp(np.abs(params["w"][4:]))
    assert step._cache_size() == 1


def test_bad_input_gets_one_sentence(problem):
    for options, message in (
        ({"block": (1, 1)}, "block must be two lengths, one of them above 1"),
        ({"unified": 2.0}, r"unified must be a fraction in \[0, 1\], not 2.0"),
        ({"interval": 0}, "interval must be at least 1"),
        ({"rho": 0.0}, "rho must be above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Unification(**options)
    for budget, message in (
        (jp.Budget("bytes/1000"), "beyond reach for bytes by blocks of 4 × 4 weights: the best is"),
        (jp.Budget("activations/2"), "blocks of weights are no part of activations"),
        (
            jp.Budget("bytes/2", round_to=4),
            "budget.round_to: it is for methods that prune channels",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            Unification().require(problem.graph, budget)
