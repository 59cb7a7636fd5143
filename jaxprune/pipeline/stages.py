"""The stages of a run. Each reads what the ones before left in the folder and leaves its own.

A stage that is finished is read, not run again, and one that was interrupted goes on.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxprune import interop, models
from jaxprune.budget import Curves
from jaxprune.checkpoint import load, restore_tree, save, save_tree
from jaxprune.checkpoint.blocks import from_json as blocks_from_json
from jaxprune.checkpoint.blocks import to_json as blocks_to_json
from jaxprune.files import plain, read_json, write_json
from jaxprune.graph import Pruned
from jaxprune.methods.admm import keep_pattern
from jaxprune.methods.harm import at_chance, narrow_groups, warn
from jaxprune.methods.widths import greedy_chooser
from jaxprune.pipeline import training as trainings
from jaxprune.pipeline.experiment import Experiment, config_of, missing
from jaxprune.pipeline.folder import LOOPS, RECALIBRATION, problem_of, steps_of
from jaxprune.pipeline.lock import exclusive, lock
from jaxprune.pipeline.training import Training, Variables, finished
from jaxprune.problem import Selection
from jaxprune.report import plots
from jaxprune.statistics import grams
from jaxprune.statistics import sensitivity as measure_sensitivity
from jaxprune.train.batchnorm import recalibrate
from jaxprune.train.network import Network
from jaxprune.wrappers import same


@exclusive
def train(run: Experiment) -> Variables:
    """Trains the unpruned network, or reads it where the config has weights.

    It is in `checkpoints/train` then.
    """
    return trainings.train(run, _pretraining(run), run.shapes, lambda: _fresh(run))


_SAME = ("data", "model", "train", "sparsity")
"""The fields of a config that say which network is trained, and how."""
TRAINING = "training.json"
"""Of a training that another run did: which one, and its seed."""


def share_training(run: Experiment, source: str | os.PathLike[str]) -> None:
    """Takes over the finished training of another run, so that many methods prune one network.

    A run that has its own already keeps it. Its seed may be another one, which is that of all that
    comes after the training; `training.json` says whose training it is.

    Raises:
      FileNotFoundError: there is no run, or its training is not finished.
      ValueError: a run whose training is another one, by the fields in which it differs.
    """
    mine = run.folder / "checkpoints" / "train"
    if mine.exists():
        return
    theirs = config_of(source)
    fields = ((n, getattr(run.config, n), getattr(theirs, n)) for n in _SAME)
    differing = [name for name, a, b in fields if a != b]
    if differing:
        raise ValueError(
            f"{source} was trained otherwise: its config differs in {', '.join(differing)}; give a "
            "run of the same training, or leave --from out"
        )
    other = dataclasses.replace(run, folder=Path(source))
    trained(other)
    with lock(run.folder):
        partial = mine.with_name(".train.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(other.folder / "checkpoints" / "train", partial)
        origin = {"from": str(source), "seed": theirs.seed}
        if (other.folder / TRAINING).exists():
            origin = read_json(other.folder / TRAINING)
        write_json(run.folder / TRAINING, origin)
        partial.rename(mine)


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
    return Training("train", run.network, config, optimizer=run.penalty)


def _fresh(run: Experiment) -> Variables:
    weights, shape = run.config.model.weights or run.config.model.start, run.data.input_shape
    if weights is not None:
        return interop.from_torch(weights, run.module, input_shape=shape)
    return models.init(run.module, run.data.input_shape, jax.random.fold_in(run.key, 0))


@exclusive
def sensitivity(run: Experiment) -> Curves:
    """The curves of every group by greedy elimination, in `sensitivity.json` and as a plot.

    No stage needs them: a method that goes by sensitivity measures its own.
    """
    path = run.folder / "sensitivity.json"
    if not path.exists():
        problem = problem_of(run, trained(run), loops="sensitivity")
        with run.stage("sensitivity"):
            choose = greedy_chooser(grams(problem, groups=run.prunable()))
            curves = measure_sensitivity(problem, choose, groups=run.prunable())
        record = {"kept": curves.grid, "loss": curves.loss, "accuracy": curves.accuracy}
        write_json(path, plain(record))
        shutil.rmtree(run.folder / "sensitivity", ignore_errors=True)
    record = read_json(path)
    rows = {what: {n: np.array(r) for n, r in record[what].items()} for what in _CURVES}
    curves = Curves(np.array(record["kept"]), **rows)
    _plot_sensitivity(run, record["kept"], curves.accuracy, None)
    return curves


_CURVES = ("loss", "accuracy")


def _plot_sensitivity(
    run: Experiment,
    kept: Sequence[float],
    accuracy: Mapping[str, Any],
    widths: Mapping[str, int] | None,
) -> None:
    shown = {name: np.array(accuracy[name]) for name in run.prunable()}
    groups = run.graph.groups
    chosen = None if widths is None else {n: widths[n] / groups[n].size for n in shown}
    baseline = next(iter(shown.values()))[-1]
    plots.sensitivity(run.folder / "plots" / "sensitivity.png", kept, shown, baseline, chosen)


@exclusive
def prune(run: Experiment) -> Selection:
    """Chooses what stays by the config's method; in `selection/` and `selection.json`."""
    folder, path = run.folder / "selection", run.folder / "selection.json"
    if not path.exists():
        problem = problem_of(run, trained(run))
        with run.stage("prune"):
            selection = run.config.method.prune(problem)
        harm = narrow_groups(problem, selection)
        warn(harm)
        _replace_tree(folder, {"masks": selection.masks, "variables": selection.variables})
        record = {
            "figures": plain(selection.figures),
            "blocks": blocks_to_json(selection.blocks),
            "steps": steps_of(run),
            "warnings": harm,
        }
        write_json(path, record)
        shutil.rmtree(run.folder / LOOPS, ignore_errors=True)
    chosen = selected(run)
    figures = chosen.figures
    if history := figures.get("history"):
        courses = {n: np.array(history[n]) for n in run.prunable() if n in history}
        plots.convergence(run.folder / "plots" / "convergence.png", courses)
    widths = run.graph.widths(chosen.masks)
    if curves := figures.get("sensitivity"):
        kept = np.unique([*getattr(run.config.method, "kept", ()), 1.0])
        _plot_sensitivity(run, kept.tolist(), curves, widths)
    sizes = {name: group.size for name, group in run.graph.groups.items()}
    plots.kept_channels(run.folder / "plots" / "kept_channels.png", widths, sizes)
    return chosen


def selected(run: Experiment) -> Selection:
    """What `prune` left.

    Raises:
      FileNotFoundError: it has not.
    """
    path = run.folder / "selection.json"
    if not path.exists():
        raise missing(run, path.name, "prune")
    like = {"masks": run.graph.full_masks(), "variables": run.shapes}
    stored = restore_tree(run.folder / "selection", like)
    blocks = blocks_from_json(read_json(path).get("blocks", {}))
    return Selection(stored["masks"], stored["variables"], figures_of(run), blocks)


def figures_of(run: Experiment) -> dict[str, dict[str, Any]]:
    """The figures of the method, of a run that is pruned."""
    return read_json(run.folder / "selection.json")["figures"]


def _replace_tree(folder: Path, tree: Any) -> None:
    """Saves a tree in place of what an interrupted process may have left."""
    shutil.rmtree(folder, ignore_errors=True)
    save_tree(folder, tree)


def as_cut(run: Experiment) -> Pruned:
    """The network as `prune` cut it, with the BatchNorm statistics that it had."""
    chosen = selected(run)
    return run.graph.slice(chosen.variables, chosen.masks, chosen.blocks)


def recalibrated(run: Experiment) -> Pruned:
    """The network as cut, with its BatchNorm statistics taken anew; in `cut/` from then on."""
    folder = run.folder / "cut"
    if folder.exists():
        return load(folder)
    pruned = as_cut(run)
    if run.config.finetune.start == "fresh":
        pruned = dataclasses.replace(pruned, variables=_fresh_small(run, pruned))
    save(folder, with_new_statistics(run, pruned))
    return load(folder)


def with_new_statistics(run: Experiment, pruned: Pruned) -> Pruned:
    """A network that was cut, with its BatchNorm statistics taken anew from training images."""
    config = run.config.recalibration
    network, drawn = student(run, pruned), run.draw(config.images, RECALIBRATION)
    with run.stage("recalibration"):
        variables = recalibrate(
            network,
            pruned.variables,
            drawn.images,
            batch_size=config.batch_size,
            mean=run.data.mean,
            std=run.data.std,
        )
        reached = run.correct(network, variables, drawn).mean()
    found = at_chance(float(reached), drawn.labels)
    if found and run.config.finetune.start == "kept":
        warn([f"with its BatchNorm statistics taken anew the network {found}: ask for less"])
    return dataclasses.replace(pruned, variables=variables)


def _fresh_small(run: Experiment, pruned: Pruned) -> Variables:
    """Fresh weights of the small network's own shapes and blocks."""
    module = models.from_pruned(run.module, pruned)
    fresh = models.init(module, run.data.input_shape, jax.random.fold_in(run.key, 3))
    return pruned.project(fresh)


def student(run: Experiment, pruned: Pruned) -> Network:
    """The pruned network's functions."""
    return Network(pruned.wrap(run.network.train), pruned.wrap(run.network.eval))


@exclusive
def finetune(run: Experiment) -> Pruned:
    """Trains the pruned network with the unpruned one as its teacher; the result in `pruned/`."""
    folder = run.folder / "pruned"
    if not folder.exists():
        pruned = recalibrated(run)
        teacher = (run.network, trained(run))
        training = Training(
            "finetune", student(run, pruned), run.config.finetune, teacher, run.config.distill,
            keep_pattern(pruned.blocks) if pruned.blocks else same,
        )  # fmt: skip
        variables = trainings.train(run, training, pruned.variables, lambda: pruned.variables)
        save(folder, dataclasses.replace(pruned, variables=pruned.project(variables)))
    return load_pruned(run)


def load_pruned(run: Experiment) -> Pruned:
    """What `finetune` left.

    Raises:
      FileNotFoundError: it has not.
    """
    if not (run.folder / "pruned").exists():
        raise missing(run, "pruned", "finetune")
    return load(run.folder / "pruned")


__all__ = [
    "TRAINING", "as_cut", "finetune", "load_pruned", "prune", "recalibrated", "selected",
    "sensitivity", "share_training", "student", "train", "trained", "with_new_statistics",
]  # fmt: skip
