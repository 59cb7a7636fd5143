"""Cuts trees that follow the weights: optimizer states, averages, statistics, fresh variables.

A leaf is known by the tail of its path, which is that of a variable, and by its shape. What says
nothing of single channels, or cannot be told, is refused by name rather than left whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.graph import paths
from jaxprune.graph.cut import Positions, cut

_WRAPPERS = ("value", "raw_value")
"""What boxes add to a path: `nnx.state(model)`, `nn.Partitioned`."""

_MIN_FACTORED = 128  # optax's: a kernel with a smaller axis is not factored


class Whole(NamedTuple):
    """A variable before it was cut.

    Attributes:
      shape: its shape.
      positions: per cut axis, those that stay.
      mask: bool, broadcast against its shape after the cut: where it has entries, if not all over.
    """

    shape: tuple[int, ...]
    positions: Positions
    mask: np.ndarray | None = None

    @property
    def after(self) -> tuple[int, ...]:
        """Its shape after the cut."""
        return tuple(
            len(self.positions[a]) if a in self.positions else n for a, n in enumerate(self.shape)
        )


def follow(tree: Any, networks: Sequence[Mapping[str, Whole]]) -> Any:
    """Cuts in a tree what follows the variables; see `Pruned.cut`.

    Args:
      tree: any pytree.
      networks: per network before (the first one, the one before) its variables by path.

    Raises:
      ValueError: a leaf at a variable's path that can be no part of it; a tree in which nothing
        is at a variable's path.
    """
    variables = _Variables(networks[0])
    found: list[tuple[str, Any, str | None]] = []

    def at(key_path: tuple[Any, ...], leaf: Any) -> Any:
        name, variable, field, index = variables.at(key_path, leaf)
        value = leaf.value if _has_own_path(leaf) else leaf
        found.append((name, value, variable))
        if variable is None or not hasattr(value, "shape"):
            if _has_own_path(leaf) and _is_array(value):
                raise ValueError(
                    f"{name} of shape {tuple(value.shape)} names no variable of the network, so it "
                    "cannot be told what it follows: build the optimizer anew, for the smaller one"
                )
            return value
        small = cut(value, _positions(name, value, variable, field, index, networks))
        whole = networks[0][variable]
        if whole.mask is None or small.shape != whole.after:
            return small
        return small * whole.mask.astype(small.dtype)

    out = jax.tree_util.tree_map_with_path(at, tree)
    _require_matches(found, networks)
    return out


class _Place(NamedTuple):
    """What a path says: its text, the variable, the field before it, the axis number behind it."""

    name: str
    variable: str | None
    field: str
    index: int | None = None


class _Variables:
    """Finds the variable that the path of a leaf ends with. Collections and boxes may be missing.

    Of several the longest counts, and of those alike without their collection a parameter.
    """

    def __init__(self, names: Iterable[str]):
        self._by_tail: dict[str, str] = {}
        ordered = sorted(names, key=lambda p: not p.startswith("params/"))
        forms = [(n, n) for n in ordered] + [(_unboxed(n), n) for n in ordered]
        for short, name in forms + [(_without_collection(s), n) for s, n in forms]:
            if short:
                self._by_tail.setdefault(short, name)
        self._joined = {_joined(_without_collection(n) or n): n for n in ordered[::-1]}

    def at(self, key_path: tuple[Any, ...], leaf: Any) -> _Place:
        """Which variable a leaf belongs to."""
        name = paths.name(key_path)
        if _has_own_path(leaf):
            name = leaf.path
            inside = [n for n in self._joined if f"_{n}_" in f"_{_joined(name)}_"]
            return _Place(name, self._joined[max(inside, key=len)] if inside else None, "")
        unboxed = _unboxed(name)
        place = self._tail(name, name) or self._tail(name, unboxed)
        rest, _, last = unboxed.rpartition("/")
        if last.isdecimal() and (place is None or place.variable == last):
            accumulator = self._tail(name, rest)
            if accumulator is not None:
                return accumulator._replace(index=int(last))
        return place or _Place(name, None, "")

    def _tail(self, name: str, path: str) -> _Place | None:
        tail = paths.longest_suffix(path, self._by_tail)
        if tail is None:
            return None
        before = path.removesuffix(tail).removesuffix("/")
        return _Place(name, self._by_tail[tail], before.rpartition("/")[2])


def _unboxed(path: str) -> str:
    rest, _, last = path.rpartition("/")
    return rest if last in _WRAPPERS and rest else path


def _without_collection(path: str) -> str:
    return path.partition("/")[2]


def _joined(path: str) -> str:
    return path.replace("/", "_")


def _has_own_path(leaf: Any) -> bool:
    """Whether a leaf knows its path, as Keras' variables do: `adam/net_dense_kernel_velocity`."""
    return isinstance(getattr(leaf, "path", None), str) and hasattr(leaf, "value")


def _positions(
    name: str,
    leaf: Any,
    variable: str,
    field: str,
    index: int | None,
    networks: Sequence[Mapping[str, Whole]],
) -> Positions:
    """The kept positions of a leaf at a variable's path."""
    shape = tuple(leaf.shape)
    for network in networks:
        whole = network[variable]
        if field == "projector" and whole.positions and math.prod(shape):
            break  # galore: moments in a subspace of the kernel, perhaps of the kernel's own shape
        if index is not None:  # sm3: one accumulator per axis, in a list
            if index < len(whole.shape) and shape == whole.shape[index : index + 1]:
                return {0: whole.positions[index]} if index in whole.positions else {}
        elif shape == whole.shape:
            return whole.positions
        if math.prod(shape) <= 1:  # a count, or the place of what the optimizer has no use for
            return {}
        if field in ("v_row", "v_col") and len(shape) == len(whole.shape) - 1:
            return _factored(name, shape, whole, field)
    raise ValueError(
        f"{name} has shape {shape}, but the variable {variable} had {networks[-1][variable].shape} "
        "before pruning; only a tree of the unpruned network can be cut. What an optimizer keeps "
        "of whole variables in another form says nothing of the smaller ones: start its state "
        "anew, with optimizer.init(pruned.variables)"
    )


def _factored(name: str, shape: tuple[int, ...], whole: Whole, field: str) -> Positions:
    """Of the squares' means over the longest axis (`v_row`) or the second (`v_col`): adafactor.

    Which axes these are is chosen by their lengths, so it may be others after the cut.
    """
    before, after = np.argsort(whole.shape), np.argsort(whole.after)
    gone = int(before[-1 if field == "v_row" else -2])
    short = whole.shape[before[-2]], whole.after[after[-2]]
    same = before[-2:].tolist() == after[-2:].tolist()
    if shape != whole.shape[:gone] + whole.shape[gone + 1 :] or (
        whole.positions and not (same and short[1] >= min(short[0], _MIN_FACTORED))
    ):
        raise ValueError(
            f"{name}: adafactor keeps means over the two longest axes of a kernel of at least "
            f"{_MIN_FACTORED}, which are others as {whole.shape} becomes {whole.after}; start its "
            "state anew, with optimizer.init(pruned.variables)"
        )
    left = [a for a in range(len(whole.shape)) if a != gone]
    return {i: whole.positions[a] for i, a in enumerate(left) if a in whole.positions}


def _require_matches(
    found: Sequence[tuple[str, Any, str | None]], networks: Sequence[Mapping[str, Whole]]
) -> None:
    """That arrays were matched at all, and that none holds all variables in one vector."""
    loose = [(n, leaf) for n, leaf, variable in found if variable is None and _is_array(leaf)]
    sizes = {sum(math.prod(w.shape) for w in network.values()) for network in networks}
    sizes |= {
        sum(math.prod(w.shape) for n, w in network.items() if n.startswith("params/"))
        for network in networks
    }
    for name, leaf in loose:
        if len(networks[0]) > 1 and leaf.ndim == 1 and leaf.size in sizes:
            raise ValueError(
                f"{name} holds all variables in one vector, as optax.flatten does; its channels "
                "cannot be told apart: start its state anew, with optimizer.init(pruned.variables)"
            )
    if loose and all(variable is None or not _is_array(leaf) for _, leaf, variable in found):
        shown = ", ".join(f"{name} {tuple(leaf.shape)}" for name, leaf in loose[:4])
        raise ValueError(
            f"nothing in this tree follows the variables: it has {shown}, …; the variables are "
            f"{', '.join(list(networks[0])[:4])}, …; a leaf is known by a path that ends with a "
            "variable's"
        )


def _is_array(leaf: Any) -> bool:
    return getattr(leaf, "ndim", 0) > 0 and jnp.issubdtype(leaf.dtype, jnp.inexact)
