"""How loss and score fall as one group after the other gets narrower, nothing else touched."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxprune import masks as mask_ops
from jaxprune.budget import Curves
from jaxprune.masks import Masks
from jaxprune.mesh import POPULATION
from jaxprune.problem import Problem
from jaxprune.statistics.population import evaluate_masks

KEPT = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""The kept fractions at which sensitivity is measured by default."""

Chooser = Callable[[Mapping[str, int]], Masks]
"""`widths → masks`: which units of each group stay at a width."""


def sensitivity(
    problem: Problem,
    choose: Chooser,
    kept: Sequence[float] = KEPT,
    *,
    groups: Sequence[str] | None = None,
) -> Curves:
    """Loss and score of every (group, kept fraction) pair, a population of masks for each group.

    The curves of Hu et al. 2018 (arXiv 1805.11394), step A; that the channels which stay are chosen
    by a cheap rule there is reconstructed. The work is a loop of `problem.run`, named
    `sensitivity`: group after group, as many at once as give each device of the mesh a mask.

    Args:
      problem: the network, measured on `problem.validation`.
      choose: which units stay at a width.
      kept: fractions of a group's units that are kept, in (0, 1); 1 is added.
      groups: the groups that are measured, all by default; the others' curves are flat.
    """
    graph = problem.graph
    grid = np.unique([*kept, 1.0])
    groups = list(graph.groups) if groups is None else list(groups)
    groups = groups or list(graph.groups)[:1]  # where none is asked for, the whole network is
    sizes = {name: group.size for name, group in graph.groups.items()}

    @functools.cache  # a choice is one of all groups at once: it serves each of them
    def masks_at(fraction: float) -> Masks:
        return choose({n: int(np.clip(round(fraction * c), 1, c)) for n, c in sizes.items()})

    devices = 1 if problem.mesh is None else problem.mesh.shape[POPULATION]
    at_once = min(-(-devices // (len(grid) - 1)), len(groups))
    steps = -(-len(groups) // at_once)
    full = graph.full_masks()

    def measure(curves: dict[str, np.ndarray], step: int) -> dict[str, np.ndarray]:
        # The last step is filled up with its last group, so that one program serves all.
        numbers = np.minimum(np.arange(step * at_once, (step + 1) * at_once), len(groups) - 1)
        population = [
            {**full, groups[i]: masks_at(float(fraction))[groups[i]]}
            for i in numbers
            for fraction in grid[:-1]
        ]
        measured = evaluate_masks(problem, mask_ops.stack([full, *population]))
        curves = {metric: np.array(rows) for metric, rows in curves.items()}
        for metric, values in measured.items():
            curves[metric][numbers, :-1] = values[1:].reshape(at_once, -1)
            curves[metric][numbers, -1] = values[0]
        return curves

    blank = {metric: np.zeros((len(groups), len(grid))) for metric in ("loss", "score")}
    found = problem.run.loop("sensitivity", measure, blank, steps)
    loss, score = found["loss"], found["score"]
    rows = {name: i for i, name in enumerate(groups)}

    def curve(values: np.ndarray, name: str) -> np.ndarray:
        return values[rows[name]] if name in rows else np.full(len(grid), values[0, -1])

    return Curves(
        grid,
        loss={name: curve(loss, name) for name in graph.names},
        accuracy={name: curve(score, name) for name in graph.names},
    )
