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

What is `protect`ed stays dense. How dense the others are is one density for all of them, or, with
`densities="mass"`, for each the one at which little weight is lost for what it saves. Which blocks
are quick depends on the device: `tile="measured"` times the network with blocks of several sizes
within the budget, gathers included, and takes the largest that are as quick as the quickest.

The abstract is all of the paper that could be read: the search is reconstructed from TETRIS (Ji et
al. 2018), the falling densities and the rules of folding are reconstructed, too. `orders="random"`
with one round is MPDCompress (Supic et al. 2018, arXiv 1805.12085): blocks under random orders.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import jax
import numpy as np

from jaxprune.budget import Budget, CostModel
from jaxprune.graph import ChannelGraph, paths
from jaxprune.graph.structure import project
from jaxprune.kernels.blocks import Blocks
from jaxprune.methods.folding import blocks_of, fold, masses
from jaxprune.methods.quickest import quickest
from jaxprune.methods.tiled import (
    Kernel,
    counts,
    fitting,
    kernels,
    lightest,
    reachable,
    require_reachable,
)
from jaxprune.problem import Method, Problem, Retraining, Selection
from jaxprune.search.orders import KEEP, Keep, Layer, Orders, gather, lost, natural
from jaxprune.wrappers import keep_zeros, split_params

Structure = Literal["diagonal", "rows", "free"]
Choice = Literal["pivoted", "random", "natural"]
Densities = Literal["alike", "mass"]

_TILES = (8, 16, 32, 64, 128)  # that are measured
_LEVELS = 8  # of which the mass that is lost is searched


@dataclass(frozen=True)
class Pivoting(Method):
    """Gathers each kernel's weight in tiles by permuting its channels, and prunes the others."""

    within_kernels: ClassVar[bool] = True

    structure: Structure = "diagonal"
    """Which tiles stay: blocks on the diagonal, as many for every tile of outputs, or any."""
    tile: int | Literal["measured"] = 8
    """Channels of a tile, read and written alike; of `diagonal` the least that a block has.
    `measured` times what suits the device at hand, for `diagonal`."""
    densities: Densities = "alike"
    """One density for all kernels, or of each what loses least `mass` for what it saves.
    Then some kernels may stay dense."""
    rounds: int = 3
    """In how many steps the density falls, by the same factor each."""
    orders: Choice = "pivoted"
    """How channels are ordered: by search, at random (the fixed orders of MPDCompress), or as they
    are, which says what pivoting gains."""
    training: Retraining = field(default_factory=Retraining)
    """The training after each round but the last, with the zeros kept.
    In all else it is as the fine-tune, distillation included."""

    def __post_init__(self):
        literals = {"structure": Structure, "orders": Choice, "densities": Densities}
        for name, known in literals.items():
            if getattr(self, name) not in get_args(known):
                words = ", ".join(get_args(known))
                raise ValueError(f"{name} is {words}, not {getattr(self, name)!r}")
        if self.tile == "measured" and self.structure != "diagonal":
            raise ValueError(
                "tile='measured' is for structure='diagonal': other tiles run as a dense kernel "
                "with zeros, which takes as long whatever their size; give a number"
            )
        for name in ("tile", "rounds"):
            value = getattr(self, name)
            if value != "measured" and (isinstance(value, str) or value < 1):
                known = " or 'measured'" if name == "tile" else ""
                raise ValueError(f"{name} must be at least 1{known}, not {value!r}")

    def require(self, model: CostModel, budget: Budget) -> None:
        """Refuses, before any work, a budget that tiles cannot meet.

        Raises:
          ValueError: it asks for widths, or for what is beyond reach.
        """
        assert isinstance(model, ChannelGraph)
        super().require(model, budget)
        least = dataclasses.replace(self, tile=_TILES[0]) if self.tile == "measured" else self
        require_reachable(model, budget, least.levels(kernels(model)), least._words())

    def _words(self) -> str:
        least = "at least " if self.structure == "diagonal" else ""
        return f"tiles of {least}{self.tile} × {self.tile} channels"

    def levels(self, found: list[Kernel]) -> dict[str, np.ndarray]:
        """Kernel → the fractions that it may keep; none for one that has a single tile."""
        assert self.tile != "measured"
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
        magnitudes in the unpruned network with and without pivoting (`mass`, `mass_unpivoted`), and
        how many channels are gathered before it at run time (`gathered`). Where the tile was
        measured, also the one of each kernel (`tile`) and what was timed (`seconds`).

        Raises:
          ValueError: as `require`; nothing to train with.
        """
        if self.tile == "measured":
            return self._measured(problem)
        graph = problem.graph
        found, levels = self._cut(graph)
        require_reachable(graph, problem.budget, levels, self._words())
        _warn_of_fixed(graph, found)
        if self.densities == "mass" and self.structure != "diagonal":
            levels = {p: some[_spread(len(some))] for p, some in levels.items()}
        chosen = self._chosen(problem, found, levels)

        def choose(variables: Any, orders: Orders, number: int) -> tuple[Any, dict[str, Any]]:
            layers = self._layers(graph, found, variables, chosen[number], levels)
            orders = self._ordered(problem, layers, orders)
            blocks = {p: blocks_of(found[p], x, orders, self._keep) for p, x in layers.items()}
            return project(variables, blocks), orders

        start = natural(self._layers(graph, found, problem.variables, chosen[0], levels).values())
        variables, orders = problem.variables, start
        if self.rounds == 1:
            variables, orders = choose(variables, orders, 0)
        else:
            variables, orders = self._in_rounds(problem, list(levels), choose, start)
        layers = self._layers(graph, found, variables, chosen[-1], levels)
        unpruned = self._layers(graph, found, problem.variables, chosen[-1], levels)
        blocks = {p: blocks_of(found[p], x, orders, self._keep) for p, x in layers.items()}
        blocks, folded = fold(graph, blocks, orders)
        shapes = {path: kernel.shape for path, kernel in found.items()}
        figures = {
            "density": {p: b.size(shapes[p]) / math.prod(shapes[p]) for p, b in blocks.items()},
            "gathered": {path: sum(map(len, b.order.values())) for path, b in blocks.items()},
            **masses(layers, unpruned, orders, self._keep),
        }
        return Selection(graph.full_masks(), graph.permute(variables, folded), figures, blocks)

    @property
    def _keep(self) -> Keep:
        return KEEP[self.structure]

    def _cut(self, graph: ChannelGraph) -> tuple[dict[str, Kernel], dict[str, np.ndarray]]:
        """The kernels that can be cut, and their levels."""
        every = kernels(graph)
        levels = self.levels(every)
        return {kernel.path: kernel for kernel in every if kernel.path in levels}, levels

    def _chosen(
        self, problem: Problem, found: Mapping[str, Kernel], levels: Mapping[str, np.ndarray]
    ) -> list[dict[str, int]]:
        """The levels of each round; none is denser than in the round before."""
        graph, last = problem.graph, problem.budget.factors
        whole, measure = graph.cost(), counts(graph)
        sizes = {path: math.prod(kernel.shape) for path, kernel in found.items()}
        losses = self._lost(problem, found, levels) if self.densities == "mass" else {}
        chosen = []
        for number in range(1, self.rounds + 1):
            parts = {q: factor ** (number / self.rounds) for q, factor in last.items()}
            limits = {q: getattr(whole, q) / factor for q, factor in parts.items()}
            if number == self.rounds:
                limits = problem.budget.limits_of(graph)
            if losses:
                chosen.append(lightest(measure, limits, levels, losses))
            else:
                chosen.append(fitting(measure, limits, levels, sizes))
            levels = {path: levels[path][: top + 1] for path, top in chosen[-1].items()}
        return chosen

    def _lost(
        self, problem: Problem, found: Mapping[str, Kernel], levels: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Kernel → the part of its mass that each level loses, in orders that are its alone."""
        lost_at: dict[str, np.ndarray] = {}
        for path, kernel in found.items():
            losses = []
            for number in range(len(levels[path])):
                layers = self._layers(
                    problem.graph, {path: kernel}, problem.variables, {path: number}, levels
                )
                layers = {p: x._replace(rows="rows", columns="columns") for p, x in layers.items()}
                pivoted = self.orders == "pivoted"
                orders = gather(layers, self._keep) if pivoted else natural(layers.values())
                losses.append(lost(layers.values(), orders, self._keep))
            lost_at[path] = np.array(losses)
        return lost_at

    def _measured(self, problem: Problem) -> Selection:
        """Prunes with the largest blocks that are as quick on this device as the quickest.

        What is timed are networks within the budget, of random orders.
        """
        graph = problem.graph
        self.require(graph, problem.budget)
        asked = {tile: dataclasses.replace(self, tile=tile) for tile in _TILES}
        examples = {
            tile: method._example(problem)
            for tile, method in asked.items()
            if reachable(graph, problem.budget, method._cut(graph)[1])
        }
        tile, seconds = quickest(problem, examples)
        found = asked[tile].prune(problem)
        figures = {"tile": dict.fromkeys(found.blocks, tile), "seconds": seconds}
        return found._replace(figures={**found.figures, **figures})

    def _example(self, problem: Problem) -> dict[str, Blocks]:
        """The blocks that it could end in, of random orders."""
        found, levels = self._cut(problem.graph)
        level = dataclasses.replace(self, rounds=1, densities="alike")
        chosen = level._chosen(problem, found, levels)[-1]
        layers = self._layers(problem.graph, found, problem.variables, chosen, levels)
        rng, orders = np.random.default_rng(0), natural(layers.values())
        orders |= {x.rows: rng.permutation(orders[x.rows]) for x in layers.values()}
        return {p: blocks_of(found[p], layer, orders, self._keep) for p, layer in layers.items()}

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
        assert self.tile != "measured"
        leaves = dict(paths.leaves(variables))
        layers = {}
        for path, kernel in found.items():
            mass, part = kernel.mass(leaves[path]), levels[path][chosen[path]]
            sides = (self.tile, self.tile)
            count = 1 + int(np.searchsorted(self.levels([kernel])[path], part))
            rows = "" if self.structure == "diagonal" else kernel.source
            if self.structure == "diagonal":
                count = round(1 / part)
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
            return gather(layers, self._keep, before, fixed)
        if self.orders == "natural":
            return first
        keys = jax.random.split(problem.key, len(first))
        return {
            name: order if name in fixed else np.asarray(jax.random.permutation(key, order))
            for key, (name, order) in zip(keys, first.items(), strict=True)
        }


def _spread(count: int) -> np.ndarray:
    """A few of so many positions, the ends among them."""
    return np.unique(np.linspace(0, count - 1, _LEVELS).round().astype(int))


def _warn_of_fixed(graph: ChannelGraph, found: Mapping[str, Kernel]) -> None:
    """Names the groups that no order can be folded into."""
    ends = {end for kernel in found.values() for end in (kernel.source, kernel.target)}
    for name in sorted(ends & graph.ordered.keys()):
        warnings.warn(
            f"the order of {name} cannot be folded, so its channels stay where they are: "
            f"{graph.ordered[name]}",
            stacklevel=4,
        )
