"""A run whose network was trained elsewhere, and the commands that bring weights in and out."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import cli, pipeline
from jaxprune.budget import Budget
from jaxprune.checkpoint import Checkpoints
from jaxprune.config import (
    CalibrationConfig,
    FinetuneConfig,
    ModelConfig,
    RecalibrationConfig,
    RunConfig,
)
from jaxprune.methods import L1
from jaxprune.methods.sparse_training import SparsityConfig
from jaxprune.pipeline import stages
from jaxprune.report import table
from jaxprune.train.state import TrainConfig

WIDTHS = {f"conv{i}_{j}": 8 for i in (1, 2, 3) for j in (1, 2)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of PyTorch weights, and the variables that they are."""
    module = jp.models.build("vgg_small", num_classes=10, input_shape=(8, 8, 1), widths=WIDTHS)
    variables = jp.models.init(module, (8, 8, 1), jax.random.key(3))
    path = tmp_path_factory.mktemp("weights") / "dense.safetensors"
    jp.interop.write(path, *jp.interop.to_torch(variables))
    return path, variables


def config(weights, out, **changes) -> RunConfig:
    return RunConfig(
        out=str(out),
        model=ModelConfig("vgg_small", WIDTHS, weights=str(weights)),
        train=TrainConfig(epochs=5),
        budget=Budget("params/3"),
        calibration=CalibrationConfig(images=32, batch_size=32),
        method=L1(),
        recalibration=RecalibrationConfig(images=64, batch_size=64),
        finetune=FinetuneConfig(epochs=0),
        **changes,
    )


def same(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def stage(folder, name):
    return next(s for s in pipeline.status(folder).stages if s.name == name)


def test_a_run_takes_weights_in_place_of_its_training(weights, tmp_path, capsys):
    path, variables = weights
    folder = tmp_path / "run"
    run = pipeline.open_run(config(path, folder))
    assert stage(folder, "train").state == "waiting"
    assert same(pipeline.train(run), variables) and same(stages.trained(run), variables)
    done = stage(folder, "train")
    assert (done.state, done.step, done.steps) == ("done", None, None)
    assert pipeline.status(folder).next == f"jaxprune prune {folder}"

    summary = pipeline.run(config(path, folder))
    assert not (folder / "metrics.jsonl").exists() and "train" not in summary["seconds"]
    # A fine-tuning of no epochs leaves what it was given, and so does the control's.
    assert summary["control_accuracy"] == summary["baseline_accuracy"]
    recalibrated = summary["pruned_accuracy_before_finetune_recalibrated"]
    assert summary["pruned_accuracy"] == recalibrated
    assert pipeline.status(folder).next is None
    table.show(summary)

    out = tmp_path / "small.safetensors"
    capsys.readouterr()
    cli.main(["export", str(folder), "--to", "torch", "--out", str(out)])
    assert capsys.readouterr().out == f"{out}: vgg_small, {summary['params_after']:,} parameters\n"
    pruned = jp.load(folder / "pruned").variables
    assert same(jp.interop.from_torch(out, "vgg_small"), pruned)
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["widths"]["features.0"] == pruned["params"]["conv1_1"]["kernel"].shape[-1]


def test_a_run_trains_on_from_weights(weights, tmp_path):
    path, variables = weights
    begun = config(path, tmp_path)
    model = dataclasses.replace(begun.model, weights=None, start=str(path))
    begun = dataclasses.replace(begun, model=model, train=TrainConfig(epochs=0, batch_size=32))
    assert same(pipeline.train(pipeline.open_run(begun)), variables)
    with pytest.raises(ValueError, match="leave one of them out"):
        dataclasses.replace(model, weights=str(path))


def test_a_process_that_is_killed_while_it_reads_them_begins_anew(weights, tmp_path, monkeypatch):
    path, variables = weights
    run = pipeline.open_run(config(path, tmp_path))

    def killed(self, step, state):
        (self.folder / "0.orbax-checkpoint-tmp").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        pipeline.train(run)
    monkeypatch.undo()
    assert stage(tmp_path, "train").state == "waiting"
    with pytest.raises(FileNotFoundError, match=r"checkpoints/train yet: run `jaxprune train"):
        stages.trained(run)
    assert same(pipeline.train(pipeline.open_run(tmp_path)), variables)


def test_the_file_is_needed_until_it_was_read(weights, tmp_path):
    path, variables = weights
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(path.read_bytes())
    folder = tmp_path / "run"
    pipeline.open_run(config(copy, folder))
    copy.unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no file .*copy\.safetensors"):
        pipeline.open_run(folder)
    copy.write_bytes(path.read_bytes())
    pipeline.train(pipeline.open_run(folder))
    copy.unlink()
    run = pipeline.open_run(folder)
    assert same(stages.trained(run), variables) and same(pipeline.train(run), variables)


def test_weights_that_do_not_fit_stop_it_before_any_work(weights, tmp_path):
    path, _ = weights
    wide = ModelConfig("vgg_small", weights=str(path))
    with pytest.raises(ValueError) as caught:
        pipeline.open_run(RunConfig(out=str(tmp_path / "run"), model=wide))
    assert f"the weights in {path} do not fit" in str(caught.value)
    assert "features.0.weight: found (8, 1, 3, 3), expected (16, 1, 3, 3)" in str(caught.value)
    sparse = SparsityConfig(kind="group")
    with pytest.raises(ValueError, match=r"sparsity.kind is 'group'.*leave one of them out"):
        pipeline.open_run(config(path, tmp_path / "run", sparsity=sparse))
    assert not (tmp_path / "run").exists()


def failed(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as caught:
        cli.main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    assert (caught.value.code, out, err.count("\n")) == (2, "", 1)
    return err


def test_import_writes_what_load_reads_and_export_the_same_weights_again(weights, tmp_path, capsys):
    path, variables = weights
    saved, again = tmp_path / "saved", tmp_path / "again.safetensors"
    cli.main(["import", str(path), "--model", "vgg_small", "--out", str(saved)])
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert capsys.readouterr().out == f"{saved}: vgg_small, {parameters:,} parameters\n"
    network = jp.load(saved)
    assert same(network.variables, variables)
    module = jp.models.build("vgg_small", num_classes=10, input_shape=(8, 8, 1), widths=WIDTHS)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    np.testing.assert_allclose(
        network.wrap(module.apply)(network.variables, x), module.apply(variables, x), atol=1e-5
    )
    cli.main(["export", str(saved), "--to", "torch", "--out", str(again)])
    assert same(dict(jp.interop.read(again)), dict(jp.interop.read(path)))


def test_a_mistake_gets_one_line(weights, tmp_path, capsys):
    path, _ = weights
    out = tmp_path / "out"
    line = failed(capsys, "import", path, "--model", "vgg16", "--out", out)
    assert "do not fit vgg16: " in line and "; features.24.bias: missing, expected (512,);" in line
    assert "no file" in failed(
        capsys, "import", tmp_path / "x.pt", "--model", "vgg16", "--out", out
    )
    assert "--model" in failed(capsys, "import", path, "--out", out)
    (tmp_path / "file").touch()
    here = failed(capsys, "import", path, "--model", "vgg_small", "--out", tmp_path / "file")
    assert "is no saved network; choose another place" in here
    to = ("--to", "torch", "--out", tmp_path / "x.safetensors")
    assert "does not exist" in failed(capsys, "export", out, *to)
    pipeline.open_run(config(path, out))
    assert f"run `jaxprune finetune {out}` first" in failed(capsys, "export", out, *to)
    assert "invalid choice: 'coreml'" in failed(capsys, "export", out, "--to", "coreml", *to[2:])
