"""Orders of rows and columns that gather the weight of matrices into tiles.

Pruning by pivoting (Sredojevic et al. 2017, arXiv 1712.01084) permutes a matrix so that what is
large lies in few tiles, and keeps these. Several matrices may share an order: what a layer writes,
the next one reads.

    orders = gather(layers, KEEP["free"])           # name of an order → a permutation
    kept = KEEP["free"](tiles(layers["conv1"], orders), layers["conv1"].count)

The search alternates as TETRIS does (Ji et al. 2018): the E step keeps the best tiles in the
present orders, the M step moves rows or columns so that least is lost with these tiles kept. There
the M step swaps pairs while that gains; with all other orders fixed it is a linear assignment of
units to places, which is solved to its optimum here. It begins at the order that there is, at the
one by norm and at that of greedy complete pivoting, and the best end counts, so that never more is
lost than without pivoting. The rule of the paper itself is not known; this one is reconstructed.

Axes: `R` rows and `C` columns of a matrix, `r` and `c` rows and columns of tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

Orders = Mapping[str, np.ndarray]
"""Name of an order → a permutation: which row or column comes at each place."""
Keep = Callable[[np.ndarray, int], np.ndarray]
"""`keep(mass of the tiles [r, c], count) → bool [r, c]`."""

_TOLERANCE = 1e-3  # of the whole mass: a pass that gains less is the last one
_PASSES = 20


class Layer(NamedTuple):
    """A matrix that is cut into tiles.

    Attributes:
      mass: float64 [R, C], what is lost with each entry, together 1.
      rows: the name of the order of its rows.
      columns: the name of the order of its columns.
      sides: rows and columns of a tile; the last ones may have fewer.
      count: how many tiles are kept: see `KEEP`.
    """

    mass: np.ndarray
    rows: str
    columns: str
    sides: tuple[int, int]
    count: int


def largest(mass: np.ndarray, count: int) -> np.ndarray:
    """The `count` heaviest tiles of all."""
    kept = np.zeros(mass.size, bool)
    kept[np.argsort(-mass, axis=None, kind="stable")[:count]] = True
    return kept.reshape(mass.shape)


def alike(mass: np.ndarray, count: int) -> np.ndarray:
    """The `count` heaviest tiles of each column of tiles: every output reads as many inputs."""
    kept = np.zeros(mass.shape, bool)
    np.put_along_axis(kept, np.argsort(-mass, axis=0, kind="stable")[:count], True, axis=0)
    return kept


def diagonal(mass: np.ndarray, count: int) -> np.ndarray:
    """The `count` tiles on the diagonal, which are all that there are."""
    return np.eye(count, dtype=bool)


KEEP: dict[str, Keep] = {"diagonal": diagonal, "rows": alike, "free": largest}
"""By name of the structure, which tiles stay."""


def tiles(layer: Layer, orders: Orders) -> np.ndarray:
    """The mass of each tile, [r, c]."""
    mass = layer.mass[np.ix_(orders[layer.rows], orders[layer.columns])]
    for axis, side in enumerate(layer.sides):
        mass = np.add.reduceat(mass, np.arange(0, mass.shape[axis], side), axis)
    return mass


def lost(layers: Iterable[Layer], orders: Orders, keep: Keep) -> float:
    """The mass of all tiles that are not kept."""
    total = 0.0
    for layer in layers:
        mass = tiles(layer, orders)
        total += float(mass[~keep(mass, layer.count)].sum())
    return total


def natural(layers: Iterable[Layer]) -> dict[str, np.ndarray]:
    """The orders that there are."""
    return {
        name: np.arange(size)
        for layer in layers
        for name, size in zip((layer.rows, layer.columns), layer.mass.shape, strict=True)
    }


def gather(
    layers: Mapping[str, Layer],
    keep: Keep,
    start: Orders | None = None,
    fixed: Iterable[str] = (),
) -> dict[str, np.ndarray]:
    """Orders under which little is lost.

    Args:
      layers: by name.
      keep: which tiles stay.
      start: where the search begins besides, such as the orders of the round before.
      fixed: orders that stay as they are.
    """
    matrices = list(layers.values())
    first = natural(matrices)
    movable = [name for name in first if name not in set(fixed)]
    starts = [first, by_norm(matrices), pivoted(matrices)]
    if start is not None:
        starts.append(dict(start))
    ends = [
        _improved(matrices, {n: s[n] if n in movable else first[n] for n in first}, keep, movable)
        for s in starts
    ]
    return min([first, *ends], key=lambda orders: lost(matrices, orders, keep))


def by_norm(layers: Iterable[Layer]) -> dict[str, np.ndarray]:
    """The orders by mass, the heaviest first."""
    sums: dict[str, np.ndarray] = {}
    for layer in layers:
        for name, axis in ((layer.rows, 1), (layer.columns, 0)):
            sums[name] = sums.get(name, 0.0) + layer.mass.sum(axis)
    return {name: np.argsort(-mass, kind="stable") for name, mass in sums.items()}


def pivoted(layers: Iterable[Layer]) -> dict[str, np.ndarray]:
    """The orders of greedy complete pivoting, each by the first matrix that it is an order of.

    As in Gaussian elimination the heaviest entry left comes to the diagonal. The rows and columns
    that are heaviest together with it fill its tile, and the next pivot is of what is left.
    """
    orders: dict[str, np.ndarray] = {}
    for layer in layers:
        found = _pivots(layer.mass, layer.sides)
        for name, order in zip((layer.rows, layer.columns), found, strict=True):
            orders.setdefault(name, order)
    return orders


def _pivots(mass: np.ndarray, sides: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    left = mass.copy()  # entries of rows and columns that are placed are -1
    placed: tuple[list[int], list[int]] = ([], [])
    while min(len(placed[0]) - mass.shape[0], len(placed[1]) - mass.shape[1]) < 0:
        if max(len(placed[0]) - mass.shape[0], len(placed[1]) - mass.shape[1]) == 0:
            break  # what is left of one axis has nothing to be placed with
        pivot = np.unravel_index(np.argmax(left), mass.shape)
        ends = [min(len(placed[a]) + sides[a], mass.shape[a]) for a in (0, 1)]
        # How heavy each row is together with the tile's columns, and each column with its rows.
        together = [np.zeros(mass.shape[0]), np.zeros(mass.shape[1])]
        chosen: list[int | None] = [int(pivot[0]), int(pivot[1])]
        while any(len(placed[a]) < ends[a] for a in (0, 1)):
            for axis in (0, 1):
                if len(placed[axis]) < ends[axis]:
                    if (unit := chosen[axis]) is None:
                        unit = int(np.argmax(together[axis]))
                    placed[axis].append(unit)
                    together[1 - axis] += mass[unit] if axis == 0 else mass[:, unit]
                    together[axis][unit] = -np.inf
                    left[(unit, slice(None)) if axis == 0 else (slice(None), unit)] = -1
                    for other in (0, 1):
                        together[other][placed[other]] = -np.inf
                chosen[axis] = None
    rest = [np.setdiff1d(np.arange(n), placed[a]) for a, n in enumerate(mass.shape)]
    rows, columns = (np.concatenate([placed[a], rest[a]]).astype(int) for a in (0, 1))
    return rows, columns


def _improved(
    layers: list[Layer], orders: dict[str, np.ndarray], keep: Keep, movable: list[str]
) -> dict[str, np.ndarray]:
    """E and M steps, one order after the other, until they gain no more."""
    least, whole = lost(layers, orders, keep), sum(layer.mass.sum() for layer in layers)
    for _ in range(_PASSES):
        before = least
        for name in movable:
            moved = {**orders, name: _placed(layers, orders, keep, name)}
            # Where a matrix has one order for rows and columns the step may lose.
            touched = [x for x in layers if name in (x.rows, x.columns)]
            gain = lost(touched, orders, keep) - lost(touched, moved, keep)
            if gain > 0:
                orders, least = moved, least - gain
        if before - least <= _TOLERANCE * whole:
            break
    return orders


def _placed(layers: list[Layer], orders: Orders, keep: Keep, name: str) -> np.ndarray:
    """The order under which least is lost while the kept tiles and all other orders stay."""
    price = np.zeros((len(orders[name]), len(orders[name])))  # [unit, place]
    for layer in layers:
        mass, sides, axes = layer.mass, layer.sides, (layer.rows, layer.columns)
        gone = ~keep(tiles(layer, orders), layer.count)
        for axis in (0, 1):
            if axes[axis] == name:
                other = 1 - axis
                along = mass if axis == 0 else mass.T  # [unit, other]
                along = along[:, orders[axes[other]]]
                along = np.add.reduceat(along, np.arange(0, along.shape[1], sides[other]), 1)
                at = np.arange(len(price)) // sides[axis]
                price += (along @ (gone.T if axis == 0 else gone).astype(float))[:, at]
    units, places = linear_sum_assignment(price)
    order = np.empty(len(price), int)
    order[places] = units
    return order


__all__ = [
    "KEEP", "Keep", "Layer", "Orders", "alike", "by_norm", "diagonal", "gather", "largest", "lost",
    "natural", "pivoted", "tiles",
]  # fmt: skip
