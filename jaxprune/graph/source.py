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
    """Why channels are fixed: a text, and the equation that it speaks of where there is one."""

    text: str
    eqn: Any = None

    def __str__(self) -> str:
        if self.eqn is None:
            return self.text
        where = source_info_util.summarize(self.eqn.source_info)
        return f"{self.eqn.primitive.name} at {where}: {self.text}"
