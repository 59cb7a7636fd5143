"""A run that is killed goes on with the same command and ends in the same result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import jaxprune as jp
from jaxprune.report import metrics

CONFIG = """
from jaxprune.budget import Budget
from jaxprune.config import *
from jaxprune.search import SearchConfig
from jaxprune.train.state import TrainConfig

widths = {f"conv{i}_{j}": 8 for i in (1, 2, 3) for j in (1, 2)}
training = TrainConfig(epochs=8, batch_size=128, crop_padding=1, flip=False)
config = RunConfig(
    model=ModelConfig(name="vgg_small", widths=widths),
    train=training,
    sensitivity=SensitivityConfig(kept=(0.25, 0.5), images=100, batch_size=100),
    budget=Budget("params/3"),
    statistics=StatisticsConfig(images=64, batch_size=32),
    search=SearchConfig(population=16, generations=8),
    recalibration=RecalibrationConfig(images=128, batch_size=64),
    finetune=training,
    control=False,
    evaluation=EvaluationConfig(latency_repeats=1, latency_batch=8),
)
"""


def start(config, out):
    command = [sys.executable, "-m", "jaxprune", "run", str(config), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def lines(out):
    path = out / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    config = folder / "config.py"
    config.write_text(CONFIG)
    process = start(config, folder / "run")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()
    return config, folder / "run"


def test_killed_in_both_trainings(undisturbed, tmp_path):
    config, reference = undisturbed
    steps = lines(reference) // 2
    out = tmp_path / "run"
    for until in (steps // 2, steps + steps // 2):  # while it trains, while it fine-tunes
        process = start(config, out)
        deadline = time.monotonic() + 300
        while lines(out) < until and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.poll() is None, "it ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (out / "summary.json").exists()
    process = start(config, out)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()

    before, after = (json.loads((d / "summary.json").read_text()) for d in (reference, out))
    same = ("widths", "layer_error", "params_after", "macs_after")
    for name in (
        *same,
        *(n for n in before if n.endswith(("accuracy", "finetune", "recalibrated"))),
    ):
        assert before[name] == after[name], name
    kept = [
        {n: i.tolist() for n, i in jp.load(d / "pruned").indices.items()} for d in (reference, out)
    ]
    assert kept[0] == kept[1]
    assert metrics.read(out / "metrics.jsonl") == metrics.read(reference / "metrics.jsonl")
