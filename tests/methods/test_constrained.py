"""Masks of the whole network under a constraint on classes, against brute force."""

from __future__ import annotations

import dataclasses
import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.methods import constrained
from jaxprune.methods.harm import PruningWarning
from jaxprune.problem import Problem
from jaxprune.search import SearchConfig
from jaxprune.search.constraint import Constraint

SEARCH = SearchConfig(population=16, generations=4, polish_steps=8, bound=False)


def fn(variables, x):
    hidden = jax.nn.relu(x @ variables["first"])
    return jax.nn.relu(hidden @ variables["second"]) @ variables["last"]


@pytest.fixture(scope="module")
def problem():
    """Three classes; the smallest one hangs on units that matter little to the layers' error."""
    rng = np.random.default_rng(0)
    labels = np.array([0] * 60 + [1] * 50 + [2] * 18)
    x = rng.normal(0, 0.3, size=(128, 6)) + 2 * np.eye(6)[labels]
    x[labels == 2] *= 0.5
    shapes = {"first": (6, 8), "second": (8, 8), "last": (8, 3)}
    variables = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    variables["first"][:3, :3] += 3 * np.eye(3)
    variables["second"][:3, :3] += 3 * np.eye(3)
    variables["last"][:3] += 3 * np.eye(3)
    batches = [(jnp.asarray(x[i::2], jnp.float32), jnp.asarray(labels[i::2])) for i in (0, 1)]
    graph = jp.trace(fn, variables, batches[0][0][:1])
    widths = dict.fromkeys(graph.groups, 5)
    variables = jax.tree.map(jnp.asarray, variables)
    return Problem(graph, fn, variables, batches, jp.Budget(widths=widths))


def changes(problem, masks):
    """By a plain forward pass, class by class."""
    found = []
    for kept in (problem.graph.full_masks(), masks):
        right = {}
        for x, labels in problem.batches:
            logits = problem.graph.masked(fn)(problem.variables, kept, x)
            for k in range(3):
                hits = np.asarray(logits.argmax(1) == k)[np.asarray(labels) == k]
                right.setdefault(k, []).extend(hits)
        found.append(np.array([np.mean(right[k]) for k in range(3)]))
    return found[1] - found[0]


def prune(problem, constraint, **options):
    search = dataclasses.replace(SEARCH, constraint=constraint, **options)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        selection = jp.Genetic(search, positions=None).prune(problem)
    return selection, [str(w.message) for w in told if w.category is PruningWarning]


def best_possible(problem):
    """Whether any two masks of these widths keep the constraint, by trying all."""
    names = list(problem.graph.groups)
    choices = [
        np.isin(np.arange(8), c).astype(np.float32) for c in itertools.combinations(range(8), 5)
    ]
    pairs = list(itertools.product(range(len(choices)), repeat=2))
    population = {
        name: np.stack([choices[pair[i]] for pair in pairs]) for i, name in enumerate(names)
    }
    shares = constrained._accuracies(problem, population)
    whole = constrained._accuracies(
        problem, {n: m[None] for n, m in problem.graph.full_masks().items()}
    )
    worst = ((shares[..., 0] - whole[..., 0]) / whole[..., 1]).min(axis=1)
    return worst.max()


def test_every_class_keeps_what_was_asked_for_where_a_mask_does(problem):
    free, _ = prune(problem, None)
    reach = best_possible(problem)
    bound = round(float(np.floor(100 * reach)) / 100, 2)
    bound = min(bound, 0.0)
    assert changes(problem, free.masks).min() < bound  # else there is nothing to search for
    selection, told = prune(problem, f"class_accuracy>={bound}", constraint_generations=40)
    assert not told and selection.figures["constraint"]["kept"] == 1
    found = changes(problem, selection.masks)
    assert found.min() >= bound - 1e-6
    np.testing.assert_allclose(list(selection.figures["class_change"].values()), found, atol=1e-6)
    assert problem.graph.widths(selection.masks) == problem.budget.widths


def test_where_none_was_found_it_says_so_and_gives_the_best(problem):
    narrow = dict.fromkeys(problem.graph.groups, 1)
    tight = dataclasses.replace(problem, budget=jp.Budget(widths=narrow))
    selection, (told,) = prune(tight, "class_accuracy>=-0.01", constraint_generations=3)
    worst = changes(tight, selection.masks)
    assert worst.min() < -0.01
    assert f"class {worst.argmin()} loses {-100 * worst.min():.1f} points" in told
    assert "no mask was found that keeps class_accuracy>=-0.01" in told
    said = selection.figures["constraint"]
    assert said["kept"] == 0 and said["least"] == -0.01
    assert said["reached"] == pytest.approx(worst.min(), abs=1e-6)


def test_the_network_is_judged_as_it_will_be_recalibrated(problem):
    """A network that recalibration makes useless breaks a constraint that its masks keep."""

    def constant(variables, x):
        return 0 * fn(variables, x) + jnp.array([1.0, 0, 0])

    judged = dataclasses.replace(problem, recalibrated=constant)
    selection, (told,) = prune(judged, "accuracy>=-0.1", constraint_generations=1)
    right = [np.asarray(fn(problem.variables, x)).argmax(1) == y for x, y in problem.batches]
    fell = 60 / 128 - np.mean(right)
    assert selection.figures["constraint"]["reached"] == pytest.approx(fell, abs=1e-6)
    assert f"the network loses {-100 * fell:.1f} points" in told


def test_of_masks_that_keep_it_the_one_of_least_error_comes_out(problem):
    """A constraint that everything keeps leaves what the search found."""
    free, _ = prune(problem, None)
    loose, told = prune(problem, "accuracy>=-1")
    assert not told and list(loose.figures["class_change"]) == ["all"]
    grams = jp.Genetic(SEARCH, positions=None).matrices(problem)

    def error(masks):
        gone = {n: 1 - np.asarray(m, float) for n, m in masks.items()}
        return sum(gone[n] @ grams[n] @ gone[n] for n in gone)

    assert error(loose.masks) <= error(free.masks) * (1 + 1e-6)


def test_a_population_is_one_program_and_the_seed_decides(problem, caplog):
    fresh = dataclasses.replace(
        problem, graph=jp.trace(fn, problem.variables, problem.batches[0][0][:1])
    )
    with jax.log_compiles(), caplog.at_level("WARNING", "jax"):
        one, _ = prune(fresh, "class_accuracy>=-0.2", constraint_generations=6)
    assert caplog.text.count("Compiling jit(evaluate)") == 2  # the unpruned network, a population
    two, _ = prune(fresh, "class_accuracy>=-0.2", constraint_generations=6)
    assert all(np.array_equal(one.masks[n], two.masks[n]) for n in one.masks)


@pytest.mark.parametrize(
    "text", ["", "accuracy", "loss>=-0.1", "class_accuracy>=0.1", "accuracy>=-2"]
)
def test_what_is_no_constraint_is_refused(text):
    with pytest.raises(ValueError, match=r"write class_accuracy>=-0\.01"):
        SearchConfig(constraint=text)
    assert Constraint.parse(" class_accuracy >= -.05") == Constraint("class_accuracy", -0.05)


def test_what_it_does_not_go_with_is_refused():
    with pytest.raises(ValueError, match="leave one of them out"):
        SearchConfig(constraint="accuracy>=-0.1", reconstruction=True)
    with pytest.raises(ValueError, match="not by the rounds of layerwise"):
        jp.Genetic(SearchConfig(constraint="accuracy>=-0.1"), schedule=jp.Schedule("layerwise"))
