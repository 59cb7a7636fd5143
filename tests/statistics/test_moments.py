"""Moments and outlets against explicit forward passes, the refit against NumPy's least squares."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from jaxprune.reconstruction import least_squares, refitted
from jaxprune.statistics.moments import _forward, _sums, moments, responses
from jaxprune.statistics.outlets import outlets


def conv(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def norm(x, p):
    scale = p["scale"] / jnp.sqrt(p["var"] + 1e-5)
    mean, scale, shift = (a[None, None, None] for a in (p["mean"], scale, p["shift"]))
    return (x - mean) * scale + shift


def parts(variables, x):
    """What the layers give: of a residual block behind a stem, and of the linear layer."""
    p = variables["params"]
    bias = p["stem"]["bias"][None, None, None]
    stem = jax.nn.relu(conv(x, p["stem"]["kernel"]) + bias)
    first = conv(stem, p["first"]["kernel"])
    second = conv(jax.nn.relu(norm(first, p["first_norm"])), p["second"]["kernel"])
    total = stem + norm(second, p["second_norm"])
    pooled = jax.nn.relu(total).mean((1, 2))
    hidden = pooled @ p["hidden"]["kernel"]  # nothing takes up a shift of it but what is non-linear
    return {"first": first, "second": second, "sum": total, "hidden": hidden}


def network(variables, x):
    p = variables["params"]
    hidden = jnp.tanh(parts(variables, x)["hidden"])
    return hidden @ p["last"]["kernel"] + p["last"]["bias"][None]


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)

    def drawn(*shape):
        return jnp.asarray(rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1])), jnp.float32)

    def normed(n):
        even = {k: jnp.asarray(rng.uniform(0.5, 1.5, n), jnp.float32) for k in ("scale", "var")}
        return {**even, "mean": drawn(n), "shift": abs(drawn(n)) + 1}  # no channel is dead

    params = {
        "stem": {"kernel": drawn(3, 3, 2, 6), "bias": drawn(6)},
        "first": {"kernel": drawn(3, 3, 6, 5)}, "first_norm": normed(5),
        "second": {"kernel": drawn(3, 3, 5, 6)}, "second_norm": normed(6),
        "hidden": {"kernel": drawn(6, 7)},
        "last": {"kernel": drawn(7, 3), "bias": drawn(3)},
    }  # fmt: skip
    images = jnp.asarray(rng.normal(size=(24, 5, 5, 2)), jnp.float32)
    variables = {"params": params}
    graph = jp.trace(network, variables, images)
    return jp.Problem(graph, network, variables, [images[:12], images[12:]], jp.Budget())


def path(layer, leaf="kernel"):
    return f"params/{layer}/{leaf}"


INNER = "params/first/kernel[3]"


def test_outlets_are_found_by_derivatives(problem):
    found = outlets(problem)
    first = found[path("first")]
    assert (first.path, first.sign) == (path("first_norm", "mean"), -1)
    assert (found[path("last")].path, found[path("last")].sign) == (path("last", "bias"), 1)
    assert found[path("hidden")].path is None
    second = found[path("second")]
    assert (second.path, second.sum) == (path("second_norm", "mean"), "sum")
    p = problem.variables["params"]["second_norm"]
    np.testing.assert_allclose(second.scale, p["scale"] / np.sqrt(p["var"] + 1e-5), rtol=1e-4)
    assert all(found[path(name)].sum is None for name in ("first", "hidden", "last"))


@pytest.fixture(scope="module")
def changed(problem):
    """A network whose stem and first layer are others, with masks: the error has piled up."""
    params = dict(problem.variables["params"])
    rng = np.random.default_rng(1)
    params["stem"] = jax.tree.map(lambda a: a * rng.uniform(0.7, 1.3), params["stem"])
    masks = problem.graph.full_masks()
    masks["params/stem/kernel[3]"] = jnp.asarray([1, 1, 0, 1, 1, 1], jnp.float32)
    return problem.at({"params": params}), masks


def patches(x):
    """(rows, C · 9) of every position, by NumPy: the taps of a channel side by side."""
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    found = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return found.reshape(-1, x.shape[-1] * 9)


def explicit(problem, changed):
    """X that `second` reads of the changed network, and Y1 - Y1' + Y2 over the norm's scale."""
    now, masks = changed
    images = jnp.concatenate(list(problem.batches))
    params = dict(now.variables["params"])
    gone = np.asarray(masks["params/stem/kernel[3]"])
    for layer in ("first", "hidden"):
        kernel = np.array(params[layer]["kernel"])
        kernel[(..., gone == 0, slice(None))] = 0
        params[layer] = {"kernel": jnp.asarray(kernel)}
    then, after = parts(problem.variables, images), parts({"params": params}, images)
    norm_ = params["second_norm"]
    scale = np.asarray(norm_["scale"]) / np.sqrt(np.asarray(norm_["var"]) + 1e-5)
    inside = jax.nn.relu(norm(after["first"], params["first_norm"]))
    missing = np.asarray(then["sum"] - after["sum"], np.float64) / scale
    return patches(inside), (np.asarray(after["second"], np.float64) + missing).reshape(-1, 6)


def test_moments_with_targets_equal_explicit_ones(problem, changed):
    now, masks = changed
    x, y = explicit(problem, changed)
    targets = responses(problem, positions=None)
    (found,) = moments(now, groups=[INNER], masks=masks, positions=None, targets=targets)[INNER]
    close = {"rtol": 2e-4, "atol": 2e-5}
    np.testing.assert_allclose(found.mean, x.mean(0), **close)
    np.testing.assert_allclose(found.second, x.T @ x / len(x), **close)
    np.testing.assert_allclose(found.target, y.mean(0), **close)
    np.testing.assert_allclose(found.cross, x.T @ y / len(x), **close)
    np.testing.assert_allclose(found.power, np.square(y).mean(0), **close)


@pytest.mark.parametrize("kept", [[0, 2, 3], [1, 4], [0, 1, 2, 3, 4]])
def test_the_refit_equals_dense_least_squares_with_intercept(problem, changed, kept):
    now, masks = changed
    x, y = explicit(problem, changed)
    targets = responses(problem, positions=None)
    (found,) = moments(now, groups=[INNER], masks=masks, positions=None, targets=targets)[INNER]
    columns = np.concatenate([x.reshape(len(x), -1, 9)[:, c] for c in kept], axis=1)
    dense = np.linalg.lstsq(np.c_[columns, np.ones(len(x))], y, rcond=None)[0]
    fit = least_squares(found, kept, damping=1e-12)
    left = y - columns @ fit.kernel - fit.shift
    best = y - np.c_[columns, np.ones(len(x))] @ dense
    assert np.square(left).sum() == pytest.approx(np.square(best).sum(), rel=1e-4)
    np.testing.assert_allclose(fit.kernel, dense[:-1], atol=2e-2)


def test_what_is_put_back_computes_what_was_fitted(problem, changed):
    now, masks = changed
    images = jnp.concatenate(list(problem.batches))
    kept = [0, 2, 3]
    masks = {**masks, INNER: jnp.asarray([1, 0, 1, 1, 0], jnp.float32)}
    targets = responses(problem, positions=None)
    (layer,) = moments(
        now, groups=[INNER], masks={**masks, INNER: jnp.ones(5)}, positions=None, targets=targets
    )[INNER]
    fit = least_squares(layer, kept)
    new = refitted(now.graph, now.variables, INNER, layer, kept, fit)
    wanted = parts(problem.variables, images)["sum"]

    def error(variables):
        sums = problem.graph.tap(network, variables, images, masks=masks)[1].sums
        return float(jnp.mean(jnp.square(sums["sum"] - wanted)))

    x, y = explicit(problem, changed)
    columns = np.concatenate([x.reshape(len(x), -1, 9)[:, c] for c in kept], axis=1)
    scale = layer.outlet.scale
    fitted = np.square((y - columns @ fit.kernel - fit.shift) * scale).mean()
    assert error(new) == pytest.approx(fitted, rel=1e-3)
    assert error(new) < 0.8 * error(now.variables)


def test_without_a_place_for_a_shift_it_is_reported(problem):
    group = "params/stem/kernel[3]"
    found = moments(problem, groups=[group], positions=None)[group]
    layer = next(m for m in found if m.consumer.name == path("hidden"))
    fit = least_squares(layer, [0, 1, 5])
    assert not fit.shift.any() and np.abs(fit.left).max() > 0
    leaves = refitted(problem.graph, problem.variables, group, layer, [0, 1, 5], fit)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), leaves, problem.variables)
    assert [k for k, v in moved["params"].items() if any(v.values())] == ["hidden"]


def test_groups_share_one_program(problem):
    known = outlets(problem)
    moments(problem, groups=[INNER], positions=None, known=known)
    forward, _ = _forward(problem.graph, problem.fn, None, _sums(known))
    before = forward._cache_size()
    for group in problem.graph.names:
        moments(problem, groups=[group], positions=None, known=known)
    assert forward._cache_size() == before


def test_a_kernel_that_is_used_twice_is_refused():
    rng = np.random.default_rng(0)
    weights = {n: jnp.asarray(rng.normal(size=(4, 4)), jnp.float32) for n in ("a", "b", "c")}
    x = jnp.asarray(rng.normal(size=(8, 4)), jnp.float32)

    def twice(v, x):
        h = jax.nn.relu(x @ v["a"])
        return jax.nn.relu(h @ v["b"]) @ v["c"] + jax.nn.relu(2 * h @ v["b"]) @ v["c"]

    graph = jp.trace(twice, weights, x)
    problem = jp.Problem(graph, twice, weights, [x], jp.Budget())
    with pytest.raises(ValueError, match="is used at several places"):
        moments(problem)
