"""The laws of the engine, held on a user's own network."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.graph.held import Held, Laws, Network
from jaxprune.graph.rounding import QUICK, is_inexact, tolerance_of, widened


@dataclass(frozen=True)
class Report:
    """The largest differences, relative to the largest entry of what is compared.

    The laws are held at the variables and inputs as given and at a point beside them, where none is
    zero. Where a difference is more than a few roundings, all of it is repeated in float64, and
    that decides. What one rounding of the inputs moves further than it differs (a ReLU at zero, a
    gradient that cancels) counts as no difference.

    Attributes:
      sliced: outputs of the masked network against those of the sliced one, over random masks.
      gradients: gradients of both with respect to the kept entries.
      full: outputs and gradients under full masks against those of the user's own function.
      permuted: outputs and gradients with units in another order against those of the function.
      masks: how many random masks were tried.
      reordered: how many groups were put in another order: all but those in `graph.ordered`.
      tolerance: what rounding allows in that precision.
      precision: the narrowest type that the network computed in when this was measured.
      outputs: which outputs were compared.
      differentiated: of which of them gradients were, with respect to `variables`.
      variables: whose gradients.
      notes: what else there is to know: what was not looked at, which precision was not reached.
    """

    sliced: float
    gradients: float
    full: float
    permuted: float
    masks: int
    reordered: int
    tolerance: float
    precision: str = ""
    outputs: tuple[str, ...] = ()
    differentiated: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all differences of what was looked at are within the tolerance."""
        return max(self.sliced, self.gradients, self.full, self.permuted) <= self.tolerance

    def __str__(self) -> str:
        verdict = "holds" if self.ok else "DOES NOT HOLD"
        gradients = "-", "there is nothing to differentiate"
        if self.differentiated:
            of = f"of {_listed(self.differentiated)} by {_listed(self.variables)}"
            gradients = f"{self.gradients:.1e}", of
        rows = [
            ("masked against sliced", f"{self.sliced:.1e}", _listed(self.outputs)),
            ("gradients", *gradients),
            ("full masks, the function", f"{self.full:.1e}", ""),
            ("another order of units", f"{self.permuted:.1e}", f"of {self.reordered} groups"),
            ("tolerance", f"{self.tolerance:.0e}", f"for {self.precision}"),
        ]
        lines = [f"{verdict} over {self.masks} random masks"]
        for what, figure, more in rows:
            lines += textwrap.wrap(
                f"  {what:<25}{figure:>8}  {more}", 80, subsequent_indent=" " * 37
            )
        for note in self.notes:
            lines += textwrap.wrap(f"  {note}", 80, subsequent_indent="    ")
        return "\n".join(lines)


def _listed(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def check_laws(
    graph: Network,
    fn: Callable[..., Any],
    variables: Any,
    args: Sequence[Any],
    seed: int = 0,
    trials: int = 3,
    own: Callable[..., Any] | None = None,
) -> Report:
    """Masked against sliced, full masks and another order against the function, with gradients.

    Args:
      graph: of `fn`.
      fn: the user's function.
      variables: its variables.
      args: its inputs.
      seed: of the random masks.
      trials: how many of them.
      own: what runs on these variables, where that is not `fn` (a network that was pruned).

    Raises:
      ValueError: no output has a finite entry on these inputs.
    """
    # Strongly typed, as they are once they were cut.
    variables = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.result_type(x)) if is_inexact(jnp.result_type(x)) else x,
        variables,
    )
    network = graph, fn, own or fn, seed, trials
    with jax.default_matmul_precision("highest"):
        held = Laws(*network, variables, args).hold()
        limit = min(QUICK, tolerance_of(held.precision))
        if held.within(limit) or held.precision == "float64":
            return _report(held, trials, limit)
        largest = held.largest(limit)
        told = f"it came to {largest:.0e}" if largest > limit else _unseen(held)
        notes = [f"in {held.precision} {told}, so"]
        try:
            with jax.enable_x64(True):
                held = Laws(*network, *widened((variables, args))).hold()
        except Exception as error:  # whatever a function does with types that it does not expect
            told = f"{type(error).__name__}: {error}".partition("\n")[0]
            notes[-1] += f" float64 was tried, which fails: {told[:160]}"
        else:
            notes[-1] += " it was repeated with all inputs in float64"
            if held.precision != "float64":
                notes[-1] += f", but the function itself computes in {held.precision}"
    return _report(held, trials, tolerance_of(held.precision), notes)


def _unseen(held: Held) -> str:
    return f"only rounding, NaN or infinity is seen of {_listed(held.unseen())}"


def _report(held: Held, trials: int, tolerance: float, notes: Sequence[str] = ()) -> Report:
    compared_alone = [name for name in held.outputs if name not in held.differentiated]
    told = list(notes)
    if not held.variables:
        told.append("no gradients: the variables are whole numbers")
    elif compared_alone:
        told.append(f"compared, not differentiated: {_listed(compared_alone)}")
    if held.unseen():
        told.append(f"at every point {_unseen(held)}, of which the laws say nothing")
    return Report(
        sliced=held.largest(tolerance, "sliced"),
        gradients=held.largest(tolerance, "gradients"),
        full=held.largest(tolerance, "full"),
        permuted=held.largest(tolerance, "permuted"),
        reordered=held.reordered,
        masks=trials,
        tolerance=tolerance,
        precision=held.precision,
        outputs=held.outputs,
        differentiated=held.differentiated if held.variables else (),
        variables=held.variables,
        notes=tuple(told),
    )
