"""An analysed jaxpr: one node an equation, with the labels of every value.

`analysis.py` makes it, the interpretations (`interpret.py`) run it, `groups.py` takes the coupled
channels from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
from jax.extend.core import Literal
from jax.interpreters import partial_eval

from jaxprune.graph.labels import PLAIN, Axes, Ids, Labels
from jaxprune.graph.means import Divisor
from jaxprune.graph.rules import Read, Relation


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates of one contraction, and the elements that it writes, as factors."""

    name: str
    macs: tuple[int | Ids, ...]
    elements: tuple[int | Ids, ...]

    @property
    def dense_macs(self) -> int:
        """The multiply-accumulates of the whole network."""
        return math.prod(f if isinstance(f, int) else f.size for f in self.macs)


Entry = tuple[int, Axes]
"""An operand and channel axes of it, on which masks are put."""


class Made(NamedTuple):
    """A result's axes with channels that are written inside a function, and by which kernels."""

    result: int
    axes: Axes
    kernels: tuple[str, ...]


@dataclass
class Node:
    """One equation: its relation, the read that is masked, and the blocks of a call's bodies.

    In a normalisation that is open, `divisor` is the number of channels that it divides by. A call
    has `emit`, which runs it: (this node, its operands, an interpretation) → its results. A
    function with its own derivative rule that reads prunable channels has `entries`, on which they
    are masked, `by_sample` if there may be a mask for each sample. `adds` tells that two layers'
    outputs are added, as in a residual block. It has `made`, the axes of its
    results with channels that are written inside.
    """

    eqn: Any
    relation: Relation
    read: Read | None = None
    inner: tuple[Block, ...] = ()
    emit: Callable[[Node, list[Any], Any], list[Any]] | None = None
    kernels: tuple[int, ...] = ()
    kernel: str | None = None
    constant: bool = False
    adds: bool = False
    divisor: Divisor | None = None
    entries: tuple[Entry, ...] | None = None
    by_sample: bool = True
    made: tuple[Made, ...] = ()

    def written(self) -> list[Ids]:
        """The channels that the kernels of a contraction write, per axis of its result."""
        return [self.relation.outs[0].tracked[(axis,)] for axis in self.written_axes()]

    def written_axes(self) -> list[int]:
        """The axes of a contraction's result that come from its kernels."""
        writes = [w for i, w in enumerate(self.relation.writes) if i in self.kernels]
        axes = sorted({axis for w in writes for axis in w.values()})
        return [axis for axis in axes if (axis,) in self.relation.outs[0].tracked]


@dataclass
class Block:
    """An analysed jaxpr: labels of its values, one node an equation, labels of its results."""

    jaxpr: Any
    consts: Sequence[Any]
    ins: tuple[Labels, ...]
    labels: dict[Any, Labels] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    outs: tuple[Labels, ...] = ()

    @property
    def invars(self) -> Sequence[Any]:
        """The variables of the jaxpr that the operands are bound to."""
        return self.jaxpr.invars[len(self.jaxpr.invars) - len(self.ins) :]

    @property
    def constvars(self) -> Sequence[Any]:
        """Those of `consts`; a derivative rule of JAX 0.12 has them in front of its operands."""
        leading = len(self.jaxpr.invars) - len(self.ins)
        return [*self.jaxpr.constvars, *self.jaxpr.invars[:leading]]

    def has_reads(self) -> bool:
        """Whether channels are read anywhere inside."""
        return any(node.read is not None for node in self.all_nodes())

    def has_divisors(self) -> bool:
        """Whether anything inside is divided by the number of channels that are left."""
        return any(node.divisor is not None for node in self.all_nodes())

    def all_nodes(self, rules: bool = True) -> Iterator[Node]:
        """The nodes of this block and of all blocks inside, with or without derivative rules."""
        for node in self.nodes:
            if node.emit is None:
                yield node
            whole = rules or not in_custom_rule([node.eqn])
            for block in node.inner if whole else node.inner[:1]:
                yield from block.all_nodes(rules)

    def found(self, atom: Any) -> Labels:
        """The labels of a value of this block."""
        return PLAIN if isinstance(atom, Literal) else self.labels[atom]


def in_custom_rule(calls: Sequence[Any]) -> bool:
    """Whether one of these calls is a function with its own derivative rule."""
    return any(eqn.primitive.name.startswith("custom_") for eqn in calls)


def differentiable(aval: Any) -> bool:
    """Whether a value of this type has a tangent."""
    return jax.numpy.issubdtype(aval.dtype, jax.numpy.inexact)


def open_jaxpr(jaxpr: Any) -> Any:
    """The open jaxpr in a closed one (JAX 0.12 has merged the two)."""
    return getattr(jaxpr, "jaxpr", jaxpr)


def without_dead_code(jaxpr: Any) -> Any:
    """The jaxpr less the equations that no result needs; all inputs stay."""
    return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)[0]
