"""A run whose budget asks for what has to be measured on the device."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from jaxprune import latency
from jaxprune.budget import Budget, allocate
from jaxprune.config import EvaluationConfig, ModelConfig, RunConfig
from jaxprune.pipeline.experiment import open_run

WIDTHS = {"conv1_1": 8, "conv1_2": 8, "conv2_1": 8, "conv2_2": 8, "conv3_1": 8, "conv3_2": 8}


class Clock:
    timed = 0

    def __call__(self, calls):
        self.timed += len(calls)
        return [1e-9 * call.program.cost_analysis()["flops"] for call in calls]


def test_a_run_measures_before_it_trains_and_only_once(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(latency, "prepare", functools.partial(latency.prepare, timer=clock))

    def opened(targets):
        return open_run(
            RunConfig(
                out=str(tmp_path / targets.replace("/", "_")),
                model=ModelConfig(name="vgg_small", widths=WIDTHS),
                budget=Budget(targets, round_to=2),
                evaluation=EvaluationConfig(latency_batch=4),
            )
        )

    run = opened("latency/2,params/2")
    timed = clock.timed
    assert timed > 0 and (run.folder / "latency.json").exists()
    again = opened("latency/2,params/2")
    assert clock.timed == timed
    assert again.graph.latency is not None and again.graph.latency.inputs == "float32[4,8,8,1]"
    widths = allocate(None, again.graph, again.budget, "proportional").widths
    costs = [graph.costs(np.array(list(widths.values()))) for graph in (run.graph, again.graph)]
    assert costs[0]["latency"] == costs[1]["latency"]
    assert costs[0]["latency"] <= run.graph.costs(run.graph.sizes)["latency"] / 2

    with pytest.raises(ValueError, match="beyond reach for latency"):
        opened("latency/1000")
    assert not (tmp_path / "latency_1000").exists()
