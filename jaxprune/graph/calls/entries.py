"""Where masks are put for a function with its own derivative rule: on what enters it.

In a masked network the user's function runs as it was written, with its own rule, on operands that
are multiplied by masks; so the gradient in a mask is that of a factor on the operand's channels, by
the user's rule. In a sliced network the function's body and its rule are sliced. The two are equal
where a zero that enters reaches each read inside, in the rule too, as `dropped` finds out:

    y = custom(x, w, b) = round(x) · round(w) + b      masks on x: round(0) = 0
    y = custom(x, w1, b1, w2) = tanh(x · w1 + b1) · w2  masks on x, and on the rows of w2

Nothing that a mask is put on may come out again along the same channels: the next consumer would
multiply by the mask once more. Where no operands will do, the channels are fixed. Masks per sample
are refused where a mask goes on what the samples share, or where the rule sums over the samples
what some of them have dropped.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jaxprune.graph.analysis import Analysis, CustomRule
from jaxprune.graph.blocks import Entry, Made, Node
from jaxprune.graph.calls.dropped import Seen, with_rule
from jaxprune.graph.calls.effects import MASKED, At, Effect
from jaxprune.graph.labels import Axes, Ids

_MOST = 3
"""The most operands of one function that one group's masks are put on."""


def settle_entries(analysis: Analysis) -> None:
    """Decides for each function with its own rule what is masked, or fixes what it reads."""
    functions = [rule for rule in analysis.custom_rules if _contracts(rule.node)]
    if not functions:
        return
    roots = analysis.channels.roots()
    live = np.ones(int(roots.max(initial=-1)) + 1, bool)
    live[list(analysis.channels.fixed_classes(roots))] = False
    for rule in functions:
        classes = _Classes(roots, live)
        rule.node.made = _made(rule, classes)
        if not any(classes.of(ids) for ids in _read_inside(rule.node)):
            continue
        rule.node.entries, stuck = _entries(rule, classes)
        shared = _shared(analysis, rule, classes)
        if rule.node.entries:
            rule.node.by_sample = not shared
        else:
            stuck |= shared
        if stuck:
            live[list(stuck)] = False
            analysis.channels.fix(np.flatnonzero(np.isin(roots, list(stuck))), rule.reason)


@dataclass(frozen=True)
class _Classes:
    """The classes of tied channels, and which of them are still prunable."""

    roots: np.ndarray
    live: np.ndarray

    def of(self, ids: Ids) -> set[int]:
        found = np.unique(self.roots[ids])
        return set(found[self.live[found]].tolist())


def _contracts(node: Node) -> bool:
    """Whether channels are read or written inside; of most such functions (a ReLU) none are."""
    inside = (inner for block in node.inner for inner in block.all_nodes())
    return any(inner.relation.reads or inner.relation.writes for inner in inside)


def _read_inside(node: Node) -> Iterator[Ids]:
    for block in node.inner:
        for inner in block.all_nodes():
            for read in inner.relation.reads:
                labels = inner.relation.ins[read.operand]
                yield from (labels.tracked[(axis,)] for axis in read.axes)


def _made(rule: CustomRule, classes: _Classes) -> tuple[Made, ...]:
    """The results' axes with channels that kernels inside write."""
    inside = rule.node.inner[0].all_nodes(rules=False)
    written = [(node.kernel, classes.of(ids)) for node in inside for ids in node.written()]
    made = []
    for result, labels in enumerate(rule.node.relation.outs):
        for axes, ids in labels.tracked.items():
            held = classes.of(ids)
            kernels = dict.fromkeys(kernel for kernel, along in written if kernel and along & held)
            if len(axes) == 1 and kernels:
                made.append(Made(result, axes, tuple(kernels)))
    return tuple(made)


def _entries(rule: CustomRule, classes: _Classes) -> tuple[tuple[Entry, ...], set[int]]:
    """The operands' axes that are masked, and the classes for which there are none."""
    reads = _followed(rule, ())[0]
    unsafe = set[int]().union(*(classes.of(seen.ids) for seen in reads if not seen.safe))
    chosen: list[Entry] = []
    stuck = set(unsafe)
    for candidates, held in _together(rule, unsafe, classes):
        best = _best(rule, candidates, held, classes)
        if best is not None:
            chosen += best
            stuck -= held
    return tuple(chosen), stuck


def _shared(analysis: Analysis, rule: CustomRule, classes: _Classes) -> set[int]:
    """Channels of what the samples share, whose cotangents may sum what some have dropped."""
    if analysis.batch is None or len(rule.node.inner) < 3:
        return set()
    samples = classes.roots[analysis.batch]
    *_, moved = _followed(rule, rule.node.entries or ())
    found = set[int]()
    for labels, effect in zip(rule.node.inner[-1].outs, moved, strict=True):
        if any(np.isin(classes.roots[ids], samples).any() for ids in labels.tracked.values()):
            continue
        for axes, ids in labels.tracked.items():
            at = effect.at.get(axes)
            if at is None or at.number != 0:
                found |= classes.of(ids)
    return found


def _together(
    rule: CustomRule, unsafe: set[int], classes: _Classes
) -> list[tuple[list[Entry], set[int]]]:
    """Axes of the operands that carry what is read, in parts that share no channels."""
    parts: list[tuple[list[Entry], set[int]]] = []
    for operand, labels in enumerate(rule.node.relation.ins):
        for axes, ids in labels.tracked.items():
            held = classes.of(ids)
            if len(axes) > 1 or not rule.has_derivative[operand] or not held & unsafe:
                continue
            entries = [(operand, axes)]
            for part in [p for p in parts if p[1] & held]:
                parts.remove(part)
                entries, held = [*part[0], *entries], held | part[1]
            parts.append((entries, held))
    return parts


def _best(
    rule: CustomRule, candidates: Sequence[Entry], held: set[int], classes: _Classes
) -> tuple[Entry, ...] | None:
    """The fewest operands that do; among them those that make all reads linear in the mask.

    And rather those that depend on the inputs, which have a batch axis for masks per sample.
    """
    for count in range(1, _MOST + 1):
        found = []
        for entries in itertools.combinations(candidates, count):
            reads, results, _ = _followed(rule, entries)
            mine = [seen for seen in reads if classes.of(seen.ids) & held]
            if all(seen.safe for seen in mine) and not _come_out(rule, results, held, classes):
                constants = sum(rule.constant[operand] for operand, _ in entries)
                found.append((not all(seen.linear for seen in mine), constants, entries))
        if found:
            return min(found)[-1]
    return None


def _followed(
    rule: CustomRule, entries: Sequence[Entry]
) -> tuple[list[Seen], list[Effect], list[Effect]]:
    """All reads, and what is known of results and cotangents, where these operands are masked."""
    reached: list[dict[Axes, At]] = [{} for _ in rule.node.relation.ins]
    for operand, axes in entries:
        reached[operand][axes] = MASKED
    seen: list[Seen] = []
    return seen, *with_rule(rule.node, [Effect(at) for at in reached], seen)


def _come_out(
    rule: CustomRule, results: Sequence[Effect], held: set[int], classes: _Classes
) -> bool:
    return any(
        classes.of(labels.tracked[axes]) & held
        for effect, labels in zip(results, rule.node.relation.outs, strict=True)
        for axes in effect.at
    )
