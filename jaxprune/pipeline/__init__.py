"""A run from data to report: train → sensitivity → search → cut → fine-tune → evaluate."""

from __future__ import annotations

from typing import Any

from jaxprune.config import RunConfig
from jaxprune.pipeline import stages
from jaxprune.pipeline.evaluation import evaluate
from jaxprune.pipeline.experiment import Experiment, prepare
from jaxprune.report import summary as json_files


def run(config: RunConfig) -> dict[str, Any]:
    """Runs, or goes on with, what a config describes; returns the summary.

    The folder holds `config.json`, `metrics.jsonl`, `checkpoints/`, `plots/`, `pruned/` (for
    `jaxprune.load`) and `summary.json`. A finished run is not run again.

    Raises:
      ValueError: a config that cannot run, before any long work.
      FloatingPointError: a loss that is not finite.
    """
    experiment = prepare(config)
    done = experiment.folder / "summary.json"
    if done.exists():
        return json_files.read(done)
    trained = stages.train(experiment)
    widths = stages.choose_widths(experiment, trained)
    selection = stages.search(experiment, trained, widths)
    cut, recalibrated = stages.cut(experiment, selection)
    tuned = stages.finetune(experiment, recalibrated, trained)
    control = stages.control(experiment, trained)
    return evaluate(experiment, trained, cut, recalibrated, tuned, control)


__all__ = ["Experiment", "prepare", "run"]
