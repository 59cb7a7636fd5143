"""What a rule is given and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import source_info_util

from jaxprune.graph.labels import Channels, Ids, Keep, Labels
from jaxprune.graph.source import Reason

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Read:
    """Channels read by a contraction or a sum: they are summed away along `axes` of an operand."""

    operand: int
    axes: tuple[int, ...]


@dataclass(frozen=True)
class Relation:
    """The answer of a rule.

    Attributes:
      ins: the labels that each operand is brought to before the equation runs.
      outs: the labels of each result.
      reads: the operands along which channels are summed away. Those of one contraction have the
        same ids, and one of them is to be masked.
      writes: for a contraction, the axes of result 0 that come from operand i, per operand.
      work: for a contraction, its multiply-accumulates as factors (sizes, or ids along an axis).
      within: whether a sum runs over a part of a joint tuple, such as the width of each head.
      index: for an access by constants along channels, where they point in the dense array.
    """

    ins: tuple[Labels, ...]
    outs: tuple[Labels, ...]
    reads: tuple[Read, ...] = ()
    writes: tuple[dict[int, int], ...] = ()
    work: tuple[int | Ids, ...] = ()
    within: bool = False
    index: np.ndarray | None = None

    @property
    def whole(self) -> bool:
        """Whether the equation runs at its dense shapes, whatever is pruned."""
        return not any(labels.tracked or labels.free for labels in (*self.ins, *self.outs))


@dataclass(frozen=True)
class Equation:
    """An equation as a rule sees it.

    Attributes:
      ins: the labels of its operands.
      channels: the ledger of ids.
      calls: the calls whose bodies hold it, outermost first.
      operands: what else is known of the operands, as `analysis.Value`.
    """

    eqn: Any
    ins: tuple[Labels, ...]
    channels: Channels
    calls: tuple[Any, ...] = ()
    operands: tuple[Any, ...] = ()

    @property
    def params(self) -> dict[str, Any]:
        """The equation's parameters."""
        return self.eqn.params

    @property
    def in_shapes(self) -> list[Shape]:
        """The dense shapes of the operands."""
        return [v.aval.shape for v in self.eqn.invars]

    @property
    def out_shapes(self) -> list[Shape]:
        """The dense shapes of the results."""
        return [v.aval.shape for v in self.eqn.outvars]

    def known(self, operand: int) -> np.ndarray | None:
        """The whole numbers that an operand holds, where constants of the function decide them.

        Masked where they decide a part of them.
        """
        known = self.operands[operand].known if self.operands else None
        return None if known is None else np.asanyarray(known.array)

    def stored(self, operand: int) -> bool:
        """Whether an operand depends on variables and constants alone."""
        return bool(self.operands) and self.operands[operand].constant

    def reason(self, text: str) -> Reason:
        """A reason that names this equation."""
        return Reason(text, self.eqn, self.calls)


class Rule(NamedTuple):
    """How a primitive treats channels, and how it runs on sliced operands."""

    relate: Callable[[Equation], Relation]
    emit: Callable[[Any, Relation, Sequence[jax.Array], Keep], list[Any]]
    """(equation, its relation, operands as `relation.ins` lays them out, keep) → results."""


def bind(eqn: Any, values: Sequence[Any], **changed: Any) -> list[Any]:
    """Runs an equation's primitive on `values`, with some parameters changed."""
    params = eqn.primitive.get_bind_params({**eqn.params, **changed})
    source = eqn.source_info
    names = source_info_util.current_name_stack() + source.name_stack
    with source_info_util.user_context(source.traceback, name_stack=names), eqn.ctx.manager:
        out = eqn.primitive.bind(*values, **params)
    return list(out) if eqn.primitive.multiple_results else [out]


def emit_as_is(eqn: Any, relation: Relation, values: Sequence[jax.Array], keep: Keep) -> list[Any]:
    """For primitives whose parameters name no size of a channel axis."""
    return bind(eqn, values)
