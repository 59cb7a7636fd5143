"""What a network costs, as a multilinear function of its groups' widths: no tracing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Cost:
    """Counts of one network.

    Attributes:
      params: entries of the parameters. Where the variables have a `params` collection, only
        those under it: running statistics are not parameters.
      macs: multiply-accumulates of all convolutions and matrix products for the traced inputs,
        counted as the papers do: taps in the padding count, additions of biases do not.
      activations: elements that convolutions and matrix products write.
      layers: the same per layer, in the order of execution: name → (params, macs, activations).
    """

    params: int
    macs: int
    activations: int
    layers: dict[str, tuple[int, int, int]]

    @property
    def bytes(self) -> int:
        """Of the parameters in float32."""
        return _BYTES * self.params


@dataclass(frozen=True)
class Term:
    """A product of factors; a factor is a constant plus a sum of widths.

    Attributes:
      layer: the layer that it belongs to.
      variable: what is counted, or the kernel of the work that is.
      quantity: `params`, `macs` or `activations`.
      factors: float (F, G + 1): per factor its constant, then the count per unit of each group.
    """

    layer: str
    variable: str
    quantity: str
    factors: np.ndarray


QUANTITIES = ("params", "macs", "activations")
_BYTES = 4


def evaluate(terms: Sequence[Term], widths: Any) -> dict[str, Any]:
    """The total of each quantity, and bytes of float32, for widths [..., G], as float64 [...].

    Widths on the device give totals there, differentiable, in their own precision.
    """
    on_device = isinstance(widths, jax.Array)
    xp = jnp if on_device else np
    widths = widths if on_device else np.asarray(widths, np.float64)
    extended = xp.concatenate([xp.ones((*widths.shape[:-1], 1), widths.dtype), widths], axis=-1)
    totals = {q: xp.zeros(widths.shape[:-1], widths.dtype) for q in QUANTITIES}
    for term in terms:
        factors = term.factors.T.astype(widths.dtype)
        totals[term.quantity] = totals[term.quantity] + xp.prod(extended @ factors, axis=-1)
    return {**totals, "bytes": _BYTES * totals["params"]}


def cost_at(
    terms: Sequence[Term], widths: np.ndarray, kept: Mapping[str, float] | None = None
) -> Cost:
    """The cost, layer by layer, at one vector of widths (G,).

    Args:
      terms: of the network.
      widths: of its groups.
      kept: kernel → the fraction of its entries that are not zero, and are not counted else.
    """
    kept = kept or {}
    extended = np.concatenate([[1.0], widths])
    layers: dict[str, list[int]] = {}
    for term in terms:
        row = layers.setdefault(term.layer, [0, 0, 0])
        count = float(np.prod(term.factors @ extended))
        if term.quantity != "activations":
            count *= kept.get(term.variable, 1.0)
        row[QUANTITIES.index(term.quantity)] += round(count)
    totals = [sum(row[i] for row in layers.values()) for i in range(len(QUANTITIES))]
    return Cost(*totals, layers={k: (v[0], v[1], v[2]) for k, v in layers.items()})
