"""Where in the user's source an equation comes from, and why it fixes channels."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import Any

from jax.extend import source_info_util


def _exclude_frameworks() -> None:
    """Lets a source line be the user's own, not that of a layer in a framework."""
    for package in ("flax", "haiku", "equinox", "keras", "jaxprune.graph", "jaxprune.frontends"):
        try:
            spec = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            continue
        if spec is not None and spec.origin is not None:
            source_info_util.register_exclusion(os.path.dirname(spec.origin) + os.sep)


_exclude_frameworks()


@dataclass(frozen=True)
class Reason:
    """Why channels are fixed: a text, and the equation that it speaks of where there is one.

    Attributes:
      text: what forbids pruning.
      eqn: the equation.
      calls: the calls whose bodies hold it, outermost first. A function of JAX's own that is
        compiled (`jnp.flip`) has no line of the user's inside; the line that calls it is told.
    """

    text: str
    eqn: Any = None
    calls: tuple[Any, ...] = ()

    def __str__(self) -> str:
        if self.eqn is None:
            return self.text
        inwards = (source_info_util.summarize(e.source_info) for e in (*self.calls, self.eqn))
        where = [place for place in inwards if place] or ["an unknown line"]
        return f"{self.eqn.primitive.name} at {where[-1]}: {self.text}"
