"""The stages of a run. Each reads what the ones before left in the folder and leaves its own.

A stage that is finished is read, not run again, and one that was interrupted goes on.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxprune import interop, models
from jaxprune.budget import Curves, allocate
from jaxprune.checkpoint import load, restore_tree, save, save_tree
from jaxprune.graph import Pruned
from jaxprune.masks import Masks, zeroed
from jaxprune.mesh import POPULATION
from jaxprune.methods import get as get_method
from jaxprune.methods.contract import Selection, accuracy, cross_entropy
from jaxprune.methods.widths import greedy_chooser
from jaxprune.pipeline import schedule
from jaxprune.pipeline import training as trainings
from jaxprune.pipeline.experiment import SENSITIVITY_SO_FAR, Experiment, missing
from jaxprune.pipeline.lock import alone
from jaxprune.pipeline.training import Training, Variables, finished, latest, train_until
from jaxprune.report import plots
from jaxprune.report import summary as json_files
from jaxprune.report.encode import plain
from jaxprune.report.progress import track
from jaxprune.statistics import grams
from jaxprune.statistics import sensitivity as measure_sensitivity
from jaxprune.statistics.sensitivity import Chooser
from jaxprune.train.batchnorm import recalibrate
from jaxprune.train.network import Network
from jaxprune.train.state import TrainState


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
    weights, shape = run.config.model.weights, run.data.input_shape
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
            curves = None if needless else _measured(run, variables)
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


def _measured(run: Experiment, variables: Variables) -> Curves:
    """Group by group, and what is measured is kept: a run that is killed goes on with the next."""
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
    # A choice is one of all groups at once: each is made for the first group, and serves the rest.
    chosen = functools.cache(lambda widths: choose(dict(widths)))

    path, groups = run.folder / SENSITIVITY_SO_FAR, run.prunable()
    so_far = json_files.read(path)["curves"] if path.exists() else {"loss": {}, "accuracy": {}}
    left = [name for name in groups if name not in so_far["loss"]]
    # As many groups at once as give each device of the mesh a mask.
    devices = 1 if run.mesh is None else run.mesh.shape[POPULATION]
    at_once = -(-devices // len(config.kept))
    with track("sensitivity", len(groups), "groups") as advance:
        advance(len(groups) - len(left))
        for i in range(0, len(left), at_once):
            names = left[i : i + at_once]
            curves = measure_sensitivity(
                run.graph,
                run.forward,
                variables,
                batches,
                lambda widths: chosen(tuple(widths.items())),
                config.kept,
                cross_entropy,
                accuracy,
                groups=names,
                mesh=run.mesh,
            )
            so_far["loss"] |= {name: curves.loss[name] for name in names}
            so_far["accuracy"] |= {name: curves.accuracy[name] for name in names}
            record = {"step": len(so_far["loss"]) - 1, "steps": len(groups), "curves": so_far}
            json_files.write(path, plain(record))
            advance(len(names))
    # The other groups stay whole, and every curve ends with the whole network.
    for rows in so_far.values():
        whole = rows[groups[0]][-1]
        for name in run.graph.names:
            rows.setdefault(name, np.full_like(rows[groups[0]], whole))
    return _curves({"kept": np.unique([*config.kept, 1.0]), **so_far})


def _curves(record: Mapping[str, Any]) -> Curves:
    """Curves as `sensitivity.json` holds them."""
    loss, accuracy = (
        {name: np.array(row) for name, row in record[metric].items()}
        for metric in ("loss", "accuracy")
    )
    return Curves(np.array(record["kept"]), loss=loss, accuracy=accuracy)


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


@alone
def search(run: Experiment) -> Selection:
    """Chooses the channels by the config's method and schedule; `selection/` and `search.json`."""
    folder, path = run.folder / "selection", run.folder / "search.json"
    if not path.exists():
        selection = _scheduled(run, trained(run))
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
    curves = _curves(record) if "kept" in record else None
    config = run.config
    return schedule.rounds(
        config.schedule, run.graph, run.budget, record["widths"], curves, config.allocation
    )


def _scheduled(run: Experiment, variables: Variables) -> Selection:
    """The rounds of the schedule: search, then train under the masks, until all are narrow."""
    config = run.config.schedule
    plan = _plan(run)
    masks: Masks = run.graph.full_masks()
    statistics = run.config.statistics
    # The same images for every round, drawn and decoded once.
    batches = run.calibration(statistics.images, statistics.batch_size)
    if config.name == "joint":
        return _one_round(run, variables, masks, batches, plan[0], 0, 1)

    network = schedule.masked_network(run.graph, run.network)
    whole = dataclasses.replace(run.config.retrain, epochs=config.epochs * len(plan))
    teacher = (run.network, variables)
    training = Training("retrain", network, whole, teacher, run.config.distill)
    steps = np.rint(np.linspace(0, training.steps(run), len(plan) + 1)).astype(int).tolist()
    notes = run.folder / "rounds.json"
    details: list[dict[str, Any]] = json_files.read(notes)["rounds"] if notes.exists() else []

    state = latest(run, training, schedule.with_masks(variables, masks))
    if state is None:
        state = training.begin(schedule.with_masks(variables, masks))
    for i, widths in enumerate(plan):
        done = int(state.step)
        if done >= steps[i + 1]:
            continue
        if done == steps[i]:
            dense, masks = schedule.split_masks(state.variables)
            chosen = _one_round(run, dense, masks, batches, widths, i, len(plan))
            details = [*details[:i], dict(plain(dict(chosen.details)))]
            json_files.write(notes, {"rounds": details})
            fresh = schedule.with_masks(chosen.variables, chosen.masks)
            state = _with_variables(state, fresh)
        state = train_until(run, training, state, steps[i + 1])
    dense, masks = schedule.split_masks(state.variables)
    return Selection(masks, dense, _merged(details))


def _one_round(
    run: Experiment,
    variables: Variables,
    masks: Masks,
    batches: Sequence[Any],
    widths: Mapping[str, int],
    i: int,
    n: int,
) -> Selection:
    """Narrows the network under the masks to the widths, by what is left of it."""
    left = run.graph.widths(masks)
    sizes = {name: group.size for name, group in run.graph.groups.items()}
    # A group that keeps what it has needs no choice, so the method is told to keep all of it; but
    # where every round narrows nearly all groups, the search is compiled once for all of them.
    every = run.config.schedule.name == "gradual"
    wanted = {n: w if w < left[n] or (every and i) else sizes[n] for n, w in widths.items()}
    narrowing = sum(wanted[name] < sizes[name] for name in wanted)
    title = "search" if n == 1 else f"search {i + 1}/{n}"
    with run.stage("search"), track(title, len(batches), "batches") as advance:
        # One key for all rounds: a group's search is its own, whichever round it is in.
        key = jax.random.fold_in(run.key, 2)
        dense = zeroed(run.graph, variables, masks)
        watched = _Watched(batches, functools.partial(advance, note=f"{narrowing} groups"))
        chosen = _select(run, run.config.method, dense, watched, key, wanted)
    return chosen._replace(masks=schedule.narrowed(masks, chosen.masks, widths))


class _Watched:
    """Batches that tell how far the first walk over them has got: it is most of a method's work."""

    def __init__(self, batches: Sequence[Any], advance: Callable[[], None]):
        self._batches, self._advance, self._seen = batches, advance, 0

    def __iter__(self) -> Iterator[Any]:
        for i, batch in enumerate(self._batches):
            yield batch
            if i >= self._seen:
                self._seen = i + 1
                self._advance()


def _with_variables(state: TrainState, variables: Variables) -> TrainState:
    beside = {name: tree for name, tree in variables.items() if name != "params"}
    return dataclasses.replace(state, params=variables["params"], state=beside)


def _merged(details: list[dict[str, Any]]) -> dict[str, Any]:
    """One record of all rounds: what the last round to narrow a group says of it."""
    merged: dict[str, Any] = {}
    for record in details:
        for name, value in record.items():
            by_group = isinstance(value, dict)
            merged[name] = {**merged.get(name, {}), **value} if by_group else value
    return merged


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
