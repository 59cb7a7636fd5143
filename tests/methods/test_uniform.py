"""Uniform channel pruning: its blocks against a network that has them, its widths by hand."""

from __future__ import annotations

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.methods import UCP, uniform
from jaxprune.methods.uniform import (
    GATES,
    by_unit,
    excitation,
    fresh_gates,
    gated,
    importances,
    structure,
)
from jaxprune.models import ResNet
from jaxprune.problem import Problem
from jaxprune.train.memory import MemoryRun
from jaxprune.train.network import Network
from jaxprune.wrappers import WEIGHTS

CHANNELS = (8, 32)


def conv(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def forward(variables, x, key=None, *, blocks=None):
    """Two convolutions with bias and a normalisation; `blocks` are put behind them by hand."""
    p = variables["params"]
    for i, name in enumerate(("a", "b")):
        x = conv(x, p[name]["kernel"])
        if blocks is not None:
            x = x * blocks[i](x)
        x = x + p[name]["bias"]
        x = (x - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + 1e-5) * p[name]["scale"]
        x = jax.nn.relu(x)
    return x.mean((1, 2)) @ p["out"]


def by_hand(block):
    """Squeeze and excitation in NumPy's terms."""

    def factors(x):
        pooled = x.sum((1, 2)) / (x.shape[1] * x.shape[2])
        hidden = jnp.maximum(pooled @ block["in"] + block.get("in_bias", 0), 0)
        y = 1 / (1 + jnp.exp(-(hidden @ block["out"] + block.get("out_bias", 0))))
        return y[:, None, None, :]

    return factors


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    inputs, params = 3, {}
    for name, outputs in zip(("a", "b"), CHANNELS, strict=True):
        params[name] = {
            "kernel": rng.normal(size=(3, 3, inputs, outputs)) / 4,
            "bias": rng.normal(size=outputs) / 4,
            "scale": rng.uniform(0.5, 1.5, outputs),
        }
        inputs = outputs
    params["out"] = rng.normal(size=(inputs, 4))
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)
    x = jnp.asarray(rng.normal(size=(10, 6, 6, 3)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 4, 10))
    graph = jp.trace(forward, {"params": params}, x[:1])
    assert graph.sizes.tolist() == list(CHANNELS)
    gates = fresh_gates(graph, params, jax.random.key(1))
    gates = jax.tree.map(lambda g: 4 * g, gates)  # so that the factors differ
    return graph, params, gates, x, labels


def blocks_of(graph, gates):
    return [gates[group.writers[0]][name] for name, group in graph.groups.items()]


def test_the_blocks_are_of_the_published_sizes(case):
    graph, _, gates, _, _ = case
    small, large = blocks_of(graph, gates)
    shapes = jax.tree.map(jnp.shape, [small, large])
    assert shapes[0] == {"in": (8, 1), "in_bias": (1,), "out": (1, 8), "out_bias": (8,)}
    assert shapes[1] == {"in": (32, 2), "out": (2, 32)}
    assert (jnp.abs(large["in"]) <= 4 / 32**0.5).all() and (jnp.abs(large["out"]) > 1).any()


def test_the_gated_network_is_the_one_with_blocks_written_into_it(case):
    """In float64: a bias in front of a normalisation has no gradient but for rounding."""
    with jax.enable_x64(True):
        _hold_the_gates_against_blocks(case[0], *wide(case[1:4]))


def wide(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)


def _hold_the_gates_against_blocks(graph, params, gates, x):
    network = gated(graph)(Network(forward, forward))
    blocks = [by_hand(block) for block in blocks_of(graph, gates)]

    def loss(run):
        return lambda params: jnp.sum(jnp.sin(run(params)))

    own = loss(lambda p: network.train({"params": p}, x))
    hand = loss(
        lambda p: forward(
            {"params": p[WEIGHTS]}, x, blocks=[by_hand(b) for b in blocks_of(graph, p[GATES])]
        )
    )
    both = {WEIGHTS: params, GATES: gates}
    np.testing.assert_allclose(
        network.eval({"params": both}, x), forward({"params": params}, x, blocks=blocks), rtol=1e-4
    )
    for a, b in zip(*(jax.tree.leaves(jax.grad(f)(both)) for f in (own, hand)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_importances_are_the_mean_gates_over_all_samples(case):
    graph, params, gates, x, labels = case
    batches = [(x[:7], labels[:7]), (x[7:], labels[7:])]
    variables = {"params": {WEIGHTS: params, GATES: gates}}
    means = by_unit(graph, importances(graph, forward, variables, batches))
    seen = []

    def watched(block):
        def factors(x):
            y = by_hand(block)(x)
            seen.append(np.asarray(y[:, 0, 0, :]))
            return y

        return factors

    for images, _ in batches:
        blocks = [watched(block) for block in blocks_of(graph, gates)]
        forward({"params": params}, images, blocks=blocks)
    for i, name in enumerate(graph.names):
        np.testing.assert_allclose(means[name], np.concatenate(seen[i::2]).mean(0), rtol=1e-5)
        assert means[name].std() > 0.01


def test_what_lies_below_the_mean_of_its_layer_falls(case):
    graph, params, _, x, labels = case
    batches = [(x, labels)]
    for margin in (0.001, -0.005):
        run = MemoryRun(forward, batches, jp.problem.cross_entropy)
        problem = Problem(
            graph, forward, {"params": params}, batches, jp.Budget("params/1"), run=run,
            key=jax.random.key(1),
        )  # fmt: skip
        selection = UCP(margin=margin).prune(problem)
        for name, mask in selection.masks.items():
            importance = selection.figures["importance"][name]
            kept = importance > (1 - margin) * importance.mean()
            assert 0 < kept.sum() < len(kept)
            np.testing.assert_array_equal(np.asarray(mask) > 0, kept)


def test_constant_gates_are_folded_into_the_kernels(case):
    graph, params, gates, x, labels = case
    zeroed = jax.tree.map(lambda g: 0 * g, gates)
    small = graph.groups[graph.names[0]]
    zeroed[small.writers[0]][small.name]["out_bias"] = jnp.linspace(-2, 2, 8)
    variables = {"params": {WEIGHTS: params, GATES: zeroed}}
    means = importances(graph, forward, variables, [(x, labels)])
    folded = uniform._folded(graph, params, means)
    expected = gated(graph)(Network(forward, forward)).eval(variables, x)
    np.testing.assert_allclose(forward({"params": folded}, x), expected, rtol=1e-3, atol=1e-4)


def graph_of(module):
    images = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)
    return jp.trace(module.apply, shapes, images), shapes


@pytest.fixture(scope="module")
def basic():
    return graph_of(ResNet(blocks=(2, 3), num_classes=4, base_width=16, shortcut="A"))


def test_the_blocks_of_a_stage_get_one_width(basic):
    graph, _ = basic
    stages, whole = structure(graph)
    assert sorted(map(len, stages)) == [2, 3]
    assert whole == {name for name, group in graph.groups.items() if group.summed}
    rng = np.random.default_rng(0)
    ratios = {name: rng.uniform(0.5, 1.6, g.size) for name, g in graph.groups.items()}
    problem = Problem(graph, None, None, [], jp.Budget("params/1"))
    masks = UCP().keep(problem, ratios)
    widths = graph.widths(masks)
    for stage in stages:
        ranks = np.mean([np.sort(ratios[name]) for name in stage], axis=0)
        assert {widths[name] for name in stage} == {int((ranks >= 1).sum())}
        for name in stage:
            best = np.argsort(ratios[name])[-widths[name] :]
            assert set(np.flatnonzero(masks[name])) == set(best.tolist())
    assert all(widths[name] == graph.groups[name].size for name in whole)

    asked = jp.Budget("macs/2")
    widths = graph.widths(UCP(budgeted=True).keep(Problem(graph, None, None, [], asked), ratios))
    assert all(len({widths[name] for name in stage}) == 1 for stage in stages)
    assert graph.cost(widths).macs <= graph.cost().macs / 2
    fixed = {name: 1 + i for i, name in enumerate(graph.names)}
    kept = UCP(budgeted=True).keep(Problem(graph, None, None, [], jp.Budget(widths=fixed)), ratios)
    assert graph.widths(kept) == fixed


def test_of_a_bottleneck_the_middle_convolution_is_pruned():
    graph, _ = graph_of(
        ResNet(blocks=(2, 2), num_classes=4, base_width=16, bottleneck=True, shortcut="B")
    )
    stages, whole = structure(graph)
    pruned = set(graph.names) - whole
    middle = {n for n in graph.names if "/conv2/" in n}
    assert middle <= pruned <= middle | {"params/conv1/kernel[3]"}
    assert {n for n in graph.names if "block" in n and "/conv1/" in n} <= whole and not stages


def test_each_group_that_a_kernel_writes_has_a_gate(basic):
    graph, shapes = basic
    variables = jax.tree.map(lambda s: jnp.full(s.shape, 0.1, s.dtype), shapes)
    gates = fresh_gates(graph, variables["params"], jax.random.key(0))
    assert max(map(len, gates.values())) == 2  # the second stage's sum holds the padded first
    module = ResNet(blocks=(2, 3), num_classes=4, base_width=16, shortcut="A")
    out = graph.gated(module.apply, excitation)(variables, gates, jnp.ones((2, 16, 16, 3)))
    assert jnp.isfinite(out).all()


def test_the_loop_in_the_docstring_runs():
    failed, run = doctest.testmod(uniform)
    assert run > 0 and not failed


def test_what_cannot_be_is_refused(case):
    graph, params, _, x, labels = case
    with pytest.raises(ValueError, match="margin has to be between -1 and 1"):
        UCP(margin=1.0)

    class Untrained(MemoryRun):
        def train(self, name, variables, **options):
            state = super().train(name, variables, **options | {"until": 0})
            assert int(state.step) == 0
            return state

    batches = [(x, labels)]
    problem = Problem(
        graph, forward, {"params": params}, batches, jp.Budget("params/1"),
        run=Untrained(forward, batches, jp.problem.cross_entropy),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"ucp trains its gates.*finetune.epochs is 0"):
        UCP().prune(problem)
