from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import masks as mask_ops
from jaxprune import models, pipeline
from jaxprune.budget import Budget, allocate
from jaxprune.checkpoint import Checkpoints
from jaxprune.config import (
    CalibrationConfig,
    EvaluationConfig,
    FinetuneConfig,
    ModelConfig,
    RecalibrationConfig,
    RunConfig,
)
from jaxprune.methods import L1, Genetic
from jaxprune.methods.rounds import (
    Schedule,
    combine,
    split_masks,
    under_masks,
    with_masks,
)
from jaxprune.problem import Problem, Retraining
from jaxprune.report import metrics
from jaxprune.search import SearchConfig
from jaxprune.train.network import Network
from jaxprune.train.optimizer import OptimizerConfig
from jaxprune.train.state import TrainConfig

SHAPE = (8, 8, 1)
# Two groups of equal width, so that a later round has nothing left to compile.
WIDTHS = {"conv1_1": 8, "conv1_2": 8, "conv2_1": 8, "conv2_2": 8, "conv3_1": 8, "conv3_2": 8}
BUDGET = Budget("params/3,macs/2")
TRAINING = TrainConfig(
    epochs=1, batch_size=128, optimizer=OptimizerConfig(learning_rate=0.05), crop_padding=1,
    flip=False,
)  # fmt: skip


def config_of(out, **options) -> RunConfig:
    schedule = Schedule(training=Retraining(learning_rate=0.05), **options)
    search = SearchConfig(population=16, generations=8)
    return RunConfig(
        out=str(out),
        model=ModelConfig(name="vgg_small", widths=WIDTHS),
        train=TRAINING,
        budget=BUDGET,
        calibration=CalibrationConfig(images=64, batch_size=32),
        method=Genetic(search, rates="proportional", schedule=schedule),
        recalibration=RecalibrationConfig(images=128, batch_size=64),
        finetune=FinetuneConfig(**vars(TRAINING)),
        controls=(),
        evaluation=EvaluationConfig(latency_repeats=1, latency_batch=8),
    )


@pytest.fixture(scope="module")
def network():
    module = models.build("vgg_small", num_classes=10, input_shape=SHAPE, widths=WIDTHS)
    functions = models.network(module)
    variables = models.init(module, SHAPE, jax.random.key(0))

    def forward(variables, images):
        return functions.eval(variables, images, None).logits

    return functions, forward, variables, jp.trace(forward, variables, jnp.ones((2, *SHAPE)))


def rounds(network, **options):
    _, forward, variables, graph = network
    widths = allocate(None, graph, BUDGET, "proportional").widths
    method = Genetic(rates="proportional", schedule=Schedule(**options))
    problem = Problem(graph, forward, variables, [], BUDGET)
    budgets = method.schedule.budgets(problem, widths)
    return widths, [b.widths for b in method._narrowing(problem, budgets, widths, None)]


def test_joint_is_one_round_and_layerwise_one_a_group(network):
    graph = network[-1]
    widths, plan = rounds(network, name="joint")
    assert plan == [widths]
    widths, plan = rounds(network, name="layerwise")
    sizes = {name: group.size for name, group in graph.groups.items()}
    for i, name in enumerate(graph.groups):
        changed = [n for n in sizes if plan[i][n] != (plan[i - 1] if i else sizes)[n]]
        assert changed == [name]
    assert plan[-1] == widths


@pytest.mark.parametrize("decline", ["linear", "cubic"])
def test_gradual_lowers_the_budget(network, decline):
    graph = network[-1]
    widths, plan = rounds(network, name="gradual", rounds=4, decline=decline)
    assert len(plan) == 4 and plan[-1] == widths
    whole = graph.cost()
    for earlier, later in itertools.pairwise(plan):
        assert all(later[name] <= earlier[name] for name in widths)
    for i, chosen in enumerate(plan, start=1):
        t = i / 4
        fall = t if decline == "linear" else 1 - (1 - t) ** 3
        cost = graph.cost(chosen)
        # A few units more where a group would otherwise be narrower than it ends.
        assert cost.params <= whole.params * (1 - (1 - 1 / 3) * fall) * 1.1
        assert cost.macs <= whole.macs * (1 - (1 - 1 / 2) * fall) * 1.1
    # A target is met about as it is set, not far undercut: the first round is no last one.
    assert plan[0] != widths


def test_a_unit_that_is_gone_stays_gone():
    before = {"a": jnp.array([1.0, 0, 1, 1, 1, 0])}
    chosen = {"a": jnp.array([0.0, 1, 0, 1, 1, 0])}
    after = combine(before, chosen, {"a": 3})
    assert after["a"].tolist() == [1, 0, 0, 1, 1, 0]


def test_zeroed_variables_compute_what_the_masks_compute(network):
    _, forward, variables, graph = network
    key = jax.random.key(1)
    masks = {
        name: jnp.ones(g.size).at[jax.random.permutation(jax.random.fold_in(key, i), g.size)[:3]]
        .set(0) for i, (name, g) in enumerate(graph.groups.items())
    }  # fmt: skip
    images = jax.random.normal(key, (4, *SHAPE))
    zeroed = mask_ops.zeroed(graph, variables, masks)
    masked = graph.masked(forward)(variables, masks, images)
    assert np.allclose(forward(zeroed, images), masked, atol=1e-5)
    assert not np.allclose(forward(variables, images), masked, atol=1e-2)
    sliced, whole = graph.slice(variables, masks), graph.slice(zeroed, masks)
    for a, b in zip(*map(jax.tree.leaves, (sliced.variables, whole.variables)), strict=True):
        assert np.array_equal(a, b)


def test_a_masked_network_trains_as_the_sliced_one_does(network):
    functions, _, variables, graph = network
    masks = graph.masks({"*conv1_2*": [0, 5], "*conv3_1*": [1, 2, 7]})
    images = jax.random.normal(jax.random.key(2), (8, *SHAPE))
    masked = under_masks(graph)(functions)
    pruned = graph.slice(variables, masks)
    sliced = Network(pruned.wrap(functions.train), pruned.wrap(functions.eval))

    out = masked.train(with_masks(variables, masks), images, None)
    dense, kept = split_masks({"params": variables["params"], **out.state})
    small = sliced.train(pruned.variables, images, None)
    assert np.allclose(out.logits, small.logits, atol=1e-5)
    assert all(np.array_equal(kept[name], masks[name]) for name in masks)
    cut = graph.slice(dense, masks).variables["batch_stats"]
    for a, b in zip(*map(jax.tree.leaves, (cut, small.state["batch_stats"])), strict=True):
        assert np.allclose(a, b, atol=1e-6)


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    "options", [{"name": "layerwise"}, {"name": "gradual", "rounds": 3}], ids=lambda o: o["name"]
)
def test_a_schedule_reaches_the_widths_and_resumes(tmp_path, monkeypatch, caplog, options):
    config = config_of(tmp_path / "whole", **options)
    run = pipeline.open_run(config)
    pipeline.train(run)
    with jax.log_compiles(), caplog.at_level("WARNING", logger="jax"):
        selection = pipeline.prune(run)
    assert run.seconds().keys() == {"train", "prune"}  # the rounds' training is the method's time
    widths = allocate(None, run.graph, run.budget, "proportional").widths
    assert run.graph.widths(selection.masks) == widths
    compiled = re.findall(r"Compiling jit\((\w+)\)", caplog.text)
    # Statistics, search and training: one program each for all the rounds.
    assert [compiled.count(name) for name in ("accumulate", "_search", "step")] == [1, 1, 1]

    # The same run, stopped at each step of its rounds, and gone on with.
    again = dataclasses.replace(run, folder=tmp_path / "stopped")
    shutil.copytree(run.folder / "checkpoints" / "train", again.folder / "checkpoints" / "train")
    save, steps = Checkpoints.save, []

    def stopping(checkpoints, step, state, *more):
        save(checkpoints, step, state, *more)
        if checkpoints.folder.parent.name == "loops":
            steps.append(step)
            raise Stop

    monkeypatch.setattr(Checkpoints, "save", stopping)
    while True:
        try:
            resumed = pipeline.prune(again)
            break
        except Stop:
            continue
    assert len(steps) >= 6 and steps == sorted(steps)
    for name in selection.masks:
        assert np.array_equal(selection.masks[name], resumed.masks[name])
    for a, b in zip(*map(jax.tree.leaves, (selection.variables, resumed.variables)), strict=True):
        assert np.array_equal(a, b)
    files = [json.loads((r.folder / "selection.json").read_text()) for r in (run, again)]
    assert files[0] == files[1]
    told = [
        [r for r in metrics.read(x.metrics_path) if r["stage"] == "retrain"] for x in (run, again)
    ]
    assert told[0] == told[1]


def test_a_schedule_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"schedule\.name is one of"):
        Schedule(name="sideways")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"schedule\.rounds must be at least 2"):
        Schedule(name="gradual", rounds=1)
    with pytest.raises(ValueError, match=r"epochs must be above 0"):
        Retraining(epochs=0)


@pytest.mark.parametrize("collection", [True, False])
def test_a_criterion_goes_in_rounds_on_a_users_own_batches(collection):
    rng = np.random.default_rng(0)
    shapes = {"a": (5, 10), "b": (10, 6), "c": (6, 3)}
    tree = {n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in shapes.items()}
    variables = {"params": tree, "unused": jnp.ones(3)} if collection else tree

    def fn(variables, x):
        v = variables["params"] if collection else variables
        return jax.nn.relu(jax.nn.relu(x @ v["a"]) @ v["b"]) @ v["c"]

    batches = [(jnp.asarray(rng.normal(size=(8, 5)), jnp.float32), jnp.arange(8) % 3)]
    pruned = jp.prune(
        fn, variables, batches, budget="params/2", method=L1(Schedule("gradual", rounds=3)),
        key=jax.random.key(0),
    )  # fmt: skip
    small = pruned.variables["params"] if collection else pruned.variables
    assert sum(x.size for x in small.values()) <= sum(x.size for x in tree.values()) / 2
    kept = pruned.indices["params/a[1]" if collection else "a[1]"]
    assert not np.allclose(small["a"], np.asarray(tree["a"])[:, kept])  # it was trained
    assert pruned.wrap(fn)(pruned.variables, batches[0][0]).shape == (8, 3)
