"""What chooses in a run: the curves of the sensitivity, and the rounds of the search.

Both keep what they have reached in the run's folder, group by group and round by round.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxprune.budget import Curves
from jaxprune.masks import Masks, zeroed
from jaxprune.mesh import POPULATION
from jaxprune.methods import get as get_method
from jaxprune.methods.contract import Selection, accuracy, cross_entropy
from jaxprune.methods.widths import greedy_chooser
from jaxprune.pipeline import schedule
from jaxprune.pipeline.experiment import SENSITIVITY_SO_FAR, Experiment
from jaxprune.pipeline.training import Training, Variables, latest, train_until
from jaxprune.report import summary as json_files
from jaxprune.report.encode import plain
from jaxprune.report.progress import track
from jaxprune.statistics import grams
from jaxprune.statistics import sensitivity as measure_sensitivity
from jaxprune.statistics.sensitivity import Chooser
from jaxprune.train.state import TrainState


def measured(run: Experiment, variables: Variables) -> Curves:
    """The sensitivity, group by group: a run that is killed goes on with the next one."""
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
    return curves_of({"kept": np.unique([*config.kept, 1.0]), **so_far})


def curves_of(record: Mapping[str, Any]) -> Curves:
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


def scheduled(
    run: Experiment, variables: Variables, plan: Sequence[Mapping[str, int]]
) -> Selection:
    """The rounds of the schedule: search, then train under the masks, until all are narrow.

    Args:
      run: the run.
      variables: those of the trained network.
      plan: the widths of all groups after each round, as `schedule.rounds` makes them.

    Returns:
      the masks of the last round, the variables trained under them, and what was found, by group.
    """
    config = run.config.schedule
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
