"""`gather` and `scatter`: entries at places that an index tells.

Axes that are taken whole pass their channels, and so do axes along which array and index go
together. An index that constants decide (`h[:, np.array([2, 0, 1])]`) permutes, picks or repeats
channels; any other along the channels fixes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune.graph.labels import Keep, Labels
from jaxprune.graph.rules.base import Equation, Relation, Rule, bind
from jaxprune.graph.rules.indexing import INDEXED, Places, fix_unpointed, put_at

_MEETS = "meets an axis that keeps its size"


@dataclass(frozen=True)
class Access:
    """How the axes of an array, of an index into it, and of the part at these places belong.

    Example: `table[tokens]` takes whole features (`window`), and each axis of the tokens is one
    of the part (`along`); `take_along_axis(x, i, 1)` goes along the other axes of both (`paired`).

    Attributes:
      shape: of the array.
      sizes: how much is taken at each place, along each axis of the array.
      window: axes of the array → those of the part, for axes that the part has of it.
      paired: axes of the array → those of the index that go along with them.
      along: axes of the index → those of the part.
      columns: axes of the array → where along its last axis the index says the place on it.
    """

    shape: tuple[int, ...]
    sizes: tuple[int, ...]
    window: dict[int, int]
    paired: dict[int, int]
    along: dict[int, int]
    columns: dict[int, int]

    @property
    def whole(self) -> dict[int, int]:
        """Axes of the array that are taken whole → those of the part."""
        return {a: p for a, p in self.window.items() if self.sizes[a] == self.shape[a]}

    @property
    def cut(self) -> list[int]:
        """Axes of the array of which the index says what is taken."""
        return [a for a in range(len(self.shape)) if a not in {**self.whole, **self.paired}]

    @property
    def passing(self) -> dict[int, int]:
        """Axes of the array → those of the part that hold the same."""
        return {**self.whole, **{a: self.along[i] for a, i in self.paired.items()}}

    def places(self, index: np.ndarray, axis: int) -> Places | None:
        """The axis of the part along which the places on `axis` vary, and the places.

        None where they are not known, or vary along several axes, or along none.
        """
        starts = index[..., self.columns[axis]] if axis in self.columns else np.zeros(())
        if np.ma.is_masked(starts):
            return None
        starts = np.asarray(starts)
        varying = [i for i in range(starts.ndim) if (starts != starts.take([0], i)).any()]
        start = starts[tuple(slice(None) if i in varying else 0 for i in range(starts.ndim))]
        size = self.sizes[axis]
        if len(varying) == 1 and size == 1:
            return self.along[varying[0]], start
        if not varying and size > 1:
            return self.window[axis], start + np.arange(size)
        return None


def _access(eqn: Any) -> Access:
    array, index, *parts = (v.aval.shape for v in eqn.invars)
    n = eqn.params["dimension_numbers"]
    if parts:
        (part,) = parts
        offsets, dropped = n.update_window_dims, n.inserted_window_dims
        mapped, batched = n.scatter_dims_to_operand_dims, n.scatter_indices_batching_dims
    else:
        part = eqn.outvars[0].aval.shape
        offsets, dropped = n.offset_dims, n.collapsed_slice_dims
        mapped, batched = n.start_index_map, n.start_indices_batching_dims
    paired = dict(zip(n.operand_batching_dims, batched, strict=True))
    held = [a for a in range(len(array)) if a not in (*dropped, *paired)]
    window = dict(zip(held, offsets, strict=True))
    sizes = tuple(part[window[a]] if a in window else 1 for a in range(len(array)))
    rest = [p for p in range(len(part)) if p not in offsets]
    along = dict(zip(range(len(index) - 1), rest, strict=True))
    return Access(array, sizes, window, paired, along, {a: c for c, a in enumerate(mapped)})


def gather(equation: Equation) -> Relation:
    """out[batch, offset] = operand[indices[batch] + offset].

    An axis of the operand whose slices are whole passes to its offset axis, axes of the indices
    to the batch axes. Example: an embedding `table[tokens]` passes the features of the table.
    Fields: dimension_numbers, slice_sizes, mode.
    """
    access, channels = _access(equation.eqn), equation.channels
    array = channels.singles(equation.ins[0], touched=access.cut)
    index = _known_index(equation, access, any((a,) in array.tracked for a in access.cut))
    pointed = _pointed(access, index, [a for a in access.cut if (a,) in array.tracked])
    array = fix_unpointed(equation, array, access.cut, pointed)
    array, indices = _beside(equation, access, index, array, pointed)
    if equation.stored(1):  # where a part of a table is read stays
        moving = {*access.passing.values(), *(p for p, _ in pointed.values())}
        alone = [i for i, p in access.along.items() if p not in moving]
        indices = channels.fix_axes(indices, alone, equation.reason(INDEXED))
    _, common = channels.unify([array, _of_array(indices, access)], equation.reason(_MEETS))
    indices = _with_paired(indices, common, access)

    taken = {(p,): array.tracked[(a,)][places] for a, (p, places) in pointed.items()}
    batch = indices.renumbered(access.along).without(p for (p,) in taken)
    passed = _only(common, access.passing).renumbered(access.passing)
    out = Labels(batch.tracked | passed.tracked | taken, batch.free | passed.free)
    return Relation((common, indices), (out,), index=index if pointed else None)


def scatter(equation: Equation) -> Relation:
    """The operand with entries replaced or added to: tied to the updates that go there.

    Example: `x.at[:, 0].add(token)` passes the features of both.
    Fields: dimension_numbers, mode.
    """
    access, channels = _access(equation.eqn), equation.channels
    own = [p for p in range(len(equation.in_shapes[2])) if p not in access.passing.values()]
    array = channels.singles(equation.ins[0], touched=access.cut)
    part = channels.singles(equation.ins[2], touched=own)
    carries = any((a,) in array.tracked for a in access.cut)
    index = _known_index(equation, access, carries or any((p,) in part.tracked for p in own))
    pointed = {
        a: places
        for a, places in _pointed(access, index, access.cut).items()
        if (a,) in array.tracked or (places[0],) in part.tracked
    }
    array, part = put_at(equation, array, part, pointed)
    array = fix_unpointed(equation, array, access.cut, pointed)
    spread = [p for p in own if p not in {p for p, _ in pointed.values()}]
    part = channels.fix_axes(part, spread, equation.reason(INDEXED))
    array, indices = _beside(equation, access, index, array, pointed)
    alone = [i for i, p in access.along.items() if p in spread]  # as many as there are updates
    indices = channels.fix_axes(indices, alone, equation.reason(INDEXED))
    put = {(p,): part.tracked[(p,)] for p, _ in pointed.values()}
    back = {p: a for a, p in access.passing.items()}
    operands = [array, _only(part, back).renumbered(back), _of_array(indices, access)]
    _, out = channels.unify(operands, equation.reason(_MEETS), skip=tuple(pointed))
    out = Labels(out.tracked | {(a,): array.tracked[(a,)] for a in pointed}, out.free)
    passed = _only(out, access.passing).renumbered(access.passing)
    part = Labels(passed.tracked | put, passed.free)
    ins = out, _with_paired(indices, out, access), part
    return Relation(ins, (out,), index=index if pointed else None)


def _known_index(equation: Equation, access: Access, wanted: bool) -> np.ndarray | None:
    """The index where constants decide it, all of its places within the array."""
    index = equation.known(1) if wanted else None
    if index is None or index.size == 0:
        return None
    ends = [access.shape[a] - access.sizes[a] for a in access.columns]
    if equation.params["mode"] == lax.GatherScatterMode.CLIP:
        index = np.clip(index, 0, ends)
    return index if ((index >= 0) & (index <= ends)).all() else None


def _pointed(access: Access, index: np.ndarray | None, axes: Iterable[int]) -> dict[int, Places]:
    """Where the part lies along those of `axes` of the array that have an axis of it alone."""
    found: dict[int, Places] = {}
    for axis in axes:
        places = None if index is None else access.places(index, axis)
        if places is not None and places[0] not in {p for p, _ in found.values()}:
            found[axis] = places
    return found


def _beside(
    equation: Equation,
    access: Access,
    index: np.ndarray | None,
    array: Labels,
    pointed: Mapping[int, Places],
) -> tuple[Labels, Labels]:
    """The labels of the array, and those of the index along what it has in common with the part.

    An index that is computed in part has to have the channels that the other part of it points at.
    """
    last = len(equation.in_shapes[1]) - 1
    indices = equation.channels.singles(equation.ins[1], touched=(last,))
    indices = equation.channels.fix_axes(indices, (last,), equation.reason(INDEXED))
    if not np.ma.is_masked(index):
        return array, indices
    back = {p: i for i, p in access.along.items()}
    shared = {a: (back[p], places) for a, (p, places) in pointed.items() if p in back}
    return put_at(equation, array, indices, shared)


def _of_array(indices: Labels, access: Access) -> Labels:
    """The labels of an index on the axes of the array that it goes along with."""
    back = {i: a for a, i in access.paired.items()}
    other = {a for a in range(len(access.shape)) if a not in access.paired}
    labels = _only(indices, back).renumbered(back)
    return Labels(labels.tracked, labels.free | other)


def _with_paired(indices: Labels, array: Labels, access: Access) -> Labels:
    paired = _only(array, access.paired).renumbered(access.paired)
    rest = indices.without(access.paired.values())
    return Labels(rest.tracked | paired.tracked, rest.free | paired.free)


def _only(labels: Labels, axes: Iterable[int]) -> Labels:
    """The labels on some axes."""
    chosen = set(axes)
    tracked = {held: ids for held, ids in labels.tracked.items() if set(held) <= chosen}
    return Labels(tracked, labels.free & chosen)


def emit_gather(eqn: Any, relation: Relation, values: Sequence[jax.Array], keep: Keep) -> list[Any]:
    """Whole slices are as long as their axis is now; a constant index points among the kept."""
    access = _access(eqn)
    array, out = relation.ins[0], relation.outs[0]
    sizes = [values[0].shape[a] if a in access.whole else n for a, n in enumerate(access.sizes)]
    if relation.index is None:
        return bind(eqn, values, slice_sizes=tuple(sizes))
    for axis, part in access.window.items():
        if axis not in access.whole and sizes[axis] > 1 and (axis,) in array.tracked:
            sizes[axis] = int(keep(out.tracked[(part,)]).sum())
    index = _among_kept(eqn, values[1], relation.index, array, out, keep)
    return bind(eqn, [values[0], index], slice_sizes=tuple(sizes))


def emit_scatter(
    eqn: Any, relation: Relation, values: Sequence[jax.Array], keep: Keep
) -> list[Any]:
    """A constant index points among the kept channels."""
    if relation.index is None:
        return bind(eqn, values)
    array, _, part = relation.ins
    index = _among_kept(eqn, values[1], relation.index, array, part, keep)
    return bind(eqn, [values[0], index, values[2]])


def _among_kept(
    eqn: Any, given: Any, index: np.ndarray, array: Labels, part: Labels, keep: Keep
) -> jax.Array:
    """The constant index of what is kept of the part, into what is kept of the array.

    It stands for the index that was `given`, and is held by devices as that one is.
    """
    access = _access(eqn)
    for i, p in access.along.items():
        if (p,) in part.tracked:
            index = index.compress(keep(part.tracked[(p,)]), i)
        elif p in part.free:
            index = index.take([0], i)
    index = index.copy()
    columns = [a for a in access.cut if (a,) in array.tracked and a in access.columns]
    for axis in columns:
        kept, along = keep(array.tracked[(axis,)]), (..., access.columns[axis])
        before = np.cumsum(kept) - kept
        index[along] = before[np.asarray(index[along])]
    if np.ma.is_masked(index):
        for axis in columns:
            along = (..., access.columns[axis])
            given = jnp.asarray(given).at[along].set(np.asarray(index[along]))
        return given
    pointing = jnp.asarray(index, eqn.invars[1].aval.dtype)
    held = jax.typeof(given).mat.varying  # over which devices of a `shard_map` it may differ
    return lax.pcast(pointing, tuple(held), to="varying") if held else pointing


_SCATTERS = ("scatter", "scatter-add", "scatter-sub", "scatter-mul", "scatter-min", "scatter-max")

GATHERS = {
    "gather": Rule(gather, emit_gather),
    **dict.fromkeys(_SCATTERS, Rule(scatter, emit_scatter)),
}
