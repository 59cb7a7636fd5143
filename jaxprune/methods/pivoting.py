"""Pruning by matrix pivoting (Sredojevic et al. 2017, arXiv 1712.01084): structure within kernels.

Follow one kernel: its magnitudes, summed over the taps, are a matrix of channels read × channels
written. Rows and columns are permuted so that what is large gathers in few tiles (`search.orders`),
the other tiles become zero, the network trains on with these zeros kept, and at the next density
all of it is done again. Three structures:

- `diagonal`: the kept tiles are G blocks on the diagonal, a convolution of G groups;
- `rows`: every tile of outputs reads as many tiles of inputs;
- `free`: the heaviest tiles anywhere.

The permutations are folded: a group's order goes into every variable on which its channels lie
(`graph.permute`), and nothing of it is left at run time. In `rows` and `free` all readers and
writers of a group share one order. With the diagonal that would let the network fall apart into G
separate ones, so each reader has an order of its own there, and the gather of its channels remains:
`figures["gathered"]` counts them, and `Blocks.order` holds them. Groups in `graph.ordered` keep the
order that they have.

The abstract is all of the paper that could be read: the search is reconstructed from TETRIS (Ji et
al. 2018), the falling densities and the rules of folding are reconstructed, too. `orders="random"`
with one round is MPDCompress (Supic et al. 2018, arXiv 1805.12085): blocks under random orders.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import jax
import numpy as np

from jaxprune.budget import Budget, CostModel
from jaxprune.graph import ChannelGraph, paths
from jaxprune.graph.permute import positions
from jaxprune.graph.structure import project
from jaxprune.kernels.blocks import Blocks
from jaxprune.methods.tiled import Kernel, counts, fitting, kernels, require_reachable
from jaxprune.problem import Method, Problem, Retraining, Selection
from jaxprune.search.orders import KEEP, Layer, Orders, gather, lost, natural, tiles
from jaxprune.wrappers import keep_zeros, split_params

Structure = Literal["diagonal", "rows", "free"]
Choice = Literal["pivoted", "random", "natural"]


@dataclass(frozen=True)
class Pivoting(Method):
    """Gathers each kernel's weight in tiles by permuting its channels, and prunes the others."""

    within_kernels: ClassVar[bool] = True

    structure: Structure = "diagonal"
    """Which tiles stay: blocks on the diagonal, as many for every tile of outputs, or any."""
    tile: int = 8
    """Channels of a tile, read and written alike; of `diagonal` the least that a block has."""
    rounds: int = 3
    """In how many steps the density falls, by the same factor each."""
    orders: Choice = "pivoted"
    """How channels are ordered: by search, at random (the fixed orders of MPDCompress), or as they
    are, which says what pivoting gains."""
    training: Retraining = field(default_factory=Retraining)
    """The training after each round but the last, with the zeros kept.
    In all else it is as the fine-tune, distillation included."""

    def __post_init__(self):
        for name, known in (("structure", get_args(Structure)), ("orders", get_args(Choice))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {', '.join(known)}, not {getattr(self, name)!r}")
        for name in ("tile", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    def require(self, model: CostModel, budget: Budget) -> None:
        """Refuses, before any work, a budget that tiles cannot meet.

        Raises:
          ValueError: it asks for widths, or for what is beyond reach.
        """
        assert isinstance(model, ChannelGraph)
        super().require(model, budget)
        require_reachable(model, budget, self.levels(kernels(model)), self._tiles())

    def _tiles(self) -> str:
        least = "at least " if self.structure == "diagonal" else ""
        return f"tiles of {least}{self.tile} × {self.tile} channels"

    def levels(self, found: list[Kernel]) -> dict[str, np.ndarray]:
        """Kernel → the fractions that it may keep; none for one that has a single tile."""
        levels = {}
        for kernel in found:
            rows, columns = (-(-n // self.tile) for n in kernel.sizes)
            if self.structure == "diagonal":
                most = min(kernel.sizes) // self.tile
                blocks = [g for g in range(1, most + 1) if not any(n % g for n in kernel.sizes)]
                fractions = 1 / np.array(blocks[::-1], float)
            else:
                along = [
                    np.minimum(self.tile, n - np.arange(0, n, self.tile)) for n in kernel.sizes
                ]
                # At most: as if the tiles that stay were the largest.
                sizes = along[0] if self.structure == "rows" else np.outer(*along).ravel()
                fractions = np.cumsum(np.sort(sizes)[::-1]) / sizes.sum()
            if min(rows, columns) > 1 and len(fractions) > 1:
                levels[kernel.path] = fractions
        return levels

    def prune(self, problem: Problem) -> Selection:
        """Pivots, prunes and trains, at a density that falls from round to round.

        The figures are, of each kernel, the fraction of its entries that stays (`density`), of its
        magnitudes with and without pivoting (`mass`, `mass_unpivoted`), and how many channels are
        gathered before it at run time (`gathered`).

        Raises:
          ValueError: as `require`; nothing to train with.
        """
        graph = problem.graph
        found = {kernel.path: kernel for kernel in kernels(graph)}
        levels = self.levels(list(found.values()))
        require_reachable(graph, problem.budget, levels, self._tiles())
        found = {path: found[path] for path in levels}
        _warn_of_fixed(graph, found)
        whole, last = graph.cost(), problem.budget.factors
        sizes = {path: int(np.prod(kernel.shape)) for path, kernel in found.items()}
        chosen = []
        for number in range(1, self.rounds + 1):
            parts = {q: factor ** (number / self.rounds) for q, factor in last.items()}
            limits = {q: getattr(whole, q) / factor for q, factor in parts.items()}
            if number == self.rounds:
                limits = problem.budget.limits_of(graph)
            chosen.append(fitting(counts(graph), limits, levels, sizes))

        def choose(variables: Any, orders: Orders, number: int) -> tuple[Any, dict[str, Any]]:
            layers = self._layers(graph, found, variables, chosen[number], levels)
            orders = self._ordered(problem, layers, orders)
            blocks = {p: self._blocks(found[p], layer, orders) for p, layer in layers.items()}
            return project(variables, blocks), orders

        start = natural(self._layers(graph, found, problem.variables, chosen[0], levels).values())
        variables, orders = problem.variables, start
        if self.rounds == 1:
            variables, orders = choose(variables, orders, 0)
        else:
            variables, orders = self._in_rounds(problem, list(levels), choose, start)
        layers = self._layers(graph, found, variables, chosen[-1], levels)
        return self._folded(problem, found, layers, variables, orders)

    def _in_rounds(self, problem: Problem, cut: list[str], choose: Any, start: Orders) -> Any:
        """Chooses and trains in turn, by the durable loop of the run."""
        join = split_params(problem.variables)[2]
        train = functools.partial(
            problem.run.train,
            "retrain",
            problem.variables,
            optimizer=keep_zeros(cut),
            config=self.training,
            rounds=self.rounds - 1,
            teacher=problem.variables,
        )

        def step(carry: tuple[Any, dict[str, np.ndarray]], i: int) -> Any:
            state, orders = carry
            number, trains = divmod(i, 2)
            if trains:
                return train(until=number + 1, state=state), orders
            dense, orders = choose(join(state.params, state.state), orders, number)
            params, rest, _ = split_params(dense)
            return dataclasses.replace(state, params=params, state=rest), orders

        carry = (train(until=0), dict(start))
        state, orders = problem.run.loop("pivoting", step, carry, 2 * self.rounds - 1)
        return join(state.params, state.state), orders

    def _layers(
        self,
        graph: ChannelGraph,
        found: Mapping[str, Kernel],
        variables: Any,
        chosen: Mapping[str, int],
        levels: Mapping[str, np.ndarray],
    ) -> dict[str, Layer]:
        """The kernels as matrices, with the tiles that their levels say."""
        leaves = dict(paths.leaves(variables))
        layers = {}
        for path, kernel in found.items():
            mass, number = kernel.mass(leaves[path]), chosen[path]
            sides, count = (self.tile, self.tile), number + 1
            rows = "" if self.structure == "diagonal" else kernel.source
            if self.structure == "diagonal":
                count = round(1 / levels[path][number])
                sides = (kernel.sizes[0] // count, kernel.sizes[1] // count)
            # An order of its own has a name that no group has.
            names = [
                f"{path}[{axis}] alone" if name == "" or name in graph.ordered else name
                for name, axis in ((rows, kernel.reads), (kernel.target, kernel.writes))
            ]
            whole = max(mass.sum(), np.finfo(float).tiny)
            layers[path] = Layer(mass / whole, names[0], names[1], sides, count)
        return layers

    def _ordered(
        self, problem: Problem, layers: Mapping[str, Layer], before: Orders
    ) -> dict[str, np.ndarray]:
        first = natural(layers.values())
        gathered = {layer.rows for layer in layers.values() if self.structure == "diagonal"}
        fixed = [name for name in first if name not in problem.graph.groups.keys() | gathered]
        if self.orders == "pivoted":
            return gather(layers, KEEP[self.structure], before, fixed)
        if self.orders == "natural":
            return first
        keys = jax.random.split(problem.key, len(first))
        return {
            name: order if name in fixed else np.asarray(jax.random.permutation(key, order))
            for key, (name, order) in zip(keys, first.items(), strict=True)
        }

    def _blocks(self, kernel: Kernel, layer: Layer, orders: Orders) -> Blocks:
        """The kept tiles as blocks of the kernel as it is."""
        kept = KEEP[self.structure](tiles(layer, orders), layer.count)
        if kernel.reads > kernel.writes:
            kept = kept.T
        grid = [1] * len(kernel.shape)
        low, high = sorted((kernel.reads, kernel.writes))
        grid[low], grid[high] = kept.shape
        order = {kernel.reads: orders[layer.rows], kernel.writes: orders[layer.columns]}
        return Blocks(kernel.sides(layer.sides), kept.reshape(grid), None, order)

    def _folded(
        self,
        problem: Problem,
        found: Mapping[str, Kernel],
        layers: Mapping[str, Layer],
        variables: Any,
        orders: Orders,
    ) -> Selection:
        """The orders of groups go into the variables; those that are left are in the blocks."""
        graph, keep = problem.graph, KEEP[self.structure]
        folded = {name: order for name, order in orders.items() if name in graph.groups}
        places = positions(graph.groups, graph.shapes, folded)
        blocks, gathered = {}, {}
        for path, layer in layers.items():
            whole = self._blocks(found[path], layer, orders)
            left = {}
            for axis, order in whole.order.items():
                moved = places.get(path, {}).get(axis)
                after = order if moved is None else np.argsort(moved)[order]
                side = whole.sides[axis]
                # Within a tile the order says nothing.
                after = np.concatenate(
                    [np.sort(after[i : i + side]) for i in range(0, len(after), side)]
                )
                if not np.array_equal(after, np.arange(len(after))):
                    left[axis] = after
            blocks[path] = whole._replace(order=left)
            gathered[path] = sum(map(len, left.values()))
        first = natural(layers.values())
        figures = {
            "density": {
                p: b.size(found[p].shape) / np.prod(found[p].shape) for p, b in blocks.items()
            },
            "mass": {p: 1 - lost([layer], orders, keep) for p, layer in layers.items()},
            "mass_unpivoted": {p: 1 - lost([layer], first, keep) for p, layer in layers.items()},
            "gathered": gathered,
        }
        return Selection(graph.full_masks(), graph.permute(variables, folded), figures, blocks)


def _warn_of_fixed(graph: ChannelGraph, found: Mapping[str, Kernel]) -> None:
    """Names the groups that no order can be folded into."""
    ends = {end for kernel in found.values() for end in (kernel.source, kernel.target)}
    for name in sorted(ends & graph.ordered.keys()):
        warnings.warn(
            f"the order of {name} cannot be folded, so its channels stay where they are: "
            f"{graph.ordered[name]}",
            stacklevel=4,
        )
