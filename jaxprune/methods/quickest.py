"""Which blocks within kernels are quick on the device at hand, by timing whole networks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jaxprune.batches import first, inputs_of
from jaxprune.kernels.blocks import Blocks
from jaxprune.latency import call_of, time_in_turn
from jaxprune.problem import Problem

_AS_QUICK = 1.05  # of the least time, what noise alone may be


def quickest(
    problem: Problem, examples: Mapping[int, Mapping[str, Blocks]]
) -> tuple[int, dict[str, float]]:
    """The largest tile whose network is as quick as the quickest, and what was timed.

    Larger tiles lose less weight at one density, or no more. Networks of the same blocks are timed
    once. What was timed is a step of the run: where a process is killed after it, the next one goes
    on with the same tile.

    Args:
      problem: of the network; its first batch is what is timed.
      examples: tile → the blocks of a network as it could leave it, all within one budget.

    Returns:
      The tile, and the seconds of a batch by name: `dense`, `tile 8`.
    """
    alike = {tuple(b.sides for b in some.values()): tile for tile, some in sorted(examples.items())}
    tiles = sorted(alike.values())
    graph, fn, variables = problem.graph, problem.fn, problem.variables

    def timed(carry: np.ndarray, i: int) -> np.ndarray:
        inputs = inputs_of(first(problem.batches))
        calls = [call_of(fn, variables, (inputs,))]
        for tile in tiles:
            pruned = graph.slice(variables, graph.full_masks(), examples[tile])
            calls.append(call_of(pruned.wrap(fn), pruned.variables, (inputs,)))
        return np.array(time_in_turn(calls))

    seconds = np.asarray(problem.run.loop("tile", timed, np.zeros(1 + len(tiles)), 1))
    best = np.flatnonzero(seconds[1:] <= _AS_QUICK * seconds[1:].min())[-1]
    names = ["dense", *(f"tile {tile}" for tile in tiles)]
    return tiles[best], dict(zip(names, seconds.tolist(), strict=True))
