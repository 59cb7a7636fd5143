"""`ChannelGraph`: the coupled groups of a function, and what can be done with them."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jaxprune.graph import paths
from jaxprune.graph.analysis import Block, Node
from jaxprune.graph.arguments import (
    flat_masks,
    require_binary,
    require_gates,
    require_groups,
    require_shapes,
)
from jaxprune.graph.check import Report, check_laws
from jaxprune.graph.compiled import compile_per_keywords, remember
from jaxprune.graph.consumers import Consumer, Tapped, unused
from jaxprune.graph.costed import CostedGroups, Masks
from jaxprune.graph.cut import copied, cut
from jaxprune.graph.explain import Explanation, Preview, explain, preview
from jaxprune.graph.gates import Gate, Gates, require_gateable
from jaxprune.graph.groups import Grouping
from jaxprune.graph.interpret import Dense, TappedRead, run
from jaxprune.graph.labels import Ids
from jaxprune.graph.masking import Masking
from jaxprune.graph.permute import permute
from jaxprune.graph.program import Program, State, analyse
from jaxprune.graph.pruned import Pruned
from jaxprune.graph.structure import Structures, project, require

Fn = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class ChannelGraph(CostedGroups):
    """The coupled channel groups of a function, from `jaxprune.trace`; see also `CostedGroups`."""

    _grouping: Grouping = field(repr=False)
    _dense: dict[str, tuple[tuple[int, ...], str]] = field(repr=False)
    _state: State | None = field(repr=False, default=None)
    _allow_inexact: bool = field(repr=False, default=False)
    _base: Pruned | None = field(repr=False, default=None)
    _rebuild: Callable[[Pruned], Any] | None = field(repr=False, default=None)
    _compiled: dict[Any, Any] = field(repr=False, init=False, default_factory=dict)

    # Interpretations.

    def masked(self, fn: Fn) -> Fn:
        """`fn` with masks: `masked(fn)(variables, masks, *args)`, differentiable in the masks.

        Channels are multiplied by their mask where a consumer reads them. A mask has shape
        (units,), or (batch, units) for a mask per sample.

        Raises (when called):
          ValueError: masks of other groups or shapes; `fn` fixes or ties what the graph prunes.
        """
        inner = _inner(fn)

        def call(variables: Any, masks: Masks, *args: Any, **static: Any) -> Any:
            require_groups(self.groups, masks)
            program = self._analyse(inner, variables, args, static)
            masking = self._masking(masks, program, program.units(self._grouping.units))
            how = Dense(read=masking, count=masking.count, stop=masking.stop)
            return _run(program, variables, args, how)

        return remember(self._compiled, ("masked", inner), lambda: compile_per_keywords(call))

    def tapped(self, fn: Fn) -> Fn:
        """`fn` with what its consumers read: `tapped(fn)(variables, *args) → (out, reads)`.

        `reads` maps the path of each consumer's kernel to the operand that holds the channels. A
        branch of a condition that does not run gives zeros. What is read in a loop of unknown
        length, or in a `shard_map`, is not among them; `tap` tells its consumers.
        """

        def call(variables: Any, *args: Any, **static: Any) -> tuple[Any, dict[str, jax.Array]]:
            out, tapped = self.tap(fn, variables, *args, **static)
            return out, tapped.reads

        return remember(self._compiled, ("tapped", fn), lambda: compile_per_keywords(call))

    def tap(
        self,
        fn: Fn,
        variables: Any,
        *args: Any,
        masks: Masks | None = None,
        shifts: Mapping[str, jax.Array] | None = None,
        **static: Any,
    ) -> tuple[Any, Tapped]:
        """Runs `fn`, under masks if given, and records each consumer with its operands.

        For use inside a traced function. `shifts` are added to `Tapped.outputs` and `Tapped.sums`
        of their names: how the network goes on from there is their derivative.
        """
        inner = _inner(fn)
        program = self._analyse(inner, variables, args, static)
        units_of = program.units(self._grouping.units)
        tapped = Tapped()
        shifts = shifts or {}
        named: dict[int, str] = {}

        def record(tap: TappedRead) -> None:
            consumer = self._consumer(tap.node, units_of)
            if consumer is not None:
                name = unused(consumer.name, tapped.reads)
                named[id(tap.node)] = name
                tapped.consumers[name] = consumer
                tapped.reads[name] = tap.value
                if tap.kernel is not None:
                    tapped.kernels[name] = tap.kernel

        def miss(node: Node) -> None:
            consumer = self._consumer(node, units_of)
            if consumer is not None:
                tapped.missed[unused(consumer.name, tapped.missed)] = consumer

        def then(node: Node, outs: list[Any]) -> list[Any]:
            if id(node) in named:
                held, name = tapped.outputs, named[id(node)]
            elif node.adds:
                held, name = tapped.sums, unused("sum", tapped.sums)
            else:
                return outs
            tapped.order.append(name)
            held[name] = outs[0] + shifts[name] if name in shifts else outs[0]
            return [held[name]]

        how = Dense(tap=record, miss=miss, then=then, inline=True)
        if masks is not None:
            how.read = masking = self._masking(masks, program, units_of)
            how.count, how.stop = masking.count, masking.stop
        return _run(program, variables, args, how), tapped

    def _consumer(self, node: Node, units_of: Callable[..., np.ndarray]) -> Consumer | None:
        assert node.read is not None
        labels = node.relation.ins[node.read.operand]
        units = tuple(units_of(labels.tracked[(axis,)]) for axis in node.read.axes)
        starts = np.cumsum([0, *self.sizes])
        held = {u for along in units for u in along.tolist() if u >= 0}
        groups = tuple(
            name for i, name in enumerate(self.groups)
            if any(starts[i] <= u < starts[i + 1] for u in held)
        )  # fmt: skip
        if not groups:
            return None
        return Consumer(
            name=node.kernel or node.eqn.primitive.name,
            primitive=node.eqn.primitive.name,
            params=node.eqn.params,
            operand=node.read.operand,
            axes=node.read.axes,
            kernel_shape=tuple(node.eqn.invars[1 - node.read.operand].aval.shape)
            if len(node.eqn.invars) == 2
            else (),
            units=units,
            groups=groups,
        )

    def intercept(
        self, fn: Fn, gate: Callable[[str, jax.Array], jax.Array], at: str = "write"
    ) -> Fn:
        """`fn` with `gate(group, values)` applied where channels are written or read.

        `at="write"` is the result of the convolution or product that makes the channels (before a
        bias or BatchNorm), `at="read"` the operand of each consumer. `values` has the group's
        channels on its last axis in the order of its units, repeats side by side; the gate
        returns an array of that shape. Of a function with its own derivative rule it is what enters
        and what comes out.

        Raises (when called):
          ValueError: channels that are written inside such a function and do not come out of it.
        """
        inner = _inner(fn)

        def named(group: str, values: jax.Array, kernels: Sequence[str]) -> jax.Array:
            return gate(group, values)

        def call(variables: Any, *args: Any, **static: Any) -> Any:
            return self._gate(inner, named, at, self.groups, variables, args, static)

        key = ("intercept", inner, gate, _place(at))
        return remember(self._compiled, key, lambda: compile_per_keywords(call))

    def gated(self, fn: Fn, gate: Callable[[str, jax.Array, Any], Any], at: str = "write") -> Fn:
        """`fn` with gates on its channels: `gated(fn, gate)(variables, gates, *args)`.

        The channels of each group in `gates` are multiplied by `gate(group, values, gates[group])`
        wherever they are written or read; see `intercept` for `at` and `values`. Where they are
        written, `gates` may also name a kernel: what this layer writes has a gate of its own, so
        that each layer that adds to a residual stage can have one. `group.writers` are the kernels
        that write a group. A gate is any pytree; it is an argument, so that what is compiled stays
        as it changes, and it can be differentiated. Gates of 0 and 1 at="read" are masks.

        Squeeze-and-excitation, one factor a sample and channel, behind each layer and before its
        bias:

            >>> import jaxprune as jp
            >>> rng = np.random.default_rng(0)
            >>> shapes = {"stem": (3, 8), "block": (8, 8), "head": (8, 2)}
            >>> variables = {name: rng.normal(size=shape) for name, shape in shapes.items()}
            >>> x = rng.normal(size=(4, 10, 3))
            >>> def fn(variables, x):
            ...     h = x @ variables["stem"]
            ...     h = h + jax.nn.relu(h) @ variables["block"]
            ...     return h @ variables["head"]
            >>> graph = jp.trace(fn, variables, x)
            >>> graph.groups["stem[1]"].writers
            ('stem', 'block')

            >>> def excitation(group, values, dense):
            ...     squeezed = values.mean(1, keepdims=True)
            ...     return jax.nn.sigmoid(jax.nn.relu(squeezed @ dense["in"]) @ dense["out"])
            >>> gates = {
            ...     kernel: {"in": np.ones((group.size, 2)), "out": np.ones((2, group.size))}
            ...     for group in graph.groups.values() for kernel in group.writers
            ... }
            >>> graph.gated(fn, excitation)(variables, gates, x).shape
            (4, 10, 2)

        Raises (when called):
          ValueError: gates of what is neither a group nor, where it is written, a kernel that
            writes one; of a group that no convolution or product writes; else as `intercept`.
        """
        inner = _inner(fn)

        def call(variables: Any, gates: Masks, *args: Any, **static: Any) -> Any:
            require_gates(self.groups, gates, at)

            def multiplied(group: str, values: jax.Array, kernels: Sequence[str]) -> jax.Array:
                named = [gates[name] for name in (group, *kernels) if name in gates]
                factors = [gate(group, values, own) for own in named]
                return functools.reduce(operator.mul, factors, values)

            return self._gate(inner, multiplied, at, gates, variables, args, static)

        key = ("gated", inner, gate, _place(at))
        return remember(self._compiled, key, lambda: compile_per_keywords(call))

    def _gate(
        self, fn: Fn, gate: Gate, at: str, names: Collection[str],
        variables: Any, args: Sequence[Any], static: Any,
    ) -> Any:  # fmt: skip
        program = self._analyse(fn, variables, args, static)
        gates = Gates(self.groups, program.units(self._grouping.units), gate)
        if at == "write":
            require_gateable(self.groups, program.analysis, gates.units, names)
            return _run(program, variables, args, Dense(write=gates))
        return _run(program, variables, args, Dense(read=gates))

    def analysed(
        self, fn: Fn, variables: Any, *args: Any
    ) -> tuple[Block, Callable[[Ids], np.ndarray]]:
        """`fn` at these shapes: its equations with their channels, and ids → the graph's units."""
        program = self._analyse(_inner(fn), variables, args, {})
        return program.block, program.units(self._grouping.units)

    # The smaller network.

    def slice(self, variables: Any, masks: Masks, blocks: Structures | None = None) -> Pruned:
        """Cuts the variables where the masks are zero, and projects kernels on their blocks.

        Args:
          variables: the traced pytree.
          masks: concrete and exactly 0 or 1, each leaving at least one unit.
          blocks: path → `jaxprune.kernels.blocks.Blocks` of the kernel as the masks leave it.

        Raises:
          ValueError: masks that are traced, of other groups or shapes, neither 0 nor 1, or that
            empty a group; variables of other shapes; NaN or infinity in a mask; blocks of another
            kernel, or of one that has blocks already; masks that cut such a kernel.
        """
        blocks = dict(blocks or {})
        require_binary(self.groups, masks)
        require_shapes(self.shapes, variables, "the network that was traced")
        positions: dict[str, dict[int, np.ndarray]] = {}
        kept = np.concatenate([np.asarray(masks[name]) != 0 for name in self.groups])
        for path, along_axes in self._grouping.units.items():
            for axis, units in enumerate(along_axes):
                if units is not None:
                    stays = (units < 0) | kept[units]
                    if not stays.all():
                        positions.setdefault(path, {})[axis] = np.flatnonzero(stays)
        indices = {f"{p}[{a}]": k for p, axes in positions.items() for a, k in axes.items()}
        before: dict[str, np.ndarray] = {}
        dense, allow_inexact = self._dense, self._allow_inexact
        if self._base is not None:
            allow_inexact |= self._base.allow_inexact
            before, dense = self._base.indices, self._base.dense
            if clash := sorted(self._base.blocks.keys() & (positions.keys() | blocks.keys())):
                raise ValueError(
                    f"{clash[0]} has blocks already: prune channels first, then what is finer, and "
                    "a kernel's blocks once"
                )
            blocks |= self._base.blocks
            composed = {n: before[n][k] if n in before else k for n, k in indices.items()}
            indices = {**before, **composed}
        # Copies, so that donating the pruned network's buffers leaves the first network whole.
        leaves = [
            cut(leaf, positions[path]) if path in positions else copied(leaf)
            for path, leaf in paths.leaves(variables)
        ]
        small = jax.tree.structure(variables).unflatten(leaves)
        require(blocks, {path: leaf.shape for path, leaf in paths.leaves(small)})
        return Pruned(
            variables=project(small, blocks),
            indices=indices,
            widths=self.widths(masks),
            dense=dense,
            state=self._state,
            allow_inexact=allow_inexact,
            before=before,
            rebuild=self._rebuild,
            blocks=blocks,
        )

    def permute(self, variables: Any, orders: Mapping[str, Any]) -> Any:
        """The same network with the units of some groups in another order.

        Unit i of the result is unit `order[i]` of the given variables, on every axis where the
        group lives; its outputs are the same, and its gradients those in that order:

            same = graph.permute(variables, {"conv1": np.argsort(scores)})

        Args:
          variables: the traced pytree; it may be traced by JAX.
          orders: group, or a pattern that names one group → a permutation of its units, concrete.

        Raises:
          ValueError: a name that is no group's or several groups', an order that is no permutation,
            a group whose order is fixed (see `ordered`), variables of other shapes.
        """
        named = {self._group_called(pattern): order for pattern, order in orders.items()}
        return permute(self.groups, self.ordered, self.shapes, variables, named)

    def check(self, fn: Fn, variables: Any, *args: Any, seed: int = 0, **static: Any) -> Report:
        """Holds the laws on the user's own network; see `Report`.

        Raises:
          ValueError: every output is NaN or infinite on these inputs.
        """
        called = functools.partial(_inner(fn), **static)
        own = None if self._base is None else self._base.wrap(called)
        return check_laws(self, called, variables, args, seed, own=own)

    def preview(self, masks: Masks) -> Preview:
        """What cutting by these masks costs and saves, as data; `str()` of it is a table.

        Widths, parameters, MACs and activations, in total and per group, without cutting anything:

            print(graph.preview(graph.masks({"conv1": [3, 5]})))

        Raises:
          ValueError: masks that `slice` would not take.
        """
        return preview(self, masks)

    def explain(self) -> Explanation:
        """Every group, every fixed axis, every order that counts; `str()` of it is a table."""
        return explain(self)

    # What every interpretation begins with.

    def _analyse(self, fn: Fn, variables: Any, args: Sequence[Any], static: Any) -> Program:
        require_shapes(self.shapes, variables, "the network that was traced")
        if self._base is not None:
            fn = self._base.wrap(fn)
        return analyse(
            fn, variables, args, static,
            state=self._state, lenient=True, allow_inexact=self._allow_inexact,
        )  # fmt: skip

    def _masking(
        self, masks: Masks, program: Program, units_of: Callable[..., np.ndarray]
    ) -> Masking:
        flat = flat_masks(self.groups, masks)
        batch = 0 if program.analysis.batch is None else len(program.analysis.batch)
        if flat.ndim == 2 and len(flat) != batch:
            raise ValueError(f"masks for {len(flat)} samples, but inputs for {batch or 1}")
        return Masking(flat, units_of, program.samples)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Variable → its shape."""
        return {path: shape for path, (shape, _) in self._dense.items()}


def _inner(fn: Fn) -> Fn:
    """The user's own function, where `fn` comes from `pruned.wrap`."""
    return getattr(fn, "jaxprune_inner", fn)


def _place(at: str) -> str:
    if at not in ("write", "read"):
        raise ValueError(f"at is 'write' or 'read', not {at!r}")
    return at


def _run(program: Program, variables: Any, args: Sequence[Any], how: Dense) -> Any:
    outs = run(program.block, [*jax.tree.leaves(variables), *jax.tree.leaves(args)], how)
    return program.out_tree.unflatten(outs)
