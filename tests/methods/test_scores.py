"""Each criterion's scores against their definition, written out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.budget import allocate
from jaxprune.methods.ranking import filter_norms, global_widths
from jaxprune.problem import cross_entropy
from jaxprune.statistics import mask_gradients


def network(variables, x):
    p = variables["params"]
    h = jax.nn.relu(x @ p["a"]["kernel"] * p["a"]["scale"])
    return jax.nn.relu(h @ p["b"]["kernel"]) @ p["c"]["kernel"]


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)

    def array(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    params = {
        "a": {"kernel": array(5, 8), "scale": array(8)},
        "b": {"kernel": array(8, 7)},
        "c": {"kernel": array(7, 3)},
    }
    batch = (array(12, 5), jnp.asarray(rng.integers(0, 3, 12)))
    variables = {"params": params}
    return jp.trace(network, variables, batch[0]), variables, batch


def kept(case, name, widths):
    graph, variables, batch = case
    problem = jp.Problem(graph, network, variables, [batch], jp.Budget(widths=widths))
    selection = jp.methods[name]().prune(problem)
    return {group: set(np.flatnonzero(m).tolist()) for group, m in selection.masks.items()}


def expected(scores, width):
    return set(np.argsort(-np.asarray(scores))[:width].tolist())


A, B = "params/a/kernel[1]", "params/b/kernel[1]"
WIDTHS = {A: 3, B: 4}


def test_norms(case):
    _, variables, _ = case
    kernel = np.asarray(variables["params"]["a"]["kernel"])
    np.testing.assert_allclose(
        filter_norms(case[0], variables, 1)[A], np.abs(kernel).sum(0), rtol=1e-6
    )
    assert kept(case, "l1", WIDTHS)[A] == expected(np.abs(kernel).sum(0), 3)
    assert kept(case, "l2", WIDTHS)[A] == expected(np.linalg.norm(kernel, axis=0), 3)


def test_batchnorm_scale_needs_a_scale(case):
    with pytest.raises(ValueError, match=r"group params/b/kernel\[1\] goes through no BatchNorm"):
        kept(case, "batchnorm_scale", WIDTHS)


def test_geometric_median(case):
    kernel = np.asarray(case[1]["params"]["b"]["kernel"]).T
    distances = np.linalg.norm(kernel[:, None] - kernel[None], axis=-1).sum(1)
    assert kept(case, "geometric_median", WIDTHS)[B] == expected(distances, 4)


def test_mask_gradients_equal_a_loop_over_samples(case):
    graph, variables, (x, y) = case
    found = mask_gradients(jp.Problem(graph, network, variables, [(x, y)], jp.Budget()))

    def loss(masks, i):
        one = (x[i : i + 1], y[i : i + 1])
        return cross_entropy(graph.masked(network)(variables, masks, one[0]), one)

    each = [jax.grad(loss)(graph.full_masks(), i) for i in range(len(x))]
    for group in graph.groups:
        g = np.stack([np.asarray(e[group], np.float64) for e in each])
        np.testing.assert_allclose(found.mean[group], g.mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.absolute[group], np.abs(g).mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.square[group], np.square(g).mean(0), rtol=1e-4, atol=1e-6)
    assert kept(case, "taylor", WIDTHS)[A] == expected(found.absolute[A], 3)
    assert kept(case, "fisher", WIDTHS)[A] == expected(found.square[A], 3)


def test_scopes_are_ranked_by_themselves(case):
    graph, variables, _ = case
    scores = filter_norms(graph, variables, 1)
    names = list(graph.groups)
    whole = jp.Budget("params/2")
    scoped = jp.Budget("params/2", scopes={"params/b/*": 0.3})
    widths = global_widths(graph, scores, scoped, "mean")
    assert widths[names[1]] == 2  # of 7
    assert graph.cost(widths).params <= graph.cost().params / 2
    # What the scope gives up more than it would have, the others keep.
    assert widths[names[0]] >= global_widths(graph, scores, whole, "mean")[names[0]]
    together = jp.Budget("params/1", scopes={"*": 0.4})
    assert sum(global_widths(graph, scores, together, "mean").values()) == 6  # of 15
    kept = jp.Budget("params/3", scopes={"params/a/*": 1.0, "params/b/*": 1.0})
    with pytest.raises(ValueError, match=r"beyond reach with what budget\.scopes keep"):
        global_widths(graph, scores, kept, "mean")
    with pytest.raises(ValueError, match="in another scope"):
        global_widths(graph, scores, jp.Budget("params/2", scopes={"*": 0.5, "*b*": 0.5}), "mean")
    with pytest.raises(ValueError, match="fewer than the limits"):
        few = jp.Budget("params/1", scopes={"params/b/*": 0.1}, min_channels=3)
        global_widths(graph, scores, few, "mean")
    with pytest.raises(ValueError, match="kept fraction"):
        jp.Budget("params/2", scopes={"*": 0.0})
    with pytest.raises(ValueError, match=r"budget\.limits"):
        allocate(None, graph, scoped, "proportional")


def test_an_unknown_normaliser_is_refused():
    with pytest.raises(ValueError, match=r"normaliser is one of mean, .*, not 'median'"):
        jp.methods["l1"](normaliser="median")


def test_equal_scores_fall_evenly_and_meet_a_target_closely(case):
    graph, *_ = case
    alike = {name: np.ones(group.size) for name, group in graph.groups.items()}
    for targets in ("params/2", "macs/1.5"):
        budget = jp.Budget(targets)
        widths = global_widths(graph, alike, budget, "none")
        chosen = np.array([widths[name] for name in graph.names])
        (quantity,) = budget.factors
        most = budget.limits_of(graph)[quantity]
        assert graph.costs(chosen)[quantity] <= most
        # A unit more, of one group, would pass the target.
        assert all(graph.costs(chosen + np.eye(2, dtype=int)[g])[quantity] > most for g in (0, 1))
        assert np.ptp(chosen / graph.sizes) < 0.2
