"""Moments of what consumers read, and of what they should give: all that a refit has to know.

For a consumer that reads `x` of a group (the taps of its units side by side) and should give `y`:
the means, `E[x xᵀ]` and `E[x yᵀ]`. Half the Hessian of the layer's squared error is in it (L-OBS,
Dong et al. 2017, arXiv 1705.07565), LASSO's normal equations (He et al. 2017, arXiv 1707.06168) and
the covariance of CaP (Xie et al. 2021, arXiv 2108.13728).

`y` is what the consumer gives itself. With `targets`, recorded once of the unpruned network by
`responses`, it is what that network gave at the same positions of the same images, so that the
error that has piled up in front is corrected. Where the consumer ends a residual branch,
it is what the sum of shortcut and branch lacks: `Y1 − Y1′ + Y2` (He et al. 2017).

Rows are drawn and products taken in float32 at the highest precision on the device, and the
batches added up in float64 on the host.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune.batches import count_of, first, inputs_of
from jaxprune.graph import ChannelGraph, Consumer
from jaxprune.kernels import accelerate
from jaxprune.problem import Problem
from jaxprune.statistics.gram import layers_of, value_or_zeros
from jaxprune.statistics.outlets import Outlet, outlets

Responses = list[dict[str, jax.Array]]
"""A batch each: consumer → float32 (R, O), what it gives, or the residual sum that it enters."""


class Moments(NamedTuple):
    """Of one consumer of a group, float64; the taps of a unit lie side by side.

    Attributes:
      consumer: which equation it is.
      outlet: where a shift of its output can go.
      taps: T, the taps (and repeats) of a unit.
      kernel: (U·T, O), as it is.
      mean: (U·T,), E[x].
      second: (U·T, U·T), E[x xᵀ].
      target: (O,), E[y].
      cross: (U·T, O), E[x yᵀ].
      power: (O,), E[y²].
      energy: the mean square norm of the consumer's output, over all groups that it reads.
    """

    consumer: Consumer
    outlet: Outlet
    taps: int
    kernel: np.ndarray
    mean: np.ndarray
    second: np.ndarray
    target: np.ndarray
    cross: np.ndarray
    power: np.ndarray
    energy: float

    def rows(self, units: Any) -> np.ndarray:
        """The rows that belong to units, each with all of its taps."""
        return (np.asarray(units)[:, None] * self.taps + np.arange(self.taps)).ravel()

    def centred(self, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The covariances of x (N, N) and of x with y (N, O), and the variance of y (O,).

        Args:
          rows: the N of x that are wanted, all U·T by default.
        """
        second, cross, mean = self.second, self.cross, self.mean
        if rows is not None:
            second, cross, mean = second[np.ix_(rows, rows)], cross[rows], mean[rows]
        variance = np.maximum(self.power - np.square(self.target), 0)
        return second - np.outer(mean, mean), cross - np.outer(mean, self.target), variance


def moments(
    problem: Problem,
    *,
    groups: Sequence[str] | None = None,
    masks: Mapping[str, Any] | None = None,
    positions: int | None = 16,
    targets: Responses | None = None,
    known: Mapping[str, Outlet] | None = None,
) -> dict[str, list[Moments]]:
    """Per group the moments of each of its consumers; one program serves all groups.

    Args:
      problem: the network and its calibration batches; its key draws the output positions.
      groups: of which, all by default.
      masks: of the network under these masks, which are float (units,) of all groups.
      positions: output positions drawn per image and consumer; None takes all.
      targets: what `responses` recorded with the same batches, key and positions.
      known: the consumers' outlets, where they were found before.

    Raises:
      ValueError: no batches, a group that no contraction reads, activations that are not finite.
    """
    first(problem.batches)
    names = problem.graph.names
    groups = names if groups is None else tuple(groups)
    wanted = {name: name in groups for name in names}
    masks = problem.graph.full_masks() if masks is None else dict(masks)
    known = outlets(problem) if known is None else known
    forward, consumers = _forward(problem.graph, problem.fn, positions, _sums(known))
    totals: dict[tuple[str, str], Any] = {}
    kernels: dict[tuple[str, str], Any] = {}
    count = 0
    for i, batch in enumerate(problem.batches):
        inputs = inputs_of(batch)
        key = jax.random.fold_in(problem.key, i)
        read, given = forward(problem.variables, inputs, key, masks, wanted)
        images = count_of(inputs)
        for group in groups:
            for name, (x, kernel, energy) in read.get(group, {}).items():
                gap, scale = jnp.zeros_like(given[name]), np.ones(given[name].shape[-1])
                if targets is not None:
                    gap = targets[i][name] - given[name]
                    if known.get(name, Outlet()).sum:
                        scale = known[name].scale
                part = (*_products(x, kernel, gap, jnp.asarray(_inverse(scale), x.dtype)), energy)
                part = [images * np.asarray(a, np.float64) for a in part]
                at = group, name
                totals[at] = part if at not in totals else [
                    np.add(t, p, out=t) if np.ndim(t) else t + p
                    for t, p in zip(totals[at], part, strict=True)
                ]  # fmt: skip
                kernels[at] = kernel
        count += images
    found: dict[str, list[Moments]] = {group: [] for group in groups}
    for (group, name), total in totals.items():
        mean, second, target, cross, power, energy = (t / count for t in total)
        if not np.isfinite(energy) or not np.isfinite(power).all():
            raise ValueError(f"the activations that readers of {group} see are not finite")
        kernel = np.asarray(kernels[group, name], np.float64)
        found[group].append(
            Moments(
                consumers[name], known.get(name, Outlet()),
                len(kernel) // problem.graph.groups[group].size, kernel, mean, second, target,
                cross, power, float(energy),
            )
        )  # fmt: skip
    uses = Counter(consumer.name for consumer in consumers.values())
    for group, layers in found.items():
        for layer in layers:
            if layer.consumer.kernel_shape and uses[layer.consumer.name] > 1:
                raise ValueError(
                    f"the kernel {layer.consumer.name}, which reads group {group}, is used at "
                    "several places, so it cannot be refitted to one; protect the group"
                )
        if not layers:
            raise ValueError(
                f"group {group} is read by no contraction, or by one in a loop of unknown length, "
                "so there is nothing to refit; protect it, or use a criterion such as l1"
            )
    return found


def responses(
    problem: Problem, *, positions: int | None = 16, known: Mapping[str, Outlet] | None = None
) -> Responses:
    """What the network gives at the positions that `moments` draws, to be its `targets`.

    Float32 in the memory of the host: 4 bytes for each image, position and output channel.
    """
    known = outlets(problem) if known is None else known
    forward, _ = _forward(problem.graph, problem.fn, positions, _sums(known))
    wanted = dict.fromkeys(problem.graph.names, False)
    full = problem.graph.full_masks()
    recorded = []
    for i, batch in enumerate(problem.batches):
        key = jax.random.fold_in(problem.key, i)
        _, given = forward(problem.variables, inputs_of(batch), key, full, wanted)
        recorded.append(jax.tree.map(np.asarray, given))
    return recorded


def _sums(known: Mapping[str, Outlet]) -> tuple[tuple[str, str], ...]:
    return tuple((name, outlet.sum) for name, outlet in known.items() if outlet.sum)


def _inverse(scale: np.ndarray | None) -> np.ndarray:
    """A channel of which next to nothing gets into the sum cannot repair it."""
    assert scale is not None
    least = 1e-3 * np.abs(scale).max(initial=0)
    return np.where(np.abs(scale) > least, 1 / np.where(scale == 0, 1, scale), 0)


@functools.lru_cache(maxsize=4)
def _forward(
    graph: ChannelGraph,
    fn: Callable[..., Any],
    positions: int | None,
    sums: tuple[tuple[str, str], ...],
) -> tuple[Callable[..., Any], dict[str, Consumer]]:
    """The compiled pass over one batch, and the consumers, known after its first call.

    Cached, so that a network that is pruned layer by layer compiles once; few, so that old ones go.
    """
    consumers: dict[str, Consumer] = {}

    @jax.jit
    @accelerate
    def forward(
        variables: Any, inputs: Any, key: jax.Array, masks: Any, wanted: dict[str, Any]
    ) -> tuple[dict[str, dict[str, Any]], dict[str, jax.Array]]:
        found = layers_of(
            graph, fn, variables, inputs, key, masks, positions, seen=consumers, sums=dict(sums)
        )
        read: dict[str, dict[str, Any]] = {}
        given: dict[str, jax.Array] = {}
        for group, layers in found.items():
            for layer in layers:
                rows, units, taps = layer.inputs.shape
                shape = (rows, units * taps)
                x = value_or_zeros(
                    wanted[group], functools.partial(jnp.reshape, layer.inputs, shape), shape
                )
                kernel = layer.kernel.reshape(units * taps, -1)
                read.setdefault(group, {})[layer.name] = (x, kernel, layer.energy)
                given[layer.name] = layer.outputs
        return read, given

    return forward, consumers


@jax.jit
def _products(
    x: jax.Array, kernel: jax.Array, gap: jax.Array, inverse: jax.Array
) -> tuple[jax.Array, ...]:
    """The moments of one batch; y is what the group's own channels give, and what is missing."""
    dot = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    y = dot(x, kernel) + gap * inverse[None]
    return (
        x.mean(0), dot(x.T, x) / len(x), y.mean(0), dot(x.T, y) / len(x), jnp.square(y).mean(0),
    )  # fmt: skip


__all__ = ["Moments", "Responses", "moments", "responses"]
