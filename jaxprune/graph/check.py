"""The laws of the engine, held on a user's own network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.graph.compiled import quick_options

if TYPE_CHECKING:
    from jaxprune.graph.channel_graph import ChannelGraph


@dataclass(frozen=True)
class Report:
    """The largest differences, relative to the largest entry of what is compared.

    Attributes:
      sliced: outputs of the masked network against those of the sliced one, over random masks.
      gradients: gradients of both with respect to the kept entries.
      full: outputs under full masks against the user's own function.
      masks: how many random masks were tried.
      tolerance: what rounding allows in the network's precision.
    """

    sliced: float
    gradients: float
    full: float
    masks: int
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether all differences are within the tolerance."""
        return max(self.sliced, self.gradients, self.full) <= self.tolerance

    def __str__(self) -> str:
        verdict = "holds" if self.ok else "DOES NOT HOLD"
        return (
            f"{verdict} over {self.masks} random masks: masked against sliced {self.sliced:.1e}, "
            f"gradients {self.gradients:.1e}, full masks against the function {self.full:.1e} "
            f"(tolerance {self.tolerance:.0e})"
        )


def random_masks(graph: ChannelGraph, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """0/1 masks with a random number of units kept in each group, at least one."""
    masks = {}
    for name, group in graph.groups.items():
        kept = rng.permutation(group.size)[: rng.integers(1, group.size + 1)]
        masks[name] = np.zeros(group.size, np.float32)
        masks[name][kept] = 1
    return masks


def check_laws(
    graph: ChannelGraph,
    fn: Callable[..., Any],
    variables: Any,
    args: Sequence[Any],
    seed: int = 0,
    trials: int = 3,
) -> Report:
    """Masked against sliced, outputs and gradients, and full masks against the function."""
    rng = np.random.default_rng(seed)
    dtypes = [jnp.result_type(x) for x in jax.tree.leaves(variables)]
    widest = max((d for d in dtypes if jnp.issubdtype(d, jnp.inexact)), key=lambda d: d.itemsize)
    tolerance = {8: 1e-9, 4: 2e-3, 2: 0.1}[widest.itemsize]
    inner = graph.masked(fn)
    masked, own = _quick(inner), _quick(fn)
    masked_grad = _quick(jax.grad(lambda v, m, *a: _scalar(inner(v, m, *a)), allow_int=True))
    full = _difference(masked(variables, graph.full_masks(), *args), own(variables, *args))

    outputs, gradients = 0.0, 0.0
    for _ in range(trials):
        masks = random_masks(graph, rng)
        pruned = graph.slice(variables, masks)
        wrapped = pruned.wrap(fn)
        dense_out = masked(variables, masks, *args)
        sliced_out = _quick(wrapped)(pruned.variables, *args)
        outputs = max(outputs, _difference(pruned.cut_state(dense_out), sliced_out))

        sliced_grad = _quick(
            jax.grad(lambda v, *a, small=wrapped: _scalar(small(v, *a)), allow_int=True)
        )(pruned.variables, *args)
        dense_grad = masked_grad(variables, masks, *args)
        gradients = max(gradients, _difference(pruned.cut(dense_grad), sliced_grad))
    return Report(outputs, gradients, full, trials, tolerance)


def _quick(fn: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(fn, compiler_options=quick_options())


def _scalar(out: Any) -> jax.Array:
    """The mean square of all floating outputs that keep their shape under a cut: the first leaf."""
    first = jax.tree.leaves(out)[0]
    return jnp.sum(jnp.square(first.astype(jnp.promote_types(first.dtype, jnp.float32))))


def _difference(a: Any, b: Any) -> float:
    worst = 0.0
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if x.dtype == jax.dtypes.float0 or not jnp.issubdtype(x.dtype, jnp.number):
            continue
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if x.shape != y.shape or (np.isnan(x) != np.isnan(y)).any():
            return float("inf")
        apart = np.abs(np.nan_to_num(x) - np.nan_to_num(y)).max(initial=0)
        worst = max(worst, float(apart / max(1.0, np.abs(np.nan_to_num(x)).max(initial=0))))
    return worst
