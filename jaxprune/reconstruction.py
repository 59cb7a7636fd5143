"""Least squares on moments: the kernel, and the bias, that make up for channels that are gone.

    layers = moments(problem, groups=[group], masks=masks, targets=targets)[group]
    for layer in layers:
        fit = least_squares(layer, kept)
        variables = refitted(problem.graph, variables, group, layer, kept, fit)

The one reconstruction of all methods: of the genetic search, of LASSO (He et al. 2017, arXiv
1707.06168), of CaP (Xie et al. 2021, arXiv 2108.13728) and of CACP (Liu et al. 2021).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular

from jaxprune.graph import ChannelGraph, Consumer, paths
from jaxprune.statistics.gram import places_of
from jaxprune.statistics.moments import Moments

DAMPING = 1e-4
"""Of a refit, in parts of the mean second moment: calibration data are often of too low a rank. By
measurement on a held-out part it is the better for it, too."""

_KEPT_BYTES = 1 << 30
"""Of fits that `Ranked` keeps, roughly."""


class Fit(NamedTuple):
    """A kernel over the kept units, float64.

    Attributes:
      kernel: (K·T, O).
      shift: (O,), what has to be added to the consumer's output.
      left: (O,), a shift that no variable takes up; zero where one does.
    """

    kernel: np.ndarray
    shift: np.ndarray
    left: np.ndarray


def least_squares(layer: Moments, kept: Any, damping: float | None = None) -> Fit:
    """The kernel of the kept units, and the shift, that give the target best.

    `argmin over W, b of E ‖y − W x_S − b‖² + ε ‖W − W_S‖²`, ε a fraction of x's mean variance.
    Written as the old kernel plus a correction, `(Σ_SS + ε)⁻¹ (Σ_Sy − Σ_SS W_S)`, which damping
    shrinks, not the kernel itself. Without a place for a shift it is fitted without intercept.

    Args:
      layer: the moments of a consumer.
      kept: the units that stay, ascending.
      damping: ε in parts of the mean diagonal; `DAMPING` by default.
    """
    rows = layer.rows(kept)
    block, cross, ridge = _normal(layer, rows, damping)
    old = layer.kernel[rows]
    missing = cross - block @ old
    kernel = old + cho_solve((_factor(block, ridge)[0], True), missing)
    return with_shift(layer, rows, kernel)


def _normal(
    layer: Moments, rows: np.ndarray, damping: float | None = None
) -> tuple[np.ndarray, np.ndarray, float]:
    """Of rows Σ_SS and Σ_Sy, centred where a shift has a place, and ε."""
    block, cross, power = (
        layer.second[np.ix_(rows, rows)],
        layer.cross[rows],
        layer.second.diagonal(),
    )
    if layer.outlet.path is not None:
        mean = layer.mean[rows]
        block -= np.outer(mean, mean)
        cross = cross - np.outer(mean, layer.target)
        power = power - np.square(layer.mean)
    ridge = (DAMPING if damping is None else damping) * float(np.mean(power))
    return block, cross, max(ridge, np.finfo(float).tiny)


def _factor(block: np.ndarray, ridge: float) -> tuple[np.ndarray, float]:
    """The Cholesky factor L of the block + ε, and ε, which grows until there is one.

    Where means are large beside deviations, rounding leaves the block eigenvalues below zero.
    """
    diagonal = block.diagonal().copy()
    while True:
        block[np.diag_indices_from(block)] = diagonal + ridge
        try:
            return cholesky(block, lower=True), ridge
        except np.linalg.LinAlgError:
            ridge *= 10


class Nested:
    """Least squares over the first units of an order, for every width by one factorization.

    `(Σ_SS + ε)⁻¹ (Σ_Sy + ε W_S)`, which is `least_squares`. With all units in the order,
    `Σ + ε = L Lᵀ`, the factor of the first ones is the first block of L, and their part of
    `L⁻¹ (Σ_y + ε W)` is its first rows: a width takes one triangular solve.
    """

    def __init__(self, layer: Moments, order: np.ndarray):
        self.layer, self.order = layer, order
        rows = layer.rows(order)
        block, cross, ridge = _normal(layer, rows)
        self.factor, ridge = _factor(block, ridge)
        self.half = solve_triangular(self.factor, cross + ridge * layer.kernel[rows], lower=True)

    def __call__(self, width: int) -> Fit:
        """The fit over the first so many units; its rows in ascending order of the units."""
        units, taps = self.order[:width], self.layer.taps
        n = width * taps
        kernel = solve_triangular(self.factor[:n, :n], self.half[:n], lower=True, trans=1)
        kernel = kernel.reshape(width, taps, -1)[np.argsort(units)].reshape(n, -1)
        return with_shift(self.layer, self.layer.rows(np.sort(units)), kernel)


def with_shift(layer: Moments, rows: np.ndarray, kernel: np.ndarray) -> Fit:
    """A kernel over rows of the moments, with the shift that makes the means agree."""
    shift = layer.target - layer.mean[rows] @ kernel
    nothing = np.zeros_like(shift)
    return Fit(kernel, nothing, shift) if layer.outlet.path is None else Fit(kernel, shift, nothing)


def unplaced(layer: Moments, fit: Fit) -> float:
    """What of a fit's shift no variable takes up, in parts of the root mean square output."""
    return float(np.linalg.norm(fit.left) / np.sqrt(max(layer.power.sum(), 1e-30)))


def refitted(
    graph: ChannelGraph, variables: Any, group: str, layer: Moments, kept: Any, fit: Fit
) -> Any:
    """The variables with a consumer's kernel replaced over the kept units, and its output shifted.

    Raises:
      ValueError: the kernel is not a variable itself, or reads a part of the group.
    """
    leaves = dict(paths.leaves(variables))
    return _replaced(variables, _refitted(graph, leaves, group, layer, kept, fit))


def _refitted(
    graph: ChannelGraph, leaves: Mapping[str, Any], group: str, layer: Moments, kept: Any, fit: Fit
) -> dict[str, np.ndarray]:
    """The leaves that a fit changes."""
    name = layer.consumer.name
    fresh = {name: _with_rows(graph, leaves.get(name), group, layer.consumer, kept, fit.kernel)}
    if (path := layer.outlet.path) is not None:
        shift = layer.outlet.sign * fit.shift
        leaf = leaves[path]
        fresh[path] = np.asarray(leaf, np.float64) + shift.reshape(np.shape(leaf))
    return fresh


class Ranked:
    """Widths → the network of these widths, where each group keeps the first units of an order.

    The readers of a group are refitted on statistics that were taken once, so that its part depends
    on its width alone: what was fitted for the latest widths is kept.

    Args:
      graph: from `trace`.
      variables: those of the dense network.
      layers: of each group that may get narrower what `moments` found.
      orders: of each of them its units, the last ones to go first.
      finish: what becomes of a fit over the kept units (ascending); nothing by default.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        variables: Any,
        layers: Mapping[str, Sequence[Moments]],
        orders: Mapping[str, np.ndarray],
        finish: Callable[[Moments, np.ndarray, Fit], Fit] = lambda layer, kept, fit: fit,
    ):
        self.graph, self.variables = graph, jax.tree.map(np.asarray, variables)
        self.layers, self.orders, self.finish = layers, orders, finish
        largest = max((one.kernel.nbytes for read in layers.values() for one in read), default=1)
        self.nested = functools.cache(self._nested)
        self.fits = functools.lru_cache(maxsize=64 + _KEPT_BYTES // largest)(self._fits)

    def _nested(self, group: str) -> list[Nested]:
        # A sum over the channels reads them without a kernel.
        readers = [layer for layer in self.layers[group] if layer.consumer.kernel_shape]
        return [Nested(layer, self.orders[group]) for layer in readers]

    def _fits(self, group: str, width: int) -> list[tuple[Moments, Fit]]:
        kept = np.sort(self.orders[group][:width])
        return [(one.layer, self.finish(one.layer, kept, one(width))) for one in self.nested(group)]

    def unplaced(self, widths: Any) -> dict[str, float]:
        """Of each narrowed group what its readers' fits could not put anywhere, at most."""
        named = dict(zip(self.graph.names, np.asarray(widths).tolist(), strict=True))
        return {
            name: max((unplaced(*pair) for pair in self.fits(name, named[name])), default=0.0)
            for name in self.layers
            if named[name] < self.graph.groups[name].size
        }

    def __call__(self, widths: Any) -> tuple[Any, dict[str, jax.Array]]:
        """The refitted variables, and the masks, at widths int (G,).

        Made in NumPy, for which a new width is no new program.
        """
        leaves = dict(paths.leaves(self.variables))
        masks: dict[str, Any] = {}
        for name, width in zip(self.graph.names, np.asarray(widths).tolist(), strict=True):
            masks[name] = np.ones(self.graph.groups[name].size, np.float32)
            if width < len(masks[name]):
                kept = np.sort(self.orders[name][:width])
                masks[name][:] = 0
                masks[name][kept] = 1
                for layer, fit in self.fits(name, width):
                    for path, leaf in _refitted(self.graph, leaves, name, layer, kept, fit).items():
                        leaves[path] = leaf.astype(leaves[path].dtype)
        variables = jax.tree.structure(self.variables).unflatten(list(leaves.values()))
        return jax.tree.map(jnp.asarray, (variables, masks))


def _replaced(variables: Any, fresh: Mapping[str, Any]) -> Any:
    def replace(path: Any, leaf: Any) -> Any:
        new = fresh.get(paths.name(path))
        return leaf if new is None else jnp.asarray(new, leaf.dtype)

    return jax.tree_util.tree_map_with_path(replace, variables)


def _with_rows(
    graph: ChannelGraph, kernel: Any, group: str, consumer: Consumer, kept: Any, rows: np.ndarray
) -> np.ndarray:
    """The kernel with the rows (K·T, O) of the kept units replaced."""
    if kernel is None or kernel.shape != consumer.kernel_shape:
        raise ValueError(
            f"the kernel that reads group {group} is not a variable itself ({consumer.name}), so "
            "it cannot be refitted; protect the group, or choose without reconstruction"
        )
    order = _channels_first(consumer)
    dense = np.transpose(np.asarray(kernel, np.float64), order).copy()
    channels = math.prod(dense.shape[: len(consumer.axes)])
    outputs = rows.shape[-1]
    flat = dense.reshape(channels, -1, outputs)
    start = int(graph.sizes[: graph.names.index(group)].sum())
    places, whole = places_of(consumer, start, graph.groups[group].size)
    if not whole:
        raise ValueError(
            f"{consumer.name} reads a part of group {group}, so it cannot be refitted; protect the "
            "group, or choose without reconstruction"
        )
    kept = np.asarray(kept)
    flat[places[kept]] = rows.reshape(len(kept), places.shape[1], flat.shape[1], outputs)
    return np.transpose(flat.reshape(dense.shape), np.argsort(order))


def _channels_first(consumer: Consumer) -> tuple[int, ...]:
    """The permutation that brings a kernel to (channels, taps, outputs)."""
    numbers = consumer.params["dimension_numbers"]
    if consumer.primitive == "conv_general_dilated":
        outputs, channels, *window = numbers.rhs_spec
        return (channels, *window, outputs)
    contract, _ = numbers
    mine, other = contract[consumer.operand], contract[1 - consumer.operand]
    paired: Mapping[int, int] = dict(zip(mine, other, strict=True))
    taps = [a for a in mine if a not in consumer.axes]
    first_axes = [paired[a] for a in (*consumer.axes, *taps)]
    rest = [a for a in range(len(consumer.kernel_shape)) if a not in first_axes]
    return (*first_axes, *rest)


__all__ = [
    "DAMPING",
    "Fit",
    "Nested",
    "Ranked",
    "least_squares",
    "refitted",
    "unplaced",
    "with_shift",
]
