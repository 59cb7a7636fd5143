"""LASSO selection against scikit-learn, and what it leaves of plain, residual, separable layers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from sklearn import linear_model

import jaxprune as jp
from jaxprune.methods.lasso import Lasso, descend, normal_equations
from jaxprune.statistics.moments import Moments
from jaxprune.statistics.outlets import Outlet


def layer(seed=0, units=12, taps=3, outputs=4, rows=300, strong=None):
    """A reader whose target is what a few units give, and noise; and its raw X and Y."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, units * taps)) @ (
        np.eye(units * taps) + 0.3 * rng.normal(size=(units * taps, units * taps)) / units
    )
    kernel = rng.normal(size=(units * taps, outputs))
    given = kernel.copy()
    if strong is not None:
        given.reshape(units, -1)[[i for i in range(units) if i not in strong]] *= 0.05
    y = x @ given + 0.1 * rng.normal(size=(rows, outputs)) + 1
    found = Moments(
        None, Outlet("bias"), taps, kernel, x.mean(0), x.T @ x / rows, y.mean(0), x.T @ y / rows,
        np.square(y).mean(0), float(np.square(y).sum(1).mean()),
    )  # fmt: skip
    return found, x, y


@pytest.mark.parametrize("penalty", [0.01, 0.1, 0.5])
def test_the_path_equals_scikit_learns_lasso(penalty):
    found, x, y = layer()
    units = 12
    parts = (x - x.mean(0)).reshape(len(x), units, -1)
    kernel = found.kernel.reshape(units, 3, -1)
    design = np.einsum("nut,uto->nou", parts, kernel).reshape(-1, units)
    target = (y - y.mean(0)).ravel()
    problem = normal_equations([found], [found.kernel])
    gram, cross = problem.scaled()
    ours = descend(gram, cross, jnp.float32(penalty), jnp.ones(units))
    # Its objective is the mean over rows and outputs: ours is that times their number and a scale.
    scale = np.abs(design.T @ target).max() / len(target)
    oracle = linear_model.Lasso(alpha=penalty * scale, fit_intercept=False, tol=1e-8)
    expected = oracle.fit(design, target).coef_
    np.testing.assert_allclose(ours, expected, atol=2e-4 * np.abs(expected).max())
    assert ((np.asarray(ours) != 0) == (expected != 0)).all()


@pytest.mark.parametrize("options", [{}, {"alternate": True}, {"tolerance": 0.0}])
def test_the_units_that_give_the_target_are_selected(options):
    for seed in range(4):
        strong = sorted(np.random.default_rng(seed).permutation(12)[:4].tolist())
        found, *_ = layer(seed, strong=strong)
        chosen, penalty = Lasso(**options).select([found], 4, 1e-3)
        assert chosen.tolist() == strong
        assert penalty > 0


def test_every_width_is_met_even_where_units_are_alike():
    found, *_ = layer()
    same = found._replace(cross=np.zeros_like(found.cross), target=0 * found.target)
    for one in (found, same):
        for keep in range(1, 12):
            chosen, _ = Lasso().select([one], keep, 1e-3)
            assert len(np.unique(chosen)) == keep


def test_layers_of_one_width_share_one_program():
    before = descend._cache_size()
    for seed in range(3):
        found, *_ = layer(seed, units=9)
        for keep in (2, 5):
            Lasso().select([found], keep, 1e-3)
    assert descend._cache_size() <= before + 1


def conv(x, kernel, groups=1):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )  # fmt: skip


def plain(p, x):
    for name in ("b", "c"):
        x = jax.nn.relu(conv(x, p[name]) + p[f"{name}_bias"][None, None, None])
    return x


def residual(p, x):
    y = jax.nn.relu(conv(x, p["b"]) + p["b_bias"][None, None, None])
    return jax.nn.relu(x + conv(y, p["c"]) + p["c_bias"][None, None, None])


def separable(p, x):
    """As in Xception: depthwise and pointwise, twice, and a shortcut."""
    y = conv(jax.nn.relu(conv(x, p["b_depth"], 16)), p["b_point"])
    y = conv(jax.nn.relu(conv(y, p["c_depth"], 16)), p["c_point"])
    return x + y + p["c_bias"][None, None, None]


@pytest.mark.parametrize("block", [plain, residual, separable])
def test_a_block_keeps_more_of_what_it_computed_than_by_selection_alone(block):
    rng = np.random.default_rng(0)

    def drawn(*shape):
        scale = np.sqrt(2 / np.prod(shape[:-1]))
        return jnp.asarray(scale * rng.normal(size=shape), jnp.float32)

    p = {"a": drawn(3, 3, 3, 16), "out": drawn(16, 4)}
    for name in ("b", "c"):
        p |= {name: drawn(3, 3, 16, 16), f"{name}_bias": 0.1 * drawn(16)}
        p |= {f"{name}_depth": drawn(3, 3, 1, 16), f"{name}_point": drawn(1, 1, 16, 16)}
    used = {plain: "bc", residual: "bc", separable: ("b_depth", "b_point", "c_depth", "c_point")}
    p = {n: v for n, v in p.items() if n in ("a", "out", *used[block]) or n.endswith("bias")}

    def fn(p, x):
        features = block(p, jax.nn.relu(conv(x, p["a"])))
        return features.mean((1, 2)) @ p["out"]

    if block is separable:
        p.pop("b_bias")
    images = jnp.asarray(rng.normal(size=(64, 6, 6, 3)), jnp.float32)
    graph = jp.trace(fn, p, images[:1])
    widths = {name: max(1, round(0.6 * g.size)) for name, g in graph.groups.items()}
    problem = jp.Problem(graph, fn, p, [images[:32], images[32:]], jp.Budget(widths=widths))
    found = Lasso(positions=None).prune(problem)
    assert graph.widths(found.masks) == widths
    for name in graph.groups:
        # Other variables, a bias among them, take up the mean: so "not above" up to that.
        assert found.figures["error_refitted"][name] <= found.figures["error"][name] + 1e-6
    full = fn(p, images)

    def distance(variables):
        return float(jnp.mean(jnp.square(graph.masked(fn)(variables, found.masks, images) - full)))

    assert distance(found.variables) < 0.7 * distance(p)
    pruned = graph.slice(found.variables, found.masks)
    np.testing.assert_allclose(
        pruned.wrap(fn)(pruned.variables, images),
        graph.masked(fn)(found.variables, found.masks, images), rtol=1e-4, atol=1e-5,
    )  # fmt: skip


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="tolerance must be at least 0"):
        Lasso(tolerance=-1)
    with pytest.raises(ValueError, match="positions must be at least 1"):
        Lasso(positions=0)


def branched(p, x):
    """Two residual blocks on one sum."""
    x = jax.nn.relu(conv(x, p["a"]))
    for i in (1, 2):
        y = jax.nn.relu(conv(x, p[f"first{i}"]) + p[f"first{i}_bias"][None, None, None])
        x = jax.nn.relu(x + conv(y, p[f"last{i}"]) + p[f"last{i}_bias"][None, None, None])
    return x.mean((1, 2)) @ p["out"]


@pytest.fixture(scope="module")
def residual_network():
    rng = np.random.default_rng(1)

    def drawn(*shape):
        return jnp.asarray(np.sqrt(2 / np.prod(shape[:-1])) * rng.normal(size=shape), jnp.float32)

    p = {"a": drawn(3, 3, 3, 12), "out": drawn(12, 4)}
    for i in (1, 2):
        p |= {f"first{i}": drawn(3, 3, 12, 16), f"first{i}_bias": 0.1 * drawn(16)}
        p |= {f"last{i}": drawn(3, 3, 16, 12), f"last{i}_bias": 0.1 * drawn(12)}
    images = jnp.asarray(rng.normal(size=(48, 6, 6, 3)), jnp.float32)
    return p, images, jp.trace(branched, p, images[:1])


@pytest.mark.parametrize("sampler", ["channels", "filters"])
def test_the_first_layers_of_branches_read_a_part_of_the_sum(residual_network, sampler):
    p, images, graph = residual_network
    budget = jp.Budget("macs/3", groups="inner")
    batch = (images, jnp.arange(48) % 4)
    problem = jp.Problem(graph, branched, p, [batch], budget)
    found = Lasso(positions=None, sampler=sampler, rates="proportional").prune(problem)
    assert set(found.blocks) == {"first1", "first2"}
    pruned = graph.slice(found.variables, found.masks, found.blocks)
    widths = graph.widths(found.masks)
    assert widths["a[3]"] == 12 and widths["first1[3]"] < 16
    for name, blocks in found.blocks.items():
        read = blocks.kept.any((0, 1))
        assert read.shape == (12, widths[f"{name}[3]"] if sampler == "filters" else 1)
        assert (read.sum(0) == 6).all()
        if sampler == "filters":
            assert len(np.unique(read, axis=1).T) > 1
    whole = graph.cost()
    assert whole.macs / 3.3 < graph.cost(found.masks, pruned.kept()).macs <= whole.macs / 3
    small = pruned.wrap(branched)
    if sampler == "channels":
        assert jp.cost(small, pruned.variables, images).macs <= 48 * whole.macs / 3
    out = graph.masked(branched)(found.variables, found.masks, images)
    np.testing.assert_allclose(small(pruned.variables, images), out, rtol=1e-4, atol=1e-5)
    for name in found.blocks:
        assert found.figures["error_refitted"][name] < found.figures["error"][name]


def test_filters_that_read_channels_of_their_own_lose_less(residual_network):
    """He et al. 2017 report it of the filter-wise alternative, before a fine-tune."""
    p, images, graph = residual_network
    widths = {name: group.size for name, group in graph.groups.items()}
    problem = jp.Problem(graph, branched, p, [images], jp.Budget(widths=widths))
    left = {
        sampler: Lasso(positions=None, sampler=sampler).prune(problem).figures["error_refitted"]
        for sampler in ("channels", "filters")
    }
    assert left["filters"]["first1"] < left["channels"]["first1"]


def test_a_sampler_needs_a_sum_that_stays_whole(residual_network):
    *_, graph = residual_network
    with pytest.raises(ValueError, match="groups='inner'"):
        Lasso(sampler="channels").require(graph, jp.Budget("macs/2"))
    with pytest.raises(ValueError, match="sampler: 'some', must be one of"):
        Lasso(sampler="some")
    with pytest.raises(ValueError, match="sampled must be a fraction"):
        Lasso(sampled=0)
