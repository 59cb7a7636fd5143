"""The one contract that every method has to keep, in a run and in memory."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import pipeline
from jaxprune.budget import Budget
from jaxprune.budget.targets import within
from jaxprune.checkpoint import Checkpoints
from jaxprune.config import (
    CalibrationConfig,
    FinetuneConfig,
    ModelConfig,
    RunConfig,
    ValidationConfig,
)
from jaxprune.methods import METHODS
from jaxprune.pipeline.folder import problem_of
from jaxprune.problem import Problem, cross_entropy
from jaxprune.report.metrics import MetricsWriter
from jaxprune.report.metrics import read as read_metrics
from jaxprune.search import SearchConfig
from jaxprune.search.ddpg import DDPGConfig
from jaxprune.train.memory import MemoryRun
from jaxprune.train.state import TrainConfig

# Layers of one width, so that a search of all groups is one program.
WIDTHS = {f"conv{i}_{j}": 8 for i in (1, 2, 3) for j in (1, 2)}
PROTECTED = "params/conv2_1/kernel"
FIXED = "params/classifier/kernel"
BUDGET = Budget("params/3,macs/2")

OPTIONS = {
    "genetic": {"search": SearchConfig(population=16, generations=8), "kept": (0.25, 0.5)},
    "cacp": {
        "rates": (0.5,),
        "warmup": 2,
        "episodes": 2,
        "batch": 2,
        "beam": 1,
        "beam_rounds": 0,
        "ddpg": DDPGConfig(hidden=8),
    },
    "compensation": {"steps": 2, "floors": 2},
    "lasso": {"kept": (0.25, 0.5)},
    "greedy": {"kept": (0.25, 0.5)},
    "group_fisher": {"interval": 1},
    "unification": {"block": (2, 2), "interval": 1, "training": jp.Retraining(steps=2)},
    "pivoting": {"tile": 2, "rounds": 2, "training": jp.Retraining(steps=2)},
    "spp": {"interval": 1, "updates": 6},
    "ucp": {"budgeted": True},
    "sdprun": {"budgeted": True, "epochs": 0.5},
}
"""Settings that make a method quick; all others run with their own defaults."""
KEY = str(Path(__file__).with_name("test.key"))
NEEDS = {"watermark": {"key_file": KEY, "message": "a5", "check": 4}}
"""Settings without which a method is not complete."""
MEETING = [
    name
    for name, kind in METHODS.items()
    if kind.meets_budget or OPTIONS.get(name, {}).get("budgeted")
]

BUDGETS = {
    "spp": Budget("params/1.3,macs/1.1"),
    "pivoting": Budget("params/1.3,macs/1.02"),
    "unification": Budget("bytes/5,macs/1.5"),
}
"""Where less is within reach than with channels."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the digits whose network is as it began."""
    training = TrainConfig(epochs=0, batch_size=128, crop_padding=1, flip=False)
    return pipeline.open_run(
        RunConfig(
            out=str(tmp_path_factory.mktemp("run")),
            model=ModelConfig(name="vgg_small", widths=WIDTHS),
            train=training,
            budget=BUDGET,
            protect=(PROTECTED,),
            calibration=CalibrationConfig(images=64, batch_size=32),
            validation=ValidationConfig(images=64, batch_size=64),
            finetune=FinetuneConfig(**vars(training) | {"epochs": 0.5}),
        )
    )


@pytest.fixture(scope="module")
def variables(run):
    """Scales of one BatchNorm are all 1 before training: nothing could be ranked by them."""
    rng = np.random.default_rng(0)

    def drawn(path, leaf):
        scale = rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
        return scale if path[-1].key == "scale" else leaf

    fresh = jp.models.init(run.module, run.data.input_shape, jax.random.key(0))
    return jax.tree.map(jax.numpy.asarray, jax.tree_util.tree_map_with_path(drawn, fresh))


@pytest.fixture(scope="module")
def selections(run, variables, tmp_path_factory):
    """What each method selects in a run of its own, computed once."""

    @functools.cache
    def select(name):
        own = dataclasses.replace(run, folder=tmp_path_factory.mktemp(name), budget=budget_of(name))
        return method_of(name).prune(problem_of(own, variables))

    return select


def budget_of(name):
    return BUDGETS.get(name, BUDGET)


def method_of(name):
    return METHODS[name](**OPTIONS.get(name, {}), **NEEDS.get(name, {}))


def in_memory(run, variables, name, budget, seed=0):
    """What `jp.prune` has a method do, before it cuts."""
    batches = run.calibration(64, 32)
    problem = Problem(
        run.graph, run.forward, variables, batches, budget, key=jax.random.key(seed),
        run=MemoryRun(run.forward, batches, cross_entropy),
    )  # fmt: skip
    return method_of(name).prune(problem)


@pytest.mark.parametrize("name", MEETING)
def test_the_budget_is_met_and_not_passed_by_more_than_a_unit(run, selections, name):
    graph, (masks, *_, blocks) = run.graph, selections(name)
    assert masks.keys() == graph.groups.keys()
    assert all(np.isin(mask, (0.0, 1.0)).all() for mask in masks.values())
    widths, most = np.array(list(graph.widths(masks).values())), budget_of(name).limits_of(graph)
    if METHODS[name].within_kernels:
        assert (widths == graph.sizes).all()
        pruned = graph.slice(selections(name).variables, masks, blocks)
        costs = {**vars(graph.cost(masks, pruned.kept())), "bytes": pruned.bytes()}
        assert keeps_to(costs, most)
        return
    assert keeps_to(graph.costs(widths), most)
    wider = [widths + unit for unit in np.eye(len(widths), dtype=int)]
    wider = [w for w in wider if (w <= graph.sizes).all()]
    assert not all(keeps_to(graph.costs(w), most) for w in wider)


def keeps_to(costs, most):
    return all(within(costs[quantity], most[quantity]) for quantity in most)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_protected_or_fixed_stays_and_the_rest_is_cut(run, selections, name):
    selection = selections(name)
    pruned = run.graph.slice(selection.variables, selection.masks, selection.blocks)
    for _, layer, leaf in (path.split("/") for path in (PROTECTED, FIXED)):
        before, after = (v["params"][layer][leaf] for v in (run.shapes, pruned.variables))
        assert before.shape[-1] == after.shape[-1]
    images = run.calibration(8, 8)[0][0]
    np.testing.assert_allclose(
        pruned.wrap(run.forward)(pruned.variables, images),
        run.graph.masked(run.forward)(selection.variables, selection.masks, images),
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip


class Killed(BaseException):
    """As a signal that nothing catches."""


@pytest.mark.parametrize("name", METHODS)
def test_killed_at_each_step_it_comes_to_the_same_bits(
    run, variables, selections, name, tmp_path, monkeypatch
):
    whole = selections(name)
    save, kills = Checkpoints.save, []

    def killing(checkpoints, step, *state):
        """Kills each step of a loop or training twice: before it is kept, and after."""
        times = kills.count(place := (checkpoints.folder.name, step))
        if times > 0:
            save(checkpoints, step, *state)
        if times < 2:
            kills.append(place)
            raise Killed

    monkeypatch.setattr(Checkpoints, "save", killing)
    again = dataclasses.replace(run, folder=tmp_path, budget=budget_of(name))
    while True:
        before = len(kills)
        try:
            # A new process has new functions, too.
            selection = method_of(name).prune(problem_of(again, variables))
            break
        except Killed:
            assert len(kills) == before + 1
    assert kills or name not in OPTIONS  # what takes long works in steps
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(selection), strict=True):
        np.testing.assert_array_equal(a, b)


def test_killed_between_two_checkpoints_of_its_training_it_comes_to_the_same_bits(
    run, variables, selections, tmp_path, monkeypatch
):
    """In the middle of its first and third epoch; what is kept is kept at their ends."""
    whole, left = selections("group_fisher"), [5, 20]
    write = MetricsWriter.write

    def killing(writer, **record):
        write(writer, **record)
        if left and record["step"] == left[0]:
            left.pop(0)
            raise Killed

    monkeypatch.setattr(MetricsWriter, "write", killing)
    again = dataclasses.replace(run, folder=tmp_path)
    for kept in (None, 16):
        with pytest.raises(Killed):
            method_of("group_fisher").prune(problem_of(again, variables))
        assert Checkpoints(tmp_path / "checkpoints" / "fisher").latest() == kept
    selection = method_of("group_fisher").prune(problem_of(again, variables))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(selection), strict=True):
        np.testing.assert_array_equal(a, b)
    steps = [record["step"] for record in read_metrics(again.metrics_path)]
    assert steps == list(range(len(steps))) and len(steps) > 20  # each step told once


@pytest.mark.parametrize("name", MEETING)
def test_limits_and_rounding_are_kept(run, variables, name):
    limits = {"params/conv1_1/*": (0.75, 1.0), "params/conv3_1/*": (0.0, 0.5)}
    budget = Budget("params/1.5", round_to=2, limits=limits, min_channels=3)
    graph = run.graph
    if METHODS[name].within_kernels:
        with pytest.raises(ValueError, match=r"budget\.limits: it is for methods that prune chan"):
            method_of(name).require(graph, budget)
        return
    widths = graph.widths(in_memory(run, variables, name, budget).masks)
    allowed = dict(
        zip(graph.names, map(set, np.array(budget.widths_of(graph), object)), strict=True)
    )
    assert all(width in allowed[group] for group, width in widths.items())
    assert widths["params/conv1_1/kernel[3]"] >= 6
    assert widths["params/conv3_1/kernel[3]"] == 4
    assert graph.cost(widths).params <= graph.cost().params / 1.5


@pytest.mark.parametrize("name", MEETING)
def test_given_widths_are_kept_to_the_unit(run, variables, name):
    widths = {group: 2 + i for i, group in enumerate(run.graph.groups)}
    if METHODS[name].within_kernels:
        with pytest.raises(ValueError, match=r"budget\.widths: it is for methods that prune chan"):
            method_of(name).require(run.graph, Budget(widths=widths))
        return
    selection = in_memory(run, variables, name, Budget(widths=widths))
    assert run.graph.widths(selection.masks) == widths


@pytest.mark.parametrize("name", METHODS)
def test_scopes_and_global_ranking_are_the_same_in_a_run_and_in_memory(
    run, variables, selections, name
):
    scoped = Budget("params/2", scopes={"params/conv2_2/*": 0.5})
    config = dataclasses.replace(run.config, budget=scoped, method=method_of(name))
    if not METHODS[name].keeps_scopes:
        with pytest.raises(ValueError, match="scopes: they are for methods that rank units"):
            pipeline.open_run(dataclasses.replace(config, out=str(run.folder / "scoped")))
        with pytest.raises(ValueError, match="scopes: they are for methods that rank units"):
            jp.prune(
                run.forward, variables, run.calibration(64, 32), budget=scoped,
                method=method_of(name), key=jax.random.key(0),
            )  # fmt: skip
        return
    problem = problem_of(dataclasses.replace(run, budget=scoped), variables)
    for budget, inside in ((BUDGET, selections(name)), (scoped, method_of(name).prune(problem))):
        outside = jp.prune(
            run.forward, variables, run.calibration(64, 32), budget=budget,
            method=method_of(name), key=problem.key, protect=[PROTECTED],
        )  # fmt: skip
        assert outside.widths == run.graph.widths(inside.masks)
        sliced = run.graph.slice(inside.variables, inside.masks)
        assert jax.tree.all(jax.tree.map(np.array_equal, sliced.variables, outside.variables))
    assert outside.widths["params/conv2_2/kernel[3]"] == 4


def test_random_follows_its_key(run, variables):
    masks = [in_memory(run, variables, "random", Budget("params/2"), s).masks for s in (0, 1)]
    assert any(not np.array_equal(masks[0][g], masks[1][g]) for g in masks[0])


@pytest.mark.parametrize("name", METHODS)
def test_a_target_beyond_reach_is_refused_before_any_work(run, name):
    with pytest.raises(ValueError, match="beyond reach"):
        method_of(name).require(run.graph, Budget("params/100000"))
