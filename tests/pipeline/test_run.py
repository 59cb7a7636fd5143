from __future__ import annotations

import dataclasses
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import config as run_config
from jaxprune import pipeline
from jaxprune.budget import Budget
from jaxprune.config import (
    CalibrationConfig,
    EvaluationConfig,
    FinetuneConfig,
    ModelConfig,
    RecalibrationConfig,
    RunConfig,
    ValidationConfig,
)
from jaxprune.data import Dataset
from jaxprune.methods import L1, Genetic
from jaxprune.pipeline import training as trainings
from jaxprune.pipeline.controls import controlled
from jaxprune.report import answers, metrics
from jaxprune.report.table import FIGURES
from jaxprune.search import SearchConfig
from jaxprune.train.optimizer import OptimizerConfig
from jaxprune.train.state import TrainConfig

REPOSITORY = Path(__file__).parents[2]
WIDTHS = {"conv1_1": 8, "conv1_2": 8, "conv2_1": 8, "conv2_2": 8, "conv3_1": 8, "conv3_2": 8}


def tiny(out, **changes) -> RunConfig:
    training = TrainConfig(
        epochs=1, batch_size=128, optimizer=OptimizerConfig(learning_rate=0.05), crop_padding=1,
        flip=False,
    )  # fmt: skip
    base = RunConfig(
        name="tiny",
        out=str(out),
        model=ModelConfig(name="vgg_small", widths=WIDTHS),
        train=training,
        validation=ValidationConfig(images=100, batch_size=100),
        budget=Budget("params/3,macs/2"),
        calibration=CalibrationConfig(images=64, batch_size=32),
        method=Genetic(SearchConfig(population=16, generations=8), kept=(0.25, 0.5)),
        recalibration=RecalibrationConfig(images=128, batch_size=64),
        finetune=FinetuneConfig(**vars(training)),
        evaluation=EvaluationConfig(latency_repeats=2, latency_batch=8),
    )
    return dataclasses.replace(base, **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, pipeline.run(tiny(folder))


def test_the_folder_holds_what_is_promised(finished):
    folder, summary = finished
    assert json.loads((folder / "summary.json").read_text()).keys() == summary.keys()
    for name in (
        "baseline_accuracy", "pruned_accuracy_before_finetune",
        "pruned_accuracy_before_finetune_recalibrated", "pruned_accuracy", "control_accuracy",
        "params_before", "params_after", "macs_before", "macs_after", "latency_before_ms",
        "latency_after_ms", "seconds", "seed", "versions",
    ):  # fmt: skip
        assert name in summary
    assert summary["params_before"] / summary["params_after"] >= 3
    assert summary["macs_before"] / summary["macs_after"] >= 2
    assert run_config.load(folder / "config.json") == tiny(folder)
    plots = {"sensitivity.png", "convergence.png", "kept_channels.png", "tradeoff.png"}
    assert plots <= {p.name for p in (folder / "plots").iterdir()}
    stages = [record["stage"] for record in metrics.read(folder / "metrics.jsonl")]
    assert list(dict.fromkeys(stages)) == ["train", "finetune", "control_finetuned"]
    assert set(summary["seconds"]) >= {"train", "prune", "finetune", "evaluate"}


def test_the_pruned_network_loads_and_is_as_small_as_it_says(finished):
    folder, summary = finished
    pruned = jp.load(folder / "pruned")
    assert pruned.widths == summary["widths"]
    assert (
        sum(x.size for x in jax.tree.leaves(pruned.variables["params"])) == summary["params_after"]
    )
    run = pipeline.open_run(tiny(folder))
    image = np.zeros((2, 8, 8, 1), np.float32)
    module = jp.models.from_pruned(run.module, pruned)
    np.testing.assert_allclose(
        module.apply(pruned.variables, image),
        pruned.wrap(run.forward)(pruned.variables, image),
        atol=1e-5,
    )


def test_one_seed_one_result_and_another_seed_another(finished, tmp_path):
    folder, summary = finished
    again = pipeline.run(tiny(tmp_path / "again"))
    other = pipeline.run(tiny(tmp_path / "other", seed=1))
    accuracies = [name for name in summary if name.endswith("accuracy")]
    assert [again[n] for n in accuracies] == [summary[n] for n in accuracies]

    def kept(path):
        return {n: i.tolist() for n, i in jp.load(path / "pruned").indices.items()}

    assert kept(tmp_path / "again") == kept(folder)
    assert kept(tmp_path / "other") != kept(folder)
    assert other["seed"] == 1


def test_only_evaluation_reads_the_test_part(tmp_path, monkeypatch):
    def no_test(self):
        raise AssertionError("read before its time")

    monkeypatch.setattr(Dataset, "test", property(no_test))
    with pytest.raises(AssertionError, match="before its time"):
        pipeline.run(tiny(tmp_path))
    assert (tmp_path / "pruned" / "spec.json").exists()
    monkeypatch.undo()
    assert "pruned_accuracy" in pipeline.run(tiny(tmp_path))  # and goes on from there


CONTROLS = ("finetuned", "plain", "scratch", "scratch_distilled", "l1", "l1_uniform")


def test_every_control_is_trained_once_and_tested_with_the_others(finished, tmp_path, monkeypatch):
    folder = shutil.copytree(finished[0], tmp_path / "run")  # the run may have moved
    before = metrics.read(folder / "metrics.jsonl")
    config = tiny(folder, controls=CONTROLS)  # they may be asked for later
    # Stopped in the last of them, the others are not trained again.
    train, trained = trainings.train_until, []

    def stopping(run, training, *rest):
        trained.append(training.stage)
        if training.stage == "control_l1_uniform" and trained.count(training.stage) == 1:
            raise KeyboardInterrupt
        return train(run, training, *rest)

    monkeypatch.setattr(trainings, "train_until", stopping)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(config)
    at = {stage.name: stage for stage in pipeline.status(folder).stages}
    assert at["control_l1"].state == "done" and at["evaluate"].state != "done"
    assert pipeline.status(folder).next == f"jaxprune finetune {folder}"
    summary = pipeline.run(config)
    assert pipeline.status(folder).next is None

    lines = metrics.read(folder / "metrics.jsonl")
    assert lines[: len(before)] == before  # nothing of the run was trained again
    steps = {n: [r["step"] for r in lines if r["stage"] == f"control_{n}"] for n in CONTROLS}
    epoch = len(steps["finetuned"])
    for name, taken in steps.items():
        assert taken == list(range(epoch * (2 if name.startswith("scratch") else 1)))
    found = summary["controls"]
    assert found.keys() == set(CONTROLS)
    assert found["finetuned"]["accuracy"] == summary["control_accuracy"]
    assert answers.read(folder).right.keys() == {*FIGURES, *CONTROLS}
    for name in CONTROLS:
        whole = name in ("finetuned", "plain")
        uniform = name == "l1_uniform"
        for q in ("params", "macs"):
            if uniform:
                assert found[name][q] <= summary[f"{q}_before"] / {"params": 3, "macs": 2}[q]
            else:
                assert found[name][q] == summary[f"{q}_{'before' if whole else 'after'}"]
    run = pipeline.open_run(folder)
    assert run.config.controls == CONTROLS
    tested = controlled(run, pipeline.train(run))
    uniform = tested["l1_uniform"].widths
    kept = {round(uniform[n] / run.graph.groups[n].size, 1) for n in run.prunable()}
    assert max(kept) - min(kept) < 0.35  # of 8 channels a group
    leaves = jax.tree.leaves(tested["l1"].variables["params"])
    assert sum(leaf.size for leaf in leaves) == summary["params_after"]
    assert pipeline.run(config) == summary  # finished: read, not tested again


def test_what_a_control_lacks_is_said_before_any_work():
    weights = ModelConfig(weights="vgg.safetensors")
    with pytest.raises(ValueError, match=r"for how many epochs with --model\.weights-epochs"):
        RunConfig(model=weights, controls=("scratch",))
    known = dataclasses.replace(weights, weights_epochs=14)
    assert RunConfig(model=known, controls=("scratch",)).pretraining == 14
    assert RunConfig(model=ModelConfig(start="x", weights_epochs=2)).pretraining == 102
    with pytest.raises(ValueError, match="controls is one of finetuned, plain"):
        RunConfig(controls=("distilled",))  # pyright: ignore
    with pytest.raises(ValueError, match="controls has one twice"):
        RunConfig(controls=("l1", "l1"))
    with pytest.raises(ValueError, match="l1_uniform keeps to the targets"):
        RunConfig(controls=("l1_uniform",), budget=Budget(widths={"conv": 1}))


def test_evaluation_keeps_which_images_each_network_has_right(finished):
    folder, summary = finished
    found = answers.read(folder)
    assert found.count == summary["test_images"] and found.data == "digits"
    assert {FIGURES[n]: r.mean() for n, r in found.right.items()} == {
        name: summary[name] for name in FIGURES.values()
    }
    heldout = pipeline.evaluate_heldout(pipeline.open_run(folder))
    assert (heldout.part, heldout.count, heldout.images == found.images) == ("heldout", 200, False)
    assert answers.read(folder, "heldout").right.keys() == found.right.keys()


def test_a_stopped_sensitivity_goes_on_with_the_next_group(finished, tmp_path, monkeypatch, caplog):
    folder, _ = finished
    shutil.copytree(folder / "checkpoints" / "train", tmp_path / "checkpoints" / "train")
    shutil.copy(folder / "config.json", tmp_path)
    run = dataclasses.replace(pipeline.open_run(folder), folder=tmp_path)
    module = importlib.import_module("jaxprune.statistics.sensitivity")
    measure, stop_after, measured = module.evaluate_masks, [2], []

    def measuring(problem, population):
        if len(measured) in stop_after:
            raise KeyboardInterrupt
        measured.append(population)
        return measure(problem, population)

    monkeypatch.setattr(module, "evaluate_masks", measuring)
    with pytest.raises(KeyboardInterrupt), jax.log_compiles(), caplog.at_level("WARNING", "jax"):
        pipeline.prune(run)
    assert caplog.text.count("Compiling jit(evaluate)") == 1  # the groups share a program
    stage = pipeline.status(tmp_path).stages[1]
    assert (stage.name, stage.state) == ("prune", "begun")
    assert (stage.step, stage.steps) == (2, len(run.prunable()))

    stop_after.clear()
    pipeline.prune(run)
    assert len(measured) == len(run.prunable())
    result = "selection.json"
    assert (tmp_path / result).read_bytes() == (folder / result).read_bytes()
    assert not (tmp_path / "loops").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "magic"}, r"a run's method is one of jaxprune.methods"),
        ({"budget": Budget("params/100000")}, "beyond reach"),
        ({"protect": ("nowhere",)}, "pattern 'nowhere' matches nothing"),
        ({"data": dataclasses.replace(RunConfig().data, name="no_such_set")}, "no_such_set"),
        ({"model": ModelConfig(name="vgg17")}, "vgg17"),
    ],
)
def test_bad_input_stops_before_any_work(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        pipeline.run(tiny(tmp_path / "x", **changes))
    assert not (tmp_path / "x" / "checkpoints").exists()


def test_a_folder_of_another_config_is_refused(finished):
    folder, _ = finished
    other = Genetic(SearchConfig(population=32, generations=8), kept=(0.25, 0.5))
    with pytest.raises(ValueError, match=r"differs in method.search.population"):
        pipeline.run(tiny(folder, method=other))


def test_looking_at_the_sensitivity_changes_nothing(finished, tmp_path):
    folder, _ = finished
    shutil.copytree(folder / "checkpoints" / "train", tmp_path / "checkpoints" / "train")
    shutil.copy(folder / "config.json", tmp_path)
    run = dataclasses.replace(pipeline.open_run(folder), folder=tmp_path)
    curves = pipeline.sensitivity(run)
    assert len(curves.grid) > 3  # other widths than the method's own
    pipeline.prune(run)
    result = "selection.json"
    assert (tmp_path / result).read_bytes() == (folder / result).read_bytes()


def test_many_methods_prune_one_trained_network(finished, tmp_path):
    folder, _ = finished
    run = pipeline.open_run(tiny(tmp_path / "l1", method=L1()))
    pipeline.share_training(run, folder)
    pruned = pipeline.prune(run)
    assert run.graph.cost(pruned.masks).params * 3 <= run.graph.cost().params
    a, b = (pipeline.train(r) for r in (run, pipeline.open_run(folder)))
    assert jax.tree.all(jax.tree.map(np.array_equal, a, b))
    assert not (run.folder / "metrics.jsonl").exists()  # it was not trained again
    # Another seed is that of what comes after the training.
    seed = pipeline.open_run(tiny(tmp_path / "seed", seed=1))
    pipeline.share_training(seed, folder)
    assert json.loads((seed.folder / "training.json").read_text()) == {
        "from": str(folder), "seed": 0,
    }  # fmt: skip
    longer = dataclasses.replace(tiny(folder).train, epochs=2)
    other = pipeline.open_run(tiny(tmp_path / "other", train=longer))
    with pytest.raises(ValueError, match="differs in train; give a run of the same training"):
        pipeline.share_training(other, folder)
    with pytest.raises(FileNotFoundError, match="train"):
        pipeline.share_training(pipeline.open_run(tiny(tmp_path / "x", train=longer)), other.folder)


def test_a_folder_with_something_else_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"is not empty and holds no run \(thesis.tex is in it\)"):
        pipeline.open_run(tiny(tmp_path))
    with pytest.raises(ValueError, match=r"holds \[ \], which checkpoints read as a pattern"):
        pipeline.open_run(tiny(tmp_path / "run[1]"))


def test_a_folder_of_an_older_jaxprune_gets_one_sentence(finished, tmp_path):
    fields = json.loads((finished[0] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**fields, "method": "genetic"}))
    with pytest.raises(ValueError, match="of an older jaxprune, whose runs this one does not"):
        pipeline.open_run(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**fields, "control": True}))
    with pytest.raises(ValueError, match="of an older jaxprune, whose runs this one does not"):
        pipeline.open_run(tmp_path)


def _tfds() -> str | None:
    found = os.environ.get("TFDS_DATA_DIR") or str(REPOSITORY.parent / "shared" / "tfds")
    return found if (Path(found) / "cifar10").exists() else None


@pytest.mark.skipif(_tfds() is None, reason="needs CIFAR-10 in TFDS_DATA_DIR or ../shared/tfds")
def test_smoke_run_on_cifar10(tmp_path):
    command = [
        sys.executable, "-m", "jaxprune", "run", "configs/cifar10_smoke.py", "--out", str(tmp_path),
    ]  # fmt: skip
    environment = {**os.environ, "TFDS_DATA_DIR": str(_tfds())}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["params_before"] / summary["params_after"] >= 4
    assert "tensorflow" not in done.stderr
