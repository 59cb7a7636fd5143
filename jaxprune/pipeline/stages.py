"""The stages of a run. Each reads what the one before left in the folder and leaves its own."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxprune import models
from jaxprune.budget import Curves, allocate
from jaxprune.checkpoint import Checkpoints, restore_tree, save, save_tree
from jaxprune.graph import Pruned
from jaxprune.masks import Masks
from jaxprune.methods import get as get_method
from jaxprune.methods.contract import Selection, accuracy, cross_entropy
from jaxprune.methods.widths import greedy_chooser
from jaxprune.pipeline.experiment import Experiment
from jaxprune.report import plots
from jaxprune.report import summary as json_files
from jaxprune.report.encode import plain
from jaxprune.report.metrics import MetricsWriter, drop_from
from jaxprune.report.progress import track
from jaxprune.statistics import grams, sensitivity
from jaxprune.statistics.sensitivity import Chooser
from jaxprune.train.batchnorm import recalibrate
from jaxprune.train.loop import fit
from jaxprune.train.losses import DistillConfig
from jaxprune.train.network import Network
from jaxprune.train.state import TrainConfig, TrainState, initial_state, total_steps

Variables = dict[str, Any]


def train(run: Experiment) -> Variables:
    """Trains the unpruned network; checkpoints in `train/`."""
    shape = run.data.input_shape
    fresh = models.init(run.module, shape, jax.random.fold_in(run.key, 0))
    return _fit(run, "train", run.network, fresh, run.config.train)


def _fit(
    run: Experiment,
    stage: str,
    network: Network,
    variables: Variables,
    config: TrainConfig,
    teacher: tuple[Network, Variables] | None = None,
    distill: DistillConfig | None = None,
) -> Variables:
    """Trains from `variables`, or from where an interrupted stage was."""
    split = run.data.train
    steps = total_steps(config, len(split.images))
    with Checkpoints(run.folder / "checkpoints" / stage) as checkpoints:
        start = initial_state(variables, config)
        if checkpoints.latest() is not None:
            start = checkpoints.restore(start)
        done = int(start.step)
        if done == steps:
            return start.variables
        drop_from(run.metrics_path, stage, done)
        with (
            MetricsWriter(run.metrics_path) as metrics,
            run.stage(stage),
            track(stage, steps) as advance,
        ):
            advance(done)

            def on_chunk(state: TrainState, chunk: Any) -> None:
                for i, step in enumerate(chunk.steps.tolist()):
                    record = {name: float(values[i]) for name, values in chunk.metrics.items()}
                    metrics.write(stage=stage, step=step, **record)
                loss = float(chunk.metrics["loss"][-1])
                advance(len(chunk.steps), note=f"loss {loss:.3f}")
                if chunk.ends_epoch and chunk.done < chunk.total and _due(chunk):
                    checkpoints.save(chunk.done, state)

            state = fit(
                network,
                variables,
                split,
                config,
                seed=run.config.seed,
                teacher=teacher,
                distill=distill,
                on_chunk=on_chunk,
                state=start,
                mean=run.data.mean,
                std=run.data.std,
            )
            checkpoints.save(steps, state)
    return state.variables


def _due(chunk: Any, parts: int = 10) -> bool:
    """Whether an epoch's end passes another tenth of the training: ten checkpoints are enough."""
    per_epoch = chunk.done / chunk.epoch
    before = chunk.done - per_epoch
    return int(chunk.done * parts / chunk.total) > int(before * parts / chunk.total)


def choose_widths(run: Experiment, variables: Variables) -> dict[str, int]:
    """Sensitivity on the held-out images, then the width of every group; `sensitivity.json`."""
    path = run.folder / "sensitivity.json"
    config = run.config
    if not path.exists():
        with run.stage("sensitivity"):
            needless = config.allocation == "proportional"
            curves = None if needless else _measure_sensitivity(run, variables)
            allocation = allocate(curves, run.graph, run.budget, config.allocation)
            record = {"widths": allocation.widths, "slack": allocation.slack}
            if curves is not None:
                record |= {"kept": curves.grid, "loss": curves.loss, "accuracy": curves.accuracy}
            json_files.write(path, plain(record))
    record = json_files.read(path)
    if "kept" in record:
        shown = {n: record["accuracy"][n] for n in run.prunable()}
        chosen = {n: record["widths"][n] / run.graph.groups[n].size for n in shown}
        baseline = next(iter(shown.values()))[-1]
        plots.sensitivity(
            run.folder / "plots" / "sensitivity.png", record["kept"], shown, baseline, chosen
        )
    return record["widths"]


def _measure_sensitivity(run: Experiment, variables: Variables) -> Curves:
    config, statistics = run.config.sensitivity, run.config.statistics
    batches = run.heldout(config.images, config.batch_size)
    calibration = run.calibration(statistics.images, statistics.batch_size)
    key = jax.random.fold_in(run.key, 1)
    choose: Chooser
    if config.criterion == "greedy":  # one matrix a group serves all widths
        matrices = grams(run.graph, run.forward, variables, calibration, key, **_gram_options(run))
        choose = greedy_chooser(matrices)
    else:
        choose = functools.partial(_masks, run, config.criterion, variables, calibration, key)

    with track("sensitivity", len(batches), "batches") as advance:
        return sensitivity(
            run.graph,
            run.forward,
            variables,
            batches,
            choose,
            config.kept,
            cross_entropy,
            accuracy,
            groups=run.prunable(),
            on_batch=advance,
        )


def _gram_options(run: Experiment) -> dict[str, Any]:
    statistics = run.config.statistics
    return {"positions": statistics.positions, "weighting": statistics.weighting}


def _masks(*arguments: Any) -> Masks:
    return _select(*arguments).masks


def _select(
    run: Experiment,
    name: str,
    variables: Variables,
    batches: Any,
    key: jax.Array,
    widths: Mapping[str, int],
) -> Selection:
    """A method with the config's options, at given widths."""
    options: dict[str, Any] = {}
    if name in ("genetic", "greedy"):
        options = _gram_options(run)
    if name == "genetic":
        options["config"] = run.config.search
    method = functools.partial(get_method(name), **options)
    return method(run.graph, run.forward, variables, batches, widths, cross_entropy, accuracy, key)


def search(run: Experiment, variables: Variables, widths: Mapping[str, int]) -> Selection:
    """Chooses the channels by the config's method; `selection/` and `search.json`."""
    folder, path = run.folder / "selection", run.folder / "search.json"
    if not path.exists():
        statistics = run.config.statistics
        batches = run.calibration(statistics.images, statistics.batch_size)
        with run.stage("search"), track("search", len(widths), "groups") as advance:
            key = jax.random.fold_in(run.key, 2)
            selection = _select(run, run.config.method, variables, batches, key, widths)
            advance(len(widths))
        _replace_tree(folder, {"masks": selection.masks, "variables": selection.variables})
        json_files.write(path, plain(dict(selection.details)))
    like = {"masks": run.graph.full_masks(), "variables": variables}
    stored = restore_tree(folder, like)
    details = json_files.read(path)
    if details.get("history"):
        history = {n: np.array(details["history"][n]) for n in run.prunable()}
        plots.convergence(run.folder / "plots" / "convergence.png", history)
    sizes = {name: group.size for name, group in run.graph.groups.items()}
    plots.kept_channels(run.folder / "plots" / "kept_channels.png", dict(widths), sizes)
    return Selection(stored["masks"], stored["variables"], details)


def _replace_tree(folder: Path, tree: Any) -> None:
    """Saves a tree in place of what an interrupted process may have left."""
    shutil.rmtree(folder, ignore_errors=True)
    save_tree(folder, tree)


def cut(run: Experiment, selection: Selection) -> tuple[Pruned, Pruned]:
    """Slices, and takes the BatchNorm statistics anew: the network as cut, and recalibrated."""
    pruned = run.graph.slice(selection.variables, selection.masks)
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
    return pruned, dataclasses.replace(pruned, variables=variables)


def student(run: Experiment, pruned: Pruned) -> Network:
    """The pruned network's functions."""
    return Network(pruned.wrap(run.network.train), pruned.wrap(run.network.eval))


def finetune(run: Experiment, pruned: Pruned, teacher: Variables) -> Pruned:
    """Trains the pruned network with the unpruned one as its teacher; the result in `pruned/`."""
    network = student(run, pruned)
    variables = _fit(
        run,
        "finetune",
        network,
        pruned.variables,
        run.config.finetune,
        (run.network, teacher),
        run.config.distill,
    )
    tuned = dataclasses.replace(pruned, variables=variables)
    save(run.folder / "pruned", tuned)
    return tuned


def control(run: Experiment, teacher: Variables) -> Variables | None:
    """The unpruned network with the same extra training and the same distillation."""
    if not run.config.control:
        return None
    return _fit(
        run,
        "control",
        run.network,
        teacher,
        run.config.finetune,
        (run.network, teacher),
        run.config.distill,
    )


__all__ = ["choose_widths", "control", "cut", "finetune", "search", "student", "train"]
