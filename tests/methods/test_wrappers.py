"""Every wrapper of a network or an optimizer: one test over all of them, in a plain optax loop."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.checkpoint import restore_tree, save_tree
from jaxprune.kernels.blocks import Blocks
from jaxprune.methods import SPP, GroupFisher, SDprun
from jaxprune.methods.admm import admm, keep_pattern
from jaxprune.methods.rounds import split_masks, under_masks, with_masks
from jaxprune.methods.sparse_training import batchnorm_l1, group_lasso
from jaxprune.methods.uniform import GATES, fresh_gates, gated
from jaxprune.train.network import Network, Output
from jaxprune.train.state import TrainState
from jaxprune.wrappers import MASKS, WEIGHTS, Wrapper, keep_zeros, same

SHAPES = {"first": (6, 8), "second": (8, 7), "last": (7, 3)}
CHECKERS = Blocks((4, 4), np.eye(2, dtype=bool), np.eye(2, dtype=bool))


class Wrapped(NamedTuple):
    """A wrapper, and where the variables of what it wraps hold the dense ones and the masks."""

    network: Wrapper = same
    optimizer: Wrapper = same
    begin: Callable[[Any, Any], Any] = lambda variables, masks: variables
    """(dense variables, masks) → the variables that are trained."""
    end: Callable[[Any], tuple[Any, Any]] = lambda variables: (variables, None)
    """And back; None where there are no masks."""
    follows: str = "trace"
    """What of the optimizer's state is shaped like the weights."""


def with_mask_parameters(variables, masks):
    return {**variables, "params": {WEIGHTS: variables["params"], MASKS: masks}}


def split_mask_parameters(variables):
    params = variables["params"]
    return {**variables, "params": params[WEIGHTS]}, params[MASKS]


def with_zeros(variables):
    """Every third entry of a kernel is zero."""
    kernel = variables["params"]["second"]["kernel"]
    kernel = jnp.where(jnp.arange(kernel.size).reshape(kernel.shape) % 3 == 0, 0, kernel)
    second = {**variables["params"]["second"], "kernel": kernel}
    return {**variables, "params": {**variables["params"], "second": second}}


def with_gates(graph):
    def begin(variables, masks):
        weights = variables["params"]
        gates = fresh_gates(graph, weights, jax.random.key(0))
        return {**variables, "params": {WEIGHTS: weights, GATES: gates}}

    return begin


def without_gates(variables):
    return {**variables, "params": variables["params"][WEIGHTS]}, None


def spp(graph, method):
    units, asked = method.units(graph), dict.fromkeys(graph.names, 3)
    return Wrapped(
        method.network(units),
        method.optimizer(units, asked, jax.random.key(0)),
        with_mask_parameters,
        lambda variables: (split_mask_parameters(variables)[0], None),
    )


def growing(strength):
    return optax.linear_schedule(0.0, strength, 4)


WRAPPERS: dict[str, Callable[[jp.ChannelGraph], Wrapped]] = {
    "under_masks": lambda graph: Wrapped(
        network=under_masks(graph), begin=with_masks, end=split_masks
    ),
    "group_fisher": lambda graph: Wrapped(
        GroupFisher(interval=2).network(graph),
        GroupFisher(interval=2).optimizer(graph, jp.Budget("params/3")),
        with_mask_parameters,
        split_mask_parameters,
    ),
    "ucp": lambda graph: Wrapped(network=gated(graph), begin=with_gates(graph), end=without_gates),
    "spp": lambda graph: spp(graph, SPP(unit="channels", interval=2)),
    "sdprun": lambda graph: Wrapped(
        optimizer=SDprun(c=0.5, drops=(0.5,)).optimizer(graph, 6), follows="accumulated"
    ),
    "group_lasso": lambda graph: Wrapped(optimizer=group_lasso(graph, growing(1e-2), 4.0)),
    "keep_zeros": lambda graph: Wrapped(
        optimizer=keep_zeros(["params/second/kernel"]),
        begin=lambda variables, masks: with_zeros(variables),
    ),
    "admm": lambda graph: Wrapped(
        optimizer=admm(["params/second/kernel"], lambda path, w: CHECKERS.project(w), interval=2)
    ),
    "keep_pattern": lambda graph: Wrapped(
        optimizer=keep_pattern({"params/second/kernel": CHECKERS}),
    ),
    "batchnorm_l1": lambda graph: Wrapped(optimizer=batchnorm_l1(graph, growing(1e-2))),
}
"""Whatever changes training from outside; a new one is a line here."""


def forward(variables, x, train):
    """Linear layers with BatchNorm, whose statistics a training moves."""
    params, old = variables["params"], variables["batch_stats"]
    new = {}
    for name in ("first", "second"):
        x = x @ params[name]["kernel"]
        now = {"mean": x.mean(0), "var": x.var(0)} if train else old[name]
        new[name] = {k: 0.9 * old[name][k] + 0.1 * now[k] for k in now}
        x = (x - now["mean"]) * jax.lax.rsqrt(now["var"] + 1e-5)
        x = jax.nn.relu(x * params[name]["scale"] + params[name]["bias"])
    return Output(x @ params["last"]["kernel"], (), {"batch_stats": new})


def evaluate(variables, x):
    return forward(variables, x, False).logits


@functools.cache
def case():
    rng = np.random.default_rng(0)
    params, stats = {}, {}
    for name, shape in SHAPES.items():
        params[name] = {"kernel": rng.normal(size=shape) / 2}
        if name != "last":
            params[name] |= {"scale": rng.uniform(0.5, 1.5, shape[1]), "bias": np.zeros(shape[1])}
            stats[name] = {"mean": np.zeros(shape[1]), "var": np.ones(shape[1])}
    variables = {"params": params, "batch_stats": stats}
    variables = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), variables)
    batches = [
        (jnp.asarray(rng.normal(size=(16, 6)), jnp.float32), jnp.asarray(rng.integers(0, 3, 16)))
        for _ in range(6)
    ]
    return jp.trace(evaluate, variables, batches[0][0][:1]), variables, batches


class Loop:
    """A user's own loop: one jitted step, and how often it was traced."""

    def __init__(self, wrapped: Wrapped):
        self.traces = 0
        self.optimizer = wrapped.optimizer(optax.sgd(0.05, momentum=0.9))

        def train(variables, x, key):
            self.traces += 1
            return forward(variables, x, True)

        network = Network(train, lambda variables, x, key: forward(variables, x, False))
        wrapper = wrapped.network
        assert wrapper(network) is wrapper(network)  # so that a program is found again
        self.network = wrapper(network)

        @jax.jit
        def step(state, batch):
            def loss_of(params):
                out = self.network.train({"params": params, **state.state}, batch[0], None)
                losses = optax.softmax_cross_entropy_with_integer_labels(out.logits, batch[1])
                return losses.mean(), out.state

            gradients, beside = jax.grad(loss_of, has_aux=True)(state.params)
            updates, opt_state = self.optimizer.update(gradients, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            return TrainState(state.step + 1, params, beside, opt_state)

        self.step = step

    def begin(self, variables):
        rest = {name: tree for name, tree in variables.items() if name != "params"}
        opt_state = self.optimizer.init(variables["params"])
        return TrainState(jnp.zeros((), jnp.int32), variables["params"], rest, opt_state)

    def run(self, state, batches):
        return functools.reduce(self.step, batches, state)


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_resumes_is_cut_and_compiles_once(name, tmp_path):
    graph, variables, batches = case()
    wrapped = WRAPPERS[name](graph)
    loop = Loop(wrapped)
    some = graph.masks({graph.names[0]: [1, 4]})
    start = loop.begin(wrapped.begin(variables, some))
    whole = loop.run(start, batches)
    once = loop.traces

    # Saved half-way and read by a process that has the shapes alone.
    save_tree(tmp_path / "half", loop.run(start, batches[:3]))
    resumed = loop.run(
        restore_tree(tmp_path / "half", jax.eval_shape(lambda s: s, start)), batches[3:]
    )
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)

    # Other masks are other data.
    loop.run(loop.begin(wrapped.begin(variables, graph.full_masks())), batches)
    assert loop.traces == once

    # What follows the weights is cut as they are; what a mask dropped was not trained.
    dense, masks = wrapped.end(whole.variables)
    masks = some if masks is None else masks
    assert all((masks[n] <= some[n]).all() for n in some)
    pruned = graph.slice(dense, masks)
    momentum, cut = (
        optax.tree.get(state, wrapped.follows)
        for state in (whole.opt_state, pruned.cut(whole.opt_state))
    )
    momentum, cut = (tree.get(WEIGHTS, tree) for tree in (momentum, cut))
    assert jax.tree.map(jnp.shape, cut) == jax.tree.map(jnp.shape, pruned.variables["params"])
    expected = graph.slice({**dense, "params": momentum}, masks).variables["params"]
    jax.tree.map(np.testing.assert_array_equal, cut, expected)
    sliced = pruned.wrap(evaluate)(pruned.variables, batches[0][0])
    masked = graph.masked(evaluate)(dense, masks, batches[0][0])
    np.testing.assert_allclose(sliced, masked, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("optimizer", [optax.adamw(0.1), optax.sgd(0.1, momentum=0.9)])
def test_zeros_stay_where_they_are_asked_to(optimizer):
    params = {"a": jnp.array([0.0, 1.0, 2.0]), "b": jnp.array([0.0, 1.0])}
    kept = keep_zeros(["params/a"])(optimizer)
    state = kept.init(params)
    for _ in range(3):
        updates, state = kept.update(jax.tree.map(jnp.ones_like, params), state, params)
        params = optax.apply_updates(params, updates)
    assert (params["a"] == 0).tolist() == [True, False, False]
    assert params["b"].all()
    assert keep_zeros([]) is same
    assert keep_zeros(["params/a"]) is keep_zeros({"a": None})
