"""The stages of a run. Each reads what the ones before left in the folder and leaves its own.

A stage that is finished is read, not run again, and one that was interrupted goes on.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxprune import interop, models
from jaxprune.budget import allocate
from jaxprune.checkpoint import load, restore_tree, save, save_tree
from jaxprune.graph import Pruned
from jaxprune.methods.contract import Selection
from jaxprune.pipeline import schedule
from jaxprune.pipeline import training as trainings
from jaxprune.pipeline.choosing import curves_of, measured, scheduled
from jaxprune.pipeline.experiment import SENSITIVITY_SO_FAR, Experiment, missing
from jaxprune.pipeline.lock import alone
from jaxprune.pipeline.training import Training, Variables, finished
from jaxprune.report import plots
from jaxprune.report import summary as json_files
from jaxprune.report.encode import plain
from jaxprune.train.batchnorm import recalibrate
from jaxprune.train.network import Network


@alone
def train(run: Experiment) -> Variables:
    """Trains the unpruned network, or reads it where the config has weights.

    It is in `checkpoints/train` then.
    """
    return trainings.train(run, _pretraining(run), run.shapes, lambda: _fresh(run))


def trained(run: Experiment) -> Variables:
    """The unpruned network that `train` left.

    Raises:
      FileNotFoundError: it has not, or not to its end.
    """
    return finished(run, _pretraining(run), run.shapes, "train")


def _pretraining(run: Experiment) -> Training:
    config = run.config.train
    if run.config.model.weights is not None:
        config = dataclasses.replace(config, epochs=0)
    return Training("train", run.network, config, regularizer=run.penalty)


def _fresh(run: Experiment) -> Variables:
    weights, shape = run.config.model.weights or run.config.model.start, run.data.input_shape
    if weights is not None:
        return interop.from_torch(weights, run.module, input_shape=shape)
    return models.init(run.module, run.data.input_shape, jax.random.fold_in(run.key, 0))


@alone
def sensitivity(run: Experiment) -> dict[str, int]:
    """Sensitivity on the held-out images, then the width of every group; `sensitivity.json`."""
    path = run.folder / "sensitivity.json"
    config = run.config
    if not path.exists():
        variables = trained(run)
        with run.stage("sensitivity"):
            needless = config.allocation == "proportional"
            curves = None if needless else measured(run, variables)
            allocation = allocate(curves, run.graph, run.budget, config.allocation)
            record = {"widths": allocation.widths, "slack": allocation.slack}
            if curves is not None:
                record |= {"kept": curves.grid, "loss": curves.loss, "accuracy": curves.accuracy}
            json_files.write(path, plain(record))
            (run.folder / SENSITIVITY_SO_FAR).unlink(missing_ok=True)
    record = json_files.read(path)
    if "kept" in record:
        shown = {n: record["accuracy"][n] for n in run.prunable()}
        chosen = {n: record["widths"][n] / run.graph.groups[n].size for n in shown}
        baseline = next(iter(shown.values()))[-1]
        plots.sensitivity(
            run.folder / "plots" / "sensitivity.png", record["kept"], shown, baseline, chosen
        )
    return record["widths"]


def _sensitivity_record(run: Experiment) -> dict[str, Any]:
    path = run.folder / "sensitivity.json"
    if not path.exists():
        raise missing(run, path.name, "sensitivity")
    return json_files.read(path)


@alone
def search(run: Experiment) -> Selection:
    """Chooses the channels by the config's method and schedule; `selection/` and `search.json`."""
    folder, path = run.folder / "selection", run.folder / "search.json"
    if not path.exists():
        selection = scheduled(run, trained(run), _plan(run))
        _replace_tree(folder, {"masks": selection.masks, "variables": selection.variables})
        json_files.write(path, plain(dict(selection.details)))
    chosen = selected(run)
    if history := chosen.details.get("history"):
        courses = {n: np.array(history[n]) for n in run.prunable() if n in history}
        plots.convergence(run.folder / "plots" / "convergence.png", courses)
    sizes = {name: group.size for name, group in run.graph.groups.items()}
    widths = run.graph.widths(chosen.masks)
    plots.kept_channels(run.folder / "plots" / "kept_channels.png", widths, sizes)
    return chosen


def selected(run: Experiment) -> Selection:
    """What `search` left.

    Raises:
      FileNotFoundError: it has not.
    """
    path = run.folder / "search.json"
    if not path.exists():
        raise missing(run, path.name, "search")
    like = {"masks": run.graph.full_masks(), "variables": run.shapes}
    stored = restore_tree(run.folder / "selection", like)
    return Selection(stored["masks"], stored["variables"], json_files.read(path))


def _plan(run: Experiment) -> list[dict[str, int]]:
    """The widths after each round of the schedule."""
    record = _sensitivity_record(run)
    curves = curves_of(record) if "kept" in record else None
    config = run.config
    return schedule.rounds(
        config.schedule, run.graph, run.budget, record["widths"], curves, config.allocation
    )


def _replace_tree(folder: Path, tree: Any) -> None:
    """Saves a tree in place of what an interrupted process may have left."""
    shutil.rmtree(folder, ignore_errors=True)
    save_tree(folder, tree)


def as_cut(run: Experiment) -> Pruned:
    """The network as `search` cut it, with the BatchNorm statistics that it had."""
    chosen = selected(run)
    return run.graph.slice(chosen.variables, chosen.masks)


def recalibrated(run: Experiment) -> Pruned:
    """The network as cut, with its BatchNorm statistics taken anew; in `cut/` from then on."""
    folder = run.folder / "cut"
    if folder.exists():
        return load(folder)
    pruned = as_cut(run)
    config = run.config.recalibration
    with run.stage("recalibration"):
        variables = recalibrate(
            student(run, pruned),
            pruned.variables,
            run.draw(config.images, purpose=0xBA7C4).images,
            batch_size=config.batch_size,
            mean=run.data.mean,
            std=run.data.std,
        )
    save(folder, dataclasses.replace(pruned, variables=variables))
    return load(folder)


def student(run: Experiment, pruned: Pruned) -> Network:
    """The pruned network's functions."""
    return Network(pruned.wrap(run.network.train), pruned.wrap(run.network.eval))


@alone
def finetune(run: Experiment) -> Pruned:
    """Trains the pruned network with the unpruned one as its teacher; the result in `pruned/`."""
    folder = run.folder / "pruned"
    if not folder.exists():
        pruned = recalibrated(run)
        training = _finetuning(run, "finetune", student(run, pruned), trained(run))
        variables = trainings.train(run, training, pruned.variables, lambda: pruned.variables)
        save(folder, dataclasses.replace(pruned, variables=variables))
    return tuned(run)


def tuned(run: Experiment) -> Pruned:
    """What `finetune` left.

    Raises:
      FileNotFoundError: it has not.
    """
    if not (run.folder / "pruned").exists():
        raise missing(run, "pruned", "finetune")
    return load(run.folder / "pruned")


@alone
def control(run: Experiment) -> Variables | None:
    """The unpruned network with the same extra training and the same distillation, if asked for.

    With a schedule that trains between its rounds, the control trains as long as both together.
    """
    if not run.config.control:
        return None
    start = trained(run)
    return trainings.train(run, _control(run, start), run.shapes, lambda: start)


def controlled(run: Experiment) -> Variables | None:
    """What `control` left, if it was asked for.

    Raises:
      FileNotFoundError: it has not, or not to its end.
    """
    if not run.config.control:
        return None
    # To read it, its teacher's shapes will do: the unpruned network is not read again.
    return finished(run, _control(run, run.shapes), run.shapes, "finetune")


def _control(run: Experiment, start: Variables) -> Training:
    training = _finetuning(run, "control", run.network, start)
    joint = run.config.schedule.name == "joint"
    extra = 0.0 if joint else run.config.schedule.epochs * len(_plan(run))
    longer = dataclasses.replace(training.config, epochs=training.config.epochs + extra)
    return dataclasses.replace(training, config=longer)


def _finetuning(run: Experiment, stage: str, network: Network, teacher: Variables) -> Training:
    guide = (run.network, teacher)
    return Training(stage, network, run.config.finetune, guide, run.config.distill)


__all__ = [
    "as_cut", "control", "controlled", "finetune", "recalibrated", "search", "selected",
    "sensitivity", "student", "train", "trained", "tuned",
]  # fmt: skip
