"""Group Fisher pruning: its score against finite differences, its pruning in a user's own loop."""

from __future__ import annotations

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.methods import GroupFisher, group_fisher
from jaxprune.methods.group_fisher import met
from jaxprune.problem import cross_entropy
from jaxprune.train.network import Network
from jaxprune.wrappers import MASKS, WEIGHTS

SHAPES = {"stem": (5, 8), "grow": (8, 6), "shrink": (6, 8), "head": (8, 3)}


def forward(variables, x, key=None):
    """A residual sum: the stem's channels are read in two places, so that their gradients add."""
    p = variables["params"]
    h = jnp.tanh(x @ p["stem"])
    h = h + jnp.tanh(h @ p["grow"]) @ p["shrink"]
    return jnp.sin(h) @ p["head"]


@pytest.fixture(scope="module")
def case():
    return make()


def make():
    rng = np.random.default_rng(0)
    params = {n: jnp.asarray(rng.normal(size=s) / 2) for n, s in SHAPES.items()}
    batch = jnp.asarray(rng.normal(size=(7, 5))), jnp.asarray(rng.integers(0, 3, 7))
    graph = jp.trace(forward, {"params": params}, batch[0][:1])
    assert len(graph.groups) == 2
    return graph, params, batch


def loss_of(params, batch, network):
    return cross_entropy(network.train({"params": params}, batch[0], None), batch)


@pytest.fixture
def double_precision():
    with jax.enable_x64(True):
        yield


def test_the_score_is_the_squared_derivative_of_each_sample(double_precision):
    """By central differences, in float64."""
    graph, params, (x, labels) = make()
    masks = {name: jnp.ones(g.size) for name, g in graph.groups.items()}
    network = GroupFisher().network(graph)(Network(forward, forward))
    masked, small = graph.masked(forward), 1e-6
    losses = optax.softmax_cross_entropy_with_integer_labels

    def mean_loss(params):
        return losses(network.train({"params": params}, x, None), labels).mean()

    def sample_losses(masks):
        return losses(masked({"params": params}, masks, x), labels)

    grad = jax.grad(mean_loss)({WEIGHTS: params, MASKS: masks})

    for name, group in graph.groups.items():
        expected = []
        for unit in range(group.size):
            sides = [
                sample_losses({**masks, name: masks[name].at[unit].add(s)}) for s in (small, -small)
            ]
            expected.append(jnp.sum(((sides[0] - sides[1]) / (2 * small)) ** 2))
        np.testing.assert_allclose(grad[MASKS][name], expected, rtol=1e-6)
    plain = jax.grad(lambda p: losses(forward({"params": p}, x), labels).mean())(params)
    for name in params:
        np.testing.assert_allclose(grad[WEIGHTS][name], plain[name], atol=1e-12)


@pytest.mark.parametrize("normaliser", ["memory", "macs", "none"])
def test_in_a_users_own_loop_the_cheapest_unit_falls(case, normaliser):
    graph, params, batch = case
    fisher, budget = GroupFisher(interval=3, normaliser=normaliser), jp.Budget("params/2")
    network = fisher.network(graph)(Network(forward, forward))
    optimizer = fisher.optimizer(graph, budget)(optax.sgd(0.05, momentum=0.9))
    params = {WEIGHTS: params, MASKS: graph.full_masks()}
    state = optimizer.init(params)
    traces = []

    @jax.jit
    def step(params, state):
        traces.append(None)
        gradients = jax.grad(loss_of)(params, batch, network)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, gradients

    total = dict.fromkeys(graph.groups, 0.0)
    for i in range(1, 200):
        before = params[MASKS]
        params, state, gradients = step(params, state)
        total = {n: total[n] + np.asarray(gradients[MASKS][n], np.float64) for n in total}
        if i % 3:
            assert all((params[MASKS][n] == before[n]).all() for n in before)
            continue
        widths = np.array([float(before[n].sum()) for n in graph.names])
        quantity = {"memory": "activations", "macs": "macs"}.get(normaliser)
        price = np.ones(2)
        if quantity:
            fewer = [graph.costs(widths - np.eye(2)[g])[quantity] for g in range(2)]
            price = graph.costs(widths)[quantity] - np.array(fewer)
        scores = {
            (n, u): total[n][u] / price[g]
            for g, n in enumerate(graph.names)
            for u in np.flatnonzero(before[n])
            if widths[g] > 1
        }
        name, unit = min(scores, key=scores.__getitem__)
        assert params[MASKS][name][unit] == 0
        assert sum(float(m.sum()) for m in params[MASKS].values()) == widths.sum() - 1
        total = dict.fromkeys(graph.groups, 0.0)
        if met(graph, budget, params[MASKS]):
            break
    assert len(traces) == 1
    pruned = graph.slice({"params": params[WEIGHTS]}, params[MASKS])
    assert 2 * sum(x.size for x in pruned.variables["params"].values()) <= 8 * 20 - 8 * 1
    # What follows the weights is cut as they are.
    momentum = pruned.cut(state.inner)
    assert jax.tree.map(jnp.shape, momentum[0].trace) == jax.tree.map(
        jnp.shape, pruned.variables["params"]
    )


def test_limits_and_rounding_hold(case):
    graph, params, batch = case
    first, second = graph.names
    budget = jp.Budget("params/2", round_to=2, limits={first: (0.5, 1.0)})
    pruned = jp.prune(
        forward, {"params": params}, [batch], budget=budget, method=GroupFisher(interval=1),
        key=jax.random.key(0),
    )  # fmt: skip
    assert pruned.widths[first] >= 4
    assert all(width % 2 == 0 for width in pruned.widths.values())
    fixed = {first: 5, second: 3}
    pruned = jp.prune(
        forward, {"params": params}, [batch], budget=fixed, method=GroupFisher(interval=1),
        key=jax.random.key(0),
    )  # fmt: skip
    assert pruned.widths == fixed


def test_the_loop_in_the_docstring_runs():
    failed, run = doctest.testmod(group_fisher)
    assert run > 0 and not failed


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="interval must be at least 1"):
        GroupFisher(interval=0)
    with pytest.raises(ValueError, match="normaliser is memory, macs or none"):
        GroupFisher(normaliser="flops")  # type: ignore[arg-type]
