"""Where a run is, read from its folder alone, also while a process is at work there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from jaxprune.config import Control
from jaxprune.files import read_json
from jaxprune.methods import name_of
from jaxprune.pipeline.experiment import config_of
from jaxprune.pipeline.folder import LOOPS
from jaxprune.pipeline.lock import holder
from jaxprune.report import metrics


@dataclass(frozen=True)
class Stage:
    """Where one stage of a run is.

    Attributes:
      name: of the stage.
      state: `begun` where something of it is there, also while it is at work.
      step: steps of its training or of its method's loop that were done; of a training the last
        may not be saved.
      steps: all steps.
      seconds: spent on it by the processes that have ended.
      result: its last figures by name: `loss` and `accuracy` of the last batch of a training, the
        mean `layer_error` of the groups that got narrower, the `pruned_accuracy` of the
        evaluation.
    """

    name: str
    state: Literal["done", "begun", "waiting"]
    step: int | None = None
    steps: int | None = None
    seconds: float | None = None
    result: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Status:
    """Where a run is.

    Attributes:
      folder: of the run.
      name: what the config calls it.
      method: what chooses its channels.
      seed: its seed.
      stages: in their order.
      process: the id of the process that is at work on it, if there is one.
      next: the command that goes on, or None where all is done.
    """

    folder: Path
    name: str
    method: str
    seed: int
    stages: tuple[Stage, ...]
    process: int | None
    next: str | None


def status(folder: str | os.PathLike[str]) -> Status:
    """Where the run in a folder is. Nothing is written, and nothing is asked of the device.

    Raises:
      FileNotFoundError: it is not the folder of a run.
      ValueError: a file of the run that is damaged, by its name.
    """
    folder = Path(folder)
    config = config_of(folder)
    seconds = _json(folder / "seconds.json")
    last = _last_records(folder / "metrics.jsonl")
    summary = _json(folder / "summary.json")

    def trained(name: str, epochs: float, passed: bool) -> Stage:
        steps = last.get(name, {}).get("steps") if epochs else 0
        done = passed or (steps is not None and _saved(folder, name) == steps)
        return _stage(name, done, last.get(name), seconds)

    epochs = config.train.epochs if config.model.weights is None else 0
    selection = folder / "selection.json"
    chosen = _json(selection)
    known = ("train", "finetune", *(f"control_{name}" for name in get_args(Control)))
    own = [record for name, record in last.items() if name not in known]
    at_method = _loop(folder) or (own[-1] if own else None)
    stages = [
        trained("train", epochs, selection.exists()),
        _stage("prune", selection.exists(), at_method, seconds, _layer_error(chosen)),
        _stage("finetune", (folder / "pruned").exists(), last.get("finetune"), seconds),
    ]
    # Controls train as long as the method and the fine-tuning together.
    extra = sum(chosen.get("steps", {}).values())
    evaluated = summary.get("controls", {})
    for name in config.controls:
        before = config.pretraining if name.startswith("scratch") else 0
        epochs = before + config.finetune.epochs + extra
        stages.append(trained(f"control_{name}", epochs, name in evaluated))
    result = {n: summary[n] for n in ("pruned_accuracy",) if n in summary}
    done = bool(summary) and evaluated.keys() >= set(config.controls)
    stages.append(_stage("evaluate", done, None, seconds, result))
    left = [stage.name for stage in stages if stage.state != "done"]
    # The controls have no command of their own.
    verb = "finetune" if left and left[0].startswith("control_") else left[0] if left else None
    command = f"jaxprune {verb} {folder}" if left else None
    return Status(
        folder,
        config.name,
        name_of(config.method),
        config.seed,
        tuple(stages),
        holder(folder),
        command,
    )


def _stage(
    name: str,
    done: bool,
    record: Mapping[str, Any] | None,
    seconds: Mapping[str, float],
    result: Mapping[str, float] | None = None,
) -> Stage:
    """A stage by whether its result is there and the last record of its training."""
    step = steps = None
    if record:
        step, steps = record["step"] + 1, record.get("steps")
        shown = {n: record[n] for n in ("loss", "accuracy") if record.get(n) is not None}
        result = {**shown, **(result or {})}
    state = "done" if done else "begun" if record or name in seconds else "waiting"
    return Stage(name, state, step, steps, seconds.get(name), result or {})


def _loop(folder: Path) -> dict[str, Any] | None:
    """Where the newest loop of a method at work is."""
    found = sorted((folder / LOOPS).glob("*.json"), key=lambda p: p.stat().st_mtime)
    return _json(found[-1]) if found else None


def _layer_error(selection: Mapping[str, Any]) -> dict[str, float]:
    """The mean error of the groups that got narrower, after the last step that recorded it."""
    figures = selection.get("figures", {})
    for name in ("error_refitted", "error_polished", "error_plain"):
        if figures.get(name):
            return {"layer_error": float(np.mean(list(figures[name].values())))}
    return {}


def _saved(folder: Path, stage: str) -> int | None:
    """The last step of a training that was saved: orbax renames a step's folder when it is whole.

    `Checkpoints` itself clears up what looks unfinished, which another process may be writing.
    """
    found = (folder / "checkpoints" / stage).glob("*")
    return max((int(step.name) for step in found if step.name.isdecimal()), default=None)


def _last_records(path: Path) -> dict[str, dict[str, Any]]:
    """The last record of each training."""
    records = metrics.read(path) if path.exists() else []
    return {r["stage"]: r for r in records if "stage" in r and "step" in r}


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}
