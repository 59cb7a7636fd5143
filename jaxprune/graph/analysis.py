"""Walks a jaxpr once, applies the rule of each primitive, and records what it found.

The result is a `Block`, see `blocks.py`, and what else the groups and the costs are told from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jax.extend.core import Literal

from jaxprune.graph.blocks import Block, Node, Work, in_custom_rule
from jaxprune.graph.constants import Known, known_constant, known_results
from jaxprune.graph.labels import PLAIN, Channels, Ids, Labels
from jaxprune.graph.means import Division, Divisor, Sums, add_up, fold, number_of
from jaxprune.graph.rules import Equation, Relation, rule_for
from jaxprune.graph.source import Reason


@dataclass(frozen=True)
class Value:
    """What is known of a value besides its labels.

    Attributes:
      labels: its channel ids.
      source: the first variable that it comes from, where it depends on variables alone.
      constant: whether it depends on variables and constants alone.
      sums: the channel sums that it comes from without a contraction between, to notice a
        normalisation.
      known: what it is, where whole numbers that the function holds decide it.
      number: what each of its entries is, where that stands in the jaxpr.
      total: the channel sums that it is, one of the other, to notice a mean.
    """

    labels: Labels
    source: str | None = None
    constant: bool = False
    sums: frozenset[int] = frozenset()
    known: Known | None = None
    number: float | None = None
    total: Sums = ()


@dataclass(frozen=True)
class CustomRule:
    """A function with its own derivative rule, for `calls/entries.py`.

    Attributes:
      node: its equation.
      constant: per operand, whether it depends on variables and constants alone.
      has_derivative: per operand, whether the rule speaks of it, so that it can be masked.
      reason: why its channels are fixed where masks cannot enter.
    """

    node: Node
    constant: tuple[bool, ...]
    has_derivative: tuple[bool, ...]
    reason: Reason


CallRule = Callable[["Analysis", Any, list[Value]], tuple[Node, list[Value]]]
"""(analysis, equation, its operands) → its node and results, for an equation that holds bodies."""


@dataclass
class Analysis:
    """The ledger of one walk.

    Attributes:
      calls: by primitive, how an equation that holds whole functions is analysed.
      channels: ids, ties and fixed ids.
      variables: per variable path, the ids on each of its axes (None on an axis of size 1).
      shapes: per variable path, its dense shape.
      batch: the ids along the leading axis of the example inputs.
      block: the analysed jaxpr.
      written: ids of variables in the order in which contractions write with them.
      read: ids of variables that contractions read along.
      work: the contractions, for the cost model.
      custom_rules: the functions with their own derivative rules, those inside others aside.
      added: ids at which two values that depend on the inputs are added, each with ids of its own.
      around: the calls whose bodies hold what is walked now, outermost first.
      repeats: how often what is walked now runs, for the cost model.
      rule_depth: how many derivative rules hold what is walked now.
    """

    calls: Mapping[str, CallRule]
    channels: Channels = field(default_factory=Channels)
    variables: dict[str, list[Ids | None]] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    batch: Ids | None = None
    block: Block | None = None
    written: list[Ids] = field(default_factory=list)
    read: list[Ids] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)
    custom_rules: list[CustomRule] = field(default_factory=list)
    added: list[Ids] = field(default_factory=list)
    _sums: list[tuple[tuple[Ids, ...], Reason]] = field(default_factory=list)
    _normalised: list[tuple[int, Ids]] = field(default_factory=list)
    _means: list[tuple[Node, Division, tuple[Any, ...]]] = field(default_factory=list)
    around: tuple[Any, ...] = ()
    repeats: int = 1
    rule_depth: int = 0

    def new_variable(self, path: str, shape: tuple[int, ...]) -> Value:
        """Births ids on every axis of a variable."""
        ids = [self.channels.new(n) if n > 1 else None for n in shape]
        self.variables[path], self.shapes[path] = ids, shape
        tracked = {(a,): i for a, i in enumerate(ids) if i is not None}
        return Value(Labels(tracked), path, constant=True)

    def new_input(self, shape: tuple[int, ...]) -> Value:
        """An example input keeps all its axes; the leading one is remembered as the batch."""
        if not shape or shape[0] == 1:
            return Value(PLAIN)
        if self.batch is None:
            self.batch = self.channels.new(shape[0])
            self.channels.fix(self.batch, Reason("the batch axis of an input"))
        if len(self.batch) != shape[0]:
            return Value(PLAIN)
        return Value(Labels({(0,): self.batch}))

    def walk(
        self, jaxpr: Any, consts: Sequence[Any], ins: Sequence[Value]
    ) -> tuple[Block, list[Value]]:
        """Analyses a jaxpr whose inputs are `ins`; returns its block and its results."""
        block = Block(jaxpr, consts, tuple(v.labels for v in ins))
        env: dict[Any, Value] = dict(zip(block.invars, ins, strict=True))
        for var, const in zip(block.constvars, consts, strict=True):
            ids = {(a,): self.channels.new(n) for a, n in enumerate(var.aval.shape) if n > 1}
            known = known_constant(const, var.aval.dtype)
            env[var] = Value(Labels(ids), constant=True, known=known)
        for eqn in jaxpr.eqns:
            operands = [_literal(v) if isinstance(v, Literal) else env[v] for v in eqn.invars]
            node, results = self._equation(eqn, operands)
            block.nodes.append(node)
            env.update(zip(eqn.outvars, results, strict=True))
        outs = [_literal(v) if isinstance(v, Literal) else env[v] for v in jaxpr.outvars]
        block.labels = {var: value.labels for var, value in env.items()}
        block.outs = tuple(v.labels for v in outs)
        return block, outs

    def _equation(self, eqn: Any, operands: list[Value]) -> tuple[Node, list[Value]]:
        if eqn.primitive.name in self.calls:
            around = self.around
            self.around = (*around, eqn)
            node, results = self.calls[eqn.primitive.name](self, eqn, operands)
            self.around = around
            return node, results
        labels = tuple(v.labels for v in operands)
        equation = Equation(eqn, labels, self.channels, self.around, tuple(operands))
        mark = self.channels.mark()
        relation = rule_for(eqn.primitive.name).relate(equation)
        node = Node(eqn, relation)
        node.constant = constant = all(v.constant for v in operands)
        source = next((v.source for v in operands if v.source), None)
        sums = frozenset[int]().union(*(v.sums for v in operands))
        numbers = [v.number for v in operands]
        new = len(self._sums) if relation.reads and not relation.work else None
        total, division = add_up(eqn, [v.total for v in operands], numbers, new)
        if division is not None:
            self._means.append((node, division, self.around))
        if eqn.primitive.name in ("add", "add_any", "sub"):
            node.adds = self._notice_sum(operands)
        if relation.work:
            self._contraction(node, operands)
            sums = frozenset()
        elif relation.reads:
            (node.read,) = relation.reads
            sums |= {len(self._sums)}
            held = relation.ins[0].tracked
            summed = tuple(held[(a,)] for a in node.read.axes)
            reason = Reason("a normalisation over the channels", eqn, self.around)
            self._sums.append((summed, reason))
        elif relation.within:
            sums |= {len(self._sums)}
            text = "a normalisation over the channels inside of units that are pruned whole"
            self._sums.append(((), Reason(text, eqn, self.around)))
        elif sums:
            self._notice_normalisation(operands, relation)
            inside = (why for along, why in (self._sums[s] for s in sorted(sums)) if not along)
            if (why := next(inside, None)) is not None:
                self.channels.put_reason_first(mark, labels, why)
        number = fold(eqn, numbers) if constant else None
        results = zip(relation.outs, known_results(eqn, [v.known for v in operands]), strict=True)
        return node, [Value(o, source, constant, sums, k, number, total) for o, k in results]

    def _contraction(self, node: Node, operands: list[Value]) -> None:
        eqn, relation = node.eqn, node.relation
        sizes = [v.aval.size for v in eqn.invars]
        # The mask goes to the side that is not a variable; between two alike, to the smaller.
        if relation.reads:
            node.read = min(
                relation.reads, key=lambda r: (operands[r.operand].constant, sizes[r.operand])
            )
        node.kernels = kernels = tuple(i for i, v in enumerate(operands) if v.constant and v.source)
        node.kernel = operands[kernels[-1]].source if kernels else None
        if self.rule_depth:  # a derivative is no part of the network: it turns kernels round
            return
        for i in kernels:
            held = relation.ins[i].tracked
            self.written += [held[(a,)] for a in relation.writes[i] if (a,) in held]
            self.read += [held[(a,)] for r in relation.reads if r.operand == i for a in r.axes]
        out, shape = relation.outs[0], eqn.outvars[0].aval.shape
        elements = tuple(out.extent(a, n) for a, n in enumerate(shape))
        name = node.kernel or str(Reason("no kernel", eqn, self.around))
        self.work.append(Work(name, (self.repeats, *relation.work), (self.repeats, *elements)))

    def reason(self, text: str, eqn: Any) -> Reason:
        """A reason that names the call whose body is walked now."""
        return Reason(text, eqn, self.around[:-1])

    def mark(self) -> tuple[int, ...]:
        """Where the ledger stands, for `forget`."""
        return (*self.channels.mark(), *map(len, self._ledgers()))

    def forget(self, mark: tuple[int, ...]) -> None:
        """Takes back what was found since `mark`, for a body that has to be walked again."""
        count, ties, fixed, *lengths = mark
        self.channels.forget((count, ties, fixed))
        for entries, length in zip(self._ledgers(), lengths, strict=True):
            del entries[length:]

    def _ledgers(self) -> tuple[list[Any], ...]:
        return (
            self.written, self.read, self.work, self.custom_rules, self.added, self._sums,
            self._normalised, self._means,
        )  # fmt: skip

    def _notice_sum(self, operands: list[Value]) -> bool:
        """Remembers the channels along which two layers' outputs are added, as in a residual block.

        Not a bias, which is constant, nor what comes from one layer twice, as `x + x³` in a GELU.
        Whether there are such channels.
        """
        if any(v.constant for v in operands):
            return False
        first, second = (v.labels.tracked for v in operands)
        found = False
        for axes, ids in first.items():
            other = second.get(axes)
            if other is not None and not np.array_equal(ids, other):
                self.added.append(ids)
                found = True
        return found

    def _notice_normalisation(self, operands: list[Value], relation: Relation) -> None:
        """Remembers where a sum over channels comes back to meet channels along their axis."""
        for value in operands:
            for other in operands:
                if value.sums and other is not value:
                    for axes, ids in other.labels.tracked.items():
                        if set(axes) <= value.labels.free or axes not in value.labels.tracked:
                            self._normalised += [(s, ids) for s in value.sums]

    def settle_normalisations(self, allow_inexact: bool) -> None:
        """Fixes the channels that a normalisation sums over, or has it divide by those left.

        A sum that is not divided by the number of its entries is no mean (the norm of a vector),
        and stays what it is. In a function with its own derivative there is no telling its rule by
        what to divide, so that all are fixed.
        """
        roots = self.channels.roots()
        stuck = list(self.channels.fixed_classes(roots))
        opened: set[int] = set()
        for s, ids in self._normalised:
            along, reason = self._sums[s]
            if not along:
                continue
            summed = np.concatenate(along)
            if np.isin(roots[ids], roots[summed]).any():
                if not allow_inexact or in_custom_rule(reason.calls):
                    met = ids[np.isin(roots[ids], roots[summed])]  # such as those of the scale
                    self.channels.fix(np.append(summed, met), reason)
                elif not np.isin(roots[summed], stuck).all():
                    opened.add(s)
        for node, division, calls in self._means:
            found = (self._sums[s.sum][0] for s in division.sums if s.sum in opened)
            along = tuple(ids for axes in found for ids in axes)
            if in_custom_rule(calls):
                for ids in along:  # masks cannot come in between a function and its rule
                    self.channels.fix(
                        ids, Reason("a normalisation over the channels", node.eqn, calls)
                    )
            elif along:
                node.divisor = Divisor(division, along)


def _literal(atom: Any) -> Value:
    known = known_constant(atom.val, atom.aval.dtype)
    return Value(PLAIN, constant=True, known=known, number=number_of(atom))
