"""The value of one equation's results at the dropped channels, from that of its operands.

Nothing is known behind an operation that is not listed here; `dropped.py` asks for all of a body.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from jaxprune.graph.blocks import Node
from jaxprune.graph.labels import Axes, Labels
from jaxprune.graph.rules.elementwise import ELEMENTWISE


@dataclass(frozen=True)
class At:
    """What a value is along channel axes that a mask has reached.

    Attributes:
      number: what it is at the channels that are dropped: a number; None for some finite number;
        infinity where it may be anything, not finite either.
      linear: whether it is the mask times what it would be without.
    """

    number: float | None = math.inf
    linear: bool = False


MASKED = At(0.0, linear=True)
LOST = At()


@dataclass(frozen=True)
class Effect:
    """What is known of a value: its channel axes that masks have reached, and its one number."""

    at: Mapping[Axes, At] = field(default_factory=dict)
    number: float | None = None

    def at_labels(self, want: Labels) -> Effect:
        """The same value at the labels that an equation needs; joint tuples may have parted."""
        found = {}
        for axes in want.tracked:
            for held, at in self.at.items():
                if set(axes) & set(held):
                    found[axes] = at if set(axes) <= set(held) else LOST
        return Effect(found, self.number)

    def moved(self, by: int) -> Effect:
        """The same value with all axes renumbered."""
        return replace(self, at={tuple(a + by for a in axes): v for axes, v in self.at.items()})


def constant(value: Any) -> Effect:
    """A literal, or a captured array: its number if it is a scalar that is known now."""
    if np.ndim(value) == 0 and isinstance(value, (int, float, np.generic, np.ndarray)):
        number = np.asarray(value).item()
        return Effect(number=number) if isinstance(number, (int, float)) else Effect()
    return Effect()


def join(a: Effect, b: Effect) -> Effect:
    """What holds of a value that may be either."""
    found = {}
    for axes in {**a.at, **b.at}:
        ats = [effect.at.get(axes) for effect in (a, b)]
        numbers = _numbers((a, b), ats)
        number = numbers[0] if numbers[0] == numbers[1] else _one_of(set(numbers))
        found[axes] = At(number, number == 0 and _all_linear(ats, numbers))
    return Effect(found, a.number if a.number == b.number else None)


def equation(node: Node, ins: Sequence[Effect]) -> list[Effect]:
    """The results of an equation that holds no bodies."""
    name, outs = node.eqn.primitive.name, node.relation.outs
    if name in ("optimization_barrier", "debug_callback"):
        return list(ins[: len(outs)])
    if node.relation.work and node.relation.writes:
        return [_contraction(node, ins)]
    if name in ELEMENTWISE and len(outs) == 1:
        return [_elementwise(node, ins)]
    if name in _MOVES:
        return [_moved(node, ins, out) for out in outs]
    return unknown(node, ins)


def unknown(node: Node, ins: Sequence[Effect]) -> list[Effect]:
    """The results of an equation of which nothing is known: anything, if a mask has got in."""
    reached = any(effect.at for effect in ins)
    return [
        Effect(dict.fromkeys(out.tracked, LOST) if reached else {}) for out in node.relation.outs
    ]


def _elementwise(node: Node, ins: Sequence[Effect]) -> Effect:
    found = {}
    for axes in node.relation.outs[0].tracked:
        ats = [effect.at.get(axes) for effect in ins]
        if any(at is not None for at in ats):
            numbers = _numbers(ins, ats)
            number = _computed(node.eqn, ats, numbers)
            found[axes] = At(number, number == 0 and _stays_linear(node, ats, numbers))
    numbers = [effect.number for effect in ins]
    whole = None if None in numbers else _computed(node.eqn, [None] * len(ins), numbers)
    return Effect(found, whole)


def _numbers(ins: Sequence[Effect], ats: Sequence[At | None]) -> list[float | None]:
    """The operands' numbers at the dropped channels: that of the whole where no mask came."""
    return [k.number if at is None else at.number for k, at in zip(ins, ats, strict=True)]


def _stays_linear(node: Node, ats: Sequence[At | None], numbers: Sequence[float | None]) -> bool:
    name = node.eqn.primitive.name
    linear = [at is not None and at.linear for at in ats]
    alone = sum(at is not None for at in ats) == 1
    if name == "mul":
        return alone and any(linear)
    if name == "div":
        return alone and linear[0]
    if name == "select_n":
        return ats[0] is None and _all_linear(ats[1:], numbers[1:])
    return name in _LINEAR and _all_linear(ats, numbers)


def _all_linear(ats: Sequence[At | None], numbers: Sequence[float | None]) -> bool:
    pairs = zip(ats, numbers, strict=True)
    return all(n == 0 if at is None else at.linear for at, n in pairs)


def _computed(eqn: Any, ats: Sequence[At | None], numbers: Sequence[float | None]) -> float | None:
    """The number that an elementwise operation gives for these, as in `At.number`."""
    name = eqn.primitive.name
    if any(n is not None and not math.isfinite(n) for n in numbers):
        return math.inf
    if name == "select_n":
        cases = set(numbers[1:])
        return cases.pop() if len(cases) == 1 else None
    if name in ("mul", "and") and 0 in numbers:
        return 0.0
    if name == "div" and numbers[0] == 0 and ats[1] is None and numbers[1] != 0:
        return 0.0  # what it is divided by is the same at channels that stay
    compute = _FINITE.get(name)
    if compute is not None and None in numbers:
        return None
    compute = compute or _OTHERS.get(name)
    if compute is None or None in numbers:
        return math.inf
    with np.errstate(all="ignore"):
        given = [np.asarray(n, v.aval.dtype) for n, v in zip(numbers, eqn.invars, strict=True)]
        number = np.asarray(compute(eqn.params, *given), eqn.outvars[0].aval.dtype).item()
    return number if isinstance(number, (int, float)) and math.isfinite(number) else math.inf


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda params, *numbers: function(*numbers)


_SAME = ("convert_element_type", "copy", "copy_p", "device_put", "sharding_constraint")
_LINEAR = (*_SAME, "neg", "real", "imag", "reduce_precision", "add", "add_any", "sub")
_FINITE: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(_SAME, _plain(lambda x: x)),
    **{name: _plain(getattr(np, name)) for name in (
        "abs", "ceil", "cos", "cosh", "exp", "exp2", "expm1", "floor", "sign", "sin", "sinh",
        "square", "tanh",
    )},
    "add": _plain(np.add), "add_any": _plain(np.add), "sub": _plain(np.subtract),
    "mul": _plain(np.multiply), "neg": _plain(np.negative), "round": _plain(np.round),
    "max": _plain(np.maximum), "min": _plain(np.minimum),
    "asinh": _plain(np.arcsinh), "atan": _plain(np.arctan),
    "erf": _plain(math.erf), "logistic": _plain(lambda x: 1 / (1 + np.exp(-x))),
    "clamp": _plain(lambda low, x, high: np.minimum(np.maximum(x, low), high)),
    "eq": _plain(np.equal), "ne": _plain(np.not_equal), "lt": _plain(np.less),
    "le": _plain(np.less_equal), "gt": _plain(np.greater), "ge": _plain(np.greater_equal),
    "and": _plain(np.logical_and), "or": _plain(np.logical_or), "not": _plain(np.logical_not),
}  # fmt: skip
"""Operations whose results are finite where their operands are."""

_OTHERS: dict[str, Callable[..., Any]] = {
    "div": _plain(np.divide), "sqrt": _plain(np.sqrt), "log1p": _plain(np.log1p),
    "asin": _plain(np.arcsin), "atanh": _plain(np.arctanh), "tan": _plain(np.tan),
    "integer_pow": lambda params, x: x ** float(params["y"]),
}  # fmt: skip


def _contraction(node: Node, ins: Sequence[Effect]) -> Effect:
    """A result is zero along an axis where the operand that has it is: it is a sum of products."""
    writes = [*node.relation.writes, {}, {}]
    read = {(r.operand, axis) for r in node.relation.reads for axis in r.axes}
    lost = any(
        (axis not in writes[i] and (i, axis) not in read)
        for i, effect in enumerate(ins)
        for axes in effect.at
        for axis in axes
    )
    found = {}
    for axes in node.relation.outs[0].tracked:
        ats = [
            effect.at[(mine,)]
            for effect, moves in zip(ins, writes, strict=False)
            for mine, out in moves.items()
            if (out,) == axes and (mine,) in effect.at
        ]
        numbers = [at.number for at in ats]
        if lost or math.inf in numbers:
            found[axes] = LOST
        elif ats:
            number = 0.0 if 0 in numbers else None
            found[axes] = At(number, len(ats) == 1 and ats[0].linear)
    return Effect(found)


def _moved(node: Node, ins: Sequence[Effect], out: Labels) -> Effect:
    """Entries that change places, or are summed with others of their channel.

    An axis of the result has what lay along the axes of the operands that have its channels.
    """
    move = _MOVES[node.eqn.primitive.name]
    arrays, others = ins[: move.arrays], ins[move.arrays :]
    filling = {effect.number for effect in others} if move.filled else set[float | None]()
    found = {}
    for axes, ids in out.tracked.items():
        ats: list[At | None] = []
        numbers = set(filling)
        lost = False
        for effect, labels in zip(arrays, node.relation.ins, strict=False):
            held = [a for a, i in labels.tracked.items() if i is ids or np.isin(i, ids).any()]
            lost |= len(held) != 1 and bool(effect.at)
            if held:
                at = effect.at.get(held[0])
                ats.append(at)
                numbers.add(effect.number if at is None else at.number)
        if lost:
            found[axes] = LOST
        elif any(at is not None for at in ats):
            number = numbers.pop() if len(numbers) == 1 else _one_of(numbers)
            number = number if move.keeps or number == 0 else _one_of({number})
            linear = move.linear and number == 0
            found[axes] = At(number, linear and all(at is None or at.linear for at in ats))
    whole = {effect.number for effect in arrays} | filling
    return Effect(found, whole.pop() if move.keeps and len(whole) == 1 else None)


def _one_of(numbers: set[float | None]) -> float | None:
    return math.inf if math.inf in numbers else None


@dataclass(frozen=True)
class _Move:
    """How an operation treats entries.

    Attributes:
      keeps: whether the entries of the result are entries of the operands; else they are sums.
      linear: whether the result is linear in the operands.
      arrays: how many operands the entries come from; those behind say where.
      filled: whether the one behind is what the result is filled up with.
    """

    keeps: bool = True
    linear: bool = True
    arrays: int | None = 1
    filled: bool = False


_MOVES = {
    **dict.fromkeys(
        "reshape transpose broadcast_in_dim squeeze expand_dims slice rev dynamic_slice tile split "
        "unstack".split(),
        _Move(),
    ),
    **dict.fromkeys(("concatenate", "stack"), _Move(arrays=None)),
    "dynamic_update_slice": _Move(arrays=2),
    "pad": _Move(filled=True),
    **dict.fromkeys(("reduce_sum", "cumsum", "reduce_window_sum"), _Move(keeps=False)),
    **dict.fromkeys(
        "reduce_max reduce_min cummax cummin reduce_window_max reduce_window_min".split(),
        _Move(linear=False),
    ),
}
