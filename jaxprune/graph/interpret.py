"""Runs an analysed jaxpr: masked, tapped or intercepted at the dense shapes, or sliced.

All of it happens while JAX traces, so nothing of it costs at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from jaxprune.graph.blocks import Block, Node
from jaxprune.graph.conform import conform
from jaxprune.graph.cut import take_kept
from jaxprune.graph.labels import Ids, Keep, Labels, sliced_shape
from jaxprune.graph.means import Divisor
from jaxprune.graph.rules import rule_for
from jaxprune.graph.rules.base import bind
from jaxprune.graph.structure import Structure

Values = list[Any]


class TappedRead(NamedTuple):
    """What an equation reads, and the kernel that it reads it with, if it is a contraction."""

    node: Node
    value: Any
    kernel: Any | None


class Interpretation:
    """How `run` treats operands and equations: this one runs them as they are.

    Attributes:
      inline: whether bodies are dissolved into the caller, so that values in there can be handed
        out.
    """

    inline: bool = False

    def passes(self, node: Node) -> bool:
        """Whether a call may run as the user wrote it."""
        return False

    def untapped(self, node: Node) -> Interpretation:
        """The same for the bodies of a call that no value can leave, as loops of any length."""
        return self

    def collecting(self, taps: list[TappedRead], quiet: bool = False) -> Interpretation:
        """The same, with what is tapped put into a list, for a call that hands it out itself.

        `quiet` for a run that tells nothing new of what cannot be tapped.
        """
        return self

    def hand_out(self, taps: Sequence[TappedRead]) -> None:
        """Taps what a call has handed out."""

    def enter(self, node: Node, values: Values) -> Values:
        """The operands of a function with its own derivative rule, masked at its entries."""
        return values

    def leave(self, node: Node, values: Values) -> Values:
        """The results of such a function, looked at where channels are written inside."""
        return values

    def guard(self, value: Any, labels: Labels) -> Any:
        """The same value, out of which no gradient leads into channels that are dropped."""
        return value

    def conform(self, value: Any, have: Labels, want: Labels, shape: tuple[int, ...]) -> Any:
        """A value brought to the layout that is wanted."""
        return value

    def constant(self, value: Any, labels: Labels) -> Any:
        """A captured array in this interpretation's layout."""
        return value

    def equation(self, node: Node, values: Values) -> Values:
        """Runs one equation that is no call."""
        return bind(node.eqn, values)


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
        outs = node.emit(node, values, how) if node.emit else how.equation(node, values)
        env.update(zip(node.eqn.outvars, outs, strict=True))
    return [fetch(v, w) for v, w in zip(block.jaxpr.outvars, block.outs, strict=True)]


@dataclass
class Dense(Interpretation):
    """Dense shapes, with a function of the user's at every read or write of channels.

    That at writes is also told which kernels write.
    """

    read: Callable[[jax.Array, Labels, Sequence[int]], jax.Array] | None = None
    tap: Callable[[TappedRead], None] | None = None
    miss: Callable[[Node], None] | None = None
    write: Callable[[jax.Array, Labels, Sequence[int], Sequence[str]], jax.Array] | None = None
    count: Callable[[Ids], jax.Array] | None = None
    stop: Callable[[jax.Array, Labels], jax.Array] | None = None
    then: Callable[[Node, Values], Values] | None = None
    inline: bool = False

    def passes(self, node: Node) -> bool:
        """Bodies in which no channels are read, counted or looked at run as they are.

        Functions with their own derivative rules do: their operands are looked at. A tap has to see
        what is read inside.
        """
        if node.eqn.primitive.name.startswith("custom_"):
            return not self.inline or node.entries is None
        if self.count is not None and any(block.has_divisors() for block in node.inner):
            return False
        return self.write is None and not any(block.has_reads() for block in node.inner)

    def untapped(self, node: Node) -> Dense:
        """Without the tap; what is read inside is told to `miss`."""
        if self.miss is not None:
            for inner in (n for block in node.inner for n in block.all_nodes(rules=False)):
                if inner.read is not None:
                    self.miss(inner)
        return replace(self, tap=None, miss=None, then=None, inline=False)

    def collecting(self, taps: list[TappedRead], quiet: bool = False) -> Dense:
        """With a list for a tap."""
        return replace(self, tap=taps.append, miss=None if quiet else self.miss, then=None)

    def hand_out(self, taps: Sequence[TappedRead]) -> None:
        """To the tap."""
        if self.tap is not None:
            for one in taps:
                self.tap(one)

    def enter(self, node: Node, values: Values) -> Values:
        """Looks at the entries as at other reads; where the body is dissolved, at those inside."""
        values = list(values)
        if self.read is not None and not self.inline:
            for operand, axes in node.entries or ():
                labels = node.relation.ins[operand]
                if not node.by_sample:
                    labels = Labels({axes: labels.tracked[axes]})
                values[operand] = self.read(values[operand], labels, axes)
        return values

    def leave(self, node: Node, values: Values) -> Values:
        """Looks at the results as at other writes."""
        values = list(values)
        if self.write is not None and not self.inline:
            for result, axes, kernels in node.made:
                labels = node.relation.outs[result]
                values[result] = self.write(values[result], labels, axes, kernels)
        return values

    def guard(self, value: Any, labels: Labels) -> Any:
        """See `Masking.stop`."""
        return value if self.stop is None else self.stop(value, labels)

    def equation(self, node: Node, values: Values) -> Values:
        """Looks at what the equation reads, runs it, looks at what it writes and gives."""
        if node.read is not None and self.read is not None:
            at = node.read.operand
            values[at] = self.read(values[at], node.relation.ins[at], node.read.axes)
        if node.read is not None and self.tap is not None:
            at = node.read.operand
            self.tap(TappedRead(node, values[at], values[1 - at] if len(values) == 2 else None))
        if node.divisor is not None and self.count is not None:
            values = _with_divisor(node.divisor, values, self.count)
        outs = bind(node.eqn, values)
        if self.write is not None and (axes := node.written_axes()):
            assert node.kernel is not None
            outs[0] = self.write(outs[0], node.relation.outs[0], axes, (node.kernel,))
        return outs if self.then is None else self.then(node, outs)


@dataclass
class Sliced(Interpretation):
    """The smaller shapes: only the channels that `keep` names exist.

    Attributes:
      keep: which of them.
      structured: the variables of the outermost block that are projected kernels.
    """

    keep: Keep
    structured: Mapping[Any, Structure] = field(default_factory=dict)

    def conform(self, value: Any, have: Labels, want: Labels, shape: tuple[int, ...]) -> Any:
        """See `jaxprune.graph.conform`."""
        return conform(value, have, want, shape, self.keep)

    def constant(self, value: Any, labels: Labels) -> Any:
        """Captured arrays are cut."""
        return take_kept(value, labels, self.keep)

    def equation(self, node: Node, values: Values) -> Values:
        """Emits the equation and holds its results against the predicted shapes."""
        eqn, relation = node.eqn, node.relation
        if node.divisor is not None:
            values = _with_divisor(node.divisor, values, lambda ids: self.keep(ids).sum())
        kernel = eqn.invars[-1] if len(eqn.invars) == 2 else None
        found = None
        if not isinstance(kernel, Literal) and kernel in self.structured:
            found = self.structured[kernel].contract(eqn, values)
        if found is not None:
            outs = [found]
        elif relation.whole:  # nothing of it is smaller, so no rule has to know how it runs
            outs = bind(eqn, values)
        else:
            outs = rule_for(eqn.primitive.name).emit(eqn, relation, values, self.keep)
        for out, labels, var in zip(outs, relation.outs, eqn.outvars, strict=True):
            predicted = sliced_shape(labels, var.aval.shape, self.keep)
            if jnp.shape(out) != predicted:
                raise AssertionError(
                    f"jaxprune: sliced {eqn.primitive.name} gave shape {jnp.shape(out)}, "
                    f"predicted {predicted}; please report this network"
                )
        return outs


def _with_divisor(divisor: Divisor, values: Values, count: Callable[[Ids], Any]) -> Values:
    """The operands, the number of channels that is divided by being that of those left."""
    at = divisor.division.operand
    dtype = jax.dtypes.result_type(values[at])
    wide = jnp.promote_types(dtype, jnp.float32)  # masks may be narrower than the network
    number = divisor.at([jnp.asarray(count(ids), wide) for ids in divisor.along])
    return [
        *values[:at],
        jnp.broadcast_to(number.astype(dtype), jnp.shape(values[at])),
        *values[at + 1 :],
    ]
