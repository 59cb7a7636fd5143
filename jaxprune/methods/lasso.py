"""LASSO channel pruning (He, Zhang, Sun 2017, arXiv 1707.06168): select by LASSO, refit, layer on.

From the first layer to the last: let `X_i` be what a consumer reads of unit i and `W_i` its kernel
there, in the network as it is pruned so far, and Y what the consumer gave in the unpruned network
at the same positions of the same images. Selection is

    argmin over β of 1/(2N) ‖Y − Σ_i β_i X_i W_iᵀ‖² + λ ‖β‖₁,

solved by coordinate descent from the last β (warm start) while λ doubles from the λ of the layer
before until no more units are left than asked for, and then bisected until they are at most
`tolerance` more. Reconstruction is least squares of Y on the kept X with intercept; kernel and bias
are replaced. So the error that has piled up in front is corrected at each layer. At the end of a
residual branch Y is `Y1 − Y1′ + Y2`, what the sum of shortcut and branch lacks.

Follow one array: with the moments of the layer the LASSO needs no rows any more, but the matrix
`A_ij = Σ_o E[(X_i W_iᵀ)_o (X_j W_jᵀ)_o]` of (units, units) and `b_i = Σ_o E[(X_i W_iᵀ)_o Y_o]`,
both of centred values, since the refit has an intercept.

On the digits (`configs/digits_vgg.py --method lasso`, one seed) 97.8 % of the unpruned network
become 98.0 % as cut, with nothing trained, and 97.6 % fine-tuned (its control: 98.0 %), at 8.01x
fewer parameters and 3.65x fewer MACs.

Reconstructed: widths for a target (theirs were set by hand) come from the groups' sensitivity; all
sampled positions take part in the LASSO, where the released code draws 400; of the units that a
tolerance leaves too many, those with the least `|β_i| √A_ii` fall; a group that several layers
read, as a residual sum, is selected for all of them at once, each error in parts of its output.
`budget.groups="inner"` leaves sums whole; what the first layer of each branch then reads of a sum
is `sampler`'s to say, one fraction for all, and the widths take up what is left of the budget.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.budget import Budget, Curves
from jaxprune.budget.targets import CostModel
from jaxprune.graph import ChannelGraph
from jaxprune.methods.sampler import (
    Branch,
    Sampler,
    beside,
    blocks,
    branches,
    filters_of,
    fitted,
    ones,
)
from jaxprune.methods.widths import Rates, allocated, greedy_chooser
from jaxprune.problem import Method, Problem, Selection
from jaxprune.reconstruction import Fit, least_squares, refitted, unplaced
from jaxprune.statistics import grams
from jaxprune.statistics.moments import Moments, moments, responses
from jaxprune.statistics.outlets import outlets
from jaxprune.statistics.sensitivity import KEPT

SWEEPS, ACCURACY = 1000, 1e-5


class Start(NamedTuple):
    """What goes from layer to layer: the network, its masks and samplers, and where λ starts."""

    variables: Any
    masks: dict[str, jax.Array]
    samplers: dict[str, jax.Array]
    penalty: np.ndarray


class Layer(NamedTuple):
    """One layer's turn: a group gets narrower, or the first layer of a branch reads less of one."""

    group: str
    branch: Branch | None = None

    @property
    def name(self) -> str:
        """Its name among the figures."""
        return self.branch.kernel if self.branch else self.group


@dataclass(frozen=True)
class Lasso(Method):
    """Selects each layer's channels by LASSO and refits what reads them."""

    tolerance: float = 0.1
    """Units above the width, in parts of it, at which the bisection of λ ends."""
    alternate: bool = False
    """Alternate: the kernel is refitted whenever λ has grown, not once at the end."""
    sampler: Sampler = "none"
    """What the first layer of a branch reads of a residual sum that stays whole.
    All of it, some `channels` (the paper's sampler), or for each of its `filters` others."""
    sampled: float = 0.5
    """How much of the sum that is, in (0, 1]."""
    rates: Rates = "sensitivity"
    """How targets become widths.
    Least predicted loss, one accuracy drop for all groups, or one fraction for all."""
    kept: tuple[float, ...] = KEPT
    """Kept fractions of a group's channels at which its sensitivity is measured, in (0, 1)."""
    positions: int | None = 10
    """Output positions of a consumer that are drawn from each image; None takes all of them."""

    def __post_init__(self):
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance must be at least 0, not {self.tolerance}")
        if self.sampler not in get_args(Sampler):
            raise ValueError(f"sampler: {self.sampler!r}, must be one of {get_args(Sampler)}")
        if not 0 < self.sampled <= 1:
            raise ValueError(f"sampled must be a fraction in (0, 1], not {self.sampled}")
        if not self.kept or not all(0 < fraction < 1 for fraction in self.kept):
            raise ValueError(f"kept must hold fractions in (0, 1), not {list(self.kept)}")
        if self.positions is not None and self.positions < 1:
            raise ValueError(f"positions must be at least 1, not {self.positions}")

    def require(self, model: CostModel, budget: Budget) -> None:
        """Refuses, before any work, a budget beyond reach, and a sampler that has no place.

        Raises:
          ValueError: it is.
        """
        super().require(model, budget)
        if self.sampler != "none":
            assert isinstance(model, ChannelGraph)
            branches(model, budget)

    def prune(self, problem: Problem) -> Selection:
        """Layer by layer: moments, LASSO, least squares.

        The figures are the sensitivity, the λ, and the errors of each group's readers in parts of
        their outputs' variance: before the refit and after. `left` is what no variable takes up of
        the shifts. A sampled layer's are under the name of its kernel.
        """
        graph = problem.graph
        found = branches(graph, problem.budget) if self.sampler != "none" else []
        widths, curves = self._widths(problem, found)
        narrowed = [name for name, group in graph.groups.items() if widths[name] < group.size]
        turns = sorted(
            [*map(Layer, narrowed), *(Layer(branch.writes, branch) for branch in found)],
            key=lambda turn: (graph.names.index(turn.group), turn.branch is None),
        )
        known = outlets(problem)
        targets = responses(problem, positions=self.positions, known=known)
        figures = {n: np.zeros(len(turns)) for n in ("penalty", "error", "error_refitted", "left")}

        def layer(carry: tuple[Start, Any], i: int) -> tuple[Start, Any]:
            start, figures = carry
            group, branch = turns[i]
            reads = branch.reads if branch else group
            layers = moments(
                problem.at(start.variables), groups=[reads], masks=start.masks,
                positions=self.positions, targets=targets, known=known,
            )[reads]  # fmt: skip
            if branch:
                start, row = self._sample(problem, branch, layers, start)
            else:
                start, row = self._narrow(problem, group, layers, start, widths[group])
            figures = {name: np.array(values) for name, values in figures.items()}
            for name, value in row.items():
                figures[name][i] = np.mean(value) if np.size(value) else 0.0
            return start, figures

        full, whole = graph.full_masks(), ones(found)
        first_start = Start(problem.variables, full, whole, np.asarray(1e-3))
        end, rows = problem.run.loop("layers", layer, (first_start, figures), len(turns))
        names = [turn.name for turn in turns]
        numbers = {
            name: dict(zip(names, values.tolist(), strict=True)) for name, values in rows.items()
        }
        if curves is not None:
            numbers = {"sensitivity": curves.accuracy, **numbers}
        kept = {b.kernel: blocks(b, self.sampler, end.samplers[b.kernel], end.masks, graph)
                for b in found}  # fmt: skip
        return Selection(end.masks, end.variables, numbers, kept)

    def _widths(
        self, problem: Problem, found: Sequence[Branch]
    ) -> tuple[dict[str, int], Curves | None]:
        """Those that the budget allows beside the samplers."""
        if found:
            sizes = problem.graph.groups
            parts = {b.kernel: self._reads(n := sizes[b.reads].size) / n for b in found}
            graph, budget = beside(problem.graph, problem.budget, parts)
            problem = replace(problem, graph=graph, budget=budget)
        groups = problem.prunable()
        fixed = bool(problem.budget.widths)
        matrices = {} if fixed else grams(problem, groups=groups, positions=self.positions)
        return allocated(problem, greedy_chooser(matrices), self.rates, self.kept)

    def _reads(self, size: int) -> int:
        """How many channels of a sum a sampled layer reads."""
        return max(1, round(self.sampled * size))

    def _narrow(
        self, problem: Problem, group: str, layers: Sequence[Moments], start: Start, width: int
    ) -> tuple[Start, dict[str, Any]]:
        """A group at its width, and all that reads it refitted; with its figures."""
        graph, variables = problem.graph, start.variables
        chosen, penalty = self.select(layers, width, float(start.penalty))
        fits = [
            (one, chosen, least_squares(one, chosen))
            for one in layers
            if one.consumer.kernel_shape  # a sum over the channels has no kernel to refit
        ]
        for one, _, fit in fits:
            variables = refitted(graph, variables, group, one, chosen, fit)
        mask = np.zeros(graph.groups[group].size, np.float32)
        mask[chosen] = 1
        masks = {**start.masks, group: jnp.asarray(mask)}
        start = Start(variables, masks, start.samplers, np.asarray(penalty))
        return start, {"penalty": penalty, **losses(fits)}

    def _sample(
        self, problem: Problem, branch: Branch, layers: Sequence[Moments], start: Start
    ) -> tuple[Start, dict[str, Any]]:
        """The first layer of a branch over what it still reads of the sum; with its figures."""
        (layer,) = (one for one in layers if one.consumer.name == branch.kernel)
        keep = self._reads(problem.graph.groups[branch.reads].size)
        fits, penalty = [], float(start.penalty)
        for one in [layer] if self.sampler == "channels" else filters_of(layer):
            chosen, penalty = self.select([one], keep, penalty)
            fits.append((one, chosen, least_squares(one, chosen)))
        _, choices, each = zip(*fits, strict=True)
        variables, kept = fitted(problem.at(start.variables), branch, layer, choices, each)
        samplers = {**start.samplers, branch.kernel: jnp.asarray(kept, jnp.float32)}
        start = Start(variables, start.masks, samplers, np.asarray(penalty))
        return start, {"penalty": penalty, **losses(fits)}

    def select(
        self, layers: Sequence[Moments], keep: int, penalty: float
    ) -> tuple[np.ndarray, float]:
        """The units that stay, ascending, and the λ that left them.

        Args:
          layers: the moments of what reads the group.
          keep: how many units stay.
          penalty: λ to start from.
        """
        problem = normal_equations(layers, [one.kernel for one in layers])
        beta = np.ones(len(problem.cross), np.float32)
        low, high = 0.0, penalty
        while True:  # λ grows
            after = descend(*problem.scaled(), jnp.float32(high), jnp.asarray(beta))
            left = np.flatnonzero(np.asarray(after))
            if len(left) <= keep:
                break
            low, high, beta = high, 2 * high, np.asarray(after)
            if self.alternate:
                problem = normal_equations(layers, [_refit(one, left) for one in layers])
                beta = (beta != 0).astype(np.float32)
        most = int((1 + self.tolerance) * keep)
        for _ in range(40):
            if keep <= len(left) <= most:
                break
            middle = (low + high) / 2
            after = descend(*problem.scaled(), jnp.float32(middle), jnp.asarray(beta))
            left = np.flatnonzero(np.asarray(after))
            low, high = (middle, high) if len(left) > keep else (low, middle)
        strength = np.abs(np.asarray(after)) * np.sqrt(np.diagonal(problem.gram))
        if len(left) < keep:  # equal units fell at once: the next ones by what they explain alone
            alone = np.abs(problem.cross) / np.sqrt(np.maximum(np.diagonal(problem.gram), 1e-30))
            strength = np.where(strength > 0, strength + alone.max(), alone)
        return np.sort(np.argsort(-strength, kind="stable")[:keep]), high


class Quadratic(NamedTuple):
    """The LASSO's normal equations: `A` (U, U) and `b` (U,), float64."""

    gram: np.ndarray
    cross: np.ndarray

    def scaled(self) -> tuple[jax.Array, jax.Array]:
        """In float32, `b` of order one: λ then is in parts of what the strongest unit explains."""
        scale = max(float(np.abs(self.cross).max(initial=0)), 1e-30)
        return jnp.asarray(self.gram / scale, jnp.float32), jnp.asarray(
            self.cross / scale, jnp.float32
        )


def normal_equations(layers: Sequence[Moments], kernels: Sequence[np.ndarray]) -> Quadratic:
    """Those of all readers of a group together, each in parts of its output's energy.

    Args:
      layers: the readers' moments.
      kernels: (U·T, O) of each, by which β is a factor a unit.
    """
    gram: Any = 0.0
    cross: Any = 0.0
    for layer, kernel in zip(layers, kernels, strict=True):
        covariance, with_target, _ = layer.centred()
        taps = layer.taps
        units = len(kernel) // taps
        weight = 1 / max(layer.energy, 1e-30)
        products = covariance * (kernel @ kernel.T)
        gram = gram + weight * products.reshape(units, taps, units, taps).sum((1, 3))
        cross = cross + weight * (with_target * kernel).reshape(units, -1).sum(1)
    return Quadratic(gram, cross)


@functools.partial(jax.jit, static_argnames=("sweeps",))
def descend(
    gram: jax.Array, cross: jax.Array, penalty: jax.Array, beta: jax.Array, sweeps: int = SWEEPS
) -> jax.Array:
    """`argmin over β of ½ βᵀAβ − bᵀβ + λ ‖β‖₁` by cyclic coordinate descent, (U,).

    Args:
      gram: A (U, U), positive semidefinite.
      cross: b (U,).
      penalty: λ.
      beta: where it starts.
      sweeps: over all coordinates, at most; it ends when none moves by more than 1e-5 of the
        largest.
    """
    own = jnp.diagonal(gram)

    def coordinate(i: Any, state: Any) -> Any:
        beta, left, moved = state  # left: b − A β
        pull = left[i] + own[i] * beta[i]
        new = jnp.sign(pull) * jnp.maximum(jnp.abs(pull) - penalty, 0)
        new = jnp.where(own[i] > 0, new / jnp.where(own[i] > 0, own[i], 1), 0)
        step = new - beta[i]
        return beta.at[i].set(new), left - gram[i] * step, jnp.maximum(moved, jnp.abs(step))

    def sweep(state: Any) -> Any:
        beta, _, _, n = state
        left = cross - jnp.matmul(gram, beta, precision="highest")
        start = (beta, left, jnp.zeros((), beta.dtype))
        beta, _, moved = jax.lax.fori_loop(0, beta.size, coordinate, start)
        return beta, moved, jnp.max(jnp.abs(beta)), n + 1

    def moving(state: Any) -> Any:
        _, moved, largest, n = state
        return (n < sweeps) & (moved > ACCURACY * jnp.maximum(largest, 1e-30))

    one = jnp.ones((), beta.dtype)
    return jax.lax.while_loop(moving, sweep, (beta, one, one, 0))[0]


def _refit(layer: Moments, kept: np.ndarray) -> np.ndarray:
    """The kernel of one layer after a refit over the kept units, each of its first norm again."""
    rows = layer.rows(kept)
    fitted = np.zeros_like(layer.kernel)
    fitted[rows] = least_squares(layer, kept).kernel
    units = len(fitted) // layer.taps
    before, after = (
        np.linalg.norm(k.reshape(units, -1), axis=1) for k in (layer.kernel, fitted)
    )  # fmt: skip
    factor = np.where(after > 0, before / np.where(after > 0, after, 1), 0)
    return fitted * np.repeat(factor, layer.taps)[:, None]


def losses(fits: Sequence[tuple[Moments, np.ndarray, Fit]]) -> dict[str, list[float]]:
    """Of fits over kept units: the errors before and after, and what of a shift is left over."""
    return {
        "error": [error(one, kept, one.kernel[one.rows(kept)]) for one, kept, _ in fits],
        "error_refitted": [error(one, kept, fit.kernel) for one, kept, fit in fits],
        "left": [unplaced(one, fit) for one, _, fit in fits],
    }


def error(layer: Moments, kept: np.ndarray, kernel: np.ndarray) -> float:
    """What a kernel (K·T, O) of the kept units leaves of the target's variance, as a fraction.

    The best shift of the output is taken for granted.
    """
    rows = layer.rows(kept)
    covariance, cross, variance = layer.centred(rows)
    explained = 2 * cross - covariance @ kernel
    return float(1 - np.sum(explained * kernel) / max(variance.sum(), 1e-30))
