"""What a pruned network is held against: the controls of a run, each a training of its own.

- `finetuned`: the unpruned network, as long as the pruned one and with the same distillation;
- `plain`: the unpruned network, as long, with the cross-entropy alone;
- `scratch`: the pruned network's widths from random weights, for as many epochs as training and
  fine-tuning together and as `train` says (Liu et al. 2019, arXiv 1810.05270);
- `scratch_distilled`: the same with the unpruned network as the teacher;
- `l1`: the channels of the largest L1 norm at the pruned network's widths, then its fine-tune;
- `l1_uniform`: the same at one fraction of every group, by the run's budget.

Where the method trains the network itself, they are trained as much longer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax

from jaxprune import models
from jaxprune.budget import Budget, allocate
from jaxprune.config import Control
from jaxprune.files import read_json
from jaxprune.graph import Pruned
from jaxprune.methods import L1
from jaxprune.pipeline import training as trainings
from jaxprune.pipeline.experiment import Experiment
from jaxprune.pipeline.lock import exclusive
from jaxprune.pipeline.stages import load_pruned, student, trained, with_new_statistics
from jaxprune.pipeline.training import Training, Variables
from jaxprune.problem import Problem
from jaxprune.train.network import Network
from jaxprune.train.state import TrainConfig


class Trained(NamedTuple):
    """A network of a run that was trained.

    Attributes:
      network: its functions.
      variables: what was trained.
      widths: units by group.
      kept: kernel → the fraction of its entries that it keeps, where that is not all.
    """

    network: Network
    variables: Variables
    widths: Mapping[str, int]
    kept: Mapping[str, float] = {}


class _Plan(NamedTuple):
    training: Training
    widths: Mapping[str, int]
    shapes: Variables
    begin: Callable[[], Variables]
    kept: Mapping[str, float] = {}


@exclusive
def control(run: Experiment) -> dict[str, Variables]:
    """Trains the controls that the config asks for, one after the other.

    Raises:
      FileNotFoundError: a stage before this one is not finished.
    """
    dense = trained(run)
    plans = ((name, _plan(run, name, dense)) for name in run.config.controls)
    return {
        name: trainings.train(run, plan.training, plan.shapes, plan.begin) for name, plan in plans
    }


def controlled(run: Experiment, dense: Variables) -> dict[str, Trained]:
    """What `control` left.

    Args:
      run: the run.
      dense: the unpruned network.

    Raises:
      FileNotFoundError: a control is not there, or not at its end.
    """
    plans = {name: _plan(run, name, dense) for name in run.config.controls}
    return {
        name: Trained(
            plan.training.network,
            trainings.finished(run, plan.training, plan.shapes, "finetune"),
            plan.widths,
            plan.kept,
        )
        for name, plan in plans.items()
    }


def _plan(run: Experiment, name: Control, dense: Variables) -> _Plan:
    """How a control is trained, and from what."""
    config = run.config
    teacher = None if name in ("plain", "scratch") else (run.network, dense)

    def training(network: Network, base: TrainConfig, before: float = 0.0) -> Training:
        extra = _steps_of_the_method(run) / (len(run.data.train) // base.batch_size)
        longer = dataclasses.replace(base, epochs=before + config.finetune.epochs + extra)
        return Training(f"control_{name}", network, longer, teacher, config.distill)

    if name in ("finetuned", "plain"):
        whole = {group: units.size for group, units in run.graph.groups.items()}
        return _Plan(training(run.network, config.finetune), whole, run.shapes, lambda: dense)
    if name in ("scratch", "scratch_distilled"):
        pruned = load_pruned(run)
        small = models.from_pruned(run.module, pruned)
        key = jax.random.fold_in(run.key, 0x5C4A)

        def fresh() -> Variables:
            return pruned.project(models.init(small, run.data.input_shape, key))

        network = student(run, pruned) if pruned.blocks else models.network(small)
        plan = training(network, config.train, config.pretraining)
        return _Plan(plan, pruned.widths, jax.eval_shape(fresh), fresh, pruned.kept())
    cut = _by_l1(run, dense, name)
    return _Plan(
        training(student(run, cut), config.finetune),
        cut.widths,
        cut.variables,
        lambda: with_new_statistics(run, cut).variables,
    )


def _by_l1(run: Experiment, dense: Variables, name: Control) -> Pruned:
    """The unpruned network's channels of the largest L1 norm.

    Blocks leave the widths as they are: beside them are the channels that the budget leaves.
    """
    if name == "l1_uniform":
        budget = Budget(widths=allocate(None, run.graph, run.budget, "proportional").widths)
    else:
        pruned = load_pruned(run)
        budget = run.budget if pruned.blocks else Budget(widths=pruned.widths)
    chosen = L1().prune(Problem(run.graph, run.forward, dense, [], budget))
    return run.graph.slice(chosen.variables, chosen.masks)


def _steps_of_the_method(run: Experiment) -> int:
    return sum(read_json(run.folder / "selection.json")["steps"].values())
