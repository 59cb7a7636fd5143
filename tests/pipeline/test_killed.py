"""A run that is killed, stopped, or out of disk goes on with the same command to the same end."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import pipeline
from jaxprune.report import metrics

CONFIG = """
from jaxprune.budget import Budget
from jaxprune.config import *
from jaxprune.methods import Genetic
from jaxprune.search import SearchConfig
from jaxprune.train.state import TrainConfig

widths = {f"conv{i}_{j}": 8 for i in (1, 2, 3) for j in (1, 2)}
training = dict(epochs=8, batch_size=128, crop_padding=1, flip=False)
config = RunConfig(
    model=ModelConfig(name="vgg_small", widths=widths),
    train=TrainConfig(**training),
    budget=Budget("params/3"),
    calibration=CalibrationConfig(images=64, batch_size=32),
    method=Genetic(SearchConfig(population=16, generations=8), rates="proportional"),
    recalibration=RecalibrationConfig(images=128, batch_size=64),
    finetune=FinetuneConfig(**training),
    controls=(),
    evaluation=EvaluationConfig(latency_repeats=1, latency_batch=8),
)
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts `jaxprune run` into a folder; what one process compiles the next ones find."""
    folder = tmp_path_factory.mktemp("killed")
    config = folder / "config.py"
    config.write_text(CONFIG)
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def start(out):
        return subprocess.Popen(
            [sys.executable, "-m", "jaxprune", "run", str(config), "--out", str(out)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def ended(process) -> tuple[int, str]:
    """The exit code and our error; orbax's threads may print theirs around it, within its line."""
    _, errors = process.communicate(timeout=300)
    _, ours, after = errors.rpartition("jaxprune: ")
    return process.returncode, after.partition("\n")[0] if ours else errors


def wait_for_lines(process, out, count):
    path, deadline = out / "metrics.jsonl", time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"it ended before it could be stopped: {process.stderr.read()}")


def stages(out):
    return {stage.name: stage for stage in pipeline.status(out).stages}


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux's prlimit")
def test_whatever_stops_it_it_ends_with_the_same_bits(start, tmp_path):
    reference, out = tmp_path / "undisturbed", tmp_path / "run"
    undisturbed = start(reference)
    assert ended(undisturbed)[0] == 0
    steps = stages(reference)["train"].steps
    assert steps == 64

    # A disk that is full at the first checkpoint.
    process = start(out)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (8_000, 8_000))
    code, line = ended(process)
    assert code == 2 and "make room" in line and "checkpoints/train/" in line
    opened = pipeline.open_run(out)
    assert pipeline.status(out).next == f"jaxprune train {out}"

    # SIGTERM while it trains. As long as it does, nobody else may work there.
    process = start(out)
    wait_for_lines(process, out, steps // 3)
    with pytest.raises(ValueError, match=f"another process, {process.pid}, is at work"):
        pipeline.train(opened)
    assert pipeline.status(out).process == process.pid
    process.terminate()
    code, line = ended(process)
    assert code == 143 and "of 64 of train; the same command goes on" in line
    at = stages(out)["train"]
    assert at.state == "begun" and f"stopped at step {at.step} of" in line
    assert (out / "checkpoints" / "train" / str(at.step)).exists()
    assert pipeline.status(out).process is None

    # SIGKILL while it fine-tunes.
    process = start(out)
    wait_for_lines(process, out, steps + steps // 2)
    process.kill()
    process.communicate()
    assert not (out / "summary.json").exists()
    assert stages(out)["finetune"].state == "begun"

    assert ended(start(out))[0] == 0
    assert pipeline.status(out).next is None
    before, after = (json.loads((d / "summary.json").read_text()) for d in (reference, out))
    measured = ("out", "seconds", "latency_before_ms", "latency_after_ms")
    for name in before.keys() | after.keys():
        assert name in measured or before[name] == after[name], name
    assert metrics.read(out / "metrics.jsonl") == metrics.read(reference / "metrics.jsonl")
    assert (out / "answers.json").read_bytes() == (reference / "answers.json").read_bytes()
    first, second = (jp.load(d / "pruned") for d in (reference, out))
    assert jax.tree.all(jax.tree.map(np.array_equal, first.indices, second.indices))
    assert jax.tree.all(jax.tree.map(np.array_equal, first.variables, second.variables))
