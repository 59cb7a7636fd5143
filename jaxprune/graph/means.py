"""Where a sum over channels is divided by their number, told from the numbers in the jaxpr.

A mean over channels is a `reduce_sum` and, perhaps after a change of type or shape, a `div` by a
number, which the user's code took from the array's shape. On narrower weights the same code would
divide by a smaller number.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jaxprune.graph.labels import Ids


@dataclass(frozen=True)
class Summed:
    """One sum over channels: its number in the analysis, and how many entries it adds up."""

    sum: int
    size: int


Sums = tuple[Summed, ...]
"""What a value is the sum over, first to last; empty where it is not just that."""


@dataclass(frozen=True)
class Division:
    """An equation that divides sums over channels by the number of entries.

    Attributes:
      operand: which operand is that number.
      sums: the sums that it counts the entries of.
      less: what is taken off the number: 1 in an unbiased variance.
      inverse: whether the operand is one over the number, and multiplied by.
    """

    operand: int
    sums: Sums
    less: int
    inverse: bool


@dataclass(frozen=True)
class Divisor:
    """A division whose number follows the channels that are kept.

    Attributes:
      division: where it is.
      along: the ids along each axis of channels that is summed.
    """

    division: Division
    along: tuple[Ids, ...]

    def at(self, kept: Sequence[Any]) -> Any:
        """The operand where this many channels are left along each of the axes."""
        number = math.prod(s.size for s in self.division.sums)
        for ids, left in zip(self.along, kept, strict=True):
            number = number * left / ids.size
        number = number - self.division.less
        return 1 / number if self.division.inverse else number


def number_of(literal: Any) -> float | None:
    """The value of a literal that is a real number."""
    try:
        return float(literal.val)
    except TypeError:  # complex
        return None


_FOLDED: dict[str, Callable[..., float]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "max": max
}  # fmt: skip
_HANDED_ON = (
    "broadcast_in_dim convert_element_type copy name optimization_barrier reduce_precision reshape "
    "sharding_constraint squeeze stop_gradient transpose"
).split()


def fold(eqn: Any, numbers: Sequence[float | None]) -> float | None:
    """The number that every entry of the result is, where that can be told.

    Example: `jnp.var` divides by `sub 6.0 0.0`, the correction being an argument of it.
    """
    known = [n for n in numbers if n is not None]
    name = eqn.primitive.name
    if not known or len(known) < len(numbers):
        return None
    if name in _HANDED_ON and len(known) == 1:
        return known[0]
    return _FOLDED[name](*known) if name in _FOLDED else None


def add_up(
    eqn: Any, sums: Sequence[Sums], numbers: Sequence[float | None], new: int | None
) -> tuple[Sums, Division | None]:
    """What the result of an equation is the sum over, and whether it divides one by its number.

    Args:
      eqn: the equation.
      sums: per operand, what it is the sum over.
      numbers: per operand, the number that it is.
      new: the number of the sum that this equation is, if it sums channels.
    """
    name, alone = eqn.primitive.name, len(eqn.invars) == 1
    if name in ("reduce_sum", "psum") and alone:
        shape, axes = eqn.invars[0].aval.shape, eqn.params["axes"]
        size = math.prod(shape[a] for a in axes if isinstance(a, int))
        if new is not None:
            return (*sums[0], Summed(new, size)), None
        last = (Summed(s.sum, s.size * size) for s in sums[0][-1:])
        return (*sums[0][:-1], *last), None
    if name in _HANDED_ON and alone:
        return sums[0], None
    if name in ("div", "mul") and sums[0] + sums[1]:
        at = next((i for i, n in enumerate(numbers) if n), None)
        if at is None or sums[at] or (name == "div" and at == 0):
            return (), None
        return _divide(eqn, sums[1 - at], at, numbers[at], name == "mul")
    return (), None


def _divide(
    eqn: Any, sums: Sums, operand: int, number: Any, inverse: bool
) -> tuple[Sums, Division | None]:
    if not jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.inexact):
        return (), None
    number = 1 / number if inverse else number
    tolerance = float(jnp.finfo(eqn.outvars[0].aval.dtype).eps)
    for counted, less in itertools.product((sums, *((s,) for s in sums[::-1])), (0, 1)):
        size = math.prod(s.size for s in counted) - less
        if abs(number - size) <= tolerance * size:
            rest = tuple(s for s in sums if s not in counted)
            return rest, Division(operand, counted, less, inverse)
    return sums, None
