"""In how many rounds a network is pruned: all at once, group by group, or little by little.

A round narrows some groups by what the network that is already pruned computes, and trains a little
before the next one. Until the last round everything stays at its dense shape, under masks that are
data: one compiled program serves all rounds, and the network is sliced once, at the end.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np

from jaxprune.budget import Budget
from jaxprune.graph import ChannelGraph
from jaxprune.masks import Masks, keep_top
from jaxprune.problem import Problem, Retraining, Selection
from jaxprune.wrappers import Join, Wrapper, join_params, split_params

MASKS = "masks"
"""The collection, beside `params`, in which a masked network's variables carry their masks."""

Name = Literal["joint", "layerwise", "gradual"]
Choose = Callable[[Problem], Selection]
"""A method's choice for the problem of one round, whose budget is that of the round."""


@dataclass(frozen=True)
class Schedule:
    """In how many rounds the network is pruned, and the training between them."""

    name: Name = "joint"
    """`joint` prunes all groups from one pass of statistics. `layerwise` prunes a group, by what
    the network that is already pruned computes, trains a little, and goes on, as in the paper.
    `gradual` lowers the budget of all groups in rounds, and trains a little after each."""
    rounds: int = 5
    """Rounds of `gradual`."""
    decline: Literal["linear", "cubic"] = "cubic"
    """How the budget of `gradual` falls: by equal parts, or fast first and slowly at the end."""
    training: Retraining = field(default_factory=Retraining)
    """The training after each round, at the network's full size under masks.
    In all else it is as the fine-tune, distillation included."""

    def __post_init__(self):
        if self.name not in get_args(Name):
            known = ", ".join(get_args(Name))
            raise ValueError(f"schedule.name is one of {known}, not {self.name!r}")
        if self.rounds < 2:
            raise ValueError(f"schedule.rounds must be at least 2, not {self.rounds}")

    def budgets(self, problem: Problem, widths: Mapping[str, int] | None) -> list[Budget]:
        """The budget of each round.

        `layerwise` has one for each group that gets narrower, in the order in which the network
        writes them, the order of Hu et al. 2018 (arXiv 1805.11394). In `gradual` each target allows
        `1 - (1 - 1/factor) f(r/n)` of the whole after round r of n, with `f(t) = t`, or `f(t) =
        1 - (1 - t)³` (Zhu and Gupta 2017, arXiv 1710.01878).

        Args:
          problem: whose budget the last round has.
          widths: where the rounds end; None where the method meets the last targets by itself.
        """
        if self.name == "joint":
            return [problem.budget]
        full = {name: group.size for name, group in problem.graph.groups.items()}
        if self.name == "layerwise":
            assert widths is not None
            narrowed = [name for name in full if widths[name] < full[name]]
            done = [set(narrowed[: i + 1]) for i in range(len(narrowed))]
            plans = [{n: widths[n] if n in names else full[n] for n in full} for names in done]
            return [dataclasses.replace(problem.budget, widths=plan) for plan in plans]
        budgets = []
        for done in range(1, self.rounds):
            fraction = done / self.rounds
            fall = fraction if self.decline == "linear" else 1 - (1 - fraction) ** 3
            targets = ",".join(
                f"{quantity}/{1 / (1 - (1 - 1 / factor) * fall)!r}"
                for quantity, factor in problem.budget.factors.items()
            )
            budgets.append(dataclasses.replace(problem.budget, targets=targets))
        last = problem.budget
        return [
            *budgets,
            last if widths is None else dataclasses.replace(last, widths=dict(widths)),
        ]


def in_rounds(
    problem: Problem,
    schedule: Schedule,
    budgets: Sequence[Budget],
    choose: Choose,
    figures: Mapping[str, tuple[int, ...]],
) -> Selection:
    """Round after round: choose, then train under the masks.

    Each half of a round is a step of the loop `rounds` of `problem.run`; its trainings are one,
    named `retrain`, with the unpruned network as the teacher.

    Args:
      problem: of the unpruned network.
      schedule: the training of each round.
      budgets: of each round.
      choose: the method's choice for what is left of the network.
      figures: by name, the shape of one group's figure that `choose` gives.

    Returns:
      the masks of the last round, the variables trained under them, and of each group the figures
      of the last round that chose in it.
    """
    graph, names = problem.graph, problem.graph.names
    join = split_params(problem.variables)[2]
    train = functools.partial(
        problem.run.train,
        "retrain",
        with_masks(problem.variables, graph.full_masks()),
        network=under_masks(graph, join),
        config=schedule.training,
        rounds=len(budgets),
        teacher=problem.variables,
    )

    def step(carry: tuple[Any, dict[str, np.ndarray]], i: int) -> Any:
        state, found = carry
        number, trains = divmod(i, 2)
        if trains:
            return train(until=number + 1, state=state), found
        dense, masks = split_masks(state.variables, join)
        asked = _asked(problem, budgets[number], masks, every=schedule.name == "gradual" and i > 0)
        chosen = choose(dataclasses.replace(problem.at(dense, masks), budget=asked))
        left, wanted = graph.widths(masks), budgets[number].widths or graph.widths(chosen.masks)
        kept = combine(masks, chosen.masks, {n: min(left[n], wanted[n]) for n in names})
        found = {figure: np.array(rows) for figure, rows in found.items()}
        for figure, rows in found.items():
            for group, value in chosen.figures.get(figure, {}).items():
                rows[names.index(group)] = value
        return with_variables(state, with_masks(chosen.variables, kept)), found

    blank = {name: np.full((len(names), *shape), np.nan) for name, shape in figures.items()}
    state, found = problem.run.loop("rounds", step, (train(until=0), blank), 2 * len(budgets))
    dense, masks = split_masks(state.variables, join)
    told = {
        figure: {n: row for n, row in zip(names, rows, strict=True) if not np.isnan(row).all()}
        for figure, rows in found.items()
    }
    return Selection(masks, dense, told)


def _asked(problem: Problem, budget: Budget, masks: Masks, *, every: bool) -> Budget:
    """What the method is asked for in a round.

    A group that keeps what it has needs no choice, so that the method is told to keep all of it;
    but where every round narrows nearly all groups, the search is compiled once for all of them.
    """
    if not budget.widths or every:
        return budget
    left = problem.graph.widths(masks)
    sizes = {name: group.size for name, group in problem.graph.groups.items()}
    widths = {n: w if w < left[n] else sizes[n] for n, w in budget.widths.items()}
    return dataclasses.replace(budget, widths=widths)


def combine(before: Masks, chosen: Mapping[str, Any], widths: Mapping[str, int]) -> Masks:
    """The masks after a round: of the units that were left, those that were chosen.

    A method that keeps a unit which is gone already keeps one unit that is left instead, the first
    that it did not choose.
    """
    scores = {name: np.asarray(before[name]) * (1 + np.asarray(chosen[name])) for name in before}
    return keep_top(scores, widths)


@functools.lru_cache(maxsize=4)
def under_masks(graph: ChannelGraph, join: Join = join_params) -> Wrapper:
    """The wrapper of a network whose variables carry masks, which training leaves as they are.

    Cached, as is what it makes, so that a training which goes on in rounds compiles once.
    """

    def masked(fn: Any) -> Any:
        inner = graph.masked(fn)

        def call(variables: Any, images: Any, key: Any) -> Any:
            dense, masks = split_masks(variables, join)
            out = inner(dense, masks, images, key)
            if not hasattr(out, "state"):  # a user's own function, which changes no state
                return out
            return out._replace(state={**out.state, MASKS: masks})

        return call

    return functools.lru_cache(maxsize=4)(
        lambda network: network._replace(train=masked(network.train), eval=masked(network.eval))
    )


def with_masks(variables: Any, masks: Mapping[str, Any]) -> dict[str, Any]:
    """Variables for a masked network: `{"params": ..., "masks": ..., **state}`."""
    params, rest, _ = split_params(variables)
    return {"params": params, **rest, MASKS: {n: jnp.asarray(mask) for n, mask in masks.items()}}


def split_masks(variables: Mapping[str, Any], join: Join = join_params) -> tuple[Any, Masks]:
    """The dense variables of a masked network, and its masks."""
    rest = {n: t for n, t in variables.items() if n not in ("params", MASKS)}
    return join(variables["params"], rest), dict(variables[MASKS])


def with_variables(state: Any, variables: Mapping[str, Any]) -> Any:
    """A training's state with other variables in it."""
    beside = {name: tree for name, tree in variables.items() if name != "params"}
    return dataclasses.replace(state, params=variables["params"], state=beside)
