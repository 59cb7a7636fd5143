"""Runs an analysed jaxpr: masked, tapped or intercepted at the dense shapes, or sliced.

All of it happens while JAX traces, so nothing of it costs at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from jaxprune.graph.analysis import Block, Node, differentiable
from jaxprune.graph.conform import conform
from jaxprune.graph.cut import take
from jaxprune.graph.labels import Ids, Keep, Labels, sliced_shape
from jaxprune.graph.rules import rule_for
from jaxprune.graph.rules.base import bind

Values = list[Any]


class Interpretation(Protocol):
    """How `run` treats operands and equations."""

    inline: bool
    """Whether `checkpoint` is dissolved into the caller."""

    def passes(self, node: Node) -> bool:
        """Whether a call may run as the user wrote it."""
        ...

    def conform(self, value: Any, have: Labels, want: Labels, shape: tuple[int, ...]) -> Any:
        """A value brought to the layout that is wanted."""
        ...

    def constant(self, value: Any, labels: Labels) -> Any:
        """A captured array in this interpretation's layout."""
        ...

    def equation(self, node: Node, values: Values) -> Values:
        """Runs one equation that is no call."""
        ...


def run(block: Block, args: Sequence[Any], how: Interpretation) -> Values:
    """Runs a block on `args`, laid out as `block.ins`; results are laid out as `block.outs`."""
    env = dict(zip(block.invars, args, strict=True))
    for var, value in zip(block.constvars, block.consts, strict=True):
        env[var] = how.constant(value, block.labels[var])

    def fetch(atom: Any, want: Labels) -> Any:
        value = atom.val if isinstance(atom, Literal) else env[atom]
        shape: tuple[int, ...] = atom.aval.shape  # pyright: ignore[reportAttributeAccessIssue]
        return how.conform(value, block.found(atom), want, shape)

    for node in block.nodes:
        values = [fetch(v, w) for v, w in zip(node.eqn.invars, node.relation.ins, strict=True)]
        outs = _call(node, values, how) if node.inner else how.equation(node, values)
        env.update(zip(node.eqn.outvars, outs, strict=True))
    return [fetch(v, w) for v, w in zip(block.jaxpr.outvars, block.outs, strict=True)]


def _call(node: Node, values: Values, how: Interpretation) -> Values:
    body = node.inner[0]
    if how.passes(node):
        return bind(node.eqn, values)
    if how.inline:
        return run(body, values, how)
    if len(node.inner) == 2:
        return list(_with_derivative_rule(node, how)(*values))
    if "policy" in node.eqn.params:
        checkpointed = jax.checkpoint(
            lambda *xs: run(body, xs, how),
            prevent_cse=node.eqn.params["prevent_cse"],
            policy=node.eqn.params["policy"],
        )
        return checkpointed(*values)
    return run(body, values, how)


def _with_derivative_rule(node: Node, how: Interpretation) -> Callable[..., tuple[Any, ...]]:
    """The user's function with the user's own derivative rule, both interpreted."""
    body, rule = node.inner
    has_tangent = [differentiable(v.aval) for v in node.eqn.invars]

    @jax.custom_jvp
    def primal(*args: Any) -> tuple[Any, ...]:
        return tuple(run(body, args, how))

    @primal.defjvp
    def derivative(primals: Any, tangents: Any) -> tuple[Any, Any]:
        given = [t for t, has in zip(tangents, has_tangent, strict=True) if has]
        outs = run(rule, [*primals, *given], how)
        results, moved = outs[: len(body.outs)], iter(outs[len(body.outs) :])
        tangents_out = [
            _zero_tangent(out) if zero else next(moved)
            for out, zero in zip(results, node.zero_tangents, strict=True)
        ]
        return tuple(results), tuple(tangents_out)

    return primal


def _zero_tangent(value: jax.Array) -> Any:
    if differentiable(value):
        return jnp.zeros_like(value)
    return np.zeros(value.shape, jax.dtypes.float0)


@dataclass
class Dense:
    """Dense shapes, with a function of the user's at every read or write of channels."""

    read: Callable[[Node, jax.Array], jax.Array] | None = None
    tap: Callable[[Node, jax.Array, jax.Array | None], None] | None = None
    write: Callable[[Node, jax.Array], jax.Array] | None = None
    rescale: Callable[[Node], jax.Array | float] | None = None
    inline: bool = False

    def passes(self, node: Node) -> bool:
        """A body in which no channels are read or looked at runs as it is."""
        custom_rule = len(node.inner) == 2  # whose channels are fixed if it reads or writes them
        return custom_rule or (self.write is None and not node.inner[0].has_reads())

    def conform(self, value: Any, have: Labels, want: Labels, shape: tuple[int, ...]) -> Any:
        """Dense values need no layout."""
        return value

    def constant(self, value: Any, labels: Labels) -> Any:
        """Captured arrays stay whole."""
        return value

    def equation(self, node: Node, values: Values) -> Values:
        """Looks at what the equation reads, runs it, looks at what it writes."""
        if node.read is not None and self.read is not None:
            at = node.read.operand
            values[at] = self.read(node, values[at])
        if node.read is not None and self.tap is not None:
            at = node.read.operand
            self.tap(node, values[at], values[1 - at] if len(values) == 2 else None)
        outs = bind(node.eqn, values)
        if node.rescaled and self.rescale is not None:
            outs[0] = outs[0] * jnp.asarray(self.rescale(node), outs[0].dtype)
        if node.relation.writes and self.write is not None:
            outs[0] = self.write(node, outs[0])
        return outs


@dataclass
class Sliced:
    """The smaller shapes: only the channels that `keep` names exist."""

    keep: Keep
    inline: bool = field(default=False, init=False)

    def passes(self, node: Node) -> bool:
        """Every body is emitted anew."""
        return False

    def conform(self, value: Any, have: Labels, want: Labels, shape: tuple[int, ...]) -> Any:
        """See `jaxprune.graph.conform`."""
        return conform(value, have, want, shape, self.keep)

    def constant(self, value: Any, labels: Labels) -> Any:
        """Captured arrays are cut."""
        for axes, ids in labels.tracked.items():
            value = take(value, np.flatnonzero(self.keep(ids)), axes[0])
        return value

    def equation(self, node: Node, values: Values) -> Values:
        """Emits the equation and holds its results against the predicted shapes."""
        eqn, relation = node.eqn, node.relation
        outs = rule_for(eqn.primitive.name).emit(eqn, relation, values, self.keep)
        for out, labels, var in zip(outs, relation.outs, eqn.outvars, strict=True):
            predicted = sliced_shape(labels, var.aval.shape, self.keep)
            if jnp.shape(out) != predicted:
                raise AssertionError(
                    f"jaxprune: sliced {eqn.primitive.name} gave shape {jnp.shape(out)}, "
                    f"predicted {predicted}; please report this network"
                )
        if node.rescaled:
            ids = np.concatenate([relation.ins[0].tracked[(a,)] for a in _axes(node)])
            outs[0] = outs[0] * jnp.asarray(ids.size / self.keep(ids).sum(), outs[0].dtype)
        return outs


def _axes(node: Node) -> tuple[int, ...]:
    return () if node.read is None else node.read.axes


@dataclass(frozen=True)
class MaskReader:
    """Multiplies by the masks where channels are read.

    Attributes:
      flat: the masks of all groups side by side, ([batch,] units + 1); the last entry is 1, for
        channels that are in no group.
      units: for an id array, the number of each channel's unit, or -1.
      samples: for an id array, the number of each id's sample, or None if it is no batch axis.
    """

    flat: jax.Array
    units: Callable[[Ids], np.ndarray]
    samples: Callable[[Ids], np.ndarray | None]

    def __call__(self, node: Node, value: jax.Array) -> jax.Array:
        """The operand times the masks of the channels that the equation reads."""
        labels = node.relation.ins[node.read.operand] if node.read else Labels()
        for axis in _axes(node):
            units = self.units(labels.tracked[(axis,)])
            if (units >= 0).any():
                value = value * self._multiplier(labels, axis, units, value)
        return value

    def _multiplier(
        self, labels: Labels, axis: int, units: np.ndarray, value: jax.Array
    ) -> jax.Array:
        mask = _gather(self.flat, units)
        shape = [1] * value.ndim
        shape[axis] = len(units)
        if mask.ndim == 2:
            batch_axis, samples = self._batch(labels)
            mask = mask[samples]
            if batch_axis > axis:
                mask = mask.T
            shape[batch_axis] = len(samples)
        return mask.reshape(shape).astype(value.dtype)

    def _batch(self, labels: Labels) -> tuple[int, np.ndarray]:
        for axes, ids in labels.tracked.items():
            samples = self.samples(ids)
            if samples is not None and len(axes) == 1:
                return axes[0], samples
        raise ValueError(
            "masks per sample need the batch axis of the inputs where channels are read, and one "
            "reader has lost it; use masks of shape (units,)"
        )

    def rescale(self, node: Node) -> jax.Array:
        """For a normalisation: all summed channels over the kept ones."""
        labels = node.relation.ins[0]
        units = np.concatenate([self.units(labels.tracked[(a,)]) for a in _axes(node)])
        kept = _gather(self.flat, units).sum(-1)
        if kept.ndim:
            raise ValueError("allow_inexact and masks per sample do not go together")
        return len(units) / kept


def _gather(flat: jax.Array, units: np.ndarray) -> jax.Array:
    units = np.where(units < 0, flat.shape[-1] - 1, units)
    if len(units) > 0 and np.array_equal(units, np.arange(units[0], units[0] + len(units))):
        return flat[..., units[0] : units[0] + len(units)]
    return flat[..., units]
