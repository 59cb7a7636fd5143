"""Penalties on whole channels: their gradients, how they grow, and what they do to a network."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune import data
from jaxprune.data import normalize
from jaxprune.methods.sparse_training import (
    SparsityConfig,
    batchnorm_l1,
    build,
    group_lasso,
)
from jaxprune.methods.units import unit_norms, unit_sizes
from jaxprune.problem import accuracy
from jaxprune.train.batchnorm import recalibrate
from jaxprune.train.loop import fit
from jaxprune.train.network import Network, Output
from jaxprune.train.optimizer import OptimizerConfig
from jaxprune.train.optimizer import build as build_optimizer
from jaxprune.train.state import TrainConfig, initial_state, total_steps
from jaxprune.wrappers import same


def convolutional(variables, images):
    """3x3 convolution, BatchNorm, flattened into one linear: 2x2 images, 5 channels, 3 classes."""
    p, stats = variables["params"], variables["batch_stats"]["bn"]
    x = jax.lax.conv_general_dilated(
        images, p["conv"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = (x + p["conv"]["bias"] - stats["mean"]) * jax.lax.rsqrt(stats["var"] + 1e-5)
    x = jax.nn.relu(x * p["bn"]["scale"] + p["bn"]["bias"])
    return x.reshape(len(x), -1) @ p["linear"]["kernel"] + p["linear"]["bias"]


SHAPES = {
    "conv": {"kernel": (3, 3, 2, 5), "bias": (5,)},
    "bn": {"scale": (5,), "bias": (5,)},
    "linear": {"kernel": (2 * 2 * 5, 3), "bias": (3,)},
}


def each_shape(make):
    return jax.tree.map(make, SHAPES, is_leaf=lambda shape: type(shape) is tuple)


@functools.cache
def convolutional_graph():
    def zeros(shape):
        return np.zeros(shape, np.float32)

    stats = {"bn": {"mean": zeros(5), "var": zeros(5)}}
    variables = {"params": each_shape(zeros), "batch_stats": stats}
    return jp.trace(convolutional, variables, zeros((1, 2, 2, 2)))


def convolutional_case():
    rng = np.random.default_rng(0)
    return convolutional_graph(), each_shape(lambda shape: jnp.asarray(rng.normal(size=shape)))


def parts_of_unit(params, k):
    """All that falls with channel k of the convolution, written out by hand."""
    return [
        params["conv"]["kernel"][..., k],
        params["conv"]["bias"][k],
        params["bn"]["scale"][k],
        params["bn"]["bias"][k],
        params["linear"]["kernel"].reshape(4, 5, 3)[:, k],
    ]


def added_by(regularizer, params, steps=0):
    zeros = jax.tree.map(np.zeros_like, params)
    optimizer = regularizer(optax.identity())
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for _ in range(steps):
        _, state = update(zeros, state, params)
    return update(zeros, state, params)[0]


@pytest.mark.parametrize("contrast", [0.0, 4.0])
def test_group_lasso_is_the_gradient_of_the_written_out_penalty(contrast):
    with jax.enable_x64(True):
        graph, params = convolutional_case()
        norms = np.array(
            [np.sqrt(sum(np.sum(np.square(w)) for w in parts_of_unit(params, k))) for k in range(5)]
        )
        push = 2 ** (contrast * (norms.max() - norms) / (norms.max() - norms.min()))

        def penalty(params):
            units = [parts_of_unit(params, k) for k in range(5)]
            roots = [jnp.sqrt(sum(jnp.sum(w**2) for w in unit)) for unit in units]
            # 3·3·2 weights write a channel, 3 numbers accompany it, 4·3 read it.
            return (
                0.3 * jnp.sqrt(18 + 3 + 12) * sum(c * r for c, r in zip(push, roots, strict=True))
            )

        added = added_by(group_lasso(graph, 0.3, contrast), params)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14),
            added,
            jax.grad(penalty)(params),
        )
        assert added["conv"]["kernel"].dtype == jnp.float64
        assert list(unit_sizes(graph, params).values()) == [33]
        np.testing.assert_allclose(*unit_norms(graph, params).values(), norms, rtol=1e-13)


def test_batchnorm_l1_adds_the_sign_of_the_scales_and_nothing_else():
    graph, params = convolutional_case()
    params["bn"]["scale"] = jnp.array([0.5, -2.0, 0.0, 1e-8, -1e-8])
    added = added_by(batchnorm_l1(graph, 0.25), params)
    np.testing.assert_array_equal(added["bn"]["scale"], [0.25, -0.25, 0, 0.25, -0.25])
    added["bn"].pop("scale")
    assert not any(leaf.any() for leaf in jax.tree.leaves(added))


def test_units_that_are_zero_or_alike_give_no_nan():
    graph, params = convolutional_case()
    nothing = jax.tree.map(jnp.zeros_like, params)
    alike = jax.tree.map(jnp.ones_like, params)
    # A single channel that is gone: 4 places of the flattened map read it.
    gone = dict(params)
    gone["conv"] = {
        "kernel": params["conv"]["kernel"].at[..., 1].set(0),
        "bias": params["conv"]["bias"].at[1].set(0),
    }
    gone["bn"] = jax.tree.map(lambda p: p.at[1].set(0), params["bn"])
    gone["linear"] = {**params["linear"], "kernel": params["linear"]["kernel"].at[1::5].set(0)}
    regularizer = group_lasso(graph, 1.0)
    assert not any(leaf.any() for leaf in jax.tree.leaves(added_by(regularizer, nothing)))
    added = added_by(regularizer, alike)
    np.testing.assert_allclose(added["conv"]["kernel"], 1.0, rtol=1e-6)
    added = added_by(regularizer, gone)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(added))
    np.testing.assert_array_equal(
        np.any(added["conv"]["kernel"], axis=(0, 1, 2)), np.arange(5) != 1
    )


@pytest.mark.parametrize("kind", ["batchnorm", "group"])
def test_the_factor_grows_linearly_and_stays(kind):
    graph, params = convolutional_case()
    factors = {}
    for grow in (0.0, 0.5):
        regularizer = build(SparsityConfig(kind, strength=0.5, grow=grow), graph, total_steps=8)
        pushes = [added_by(regularizer, params, s)["bn"]["scale"] for s in (0, 1, 2, 4, 7)]
        factors[grow] = [np.abs(p).max() for p in pushes]
    whole = factors[0.0][0]
    assert whole > 0
    assert factors[0.0] == pytest.approx([whole] * 5)
    assert factors[0.5] == pytest.approx([whole * f for f in (0, 0.25, 0.5, 1, 1)])
    assert build(SparsityConfig(), graph, 8) is same


def test_whole_variables_and_part_of_the_parameters_will_do():
    graph, params = convolutional_case()
    regularizer = group_lasso(graph, 1.0)
    stats = {"bn": {"mean": jnp.ones(5), "var": jnp.ones(5)}}
    whole = added_by(regularizer, {"params": params, "batch_stats": stats})
    jax.tree.map(np.testing.assert_array_equal, whole["params"], added_by(regularizer, params))
    assert not any(leaf.any() for leaf in jax.tree.leaves(whole["batch_stats"]))
    part = {"bn": params["bn"]}
    norms = unit_norms(graph, part)["params/conv/kernel[3]"]
    np.testing.assert_allclose(norms, np.hypot(*params["bn"].values()), rtol=1e-6)


def test_what_cannot_be_penalised_is_named():
    graph, params = convolutional_case()
    with pytest.raises(ValueError, match=r"none of weights is a variable .* params/bn/bias"):
        group_lasso(graph, 1.0)(optax.identity()).init({"weights": jnp.zeros(5)})
    with pytest.raises(ValueError, match="no prunable channel has a BatchNorm scale"):
        batchnorm_l1(graph, 1.0)(optax.identity()).init({"conv": params["conv"]})
    cut = {**params, "bn": {"scale": jnp.ones(3), "bias": jnp.zeros(3)}}
    for regularizer in (batchnorm_l1(graph, 1.0), group_lasso(graph, 1.0)):
        with pytest.raises(ValueError, match=r"params/bn/\w+ has shape \(3,\).* position 4"):
            regularizer(optax.identity()).init(cut)
    with pytest.raises(ValueError, match=r"optimizer.update\(\.\.\., params\)"):
        optimizer = group_lasso(graph, 1.0)(optax.identity())
        optimizer.update(params, optimizer.init(params))


@pytest.mark.parametrize(
    "field",
    [
        {"kind": "l1"},
        {"strength": 0.0},
        {"strength": float("nan")},
        {"grow": 1.5},
        {"contrast": -1},
    ],
)
def test_bad_fields_are_named(field):
    with pytest.raises(ValueError, match=f"SparsityConfig.{next(iter(field))}"):
        SparsityConfig(**field)


def test_the_penalty_is_not_clipped_and_gets_into_the_momentum():
    graph, params = convolutional_case()
    config = OptimizerConfig(
        learning_rate=1.0, momentum=0.5, nesterov=False, weight_decay=0.0, clip_norm=1e-3,
        schedule="constant", warmup=0,
    )  # fmt: skip
    optimizer = build_optimizer(config, 10, batchnorm_l1(graph, 100.0))
    state = optimizer.init(params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    update = jax.jit(optimizer.update)
    sign = np.sign(params["bn"]["scale"])
    for factor in (1.0, 1.5):
        updates, state = update(zeros, state, params)
        np.testing.assert_allclose(updates["bn"]["scale"], -100.0 * factor * sign, rtol=1e-6)


# What it does to a network, on the digits.

DIGITS = data.load("digits")
PIXELS = {"mean": DIGITS.mean, "std": DIGITS.std}
UNITS = 64
CONFIG = TrainConfig(
    epochs=20, batch_size=64, crop_padding=0, flip=False,
    optimizer=OptimizerConfig(learning_rate=0.05),
)  # fmt: skip


def dense_network() -> Network:
    """Two hidden layers with BatchNorm: a second of training."""

    def forward(variables, images, train):
        params, old = variables["params"], variables["batch_stats"]
        x = images.reshape(len(images), -1)
        new = {}
        for name in ("hidden1", "hidden2"):
            layer, stats = params[name], old[name]
            x = x @ layer["kernel"]
            if train:
                own = {"mean": x.mean(0), "var": x.var(0)}
                new[name] = {k: 0.9 * stats[k] + 0.1 * own[k] for k in own}
            else:
                own = new[name] = stats
            x = (x - own["mean"]) * jax.lax.rsqrt(own["var"] + 1e-5)
            x = jax.nn.relu(x * layer["scale"] + layer["bias"])
        logits = x @ params["out"]["kernel"] + params["out"]["bias"]
        return Output(logits, (), {"batch_stats": new})

    return Network(
        train=lambda variables, images, key: forward(variables, images, True),
        eval=lambda variables, images, key: forward(variables, images, False),
    )


def dense_variables(seed):
    keys = jax.random.split(jax.random.key(seed), 3)

    def kernel(key, outputs):
        return jax.random.normal(key, (64, outputs)) * (2 / 64) ** 0.5

    def hidden(key):
        return {"kernel": kernel(key, UNITS), "scale": jnp.ones(UNITS), "bias": jnp.zeros(UNITS)}

    stats = {"mean": jnp.zeros(UNITS), "var": jnp.ones(UNITS)}
    return {
        "params": {
            "hidden1": hidden(keys[0]),
            "hidden2": hidden(keys[1]),
            "out": {"kernel": kernel(keys[2], 10), "bias": jnp.zeros(10)},
        },
        "batch_stats": {"hidden1": stats, "hidden2": dict(stats)},
    }


NETWORK = dense_network()


def evaluate(variables, images):
    return NETWORK.eval(variables, images, None).logits


@pytest.fixture(scope="module")
def graph():
    return jp.trace(evaluate, dense_variables(0), jnp.zeros((1, 8, 8, 1)))


@pytest.fixture(scope="module")
def heldout():
    images = normalize(jnp.asarray(DIGITS.heldout.images), **PIXELS)
    return [(images, jnp.asarray(DIGITS.heldout.labels))]


@pytest.fixture(scope="module")
def trained(graph):
    """Per seed the variables after training, without a penalty and with each."""
    steps = total_steps(CONFIG, len(DIGITS.train))
    penalties = {
        "none": build(SparsityConfig(), graph, steps),
        "batchnorm": build(SparsityConfig("batchnorm", 0.1), graph, steps),
        "group": build(SparsityConfig("group", 2e-3), graph, steps),
    }
    return [
        {
            name: fit(
                NETWORK, dense_variables(seed), DIGITS.train, CONFIG, seed=seed,
                optimizer=regularizer, **PIXELS,
            ).variables
            for name, regularizer in penalties.items()
        }
        for seed in range(2)
    ]  # fmt: skip


def accuracy_cut(graph, variables, heldout, method, recalibrated=False):
    """Accuracy with a quarter of the units, nothing trained after the cut."""
    budget = jp.Budget(widths=dict.fromkeys(graph.names, UNITS // 4))
    problem = jp.Problem(graph, evaluate, variables, heldout, budget)
    selection = jp.methods[method]().prune(problem)
    pruned = graph.slice(selection.variables, selection.masks)
    if recalibrated:
        student = Network(pruned.wrap(NETWORK.train), pruned.wrap(NETWORK.eval))
        taken = DIGITS.train.images[:512]
        pruned = dataclasses.replace(
            pruned, variables=recalibrate(student, pruned.variables, taken, **PIXELS)
        )
    images, _ = batch = heldout[0]
    return float(accuracy(pruned.wrap(evaluate)(pruned.variables, images), batch))


def accuracy_whole(variables, heldout):
    return float(accuracy(evaluate(variables, heldout[0][0]), heldout[0]))


def test_the_group_lasso_parts_weak_units_from_strong_ones(graph, trained):
    for seed in trained:
        for name in graph.names:
            plain, sparse = (unit_norms(graph, seed[k]["params"])[name] for k in ("none", "group"))
            assert jnp.min(plain) > 0.3 * jnp.max(plain)
            # More than half of them are gone.
            assert jnp.median(sparse) < 0.05 * jnp.max(sparse)


def test_after_the_group_lasso_three_quarters_of_the_units_cost_nothing(graph, trained, heldout):
    for seed in trained:
        whole = {name: accuracy_whole(variables, heldout) for name, variables in seed.items()}
        assert whole["group"] > whole["none"] - 0.06
        for method in ("l1", "batchnorm_scale"):
            plain, sparse = (
                accuracy_cut(graph, seed[k], heldout, method) for k in ("none", "group")
            )
            assert plain < whole["none"] - 0.3
            assert sparse > whole["group"] - 0.02


def test_the_l1_of_batchnorm_scales_zeroes_them_and_pruning_by_them_costs_less(
    graph, trained, heldout
):
    for seed in trained:
        for layer in ("hidden1", "hidden2"):
            plain, sparse = (
                jnp.abs(seed[k]["params"][layer]["scale"]) for k in ("none", "batchnorm")
            )
            assert jnp.median(plain) > 0.5 * jnp.max(plain)
            assert jnp.median(sparse) < 0.05 * jnp.max(sparse)
        plain, sparse = (
            accuracy_cut(graph, seed[k], heldout, "batchnorm_scale", recalibrated=True)
            for k in ("none", "batchnorm")
        )
        assert sparse > plain + 0.1


def test_one_compilation_and_the_same_bits_when_it_goes_on(graph):
    traces = []

    def train(variables, images, key):
        traces.append(images.shape)
        return NETWORK.train(variables, images, key)

    network = Network(train, NETWORK.eval)
    config = dataclasses.replace(CONFIG, epochs=1)
    regularizer = build(
        SparsityConfig("group", 1e-3), graph, total_steps(config, len(DIGITS.train))
    )

    def run(**options):
        return fit(
            network, dense_variables(0), DIGITS.train, config, seed=0, optimizer=regularizer,
            **options, **PIXELS,
        )  # fmt: skip

    whole = run()
    assert len(traces) == 1
    part = run(until=7)
    stored = jax.tree.map(np.asarray, part)
    # What a checkpoint would be restored into.
    like = jax.eval_shape(lambda v: initial_state(v, config, regularizer), dense_variables(0))
    assert jax.tree.structure(like) == jax.tree.structure(stored)
    ended = run(state=jax.tree.map(lambda s, x: jnp.asarray(x, s.dtype), like, stored))
    jax.tree.map(np.testing.assert_array_equal, ended, whole)
    assert len(traces) == 1
