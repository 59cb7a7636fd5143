"""Least predicted loss under several cost limits: Lagrange multipliers, then exchanges.

`min Σ_g loss_g(w_g)` subject to `cost_t(w) <= most_t`. Losses are tables of any shape; costs couple
the groups (a convolution costs the product of its two widths). For given multipliers coordinate
descent finds widths, each group exactly over all its widths; a bisection scales the multipliers to
the limits, for several ratios between the targets; the best few starts are then improved by
widening one group while narrowing another.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxprune.budget.targets import CostModel

_STARTS = 6  # that are improved by exchanges


class _Costs(NamedTuple):
    """Relative costs as polynomials of second degree around the widest network.

    `load_t(d) = base_t + slope_t · d + dᵀ curve_t d / 2` with `d = w - w_max <= 0`. That is exact
    for layers that read one group and write one; elsewhere the caller checks the true cost.
    """

    base: np.ndarray  # [T]
    slope: np.ndarray  # [T, G]
    curve: np.ndarray  # [T, G, G], symmetric

    def load(self, d: np.ndarray) -> np.ndarray:
        """[..., G] -> [..., T]."""
        quadratic = np.einsum("...g,tgh,...h->...t", d, self.curve, d)
        return self.base + d @ self.slope.T + quadratic / 2


class _Problem(NamedTuple):
    costs: _Costs
    steps: list[np.ndarray]  # per group d of each allowed width, ascending up to 0
    losses: list[np.ndarray]  # per group, of each allowed width

    def steps_at(self, chosen: np.ndarray) -> np.ndarray:
        return np.array([s[i] for s, i in zip(self.steps, chosen, strict=True)])

    def loss_at(self, chosen: np.ndarray) -> float:
        return float(sum(loss[i] for loss, i in zip(self.losses, chosen, strict=True)))

    def fits(self, chosen: np.ndarray) -> bool:
        return bool(np.all(self.costs.load(self.steps_at(chosen)) <= 1 + 1e-12))


def least_loss(
    model: CostModel,
    most: Mapping[str, float],
    allowed: Sequence[np.ndarray],
    losses: Sequence[np.ndarray],
) -> np.ndarray:
    """Indices [G] into the allowed widths, at which the sum of the losses is least.

    Args:
      model: the network's costs.
      most: quantity -> its limit; the narrowest widths must keep to all.
      allowed: per group its widths, ascending.
      losses: per group the loss at each of them, not rising.
    """
    steps = [(w - w[-1]).astype(np.float64) for w in allowed]
    problem = _Problem(_probe(model, most, allowed), steps, list(losses))
    widest = np.array([w.size - 1 for w in allowed])
    if problem.fits(widest):
        return widest
    starts = [_scaled(problem, ratio) for ratio in _ratios(len(most))]
    unique = {tuple(s): s for s in starts}.values()
    best = sorted(unique, key=problem.loss_at)[:_STARTS]
    return min((_exchange(problem, start) for start in best), key=problem.loss_at)


def _probe(model: CostModel, most: Mapping[str, float], allowed: Sequence[np.ndarray]) -> _Costs:
    """Reads the polynomial off the cost of 1 + 2 G + G (G - 1) / 2 networks."""
    widest = np.array([w[-1] for w in allowed])
    groups = len(allowed)
    pairs = list(itertools.combinations(range(groups), 2))
    low = np.array([w[0] for w in allowed]) - widest
    middle = low // 2
    unit = np.eye(groups, dtype=int)
    moves = np.concatenate(
        [np.zeros((1, groups), int), unit * low, unit * middle]
        + [(unit[g] * low + unit[h] * low)[None] for g, h in pairs]
    )
    costs = model.costs(widest + moves)
    load = np.stack([np.asarray(costs[q], np.float64) / m for q, m in most.items()])
    change = load[:, 1:] - load[:, :1]
    at_low, at_middle = change[:, :groups], change[:, groups : 2 * groups]
    # Through the two points: change = a d + q d². A group with one step is a straight line.
    bent = (low != 0) & (middle != low)
    safe_low, safe_middle = np.where(low, low, 1), np.where(middle, middle, 1)
    per_low, per_middle = at_low / safe_low, at_middle / safe_middle
    square = np.where(bent, (per_low - per_middle) / np.where(bent, low - middle, 1), 0.0)
    slope = np.where(low, per_low - square * low, 0.0)
    curve = np.zeros((len(most), groups, groups))
    curve[:, range(groups), range(groups)] = 2 * square
    for index, (g, h) in enumerate(pairs):
        if low[g] and low[h]:
            joint = change[:, 2 * groups + index] - at_low[:, g] - at_low[:, h]
            curve[:, g, h] = curve[:, h, g] = joint / (low[g] * low[h])
    return _Costs(load[:, 0], slope, curve)


def _ratios(targets: int) -> list[np.ndarray]:
    """Directions of multipliers: the corners, and mixtures of all targets in quarters."""
    parts = itertools.product(range(5), repeat=targets)
    return [np.array(p) / 4 for p in parts if sum(p) == 4]


def _scaled(problem: _Problem, ratio: np.ndarray) -> np.ndarray:
    """The widths at the least multiple of `ratio` whose coordinate descent fits; else narrowed."""
    widest = np.array([s.size - 1 for s in problem.steps])
    best = np.zeros_like(widest)
    span = max(float(loss[0]) for loss in problem.losses) or 1.0
    low, high = np.log(span) - 18, np.log(span) + 12
    for _ in range(26):
        middle = (low + high) / 2
        found = _descend(problem, np.exp(middle) * ratio, widest)
        if problem.fits(found):
            high = middle
            best = min(best, found, key=problem.loss_at)
        else:
            low = middle
    return best


def _descend(problem: _Problem, multipliers: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Coordinate descent on `Σ loss + Σ_t multiplier_t load_t`, each group over all its widths."""
    slope = multipliers @ problem.costs.slope
    curve = np.tensordot(multipliers, problem.costs.curve, 1)
    d = problem.steps_at(chosen)
    chosen = chosen.copy()
    for _ in range(30):
        before = chosen.copy()
        for g, (steps, losses) in enumerate(zip(problem.steps, problem.losses, strict=True)):
            own = curve[g, g]
            line = slope[g] + curve[g] @ d - own * d[g]
            chosen[g] = np.argmin(losses + line * steps + own / 2 * steps * steps)
            d[g] = steps[chosen[g]]
        if np.array_equal(before, chosen):
            break
    return chosen


def _exchange(problem: _Problem, chosen: np.ndarray) -> np.ndarray:
    """Widens one group and narrows another, or none, as long as that lowers the loss and fits.

    Of all pairs of groups, by 1, 2, 4, ... steps each way; the best one is made.
    """
    sizes = np.array([s.size for s in problem.steps])
    jumps = 2 ** np.arange(int(np.log2(max(2, sizes.max()))) + 1)
    group = np.repeat(np.arange(len(sizes)), jumps.size)
    jump = np.tile(jumps, len(sizes))
    while True:
        d = problem.steps_at(chosen)
        ups = _moves(problem, chosen, d, group, np.minimum(chosen[group] + jump, sizes[group] - 1))
        downs = _moves(problem, chosen, d, group, np.maximum(chosen[group] - jump, 0))
        change = ups.loss[:, None] + downs.loss[None, :]
        load = problem.costs.load(d)
        fits = group[:, None] != group[None, :]
        for t, curve in enumerate(problem.costs.curve):
            cross = curve[np.ix_(group, group)] * ups.step[:, None] * downs.step[None, :]
            after = load[t] + ups.load[:, t, None] + downs.load[None, :, t] + cross
            fits &= after <= 1 + 1e-12
        alone = np.all(load + ups.load <= 1 + 1e-12, axis=1)
        single = np.where(alone, ups.loss, np.inf)
        paired = np.where(fits, change, np.inf)
        up = int(np.argmin(np.minimum(single, paired.min(axis=1))))
        down = int(np.argmin(paired[up]))
        gain = min(single[up], paired[up, down])
        if gain >= -1e-12 * max(1e-300, problem.loss_at(chosen)):
            return chosen
        chosen = chosen.copy()
        chosen[group[up]] = ups.index[up]
        if paired[up, down] < single[up]:
            chosen[group[down]] = downs.index[down]


class _Moves(NamedTuple):
    index: np.ndarray  # [M]: to which allowed width
    step: np.ndarray  # [M]: by how many channels
    loss: np.ndarray  # [M]
    load: np.ndarray  # [M, T]


def _moves(
    problem: _Problem, chosen: np.ndarray, d: np.ndarray, group: np.ndarray, index: np.ndarray
) -> _Moves:
    """What moving one group to another allowed width changes."""
    at = list(zip(group.tolist(), index.tolist(), strict=True))
    step = np.array([problem.steps[g][i] for g, i in at]) - d[group]
    loss = np.array([problem.losses[g][i] - problem.losses[g][chosen[g]] for g, i in at])
    costs = problem.costs
    marginal = costs.slope + costs.curve @ d
    own = costs.curve[:, group, group]
    return _Moves(index, step, loss, (marginal[:, group] * step + own / 2 * step * step).T)
