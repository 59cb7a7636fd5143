import io
import json
import os

import pytest
from rich.console import Console

from jaxprune.config import FinetuneConfig, RunConfig, save
from jaxprune.files import plain
from jaxprune.pipeline.lock import lock
from jaxprune.pipeline.status import status
from jaxprune.report import overview
from jaxprune.report.metrics import MetricsWriter
from jaxprune.train.state import TrainConfig


@pytest.fixture
def run(tmp_path):
    """A run folder, in which `leave` puts what a stage leaves."""
    save(tmp_path / "config.json", RunConfig(name="mine", seed=7, out=str(tmp_path)))
    return tmp_path


def leave(run, path, content=None):
    (run / path).parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        (run / path).mkdir()
    else:
        (run / path).write_text(json.dumps(content))


def write(run, stage, steps, of):
    with MetricsWriter(run / "metrics.jsonl") as metrics:
        for step in range(steps):
            metrics.write(stage=stage, step=step, steps=of, loss=1 / (step + 1), accuracy=0.5)


def states(run):
    return {stage.name: stage.state for stage in status(run).stages}


def shown(run) -> str:
    file = io.StringIO()
    overview.show(plain(status(run)), Console(file=file, width=80, highlight=False))
    *table, _, _ = file.getvalue().splitlines()
    assert max(map(len, table)) <= 80
    return file.getvalue()


def test_a_run_from_its_first_step_to_its_end(run):
    assert set(states(run).values()) == {"waiting"}
    assert status(run).next == f"jaxprune train {run}"

    write(run, "train", 3, of=4)
    leave(run, "checkpoints/train/2")
    leave(run, "checkpoints/train/4.orbax-checkpoint-tmp")
    train = status(run).stages[0]
    assert (train.state, train.step, train.steps) == ("begun", 3, 4)
    assert train.result == {"loss": pytest.approx(1 / 3), "accuracy": 0.5}

    leave(run, "checkpoints/train/4")
    leave(run, "seconds.json", {"train": 61.0})
    assert states(run)["train"] == "done" and status(run).next == f"jaxprune prune {run}"
    leave(run, "loops/sensitivity.json", {"step": 4, "steps": 9})
    prune = status(run).stages[1]
    assert (prune.state, prune.step, prune.steps) == ("begun", 5, 9)
    figures = {"error_plain": {"a": 0.5}, "error_polished": {"a": 0.2, "b": 0.4}}
    leave(run, "selection.json", {"figures": figures, "steps": {}})
    assert status(run).stages[1].result["layer_error"] == pytest.approx(0.3)
    assert status(run).next == f"jaxprune finetune {run}"
    leave(run, "pruned")
    write(run, "control_finetuned", 1, of=4)
    assert states(run)["control_finetuned"] == "begun"
    assert status(run).next == f"jaxprune finetune {run}"
    leave(run, "checkpoints/control_finetuned/4")
    assert status(run).next == f"jaxprune evaluate {run}"
    assert f"next: jaxprune evaluate {run}" in shown(run)

    leave(run, "summary.json", {"pruned_accuracy": 0.75, "controls": {"finetuned": {}}})
    assert status(run).next is None and set(states(run).values()) == {"done"}
    text = shown(run)
    assert "3 of 4" in text and "1:01" in text and "75.00%" in text and "finished" in text


def test_nothing_is_written(run):
    write(run, "train", 2, of=4)
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    shown(run)
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before


def test_a_torn_last_line_is_a_process_that_is_writing(run):
    write(run, "train", 2, of=4)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "tra')
    with lock(run):
        found = status(run)
        assert (found.process, found.stages[0].step) == (os.getpid(), 2)
        assert f"process {os.getpid()} is at work" in shown(run)
    assert status(run).process is None


def test_a_training_of_no_steps_is_done(run):
    config = RunConfig(train=TrainConfig(epochs=0), finetune=FinetuneConfig(epochs=0))
    save(run / "config.json", config)
    assert states(run)["train"] == "waiting"
    leave(run, "checkpoints/train/0")
    found = {stage.name: stage for stage in status(run).stages}
    assert found["train"].state == "done" and found["control_finetuned"].state == "waiting"
    leave(run, "checkpoints/control_finetuned/0")
    assert states(run)["control_finetuned"] == "done"
    # It trains as long as the method did.
    leave(run, "selection.json", {"figures": {}, "steps": {"retrain": 9}})
    assert states(run)["control_finetuned"] == "waiting"


def test_a_methods_own_training_is_that_of_its_stage(run):
    write(run, "fisher", 5, of=9)
    prune = status(run).stages[1]
    assert (prune.name, prune.state, prune.step, prune.steps) == ("prune", "begun", 5, 9)


def test_a_damaged_file_is_named(run):
    (run / "seconds.json").write_text("{")
    with pytest.raises(ValueError, match=r"seconds\.json is not JSON"):
        status(run)
