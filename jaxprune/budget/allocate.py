"""The widths of all groups under a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxprune.budget.curves import Curves
from jaxprune.budget.multipliers import least_loss
from jaxprune.budget.targets import Budget, CostModel, within

ALLOCATIONS = ("sensitivity", "tolerance", "proportional")


@dataclass(frozen=True)
class Allocation:
    """Widths that keep to a budget.

    Attributes:
      widths: group -> channels kept.
      costs: quantity -> what the network costs at these widths.
      slack: target -> the unused fraction of what it allows, from 0 up.
      added_loss: the sum of the groups' predicted losses; None without curves.
    """

    widths: dict[str, int]
    costs: dict[str, float]
    slack: dict[str, float]
    added_loss: float | None


def allocate(
    curves: Curves | None, model: CostModel, budget: Budget, allocation: str = "sensitivity"
) -> Allocation:
    """Chooses how many channels every group keeps.

    No target is exceeded, and no group can be widened by one step without exceeding one (so that at
    least one target is met to within a unit), except where every group has reached its own limit.

    Args:
      curves: the groups' sensitivity; `proportional` needs none.
      model: the network's groups and costs.
      budget: targets, and the widths that are allowed.
      allocation: `sensitivity` minimises the sum of the predicted losses; `tolerance` allows every
        group the same drop in accuracy, the least that meets the targets (the rule of Hu et al.
        2018, arXiv 1805.11394, reconstructed); `proportional` keeps one fraction of every group.

    Raises:
      ValueError: targets beyond reach, with the best that can be reached; a group without an
        allowed
        width or without a curve; an unknown allocation.
    """
    if allocation not in ALLOCATIONS:
        raise ValueError(f"allocation: unknown {allocation!r}; known are {', '.join(ALLOCATIONS)}")
    if budget.scopes:
        raise ValueError(
            "budget.scopes: they are for methods that rank units over the network (l1, taylor, …); "
            "for widths from sensitivity use budget.limits"
        )
    if curves is None and allocation != "proportional":
        raise ValueError(f"allocation: {allocation} needs sensitivity curves")
    if curves is not None and (absent := set(model.names) - set(curves.loss)):
        raise ValueError(f"curves: none is given for group {', '.join(sorted(absent))}")
    budget.require_feasible(model)

    allowed = budget.widths_of(model)
    fractions = [w / size for w, size in zip(allowed, model.sizes, strict=True)]
    if allocation == "sensitivity" and curves is not None:
        harm = _with_ties_broken(
            [curves.added_loss(n, f) for n, f in zip(model.names, fractions, strict=True)],
            fractions,
        )
        chosen = least_loss(model, budget.limits_of(model), allowed, harm)
    elif allocation == "tolerance" and curves is not None:
        drop = [curves.accuracy_drop(n, f) for n, f in zip(model.names, fractions, strict=True)]
        harm = _with_ties_broken(drop, fractions)
        chosen = _first_met(model, budget, allowed, drop)
    else:
        harm = [np.square(1 - f) for f in fractions]
        chosen = _first_met(model, budget, allowed, [1 - f for f in fractions])
    chosen = _fill(model, budget, allowed, harm, _trim(model, budget, allowed, harm, chosen))
    return _described(curves, model, budget, _widths(allowed, chosen))


def _described(
    curves: Curves | None, model: CostModel, budget: Budget, widths: np.ndarray
) -> Allocation:
    costs = {quantity: float(cost) for quantity, cost in model.costs(widths).items()}
    added = None
    if curves is not None:
        pairs = zip(model.names, widths / model.sizes, strict=True)
        added = float(sum(curves.added_loss(name, fraction) for name, fraction in pairs))
    return Allocation(
        widths=dict(zip(model.names, widths.tolist(), strict=True)),
        costs=costs,
        slack={q: max(0.0, 1 - costs[q] / m) for q, m in budget.limits_of(model).items()},
        added_loss=added,
    )


def _with_ties_broken(harm: list[np.ndarray], fractions: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Where curves are flat, channels go to the groups that keep the smallest fraction."""
    span = max(float(np.max(h)) for h in harm) or 1.0
    return [h + 1e-7 * span * np.square(1 - f) for h, f in zip(harm, fractions, strict=True)]


def _widths(allowed: Sequence[np.ndarray], chosen: np.ndarray) -> np.ndarray:
    """Indices into the allowed widths [..., G] -> widths [..., G]."""
    return np.stack([w[chosen[..., g]] for g, w in enumerate(allowed)], axis=-1)


def _load(
    model: CostModel, budget: Budget, allowed: Sequence[np.ndarray], chosen: np.ndarray
) -> np.ndarray:
    """Costs relative to their limits, [..., T]."""
    costs = model.costs(_widths(allowed, chosen))
    return np.stack([costs[q] / most for q, most in budget.limits_of(model).items()], axis=-1)


def _first_met(
    model: CostModel, budget: Budget, allowed: Sequence[np.ndarray], harm: Sequence[np.ndarray]
) -> np.ndarray:
    """The least harm, the same for all groups, whose narrowest widths meet every target.

    `harm` [widths] of a group does not rise with the width, so costs fall as the tolerance rises,
    and the least tolerance is one of the harms themselves: a bisection over these.
    """
    levels = np.unique(np.concatenate(harm))

    def narrowest(tolerance: float) -> np.ndarray:
        return np.array([min(int(np.sum(h > tolerance)), h.size - 1) for h in harm])

    first, last = 0, levels.size - 1
    while first < last:
        middle = (first + last) // 2
        met = within(_load(model, budget, allowed, narrowest(levels[middle])), 1.0)
        first, last = (first, middle) if np.all(met) else (middle + 1, last)
    return narrowest(levels[first])


def _trim(
    model: CostModel,
    budget: Budget,
    allowed: Sequence[np.ndarray],
    harm: Sequence[np.ndarray],
    chosen: np.ndarray,
) -> np.ndarray:
    """Narrows, at the least harm per excess removed, until every target is met.

    Only needed where a cost is no polynomial of second degree (`multipliers` reads it as one).
    """
    while not np.all(within(load := _load(model, budget, allowed, chosen), 1.0)):
        groups = np.flatnonzero(chosen > 0)
        steps = chosen - np.eye(len(chosen), dtype=int)[groups]
        removed = np.sum((load - _load(model, budget, allowed, steps))[:, load > 1], axis=-1)
        added = np.array([harm[g][chosen[g] - 1] - harm[g][chosen[g]] for g in groups.tolist()])
        chosen = steps[np.argmin(added / np.maximum(removed, 1e-30))]
    return chosen


def _fill(
    model: CostModel,
    budget: Budget,
    allowed: Sequence[np.ndarray],
    harm: Sequence[np.ndarray],
    chosen: np.ndarray,
) -> np.ndarray:
    """Widens the group that is harmed most, of those that still fit, until none fits a step more.

    After a bisection that evens out what its jumps left over; after `least_loss` nothing is left,
    except where a cost is no polynomial of second degree.
    """
    last = np.array([w.size - 1 for w in allowed])
    while True:
        groups = np.flatnonzero(chosen < last)
        steps = chosen + np.eye(len(chosen), dtype=int)[groups]
        fits = np.all(within(_load(model, budget, allowed, steps), 1.0), axis=-1)
        if not fits.any():
            return chosen
        harms = np.array([harm[g][chosen[g]] for g in groups.tolist()])
        chosen = steps[np.argmax(np.where(fits, harms, -np.inf))]
