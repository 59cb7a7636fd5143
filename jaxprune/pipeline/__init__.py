"""A run from data to report: train → prune → finetune → evaluate.

Each stage is a function of an open run, `jaxprune` command of the same name, and can be called
again: it reads what is there, and goes on with what is not.

    run = pipeline.open_run(config)        # or the folder of an earlier run
    pipeline.train(run)
    selection = pipeline.prune(run)
    pruned = pipeline.finetune(run)
    pipeline.control(run)                  # what the pruned network is held against
    summary = pipeline.evaluate(run)
"""

from __future__ import annotations

from typing import Any

from jaxprune.config import RunConfig
from jaxprune.files import read_json
from jaxprune.pipeline.behaviour import behave
from jaxprune.pipeline.controls import control
from jaxprune.pipeline.evaluation import evaluate, evaluate_heldout, pruned_groups
from jaxprune.pipeline.experiment import Experiment, config_of, open_run
from jaxprune.pipeline.lock import lock
from jaxprune.pipeline.stages import (
    finetune,
    prune,
    sensitivity,
    share_training,
    train,
)
from jaxprune.pipeline.status import status
from jaxprune.pipeline.stopping import Stopped
from jaxprune.pipeline.supervision import IMAGES as SUPERVISED
from jaxprune.pipeline.supervision import supervise


def run(config: RunConfig) -> dict[str, Any]:
    """Runs, or goes on with, what a config describes; returns the summary.

    The folder holds `config.json`, `metrics.jsonl`, `checkpoints/`, `plots/`, `pruned/` (for
    `jaxprune.load`) and `summary.json`. A finished run is not run again, but for controls that are
    asked of it now.

    Raises:
      ValueError: a config that cannot run, or another process at work in the folder, before any
        long work.
      OSError: the folder cannot be written.
      FloatingPointError: a loss that is not finite; the last good state stays.
      Stopped: the process got SIGTERM while it trained; the same call goes on from there.
    """
    opened = open_run(config)
    done = opened.folder / "summary.json"
    if done.exists():
        summary = read_json(done)
        if summary["controls"].keys() >= set(config.controls):
            return summary
    with lock(opened.folder):
        for stage in (train, prune, finetune, control):
            stage(opened)
        return evaluate(opened)


__all__ = [
    "SUPERVISED", "Experiment", "Stopped", "behave", "config_of", "control", "evaluate",
    "evaluate_heldout", "finetune", "open_run", "prune", "pruned_groups", "run", "sensitivity",
    "share_training", "status", "supervise", "train",
]  # fmt: skip
