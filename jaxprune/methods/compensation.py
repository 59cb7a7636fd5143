"""CaP: pruning with compensation (Xie et al. 2021, arXiv 2108.13728). No training at all.

Follow one array: of all that a consumer reads, mean μ and covariance Σ (units × taps squared), in
one pass over the calibration images with the unpruned network, never refreshed. From them come

1. the compensation of a kernel W whose inputs s are kept, in closed form,
   `W' = W Σ_{:,s} Σ_ss⁻¹`, `b' = b + W μ − W' μ_s`, each output o then rescaled by
   `√((W Σ Wᵀ)_oo / (W' Σ_ss W'ᵀ)_oo)`, which restores its variance for what normalises it;
2. the ranking of all units, up front: greedy forward selection, the unit t next that explains most
   of what the outputs still vary, `‖(D_t − D_s Σ_ss⁻¹ Σ_st) L⁻ᵀ‖²`, `D = W Σ`,
   `L Lᵀ = Σ_tt − Σ_ts Σ_ss⁻¹ Σ_st`;
3. the widths: layer after layer the narrowest one is bisected at which the network, its worst
   ranked units gone and compensated, still scores a floor, which falls linearly from layer to layer
   from the unpruned score: that of layer i of L (from 0) is `start − (i + 1) (start − end) / L`.

On the digits (`configs/digits_vgg.py --method compensation`, one seed) 97.8 % of the unpruned
network become 94.4 % as cut, with nothing trained, and 98.4 % with the run's fine-tune (its
control: 98.0 %), at 8.02x fewer parameters and 5.67x fewer MACs, of which 3x were asked.

The paper names no budget; here `end` is bisected, too, to the least fall that meets it, and what is
left over widens the group that keeps the smallest part (both reconstructed). Widths that the budget
fixes are taken, and nothing is searched. The floor is in parts of the unpruned network's score on
the held-out images, where the code read the test part; its numbers are unset, so ours are
reconstructed.

The block inverse is kept as a growing Cholesky factor; Σ is damped as in every refit here, in place
of the code's ways around singular blocks: a constant unit explains nothing and comes last.
`rescale="shrunk"` weighs the factor by the part of the variance that is left, since a strong factor
on a weak signal raises its error (as ASR found, arXiv 2605.21426; the weight is reconstructed).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from scipy.linalg import solve_triangular

from jaxprune import masks as mask_ops
from jaxprune import reconstruction
from jaxprune.methods.widths import adjusted
from jaxprune.problem import Method, Problem, Selection
from jaxprune.reconstruction import Fit, Ranked, least_squares, with_shift
from jaxprune.statistics import evaluate_masks
from jaxprune.statistics.moments import Moments, moments

Rescale = Literal["full", "shrunk", "none"]


@dataclass(frozen=True)
class Compensation(Method):
    """Ranks by explained variance, compensates in closed form, finds widths under a floor."""

    rescale: Rescale = "full"
    """Whether each output's variance is restored: as in the paper, with shrinkage, or not."""
    steps: int = 6
    """Steps of the bisection of a layer's width."""
    floors: int = 5
    """Steps of the bisection of the floor at the last layer, by which the budget is met."""
    positions: int | None = 16
    """Output positions of a consumer that are drawn from each image; None takes all of them."""

    def __post_init__(self):
        if self.rescale not in get_args(Rescale):
            known = ", ".join(get_args(Rescale))
            raise ValueError(f"rescale is one of {known}, not {self.rescale!r}")
        for name in ("steps", "floors", "positions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")

    def prune(self, problem: Problem) -> Selection:
        """Statistics and ranking once; widths by bisection; compensation.

        The figures are the part of its readers' variance that a group's kept units explain, what of
        a shift no variable takes up, and the floor at the end of the search.
        """
        graph, groups = problem.graph, problem.prunable()
        layers = moments(problem, groups=groups, positions=self.positions) if groups else {}
        sizes = {name: graph.groups[name].size for name in groups}

        def ranked(orders: dict[str, np.ndarray], i: int) -> dict[str, np.ndarray]:
            name = groups[i]
            return {**orders, name: ranking(layers[name], problem.budget.widths.get(name))}

        blank = {name: np.arange(size) for name, size in sizes.items()}
        orders = problem.run.loop("ranking", ranked, blank, len(groups))
        orders = {name: np.asarray(order) for name, order in orders.items()}

        finish = functools.partial(rescaled, rescale=self.rescale)
        network = Ranked(graph, problem.variables, layers, orders, finish)
        figures: dict[str, dict[str, Any]] = {}
        if problem.budget.widths:
            problem.budget.require_feasible(graph)
            widths = np.array([problem.budget.widths[name] for name in graph.names])
        else:
            widths, figures = self._widths(problem, network)
        variables, masks = network(widths)
        figures["left"] = network.unplaced(widths)
        figures["explained"] = {
            name: [explained(layer, np.flatnonzero(masks[name])) for layer in layers[name]]
            for name in groups
        }
        return Selection(masks, variables, figures)

    def _widths(self, problem: Problem, network: Ranked) -> tuple[np.ndarray, dict[str, Any]]:
        """The widths that meet the budget at the least fall of the floor."""
        graph, budget, groups = problem.graph, problem.budget, problem.prunable()
        budget.require_feasible(graph)
        allowed, widest = budget.widths_of(graph), budget.bounds(graph)[1]
        places = [graph.names.index(name) for name in groups]

        @functools.cache
        def score(widths: tuple[int, ...]) -> float:
            variables, masks = network(widths)
            found = evaluate_masks(problem.at(variables), mask_ops.stack([masks]))
            return float(found["score"][0])

        start = score(tuple(graph.sizes.tolist()))

        def layer(carry: dict[str, np.ndarray], i: int) -> dict[str, np.ndarray]:
            """One layer of one pass; after its last layer the pass moves the end of the floor."""
            state = {name: np.array(value) for name, value in carry.items()}
            at = i % len(groups)
            if at == 0:
                state["widths"] = widest.copy()
            fall = start * float(state["least"] + state["most"]) / 2
            floor = start - (at + 1) * fall / len(groups)
            state["widths"] = self._narrowed(state["widths"], places[at], allowed, floor, score)
            state["floors"][at] = floor
            if at == len(groups) - 1:
                middle = (state["least"] + state["most"]) / 2
                if budget.fits(graph, state["widths"]):
                    state["most"], state["found"] = middle, state["widths"].copy()
                    state["floor"] = state["floors"].copy()
                else:
                    state["least"] = middle
            return {name: np.asarray(value) for name, value in state.items()}

        carry = {
            "least": np.zeros(()), "most": np.ones(()), "widths": widest,
            "found": np.zeros_like(widest), "floors": np.zeros(len(groups)),
            "floor": np.zeros(len(groups)),
        }  # fmt: skip
        length = self.floors * len(groups)
        end = problem.run.loop("widths", layer, carry, length) if groups else carry
        widths = np.asarray(end["found"] if np.any(end["found"]) else end["widths"])
        floors = dict(zip(groups, np.asarray(end["floor"]).tolist(), strict=True))
        return adjusted(graph, budget, widths), {"floor": floors}

    def _narrowed(
        self, widths: np.ndarray, group: int, allowed: Sequence[np.ndarray], floor: float,
        score: Callable[[tuple[int, ...]], float],
    ) -> np.ndarray:  # fmt: skip
        """These widths with one group as narrow as a bisection finds it at or above a floor."""
        fails, holds = -1, len(allowed[group]) - 1  # an index that fails, one that is taken
        for _ in range(self.steps):
            if holds - fails <= 1:
                break
            middle = (fails + holds) // 2
            trial = widths.copy()
            trial[group] = allowed[group][middle]
            good = score(tuple(trial.tolist())) >= floor
            fails, holds = (fails, middle) if good else (middle, holds)
        narrowed = widths.copy()
        narrowed[group] = allowed[group][holds]
        return narrowed


def compensated(layer: Moments, kept: np.ndarray, rescale: Rescale = "full") -> Fit:
    """The closed-form compensation of one consumer, over the kept units (ascending)."""
    return rescaled(layer, kept, least_squares(layer, kept), rescale)


def rescaled(layer: Moments, kept: np.ndarray, fit: Fit, rescale: Rescale = "full") -> Fit:
    """A fit over the kept units with the variance of its outputs restored."""
    if rescale == "none":
        return fit
    rows = layer.rows(kept)
    covariance, _, variance = layer.centred(rows)
    left = np.sum(fit.kernel * (covariance @ fit.kernel), axis=0)
    part = np.clip(left / np.maximum(variance, np.finfo(float).tiny), 0, 1)
    factor = np.where(part > 0, 1 / np.sqrt(np.where(part > 0, part, 1)), 1)
    if rescale == "shrunk":
        factor = part * factor + (1 - part)
    return with_shift(layer, rows, fit.kernel * factor)


def explained(layer: Moments, kept: np.ndarray) -> float:
    """The part of the outputs' variance that a refit over the kept units explains."""
    rows = layer.rows(kept)
    covariance, cross, variance = layer.centred(rows)
    kernel = least_squares(layer, kept).kernel
    both = 2 * cross - covariance @ kernel
    return float(np.sum(both * kernel) / max(variance.sum(), np.finfo(float).tiny))


def ranking(layers: Sequence[Moments], most: int | None = None) -> np.ndarray:
    """All units, each next the one that explains most of what the outputs still vary, int (U,).

    Where several consumers read the group, their gains are added in parts of their variances. With
    `most`, the units after so many are in no particular order.
    """
    residuals = [Residual(layer) for layer in layers]
    left = np.ones(residuals[0].units, bool)
    order = []
    for _ in range(len(left) if most is None else most):
        gains = np.sum([one.gains() for one in residuals], axis=0)
        unit = int(np.argmax(np.where(left, gains, -np.inf)))
        order.append(unit)
        left[unit] = False
        for one in residuals:
            one.take(unit)
    return np.concatenate([np.array(order, int), np.flatnonzero(left)])


class Residual:
    """What of one consumer the units taken so far leave unexplained; float64.

    `factor` is the growing block Cholesky factor of Σ over them: (U·T, taken·T), so that
    `Σ − factor factorᵀ` is the covariance given them; `blocks` are its diagonal blocks (U, T, T),
    and `cross` (U, T, O) is what is left of `D`.
    """

    def __init__(self, layer: Moments):
        covariance, cross, variance = layer.centred()
        self.taps = layer.taps
        self.units = len(covariance) // self.taps
        self.weight = 1 / max(float(variance.sum()), np.finfo(float).tiny)
        ridge = max(
            reconstruction.DAMPING * float(np.mean(np.diagonal(covariance))), np.finfo(float).tiny
        )
        self.covariance = covariance
        self.covariance[np.diag_indices_from(covariance)] += ridge
        shape = (self.units, self.taps, self.units, self.taps)
        self.blocks = np.einsum("cicj->cij", self.covariance.reshape(shape)).copy()
        self.cross = cross.reshape(self.units, self.taps, -1).copy()
        self.factor = np.empty_like(self.covariance)
        self.taken = 0

    def gains(self) -> np.ndarray:
        """What each unit would explain next, (U,): `tr(D_tᵀ S_t⁻¹ D_t)`, S_t its block."""
        squares = self.cross @ self.cross.transpose(0, 2, 1)
        return self.weight * np.trace(np.linalg.solve(self.blocks, squares), axis1=1, axis2=2)

    def take(self, unit: int) -> None:
        """Adds a unit to those that are kept."""
        t = self.taps
        rows = slice(unit * t, (unit + 1) * t)
        known = self.factor[:, : self.taken]
        column = self.covariance[:, rows] - known @ known[rows].T
        root = np.linalg.cholesky(self.blocks[unit])
        new = solve_triangular(root, column.T, lower=True).T
        self.factor[:, self.taken : self.taken + t] = new
        self.taken += t
        parts = new.reshape(self.units, t, t)
        gone = solve_triangular(root, self.cross[unit], lower=True)
        self.cross -= parts @ gone
        self.blocks -= parts @ parts.transpose(0, 2, 1)
        # Nothing of itself is left, but for what rounding makes of it.
        self.blocks[unit], self.cross[unit] = np.eye(t), 0.0
