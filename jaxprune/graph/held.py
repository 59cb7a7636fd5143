"""The laws at one precision: every output and gradient, masked and sliced, held together."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.graph import paths
from jaxprune.graph.compiled import quick_options
from jaxprune.graph.cut import Positions, cut
from jaxprune.graph.groups import Group
from jaxprune.graph.permute import positions
from jaxprune.graph.program import state_outputs
from jaxprune.graph.pruned import Pruned
from jaxprune.graph.rounding import (
    QUICK,
    apart,
    beside,
    is_inexact,
    nudged,
    precision_of,
    some_finite,
    tolerance_of,
)

_NUDGES = 3
_ONE_BY_ONE = 32
_SAFETY = 10  # how much further than such a nudge the order of sums may move a value

Values = tuple[list[Any], list[Any]]
"""The flat outputs of a function, and the gradients of the variables that have one."""


class Network(Protocol):
    """What the laws are held on; a `ChannelGraph` is one."""

    @property
    def groups(self) -> dict[str, Group]:
        """By name."""
        ...

    @property
    def ordered(self) -> dict[str, str]:
        """The groups that cannot be reordered."""
        ...

    def full_masks(self) -> dict[str, jax.Array]:
        """Masks that keep everything."""
        ...

    def masked(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """`masked(fn)(variables, masks, *args)`."""
        ...

    def slice(self, variables: Any, masks: Mapping[str, Any]) -> Pruned:
        """The smaller network."""
        ...

    def permute(self, variables: Any, orders: Mapping[str, Any]) -> Any:
        """The same network with units in another order."""
        ...


class Entry(NamedTuple):
    """One comparison of one array.

    Attributes:
      figure: which of the report's figures it belongs to.
      name: of the output, or of the variable whose gradient it is.
      difference: the largest, between masked and sliced.
      scale: the largest entry.
      moved: how far inputs that are nudged by one rounding move it, in either of the two.
    """

    figure: str
    name: str
    difference: float
    scale: float
    moved: float

    def relative(self, tolerance: float) -> float:
        """The relative difference. No further than nudges move it, it is within the tolerance."""
        if self.difference == 0 or self.moved == float("inf"):
            return 0.0
        scale = max(self.scale, _SAFETY * self.moved / tolerance)
        return self.difference / scale if scale else float("inf")

    def seen(self, tolerance: float) -> bool:
        """Whether there was more to see than rounding."""
        return _SAFETY * self.moved <= tolerance * self.scale


@dataclass(frozen=True)
class Held:
    """All that was compared at one precision.

    Attributes:
      precision: the narrowest type that the function computes in.
      entries: the comparisons.
      outputs: their names.
      differentiated: those whose gradients were compared.
      variables: with respect to which.
      reordered: how many groups were.
    """

    precision: str
    entries: list[Entry]
    outputs: tuple[str, ...]
    differentiated: tuple[str, ...]
    variables: tuple[str, ...]
    reordered: int

    def largest(self, tolerance: float, figure: str = "") -> float:
        """The largest relative difference, of one figure or of all."""
        found = [e.relative(tolerance) for e in self.entries if figure in ("", e.figure)]
        return max(found, default=0.0)

    def unseen(self) -> list[str]:
        """What rounding decides wherever it was compared, or what is nowhere finite."""
        seen = {e[:2] for e in self.entries if e.seen(tolerance_of(self.precision))}
        return list(dict.fromkeys(e.name for e in self.entries if e[:2] not in seen))

    def within(self, tolerance: float) -> bool:
        """Whether all was seen, and nothing differs."""
        return self.largest(tolerance) <= tolerance and not self.unseen()


class Laws:
    """A network as it is, masked and sliced, compiled once, to be compared at two points."""

    def __init__(
        self,
        graph: Network,
        fn: Callable[..., Any],
        own: Callable[..., Any],
        seed: int,
        trials: int,
        variables: Any,
        args: Sequence[Any],
    ):
        self.graph, self.fn = graph, fn
        self.given = variables, tuple(args)
        self.rng = np.random.default_rng(seed)
        self.masks = [random_masks(graph, self.rng) for _ in range(trials)]
        closed, self.out = jax.make_jaxpr(own, return_shape=True)(variables, *args)
        self.precision = str(precision_of(closed))
        self.outputs = tuple(_named(path) for path, _ in paths.leaves(self.out))
        self.variables = tuple(n for n, leaf in paths.leaves(variables) if is_inexact(leaf))
        self.at = self._differentiable(own)
        self.cotangents = [self._random(jax.tree.leaves(self.out)[i]) for i in self.at]
        inner = graph.masked(fn)
        self.own = self._compiled(own)
        self.masked = self._compiled(lambda v, m, *a: inner(v, m, *a))
        free = [group for name, group in graph.groups.items() if name not in graph.ordered]
        self.orders = {group.name: self.rng.permutation(group.size) for group in free}

    def hold(self) -> Held:
        """Compares everything, as given and beside.

        Raises:
          ValueError: no output has a finite entry as given.
        """
        small = [self.graph.slice(self.given[0], masks) for masks in self.masks]
        sliced = [self._compiled(pruned.wrap(self.fn)) for pruned in small]
        self._weigh_cotangents()
        entries: list[Entry] = []
        for place, point in enumerate((self.given, beside(self.given, self.rng))):
            own = self._around(point, lambda v, *a: self.own(v, self.cotangents, *a))
            first = next(own)
            if not any(some_finite(leaf) for leaf in first[0]):
                if place == 0:
                    raise ValueError(
                        "every output is NaN or infinite on these inputs, so there is nothing to "
                        "compare; check the function where it is finite"
                    )
                continue
            full = self._masked(point, self.graph.full_masks(), self.cotangents)
            own, reordered = itertools.tee(itertools.chain([first], own))
            entries += self._compare("full", "full", full, own, lambda values: values)
            if self.orders:
                entries += self._compare_reordered(point, reordered, small[0])
            for masks, pruned, probe in zip(self.masks, small, sliced, strict=True):
                stays = pruned.state_positions(self.out)
                there = [stays.get(i, {}) for i in self.at]
                cuts = [cut(c, p) for c, p in zip(self.cotangents, there, strict=True)]
                alone = [_only(c, p) for c, p in zip(self.cotangents, there, strict=True)]

                def run(variables, *args, probe=probe, masks=masks, cuts=cuts):
                    return probe(self.graph.slice(variables, masks).variables, cuts, *args)

                entries += self._compare(
                    "sliced",
                    "gradients",
                    self._masked(point, masks, alone),
                    self._around(point, run),
                    lambda values, pruned=pruned, stays=stays: self._taken(values, pruned, stays),
                )
        differentiated = tuple(self.outputs[i] for i in self.at)
        return Held(
            self.precision, entries, self.outputs, differentiated, self.variables, len(self.orders)
        )

    def _compare_reordered(
        self, point: Any, own: Iterator[Values], pruned: Pruned
    ) -> Iterator[Entry]:
        """With units in another order everything is the same, in that order."""
        shapes = {path: np.shape(leaf) for path, leaf in paths.leaves(self.given[0])}
        places = positions(self.graph.groups, shapes, self.orders)
        state = state_outputs(self.out, shapes, pruned.state, lenient=True)
        moved = [places.get(state.get(i, ""), {}) for i in range(len(self.outputs))]
        cotangents = [cut(c, moved[i]) for i, c in zip(self.at, self.cotangents, strict=True)]

        def run(variables: Any, *args: Any) -> Values:
            return self.own(self.graph.permute(variables, self.orders), cotangents, *args)

        def reordered(values: Values) -> Values:
            outs, gradients = values
            named = zip(self.variables, gradients, strict=False)
            return (
                [cut(leaf, along) for leaf, along in zip(outs, moved, strict=True)],
                [cut(leaf, places.get(name, {})) for name, leaf in named],
            )

        return self._compare("permuted", "permuted", own, self._around(point, run), reordered)

    def _compiled(self, fn: Callable[..., Any]) -> Callable[..., Values]:
        return jax.jit(with_gradients(fn, self.at), compiler_options=quick_options())

    def _differentiable(self, own: Callable[..., Any]) -> list[int]:
        """Which outputs have a gradient: JAX has none through some loops and callbacks."""
        leaves = jax.tree.leaves(self.out)

        def works(at: list[int]) -> bool:
            run = with_gradients(own, at)
            try:
                jax.eval_shape(run, self.given[0], [leaves[i] for i in at], *self.given[1])
            except Exception:  # of any kind: it comes out of the user's function
                return False
            return True

        found = [i for i, leaf in enumerate(leaves) if is_inexact(leaf) and self.variables]
        return found if works(found) else [i for i in found if works([i])]

    def _random(self, like: Any) -> np.ndarray:
        """A cotangent. Of a complex output it weighs the real and the imaginary part."""
        value = self.rng.normal(size=like.shape)
        if jnp.issubdtype(like.dtype, jnp.complexfloating):
            value = value + 1j * self.rng.normal(size=like.shape)
        return np.asarray(value).astype(like.dtype)

    def _weigh_cotangents(self) -> None:
        """Lets each output have as large a gradient as any other, so that none hides one.

        Of very many outputs, as of a network that gives all its new statistics, the sizes of the
        outputs themselves have to do.
        """
        variables, args = self.given
        outs, _ = self.own(variables, self.cotangents, *args)
        for n, (i, cotangent) in enumerate(zip(self.at, list(self.cotangents), strict=True)):
            sizes = [apart(outs[i], outs[i]).scale]
            if len(self.at) <= _ONE_BY_ONE:
                alone = [c if m == n else 0 * c for m, c in enumerate(self.cotangents)]
                _, gradients = self.own(variables, alone, *args)
                sizes = [apart(g, g).scale for g in gradients]
            most = float(jnp.finfo(cotangent.dtype).max) ** 0.25
            weight = np.clip(1 / (max(sizes) or 1), 1 / most, most)
            self.cotangents[n] = (cotangent * weight).astype(cotangent.dtype)

    def _masked(self, point: Any, masks: Any, cotangents: list[Any]) -> Iterator[Values]:
        return self._around(point, lambda v, *a: self.masked(v, cotangents, masks, *a))

    def _around(self, point: Any, run: Callable[..., Values]) -> Iterator[Values]:
        """Values at a point, and then at points one rounding away."""
        variables, args = point
        yield run(variables, *args)
        eps = float(jnp.finfo(self.precision).eps)
        for _ in range(_NUDGES):
            variables_, args_ = nudged((variables, args), eps, self.rng)
            yield run(variables_, *args_)

    def _taken(self, values: Values, pruned: Pruned, stays: dict[int, Positions]) -> Values:
        """What the sliced network has of the masked one's values."""
        outs, gradients = values
        smaller = pruned.cut(dict(zip(self.variables, gradients, strict=False)))
        return (
            [cut(leaf, stays.get(i, {})) for i, leaf in enumerate(outs)],
            [smaller[name] for name in self.variables if smaller],
        )

    def _compare(
        self,
        of_outputs: str,
        of_gradients: str,
        masked: Iterator[Values],
        other: Iterator[Values],
        take: Callable[[Values], Values],
    ) -> Iterator[Entry]:
        labels = [(of_outputs, name) for name in self.outputs]
        labels += [(of_gradients, f"the gradient of {n}") for n in self.variables if self.at]
        values, others = _flat(take(next(masked))), _flat(next(other))
        found = [apart(a, b) for a, b in zip(values, others, strict=True)]
        moved = np.where([some_finite(leaf) for leaf in others], 0, np.inf)
        limit = min(QUICK, tolerance_of(self.precision))
        if any(f.difference > limit * f.scale for f in found):
            again = [(values, _flat(take(near))) for near in masked]
            again += [(others, _flat(near)) for near in other]
            for pair in again:
                steps = [apart(a, b).difference for a, b in zip(*pair, strict=True)]
                moved = np.maximum(moved, steps)
        for label, one, step in zip(labels, found, moved.tolist(), strict=True):
            yield Entry(*label, *one, step)


def random_masks(graph: Network, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """0/1 masks with a random number of units kept in each group, at least one."""
    masks = {}
    for name, group in graph.groups.items():
        kept = rng.permutation(group.size)[: rng.integers(1, group.size + 1)]
        masks[name] = np.zeros(group.size, np.float32)
        masks[name][kept] = 1
    return masks


def with_gradients(fn: Callable[..., Any], at: Sequence[int]) -> Callable[..., Values]:
    """(variables, cotangents, *more) → flat outputs, gradients of those `at` these numbers."""

    def run(variables: Any, cotangents: list[Any], *more: Any) -> Values:
        leaves, tree = jax.tree.flatten(variables)
        moving = [i for i, leaf in enumerate(leaves) if is_inexact(leaf)]

        def outputs(moved: list[Any]) -> tuple[list[Any], list[Any]]:
            whole = dict(enumerate(leaves)) | dict(zip(moving, moved, strict=True))
            outs = jax.tree.leaves(fn(tree.unflatten(whole.values()), *more))
            return [outs[i] for i in at], outs

        if not at:
            return outputs([leaves[i] for i in moving])[1], []
        _, pull, outs = jax.vjp(outputs, [leaves[i] for i in moving], has_aux=True)
        return outs, pull(cotangents)[0]

    return run


def _flat(values: Values) -> list[Any]:
    return [*values[0], *values[1]]


def _named(path: str) -> str:
    return f"output {path}" if path.isdecimal() else path or "the result"


def _only(value: np.ndarray, positions: Positions) -> np.ndarray:
    """The array with zeros where it is cut off."""
    kept = np.ones(value.shape, bool)
    for axis, stay in positions.items():
        along = np.isin(np.arange(value.shape[axis]), stay)
        kept &= along.reshape([-1 if a == axis else 1 for a in range(value.ndim)])
    return np.where(kept, value, np.zeros((), value.dtype))
