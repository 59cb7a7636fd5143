"""What is asked for: targets, and which widths a group may have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from jaxprune.graph import paths
from jaxprune.graph.cost import QUANTITIES

KNOWN = (*QUANTITIES, "bytes", "latency")
"""What a target may name. Latency is measured on a device before: see `jaxprune.latency`."""

_FRACTIONS = 128  # of which the largest that meets the targets is looked for


class CostModel(Protocol):
    """What an allocation needs of a network; a `ChannelGraph` is one."""

    @property
    def names(self) -> tuple[str, ...]:
        """The groups' names."""
        ...

    @property
    def sizes(self) -> np.ndarray:
        """The groups' sizes, int [G]."""
        ...

    @property
    def groups(self) -> Mapping[str, Any]:
        """The groups, of which `summed` is asked."""
        ...

    def costs(self, widths: np.ndarray) -> Mapping[str, np.ndarray]:
        """Totals for many widths at once: int [..., G] -> quantity -> [...]."""
        ...


@dataclass(frozen=True)
class Budget:
    """How much smaller the network has to get, and within which widths.

    A group's widths are the multiples of `round_to`, and its full size, that keep at least
    `min_channels` channels and lie within the limits of every pattern that matches the group. All
    of it holds: limits between which no such width lies are an error, never bent.

        Budget("params/8,macs/3", limits={"stage3/*": (0.1, 0.9)})
        Budget(widths={"params/conv1/kernel[3]": 12, "params/conv2/kernel[3]": 40})
    """

    targets: str = "params/8,macs/3"
    """What is divided by how much: of `params`, `macs`, `activations`, `bytes` and `latency`.
    With commas; bytes are those of float32, or of the small form in which blocks are stored.
    Latency is measured on the device at hand, for a batch as large as those that are given."""
    round_to: int | Literal["measured"] = 1
    """Kept channels are a multiple of this, or all of the group's.
    `measured` times the network's layers and takes what suits the device at hand."""
    limits: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Pattern of groups to the least and the largest fraction that they keep."""
    groups: Literal["all", "inner"] = "all"
    """`inner` leaves whole what is a sum of several layers' outputs, as in a residual stage."""
    min_channels: int = 1
    """Least number of channels that a group keeps; a smaller group stays whole."""
    floor: float = 0.5
    """No group keeps a smaller part than this of what one fraction for all groups would leave it.
    Where `limits` name a group they stand instead. It is always within reach; 0 is none.
    By measurement: `scripts/ranking_options.py`."""
    scopes: dict[str, float] = field(default_factory=dict)
    """Pattern of groups to the fraction of their units, taken together, that they keep.
    Each scope is ranked by itself, all other groups under the targets; for methods that rank."""
    widths: dict[str, int] = field(default_factory=dict)
    """Group to the number of its units that stay, of every group: then there are no targets."""

    def __post_init__(self):
        """Refuses what can be met by no network at all."""
        _ = self.factors
        for name in ("round_to", "min_channels"):
            value = getattr(self, name)
            if value == "measured" and name == "round_to":
                continue
            if isinstance(value, str) or value < 1:
                known = " or 'measured'" if name == "round_to" else ""
                raise ValueError(f"budget.{name}: {value!r}, must be at least 1{known}")
        if self.groups not in ("all", "inner"):
            raise ValueError(f"budget.groups: {self.groups!r}, must be 'all' or 'inner'")
        if not 0 <= self.floor <= 1:
            raise ValueError(f"budget.floor: {self.floor}, must be a fraction in [0, 1]")
        for pattern, limits in self.limits.items():
            pair = tuple(limits) if isinstance(limits, (tuple, list)) else ()
            if len(pair) != 2 or not 0 <= pair[0] <= pair[1] <= 1 or pair[1] == 0:
                raise ValueError(
                    f"budget.limits[{pattern!r}]: {limits}, must be two kept fractions with "
                    "0 <= least <= largest <= 1"
                )

        for pattern, fraction in self.scopes.items():
            if not 0 < fraction <= 1:
                raise ValueError(
                    f"budget.scopes[{pattern!r}]: {fraction}, must be a kept fraction in (0, 1]"
                )

    @classmethod
    def parse(cls, budget: str | Budget) -> Budget:
        """The budget, of its targets alone where it is a string."""
        return budget if isinstance(budget, Budget) else cls(budget)

    @property
    def factors(self) -> dict[str, float]:
        """Quantity -> by what it is to be divided; empty where the widths are fixed.

        Raises:
          ValueError: an unknown quantity, one named twice, or a factor that is no number from 1 up.
        """
        factors: dict[str, float] = {}
        if self.widths:
            return factors
        for target in self.targets.split(","):
            quantity, _, text = (part.strip() for part in target.partition("/"))
            if quantity not in KNOWN:
                raise ValueError(
                    f"budget.targets: unknown quantity {quantity!r} in {self.targets!r}; known are "
                    f"{', '.join(KNOWN)}, as in 'params/8,macs/3'"
                )
            if quantity in factors:
                raise ValueError(f"budget.targets: {quantity} is named twice in {self.targets!r}")
            try:
                factors[quantity] = float(text)
            except ValueError:
                factors[quantity] = math.nan
            if not 1 <= factors[quantity] < math.inf:
                raise ValueError(
                    f"budget.targets: {target.strip()!r} must divide by a number of at least 1, as "
                    f"in '{quantity}/2'"
                )
        return factors

    def limits_of(self, model: CostModel) -> dict[str, float]:
        """Quantity -> the most that it may be, in its own units.

        Raises:
          ValueError: a latency that was not measured.
        """
        whole = model.costs(model.sizes)
        if absent := [quantity for quantity in self.factors if quantity not in whole]:
            raise ValueError(
                f"budget.targets: {self.targets!r} needs the network's {' and '.join(absent)} on "
                "this device: measure it with jaxprune.latency.prepare, as jaxprune.prune does"
            )
        return {quantity: float(whole[quantity]) / by for quantity, by in self.factors.items()}

    def bounds(self, model: CostModel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Least width, largest width and step of every group, int [G] each.

        Between them the multiples of the step are allowed; the two ends are allowed widths. The
        floor is in the least width.

        Raises:
          ValueError: a pattern that matches no group, a group without an allowed width, fixed
            widths of other groups, or a `round_to` that was not measured yet.
        """
        low, high, step = self._hard_bounds(model)
        if self.widths or not self.floor:
            return low, high, step
        raised = self._floors(model, low, high)
        return (raised if self.fits(model, raised) else low), high, step

    def largest(self, model: CostModel) -> np.ndarray:
        """The largest width of every group, int [G]; raises as `bounds`, and costs less."""
        return self._hard_bounds(model)[1]

    def _hard_bounds(self, model: CostModel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `bounds`, without the floor."""
        if self.widths:
            fixed = self._fixed(model)
            return fixed, fixed, np.ones(len(fixed), int)
        if isinstance(self.round_to, str):
            raise ValueError(
                f"budget.round_to: {self.round_to!r} is no number yet: measure it with "
                "jaxprune.latency.prepare, as jaxprune.prune does"
            )
        low, high = [], []
        fractions = self._fractions(model)
        for name, size in zip(model.names, model.sizes.tolist(), strict=True):
            least, largest = fractions[name]
            # Rounding guards: 0.3 of 10 channels is 3, not 4.
            first = max(1, min(self.min_channels, size), math.ceil(least * size - 1e-9))
            last = math.floor(largest * size + 1e-9)
            first = min(math.ceil(first / self.round_to) * self.round_to, size)
            last = size if last == size else last // self.round_to * self.round_to
            if first > last:
                raise ValueError(
                    f"budget: group {name} of {size} channels has no width between {least:g} and "
                    f"{largest:g} of them that is a multiple of {self.round_to} and at least "
                    f"{self.min_channels}; widen budget.limits, or lower round_to or min_channels"
                )
            low.append(first)
            high.append(last)
        return np.array(low), np.array(high), np.full(len(low), self.round_to)

    def _floors(self, model: CostModel, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """The least widths that the floor asks for, int [G]."""
        fractions = np.arange(1, _FRACTIONS + 1)[:, None] / _FRACTIONS
        alike = self._rounded(fractions * model.sizes, model.sizes, low, high)
        fraction = fractions[:, 0][self.fits(model, alike)].max(initial=0.0)
        kept = np.full(len(low), fraction)
        names = list(model.names)
        for pattern, most in self.scopes.items():
            for name in paths.select([pattern], names):
                kept[names.index(name)] = min(fraction, most)
        floors = self._rounded(self.floor * kept * model.sizes, model.sizes, low, high)
        limited = {n for pattern in self.limits for n in paths.select([pattern], names)}
        return np.where([name in limited for name in names], low, floors)

    def _rounded(
        self, widths: np.ndarray, sizes: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> np.ndarray:
        """The allowed widths from these up, int [..., G]."""
        assert not isinstance(self.round_to, str)
        up = np.ceil(widths / self.round_to - 1e-9).astype(int) * self.round_to
        return np.clip(np.minimum(up, sizes), low, high)

    def fits(self, model: CostModel, widths: np.ndarray) -> np.ndarray:
        """Whether widths [..., G] keep to every target, bool [...]."""
        costs = model.costs(widths)
        met = np.ones(np.shape(widths)[:-1], bool)
        for quantity, most in self.limits_of(model).items():
            met &= within(costs[quantity], most)
        return met

    def prunable(self, model: CostModel) -> list[str]:
        """The groups that it lets get narrower."""
        groups = zip(model.names, self.bounds(model)[0], model.sizes, strict=True)
        return [name for name, low, size in groups if low < size]

    def widths_of(self, model: CostModel) -> list[np.ndarray]:
        """The allowed widths of every group, ascending."""
        return [
            np.union1d(np.arange(-(-low // step) * step, high + 1, step), [low, high])
            for low, high, step in zip(*self.bounds(model), strict=True)
        ]

    def require_feasible(self, model: CostModel) -> None:
        """Refuses targets beyond reach.

        Raises:
          ValueError: the narrowest network exceeds a target; with the best factor of each target.
            Fixed widths of other groups, or beyond a group's size.
        """
        narrowest = model.costs(self._hard_bounds(model)[0])
        whole = model.costs(model.sizes)
        most = self.limits_of(model)
        missed = [q for q in most if not within(narrowest[q], most[q])]
        if missed:
            # Rounded down, so that what is printed can really be reached.
            reach = {q: math.floor(float(whole[q] / narrowest[q]) * 100) / 100 for q in most}
            best = ",".join(f"{q}/{factor:g}" for q, factor in reach.items())
            raise ValueError(
                f"budget.targets: {self.targets!r} is beyond reach for {' and '.join(missed)}; the "
                f"best that the groups' limits allow is {best!r}"
            )

    def _fixed(self, model: CostModel) -> np.ndarray:
        sizes = dict(zip(model.names, model.sizes.tolist(), strict=True))
        wrong = [
            f"{name} (1 to {size}, got {self.widths.get(name, 'none')})"
            for name, size in sizes.items()
            if not 1 <= self.widths.get(name, 0) <= size
        ]
        wrong += [f"{name} (no such group)" for name in self.widths if name not in sizes]
        if wrong:
            raise ValueError(
                f"budget.widths names the width of every group; wrong are {', '.join(wrong)}"
            )
        return np.array([self.widths[name] for name in sizes])

    def _fractions(self, model: CostModel) -> dict[str, tuple[float, float]]:
        fractions = dict.fromkeys(model.names, (0.0, 1.0))
        if self.groups == "inner":
            fractions |= {n: (1.0, 1.0) for n, group in model.groups.items() if group.summed}
        for pattern, (low, high) in self.limits.items():
            try:
                matched = paths.select([pattern], model.names)
            except ValueError as error:
                raise ValueError(f"budget.limits: {error}") from error
            for name in matched:
                least, largest = fractions[name]
                fractions[name] = max(least, low), min(largest, high)
        return fractions


def within(cost: np.ndarray | float, most: float) -> np.ndarray | bool:
    """Whether a cost keeps to its limit, up to rounding in the division that made the limit."""
    return cost <= most * (1 + 1e-12)
