"""Micro-structured weight unification (Lin et al. 2021, arXiv 2106.08301).

Follow one kernel: it is cut into small blocks, all of one tap. Blocks of little norm become zero
first, each by its own mask; of those that are left a part is unified: all weights of a block get
one magnitude, `a = mean |v|`, each with its own sign. A unified block is stored as one number and a
bit for each sign, and trains that one number. Pruning is the special case of `a = 0`.

Training goes in three parts. ADMM pulls the kernels towards that set (`methods.admm`). Then the
blocks of least unification loss `‖v − a sign v‖²` are fixed, round after round more of them, while
the others train. In the fine-tune all of the structure is fixed, and each block trains its
magnitude. How many blocks become zero is what the budget asks: `bytes/8` counts what is stored.

The shared magnitude, the ranking by loss, its masks and the order (prune, then unify) are known
from the abstract and the authors' patents; the constraint set, the schedule and the block are
reconstructed, the weights ρ are defaults of the same laboratory.

Multiplications: what is multiplied is one number a block (`figures["multiplications"]`, a part of
the entries), what is added stays. The network runs as a dense one all the same: a product's
multiplications and additions are one instruction, and sums with one multiplication a block took 3
to 99 times as long on a CPU (`scripts/benchmarks/unified.py`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.budget import Budget, CostModel
from jaxprune.budget.targets import within
from jaxprune.graph import ChannelGraph, paths
from jaxprune.graph.structure import project
from jaxprune.kernels.blocks import Blocks, grid
from jaxprune.methods.admm import admm, keep_pattern, with_pattern
from jaxprune.methods.tiled import Levels, Measure, fitting, require_no_widths
from jaxprune.problem import Method, Problem, Retraining, Selection
from jaxprune.wrappers import Wrapper, split_params

_FINEST = 256  # parts of a kernel's blocks that are told apart


@dataclass(frozen=True)
class Unification(Method):
    """Prunes small blocks of weights and gives each of the others one magnitude."""

    within_kernels: ClassVar[bool] = True

    block: tuple[int, int] = (4, 4)
    """Positions of a block on the last two axes of a kernel; all of one tap."""
    unified: float = 1.0
    """Part of the blocks that stay which are unified, those of least loss."""
    interval: int = 50
    """Steps between two projections of ADMM."""
    rho: float = 1e-4
    """The weight of ADMM's pull at the beginning; it grows by 1.35 with each projection."""
    rounds: int = 2
    """In how many rounds blocks are fixed."""
    training: Retraining = field(default_factory=Retraining)
    """The training of ADMM, and again that of each round but the last.
    In all else it is as the fine-tune, distillation included."""

    def __post_init__(self):
        if len(self.block) != 2 or min(self.block) < 1 or max(self.block) < 2:
            raise ValueError(f"block must be two lengths, one of them above 1, not {self.block}")
        if not 0 <= self.unified <= 1:
            raise ValueError(f"unified must be a fraction in [0, 1], not {self.unified}")
        for name in ("interval", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.rho > 0:
            raise ValueError(f"rho must be above 0, not {self.rho}")

    def require(self, model: CostModel, budget: Budget) -> None:
        """Refuses, before any work, a budget that blocks cannot meet.

        Raises:
          ValueError: it asks for widths, or for what is beyond reach.
        """
        assert isinstance(model, ChannelGraph)
        super().require(model, dataclasses.replace(budget, targets="params/1", floor=0))
        self._require(model, budget)

    def _require(self, graph: ChannelGraph, budget: Budget) -> None:
        levels = self.levels(graph)
        require_no_widths(budget, "blocks of weights")
        measure = self.measure(graph)
        least = measure({path: float(fractions[0]) for path, fractions in levels.items()})
        limits = budget.limits_of(graph)
        if missed := [q for q, most in limits.items() if not within(least[q], most)]:
            factors = budget.factors
            reach = {q: np.floor(100 * factors[q] * limits[q] / least[q]) / 100 for q in limits}
            best = ",".join(f"{q}/{factor:g}" for q, factor in reach.items())
            raise ValueError(
                f"budget.targets: {budget.targets!r} is beyond reach for {' and '.join(missed)} by "
                f"blocks of {self.block[0]} × {self.block[1]} weights: the best is {best!r}"
            )

    def sides(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A block of a kernel of this shape."""
        return (*[1] * (len(shape) - 2), *self.block)

    def kernels(self, graph: ChannelGraph) -> dict[str, tuple[int, ...]]:
        """The kernels of convolutions and products that have two blocks at least → their shape."""
        worked = graph.kernels
        return {
            path: shape
            for path, shape in graph.shapes.items()
            if path in worked and len(shape) > 1 and np.prod(grid(shape, self.sides(shape))) > 1
        }

    def levels(self, graph: ChannelGraph) -> Levels:
        """Kernel → the fractions of its blocks that may stay."""
        return {path: self._levels(shape)[1] for path, shape in self.kernels(graph).items()}

    def _levels(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """How many blocks of a kernel may stay, and what part of it that is at most."""
        cells = grid(shape, self.sides(shape))
        sizes = np.sort(Blocks(self.sides(shape), np.ones(cells, bool)).entries(shape), axis=None)
        numbers = np.unique(np.linspace(1, len(sizes), min(len(sizes), _FINEST)).astype(int))
        return numbers, np.cumsum(sizes[::-1])[numbers - 1] / sizes.sum()

    def measure(self, graph: ChannelGraph) -> Measure:
        """Parameters, multiply-accumulates and bytes with so much of each kernel."""
        shapes, whole = self.kernels(graph), graph.cost()
        rest = 4 * (whole.params - sum(int(np.prod(shape)) for shape in shapes.values()))

        @functools.cache
        def stored(path: str, fraction: float) -> int:
            return self._some(shapes[path], fraction).storage(shapes[path])

        def reached(kept: Mapping[str, float]) -> dict[str, float]:
            cost = graph.cost(None, kept)
            small = sum(stored(path, fraction) for path, fraction in kept.items())
            return {"params": cost.params, "macs": cost.macs, "bytes": rest + small}

        return reached

    def _some(self, shape: tuple[int, ...], fraction: float) -> Blocks:
        """Blocks of which so many stay: the largest, since nothing takes more bytes."""
        numbers, fractions = self._levels(shape)
        count = int(numbers[np.searchsorted(fractions, fraction - 1e-9)])
        cells = grid(shape, self.sides(shape))
        sizes = Blocks(self.sides(shape), np.ones(cells, bool)).entries(shape)
        rank = np.argsort(np.argsort(-sizes, axis=None, kind="stable")).reshape(cells)
        return Blocks(self.sides(shape), rank < count, rank >= count - int(self.unified * count))

    def prune(self, problem: Problem) -> Selection:
        """Trains with ADMM, then fixes blocks round by round, and trains between the rounds.

        The figures are of each kernel: the part of its blocks that stays (`density`), its bytes of
        those of float32 (`bytes`), numbers that are multiplied of its entries (`multiplications`),
        and what the last projection changed of its norm (`changed`).

        Raises:
          ValueError: as `require`; nothing to train with.
        """
        graph = problem.graph
        self._require(graph, problem.budget)
        levels, shapes = self.levels(graph), self.kernels(graph)
        sizes = {path: int(np.prod(shape)) for path, shape in shapes.items()}
        chosen = fitting(self.measure(graph), problem.budget.limits_of(graph), levels, sizes)
        counts = {path: int(self._levels(shapes[path])[0][n]) for path, n in chosen.items()}
        select = functools.partial(self.nearest, counts)
        join = split_params(problem.variables)[2]
        pulled = problem.run.train(
            "admm",
            problem.variables,
            optimizer=_towards(self, tuple(counts.items())),
            config=self.training,
            teacher=problem.variables,
        )
        variables = join(pulled.params, pulled.state)
        variables = self._fix(problem, select, variables, shapes)
        leaves = dict(paths.leaves(variables))
        blocks = {p: _on_host(select(p, leaves[p], 1.0)) for p in counts}
        fixed = project(variables, blocks)
        after = dict(paths.leaves(fixed))
        figures = {
            "density": {p: b.size(shapes[p]) / sizes[p] for p, b in blocks.items()},
            "bytes": {p: b.storage(shapes[p]) / (4 * sizes[p]) for p, b in blocks.items()},
            "multiplications": {p: b.numbers(shapes[p]) / sizes[p] for p, b in blocks.items()},
            "changed": {
                p: float(jnp.linalg.norm(after[p] - leaves[p]) / jnp.linalg.norm(leaves[p]))
                for p in blocks
            },
        }
        return Selection(graph.full_masks(), fixed, figures, blocks)

    def _fix(self, problem: Problem, select: Any, variables: Any, shapes: Any) -> Any:
        """Fixes more and more blocks, the best first, and trains the others in between."""
        if self.rounds == 1:
            return variables
        join = split_params(variables)[2]
        train = functools.partial(
            problem.run.train,
            "fix",
            variables,
            optimizer=_fixing(self, tuple(shapes.items())),
            config=self.training,
            rounds=self.rounds - 1,
            teacher=problem.variables,
        )

        def step(state: Any, i: int) -> Any:
            number, trains = divmod(i, 2)
            if trains:
                return train(until=number + 1, state=state)
            dense = join(state.params, state.state)
            held = dict(paths.leaves(dense))
            blocks = {p: _on_host(select(p, held[p], (number + 1) / self.rounds)) for p in shapes}
            params, rest, _ = split_params(project(dense, blocks))
            opt_state = with_pattern(state.opt_state, blocks)
            return dataclasses.replace(state, params=params, state=rest, opt_state=opt_state)

        state = problem.run.loop("fixing", step, train(until=0), 2 * (self.rounds - 1))
        return join(state.params, state.state)

    def nearest(
        self, counts: Mapping[str, int], path: str, kernel: jax.Array, part: float
    ) -> Blocks:
        """The blocks of a kernel that stay, and those that are unified, as arrays of JAX.

        Args:
          counts: kernel → how many of its blocks stay.
          path: of the kernel.
          kernel: its weights.
          part: how much of the unified blocks.
        """
        cells = grid(kernel.shape, self.sides(kernel.shape))
        every: Any = np.ones(cells, bool)
        blocks = Blocks(self.sides(kernel.shape), every)
        size = jnp.asarray(blocks.entries(kernel.shape), kernel.dtype)
        square, mean = blocks.means(jnp.square(kernel)), blocks.means(jnp.abs(kernel))
        kept = _first(-square * size, counts[path])
        # The loss of a block beside its norm, so that blocks of any size of weight compare.
        loss = 1 - jnp.square(mean) / jnp.maximum(square, jnp.finfo(kernel.dtype).tiny)
        shared = _first(jnp.where(kept, loss, jnp.inf), int(part * self.unified * counts[path]))
        return Blocks(blocks.sides, kept, shared & kept)  # pyright: ignore[reportArgumentType]


# Cached, since a training is compiled for its optimizer: one that is resumed compiles nothing.
@functools.lru_cache(maxsize=4)
def _towards(method: Unification, counts: tuple[tuple[str, int], ...]) -> Wrapper:
    """ADMM towards as many blocks of each kernel, all of those to be unified among them."""
    select = functools.partial(method.nearest, dict(counts))
    return admm(
        dict(counts),
        lambda path, kernel: select(path, kernel, 1.0).project(kernel),
        interval=method.interval,
        rho=method.rho,
    )


@functools.lru_cache(maxsize=4)
def _fixing(method: Unification, shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> Wrapper:
    """The optimizer that keeps a pattern, which is of all blocks until a round gives it another."""
    blocks = {}
    for path, shape in shapes:
        every = np.ones(grid(shape, method.sides(shape)), bool)
        blocks[path] = Blocks(method.sides(shape), every, ~every)
    return keep_pattern(blocks)


def _first(values: jax.Array, count: int) -> jax.Array:
    """Where the `count` smallest are, of equals the first."""
    order = jnp.argsort(values.ravel(), stable=True)[:count]
    return jnp.zeros(values.size, bool).at[order].set(True).reshape(values.shape)


def _on_host(blocks: Blocks) -> Blocks:
    return blocks._replace(kept=np.asarray(blocks.kept), shared=np.asarray(blocks.shared))
