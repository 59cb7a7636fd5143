"""A pruned network: its variables, what of the first network they are, and functions on them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from jaxprune.graph import paths
from jaxprune.graph.arguments import require_shapes
from jaxprune.graph.compiled import compile_per_keywords, remember
from jaxprune.graph.costed import CostedGroups
from jaxprune.graph.cut import Positions, cut
from jaxprune.graph.explain import KernelExplanation, explain_kernels
from jaxprune.graph.follow import Whole, follow
from jaxprune.graph.interpret import Sliced, run
from jaxprune.graph.program import Program, State, analyse, state_outputs
from jaxprune.graph.structure import Structures, fractions, project

Dense = Mapping[str, tuple[tuple[int, ...], str]]


@dataclass(frozen=True, eq=False)
class Pruned:
    """The smaller network that `graph.slice` returns.

    Attributes:
      variables: the sliced variables, in the structure of the first network's.
      indices: per cut axis, named `path[axis]`, the kept positions in the *first* network, through
        any number of prunings.
      widths: per group, the number of kept units.
      dense: per variable path, its shape and dtype in the first network.
      state: picks the new values of variables from an output, as given to `trace`.
      allow_inexact: as given to `trace`.
      before: the indices of the pruning before, where this network was pruned more than once.
      rebuild: makes what `module` gives, where the traced function came from `functional`.
      blocks: kernel's path → what it is within its shape (`jaxprune.kernels.blocks.Blocks`); the
        network computes with kernels that are projected on them.
      latency: what `prune` measured for a latency target, of `jaxprune.latency.LatencyCheck`; it is
        not saved.
    """

    variables: Any
    indices: dict[str, np.ndarray]
    widths: dict[str, int]
    dense: dict[str, tuple[tuple[int, ...], str]]
    state: State | None = field(default=None, repr=False)
    allow_inexact: bool = False
    before: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    rebuild: Callable[[Pruned], Any] | None = field(default=None, repr=False)
    blocks: Structures = field(default_factory=dict, repr=False)
    latency: Any = field(default=None, repr=False)
    _wrapped: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def wrap(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """`fn` on the pruned variables.

        `fn`'s first argument is the traced pytree (an apply, or a loss of it). It is traced at the
        first network's shapes, anew per call signature as `jit` does, so batch size and train or
        evaluation mode stay free. Positional arguments are traced, keyword arguments static.

        Raises (when called):
          ValueError: `fn` fixes or ties channels that were cut, or the variables have other shapes
            than these.
        """
        inner = getattr(fn, "jaxprune_inner", fn)

        def make() -> Callable[..., Any]:
            # Without the variables, which what is compiled need not keep alive.
            pruned = replace(self, variables=None)
            compiled = compile_per_keywords(functools.partial(_run_sliced, pruned, inner))
            compiled.jaxprune_inner = inner
            compiled.jaxprune_pruned = self
            return compiled

        return remember(self._wrapped, (inner,), make)

    def module(self, fn: Callable[..., Any] | None = None) -> Any:
        """The module that was pruned, smaller and called as before.

        An NNX or Equinox module, a Keras model; for Linen and Haiku, whose modules hold no
        variables, an object with `init` and `apply`. With an Equinox state, `(module, state)`.

        Args:
          fn: what `functional` made of the first module; needed for a network that was loaded.

        Raises:
          ValueError: no `fn`, or one that `functional` did not make.
        """
        rebuild = self.rebuild if fn is None else rebuild_of(fn)
        if rebuild is None:
            raise ValueError(
                "this network does not know its module: pass module(fn) the function that "
                "jp.functional(module) gave for the unpruned one; for a function of your own there "
                "is only pruned.wrap(fn)"
            )
        return rebuild(self)

    def cut(self, tree: Any) -> Any:
        """Cuts whatever follows the weights: optimizer state, averages, statistics.

        A leaf whose path ends with a variable's path (its collection may be missing) and that has
        the variable's shape before pruning is cut as the variable is; all other leaves pass. So are
        the states of the optimizers of optax, in trees of any library and in `nnx.state`; those of
        lbfgs and galore, which are of no single channel, are refused, and adafactor's where it
        would choose other axes. Of `keras_optimizer.variables` come arrays in the same order.
        Where blocks of a kernel are not kept, it is zero.

        Raises:
          ValueError: a leaf at a variable's path with another shape, or a tree in which nothing is
            at a variable's path.
        """
        return follow(tree, [self._whole({}), self._whole(self.before)])

    def project(self, variables: Any) -> Any:
        """Variables like these with their kernels projected on the blocks."""
        return project(variables, self.blocks)

    def bytes(self) -> int:
        """Of the parameters in float32, kernels with blocks being in their small form."""
        shapes = {path: self._shape_after(path, self.indices) for path in self.dense}
        counted = [p for p in shapes if p.startswith("params/")] or list(shapes)
        return sum(
            self.blocks[path].storage(shapes[path])
            if path in self.blocks
            else 4 * math.prod(shapes[path])
            for path in counted
        )

    def kept(self) -> dict[str, float]:
        """Kernel's path → the fraction of its entries that its blocks keep."""
        shapes = {path: self._shape_after(path, self.indices) for path in self.blocks}
        return fractions(self.blocks, shapes)

    def explain(self, graph: CostedGroups | None = None) -> KernelExplanation:
        """What is within the kernels: structure, density, and the gathers that are left.

        Args:
          graph: of the traced network; then also which groups on these kernels keep their order,
            and why.
        """
        shapes = {path: self._shape_after(path, self.indices) for path in self.dense}
        return explain_kernels(self.blocks, shapes, graph)

    def cut_state(self, out: Any) -> Any:
        """Cuts in an output of the unpruned `fn` what holds new values of variables."""
        leaves, tree = jax.tree.flatten(out)
        for i, positions in self.state_positions(out).items():
            leaves[i] = cut(leaves[i], positions)
        return tree.unflatten(leaves)

    def state_positions(self, out: Any) -> dict[int, Positions]:
        """Per flat output of the unpruned `fn` that is cut, the positions that stay."""
        shapes = {path: self._shape_after(path, self.before) for path in self.dense}
        found = state_outputs(out, shapes, self.state, lenient=True)
        return {i: self._relative(variable, self.before) for i, variable in found.items()}

    def analyse(
        self,
        fn: Callable[..., Any],
        variables: Any,
        args: Sequence[Any],
        static: Mapping[str, Any],
        *,
        state: State | None = None,
        allow_inexact: bool = False,
    ) -> Program:
        """`fn` as the engine sees it at the first network's shapes, for variables of this one's."""
        return analyse(
            getattr(fn, "jaxprune_inner", fn), _dense_structs(self, variables), args, static,
            state=state or self.state, lenient=True,
            allow_inexact=allow_inexact or self.allow_inexact,
        )  # fmt: skip

    def positions(self, path: str) -> dict[int, np.ndarray]:
        """Per cut axis of a variable, the kept positions in the first network."""
        return _axes_of(path, self.indices, self.dense)

    def _shape_after(self, path: str, indices: Mapping[str, np.ndarray]) -> tuple[int, ...]:
        shape = list(self.dense[path][0])
        for axis, kept in _axes_of(path, indices, self.dense).items():
            shape[axis] = len(kept)
        return tuple(shape)

    def _relative(self, path: str, source: Mapping[str, np.ndarray]) -> Positions:
        earlier = _axes_of(path, source, self.dense)
        return {
            axis: np.searchsorted(earlier[axis], kept) if axis in earlier else kept
            for axis, kept in self.positions(path).items()
        }

    def _whole(self, source: Mapping[str, np.ndarray]) -> dict[str, Whole]:
        """The variables of the network that has the positions of `source`, and what stays of it."""
        masks = {
            path: structure.mask(self._shape_after(path, self.indices))
            for path, structure in self.blocks.items()
        }
        return {
            path: Whole(
                self._shape_after(path, source), self._relative(path, source), masks.get(path)
            )
            for path in self.dense
        }


def rebuild_of(fn: Callable[..., Any]) -> Callable[[Pruned], Any] | None:
    """What a front end left at its function, also where that is wrapped or partial."""
    while hasattr(fn, "jaxprune_inner") or isinstance(fn, functools.partial):
        fn = fn.func if isinstance(fn, functools.partial) else fn.jaxprune_inner
    return getattr(fn, "jaxprune_module", None)


def _axes_of(path: str, indices: Mapping[str, np.ndarray], dense: Dense) -> dict[int, np.ndarray]:
    named = ((axis, f"{path}[{axis}]") for axis in range(len(dense[path][0])))
    return {axis: indices[name] for axis, name in named if name in indices}


def _run_sliced(
    pruned: Pruned, fn: Callable[..., Any], variables: Any, *args: Any, **static: Any
) -> Any:
    variables = pruned.project(variables)
    program = pruned.analyse(fn, variables, args, static)
    kept = {path: pruned.positions(path) for path in pruned.dense}
    cut_off: dict[str, list[np.ndarray | None]] = {}
    for path, (shape, _) in pruned.dense.items():
        cut_off[path] = [None] * len(shape)
        for axis, positions in kept[path].items():
            gone = np.full(shape[axis], -1)
            gone[np.setdiff1d(np.arange(shape[axis]), positions)] = 0
            cut_off[path][axis] = gone
    fallen = program.units(cut_off)
    names = (path for path, _ in paths.leaves(variables))
    named = zip(names, program.block.invars, strict=False)
    structured = {var: pruned.blocks[path] for path, var in named if path in pruned.blocks}
    for node in program.block.nodes if structured else ():
        if node.eqn.primitive.name == "convert_element_type":
            (whole,), (cast,) = node.eqn.invars, node.eqn.outvars
            if not isinstance(whole, Literal) and whole in structured:
                structured[cast] = structured[whole]
    how = Sliced(keep=lambda ids: fallen(ids) < 0, structured=structured)
    outs = run(program.block, [*jax.tree.leaves(variables), *jax.tree.leaves(args)], how)
    return program.out_tree.unflatten(outs)


def _dense_structs(pruned: Pruned, variables: Any) -> Any:
    """The variables' types at the first network's shapes."""
    expected = {name: pruned._shape_after(name, pruned.indices) for name in pruned.dense}
    require_shapes(expected, variables, "this pruned network")
    structs = [
        jax.ShapeDtypeStruct(pruned.dense[name][0], jnp.result_type(leaf))
        for name, leaf in paths.leaves(variables)
    ]
    return jax.tree.structure(variables).unflatten(structs)
