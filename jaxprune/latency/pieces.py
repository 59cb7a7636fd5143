"""A network in pieces that can run alone, for timing: a contraction, and all up to the next one.

What follows a contraction (bias, normalisation, activation, pooling) is timed with it, as it is
fused with it. Bodies of `jit` are dissolved; loops, branches and checkpoints stay whole, so a
network inside one of them is one piece.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Literal

from jaxprune.graph import ChannelGraph
from jaxprune.graph.analysis import Block, Node, in_custom_rule
from jaxprune.graph.interpret import Sliced
from jaxprune.graph.labels import PLAIN, Ids, Labels, sliced_shape

_DISSOLVED = ("jit", "pjit", "closed_call", "core_call", "call", "eval_jaxpr")


@dataclass(frozen=True, eq=False)
class Slot:
    """A value of the network: its type at the dense shape, and its channels."""

    aval: Any
    labels: Labels


Atom = Slot | Literal


class Step(NamedTuple):
    """An equation between slots; without a node, values that are handed on."""

    node: Node | None
    sources: Sequence[Atom]
    wants: Sequence[Labels]
    results: Sequence[Slot]


@dataclass(frozen=True, eq=False)
class Piece:
    """A contraction and what follows it.

    Attributes:
      name: the path of its kernel.
      reads: the numbers of the groups whose channels it reads.
      writes: the numbers of all its other groups.
      macs: the multiply-accumulates of its contractions, one run of each, in the whole network.
      ins: what it takes, variables and constants among them.
      outs: what later pieces, or the caller, take of it.
    """

    name: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    macs: int
    ins: tuple[Slot, ...]
    outs: tuple[Slot, ...]
    _steps: tuple[Step, ...]
    _keep: Callable[[np.ndarray], Callable[[Ids], np.ndarray]]

    def at(self, widths: np.ndarray) -> tuple[Callable[..., Any], list[jax.ShapeDtypeStruct]]:
        """The piece as a function of its inputs, and their types, where groups keep `widths` (G,).

        Of each group the first units stay: the cost of a network depends on their number alone.
        """
        keep = self._keep(widths)

        def run(*values: Any) -> list[Any]:
            env = _run(self._steps, dict(zip(self.ins, values, strict=True)), Sliced(keep))
            return [env[slot] for slot in self.outs]

        shapes = [sliced_shape(slot.labels, slot.aval.shape, keep) for slot in self.ins]
        pairs = zip(shapes, self.ins, strict=True)
        return run, [jax.ShapeDtypeStruct(shape, slot.aval.dtype) for shape, slot in pairs]


@dataclass(frozen=True, eq=False)
class Pieces:
    """All pieces of a network, in the order in which they run.

    Attributes:
      pieces: each takes slots of the ones before it.
      ins: the slots of the variables' leaves, then those of the other arguments.
      outs: what the network returns.
    """

    pieces: tuple[Piece, ...]
    ins: tuple[Slot, ...]
    outs: tuple[Atom, ...]


def pieces_of(graph: ChannelGraph, fn: Callable[..., Any], variables: Any, *args: Any) -> Pieces:
    """`fn` cut before each contraction, at these shapes."""
    return split(*graph.analysed(fn, variables, *args), graph.sizes)


def split(
    block: Block, units_of: Callable[[Ids], np.ndarray], sizes: Sequence[int] | np.ndarray
) -> Pieces:
    """Cuts an analysed network before each of its contractions.

    Args:
      block: of the whole network.
      units_of: the number of each id's unit, through all groups, or -1.
      sizes: units per group.
    """
    ins = tuple(Slot(v.aval, labels) for v, labels in zip(block.invars, block.ins, strict=True))
    steps: list[Step] = []
    outs = tuple(_flatten(block, ins, steps))
    starts = [i for i, step in enumerate(steps) if step.node is not None and _contracts(step.node)]
    bounds = [0, *starts[1:], len(steps)]
    spans = [tuple(steps[i:j]) for i, j in itertools.pairwise(bounds)]

    group_of = np.append(np.repeat(np.arange(len(sizes)), sizes), -1)
    taken = {slot for slot in outs if isinstance(slot, Slot)}
    pieces = []
    for span in reversed(spans):
        made = dict.fromkeys(slot for step in span for slot in step.results)
        used = dict.fromkeys(s for step in span for s in step.sources if isinstance(s, Slot))
        needed = tuple(slot for slot in used if slot not in made)
        results = tuple(slot for slot in made if slot in taken)
        reads, writes = _groups(span, lambda ids: group_of[units_of(ids)])
        work = [n for step in span if step.node for n in _nodes(step.node) if n.relation.work]
        name = next((n.kernel or n.eqn.primitive.name for n in work), "the rest")
        macs = sum(_macs(n) for n in work)
        kept = _keep(units_of, sizes)
        pieces.append(Piece(name, reads, writes, macs, needed, results, span, kept))
        taken |= set(needed)
    return Pieces(tuple(reversed(pieces)), ins, outs)


def _keep(
    units_of: Callable[[Ids], np.ndarray], sizes: Sequence[int] | np.ndarray
) -> Callable[[np.ndarray], Callable[[Ids], np.ndarray]]:
    def at(widths: np.ndarray) -> Callable[[Ids], np.ndarray]:
        first = [np.arange(size) < width for size, width in zip(sizes, widths, strict=True)]
        stays = np.concatenate([*first, [True]])  # -1: channels in no group
        return lambda ids: stays[units_of(ids)]

    return at


def _flatten(block: Block, args: Sequence[Atom], steps: list[Step]) -> list[Atom]:
    """Appends a block's steps and returns its results; calls of one body are dissolved."""
    held: dict[Any, Atom] = dict(zip(block.invars, _hand_on(args, block.ins, steps), strict=True))
    # Captured arrays are operands like others: for a time only their shapes count.
    held |= {var: Slot(var.aval, block.labels[var]) for var in block.constvars}

    def fetched(atoms: Sequence[Any]) -> list[Atom]:
        return [a if isinstance(a, Literal) else held[a] for a in atoms]

    for node in block.nodes:
        sources = fetched(node.eqn.invars)
        if node.eqn.primitive.name in _DISSOLVED:
            results: Sequence[Atom] = _flatten(node.inner[0], sources, steps)
        else:
            labels = node.relation.outs
            results = [Slot(v.aval, o) for v, o in zip(node.eqn.outvars, labels, strict=True)]
            steps.append(Step(node, sources, node.relation.ins, results))
        held.update(zip(node.eqn.outvars, results, strict=True))
    return _hand_on(fetched(block.jaxpr.outvars), block.outs, steps)


def _hand_on(sources: Sequence[Atom], wants: Sequence[Labels], steps: list[Step]) -> list[Atom]:
    """The values in the layout that is wanted; most are in it already."""
    handed: list[Atom] = []
    for source, want in zip(sources, wants, strict=True):
        have = PLAIN if isinstance(source, Literal) else source.labels
        if have is not want:
            slot = Slot(source.aval, want)
            steps.append(Step(None, [source], [want], [slot]))
            source = slot
        handed.append(source)
    return handed


def _run(steps: Sequence[Step], env: dict[Slot, Any], how: Sliced) -> dict[Slot, Any]:
    for node, sources, wants, results in steps:
        values = []
        for source, want in zip(sources, wants, strict=True):
            slot = isinstance(source, Slot)
            value, have = (env[source], source.labels) if slot else (source.val, PLAIN)
            shape: tuple[int, ...] = source.aval.shape  # pyright: ignore[reportAttributeAccessIssue]
            values.append(how.conform(value, have, want, shape))
        if node is not None:
            values = node.emit(node, values, how) if node.emit else how.equation(node, values)
        env.update(zip(results, values, strict=True))
    return env


def _nodes(node: Node) -> Iterator[Node]:
    if node.emit is None:
        yield node
    for block in node.inner[:1] if in_custom_rule([node.eqn]) else node.inner:
        yield from block.all_nodes(rules=False)


def _contracts(node: Node) -> bool:
    return any(inner.relation.work for inner in _nodes(node))


def _macs(node: Node) -> int:
    return math.prod(n if isinstance(n, int) else n.size for n in node.relation.work or ())


def _groups(
    span: Sequence[Step], groups_of: Callable[[Ids], np.ndarray]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The groups that the contractions read, and all others."""

    def found(labels: Labels, axes: Sequence[tuple[int, ...]]) -> set[int]:
        numbers = {int(g) for a in axes for g in np.unique(groups_of(labels.tracked[a]))}
        return numbers - {-1}

    reads: set[int] = set()
    every: set[int] = set()
    for step in span:
        for slot in (*step.sources, *step.results):
            if isinstance(slot, Slot):
                every |= found(slot.labels, list(slot.labels.tracked))
        for node in _nodes(step.node) if step.node is not None else ():
            if node.relation.work and node.read is not None:
                labels = node.relation.ins[node.read.operand]
                reads |= found(labels, [(a,) for a in node.read.axes])
    return tuple(sorted(reads)), tuple(sorted(every - reads))
